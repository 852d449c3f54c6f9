"""Training, evaluation and runtime must see the same picture of the same camera, and mean the same by its pose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.transforms_json import read_transforms
from posedistill.data.images import read_image
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.scene_view import SceneView, ViewSettings
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.pack import mean_image
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.deploy.export import torch_predictor
from posedistill.estimators.base import MeanSubtracted
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.cameras import Camera
from posedistill.geometry.photographs import middle_crop
from posedistill.geometry.rotations import angle_between
from posedistill.runtime import Predictor, Request

SHAPE = (48, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("conventions") / "scene"
    write_made_scene(root, sequences=2, frames=6, size=(160, 120))
    return open_scene(root)


@pytest.fixture(scope="module")
def network(dataset):
    torch.manual_seed(0)
    estimator = build_estimator("posenet", None, {"backbone": "resnet10t", "hidden": 32}, 48)
    estimator.fit_targets(dataset.R, dataset.t)
    return estimator


def loader(pack, mean_image=None):
    view = SceneView(pack, ViewSettings(), SHAPE, mean_image=mean_image)
    return Loader(view, len(pack), 0, "cpu", augment=False, threads=1)


def deployed(estimator, mean=None, **photographs) -> Predictor:
    normalisation = {} if mean is None else {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    network = estimator.network if mean is None else MeanSubtracted(estimator.network, mean)
    return torch_predictor(network, estimator.build_decoder(shape=SHAPE, **photographs, **normalisation))


def prepare(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    return predictor.decoder.prepare(Request(image)).inputs["images"][0]


@torch.no_grad()
def network_poses(estimator, batch):
    """What the estimator says of a batch of its loader: rotations and camera centres."""
    heads = estimator.eval()(batch).heads
    return heads["R"].double().numpy(), heads["position"].double().numpy()


def agree(predictor, images, R, centers):
    for (found,), rotation, center in zip(predictor.predict_many(map(Request, images)), R, centers, strict=True):
        assert np.degrees(angle_between(found.R, rotation)) < 0.02
        assert np.linalg.norm(found.center - center) < 1e-3


@pytest.mark.parametrize("size", [64, 131, (91, 51)])
def test_the_loader_and_the_predictor_see_the_same(dataset, network, tmp_path, size):
    """Photographs that shrink, that grow and that are squeezed."""
    batch = loader(build_pack(SceneFrames(dataset, size), tmp_path / "pack")).batch(0)
    squeezed = isinstance(size, tuple)
    photographs = {"short_side": None if squeezed else size, "frame_size": size if squeezed else None}
    predictor = deployed(network, **photographs)
    images = [read_image(frame.image) for frame in dataset]
    for image, expected in zip(images, batch.images.numpy(), strict=True):
        difference = np.abs(prepare(predictor, image) - expected).max(axis=(1, 2))
        assert (difference * predictor.decoder.std < 1 / 255).all()
    agree(predictor, images, *network_poses(network, batch))


def test_a_mean_image(dataset, network, tmp_path):
    pack = build_pack(SceneFrames(dataset, (91, 51)), tmp_path / "pack")
    mean = mean_image(pack, np.arange(len(pack)))
    batch = loader(pack, mean_image=mean).batch(0)
    predictor = deployed(network, middle_crop(mean, SHAPE), short_side=None, frame_size=(91, 51))
    images = [read_image(frame.image) for frame in dataset]
    prepared = np.stack([prepare(predictor, image) for image in images]) - middle_crop(mean, SHAPE).transpose(2, 0, 1)
    assert np.abs(prepared - batch.images.numpy()).max() < 1e-2
    agree(predictor, images, *network_poses(network, batch))


def test_a_lens(dataset, network, tmp_path):
    """The same photographs, said to be taken through a lens."""
    lens = {"k1": -0.2, "k2": 0.05, "p1": 0.002, "p2": 0.0}
    rows = [{"file_path": str(frame.image), "transform_matrix": np.eye(4).tolist()} for frame in dataset.frames[:2]]
    text = str({"fl_x": 140.0, "cx": 80.0, "cy": 60.0, **lens, "frames": rows})
    (tmp_path / "transforms.json").write_text(text.replace("'", '"'))
    bent = read_transforms(tmp_path, "all")
    batch = loader(build_pack(SceneFrames(bent, 64), tmp_path / "pack")).batch(0)
    frame = bent.frames[0]
    predictor = deployed(network, short_side=64, frame_size=None)
    camera = Camera(frame.K, frame.width, frame.height)
    predictor.decoder = replace(predictor.decoder, camera=camera, distortion=frame.distortion)
    assert frame.distortion
    for frame, expected in zip(bent, batch.images.numpy(), strict=True):
        difference = np.abs(prepare(predictor, read_image(frame.image)) - expected).max(axis=(1, 2))
        assert (difference * predictor.decoder.std < 1 / 255).all()
