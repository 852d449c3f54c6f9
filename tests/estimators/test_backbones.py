"""Any backbone under any family."""

from pathlib import Path

import pytest
import torch

from posedistill.backbones.cfg.description import read_cfg
from posedistill.estimators.registry import FAMILIES, build_estimator

from .conftest import make_batch, make_objects

BACKBONES = ("darknet_tiny_h", "yolo_lite_bn", "tiny_yolo@16", "cfg:FILE", "test_resnet", "timm:test_resnet@16")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_family_takes_every_backbone(family: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "own.cfg").write_text(read_cfg("yolo_lite").text)
    settings = {"backbone": name.replace("FILE", str(tmp_path / "own.cfg"))}
    network = build_estimator(family, make_objects(), settings, 64).eval()
    with torch.no_grad():
        heads = network(make_batch(2, 64)).heads
    assert heads and all(value.isfinite().all() for value in heads.values())
