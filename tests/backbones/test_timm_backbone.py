from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from posedistill.backbones import TimmBackbone, build_backbone
from posedistill.backbones.weights import renamed_by_order
from posedistill.errors import CheckpointError, RecipeError

SMALL = "mobilenetv3_small_050"


def test_maps_of_stride_8_and_coarser() -> None:
    network = build_backbone(SMALL).eval()
    with torch.inference_mode():
        maps = network(torch.zeros(1, 3, 64, 64))
    assert list(maps) == [8, 16, 32]
    assert {s: tuple(level.shape[1:]) for s, level in maps.items()} == {
        s: (count, 64 // s, 64 // s) for s, count in network.channels.items()
    }


@pytest.mark.parametrize("name", [SMALL, "convnext_atto"])  # convnext's containers are renamed by features_only
def test_a_whole_state_dict_loads_and_gives_the_maps_of_the_whole_network(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    network = build_backbone(f"timm:{name}", tmp_path / "weights.safetensors").eval()
    reference = timm.create_model(name, features_only=True, out_indices=(-1,)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        deepest = network(images)[32]
        _, intermediates = whole.forward_intermediates(images)
    assert deepest.shape == reference(images)[0].shape
    torch.testing.assert_close(deepest, intermediates[-1], rtol=1e-4, atol=1e-5)


def test_the_same_network_under_other_names_loads_by_order(tmp_path: Path) -> None:
    whole = timm.create_model(SMALL).state_dict()
    foreign = {f"_layer{number}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(whole.items())}
    assert list(renamed_by_order(foreign, whole)) == list(whole)
    torch.save(foreign, tmp_path / "weights.pth")
    network = build_backbone(SMALL, tmp_path / "weights.pth")
    assert torch.equal(network.state_dict()["net.conv_stem.weight"], whole["conv_stem.weight"])
    torch.save(dict(list(foreign.items())[:-2]), tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part.pth.*missing.*unknown"):
        build_backbone(SMALL, tmp_path / "part.pth")


def test_other_statistics_are_met() -> None:
    """tf_efficientnet_lite0 was trained on images scaled to -1..1."""
    network = TimmBackbone("tf_efficientnet_lite0").eval()
    mean, std = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        ours = network((image - mean) / std)[32]
        theirs = network.net((image - 0.5) / 0.5)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_models_without_usable_maps_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"vit_small_patch14_dinov2.*stride \[14, 14, 14\], expected 8, 16, 32"):
        build_backbone("vit_small_patch14_dinov2")
