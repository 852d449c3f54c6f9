"""A small WDRNet and a small PoseNet with random weights, and their exported files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from posedistill.decode import PoseNetDecoder, WDRNetDecoder
from posedistill.deploy.export import export_onnx
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.cameras import Camera
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import axis_angle

CROP = 64
K = np.array([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="session")
def estimator() -> Estimator:
    torch.manual_seed(0)
    corners = np.stack([box_corners(np.full(3, -size), np.full(3, size)) for size in (30.0, 45.0)])
    objects = ObjectTable((6, 9), corners, np.array([104.0, 156.0]), (np.eye(4)[None],) * 2)
    settings = {"backbone": "darknet_tiny_h", "head": "slim", "strides": (8, 16, 32)}
    estimator = build_estimator("wdrnet", objects, settings, CROP)
    norms = [layer for layer in estimator.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:  # statistics that folding must not lose
        layer.running_mean.uniform_(-0.2, 0.2)
        layer.running_var.uniform_(0.5, 2.0)
        layer.weight.data.uniform_(0.5, 1.5)
    for predictor in estimator.network.head.modules():  # scores and votes that differ from cell to cell
        if isinstance(predictor, torch.nn.Conv2d) and predictor.weight.std() < 0.02:
            predictor.weight.data.mul_(5)
    return estimator


@pytest.fixture(scope="session")
def decoder(estimator: Estimator) -> WDRNetDecoder:
    return estimator.build_decoder(camera=Camera(K, 640, 480), names=("cat", "duck"))


@pytest.fixture(scope="session")
def exported(estimator: Estimator, decoder: WDRNetDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(estimator.network, tmp_path_factory.mktemp("export") / "model.onnx", decoder, "random weights")


@pytest.fixture(scope="session")
def posenet() -> Estimator:
    torch.manual_seed(0)
    estimator = build_estimator("posenet", None, {"backbone": "resnet10t", "hidden": 32}, 64)
    for layer in estimator.modules():  # statistics that folding must not lose
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
    R = axis_angle(np.array([0.2, 1.0, 0.1]), np.linspace(0.3, 1.2, 5))
    estimator.fit_targets(R, np.linspace(-3.0, 3.0, 15).reshape(5, 3))
    return estimator


@pytest.fixture(scope="session")
def posenet_decoder(posenet: Estimator) -> PoseNetDecoder:
    return posenet.build_decoder(shape=(64, 80), short_side=70)


@pytest.fixture(scope="session")
def camera_file(posenet: Estimator, posenet_decoder: PoseNetDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "camera.onnx"
    return export_onnx(posenet.network, path, posenet_decoder, "random weights")
