import pytest
import torch

from posedistill.backbones import build_backbone
from posedistill.errors import RecipeError


@pytest.mark.parametrize(
    ("name", "parameters", "channels"),
    [
        # The published networks less their classifiers (1,025,000, 129,000 and 65,000 parameters).
        ("darknet53", 41_609_928 - 1_025_000, {8: 256, 16: 512, 32: 1024}),
        ("darknet_tiny", 1_042_104 - 129_000, {8: 128, 16: 128}),
        ("darknet_tiny_h", 294_480 - 65_000, {8: 64, 16: 64}),
    ],
)
def test_published_sizes_and_strides(name: str, parameters: int, channels: dict[int, int]) -> None:
    network = build_backbone(name).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with torch.inference_mode():
        maps = network(torch.zeros(1, 3, 64, 64))
    assert {stride: tuple(level.shape) for stride, level in maps.items()} == {
        stride: (1, count, 64 // stride, 64 // stride) for stride, count in channels.items()
    }
    assert network.channels == channels


def test_modules_have_the_names_of_the_public_checkpoints() -> None:
    names = build_backbone("darknet53").state_dict().keys()
    assert {"init_block.conv.weight", "stage1.unit1.bn.running_var", "stage5.unit5.conv2.conv.weight"} <= names
    names = build_backbone("darknet_tiny").state_dict().keys()
    assert {"stage1.unit1.conv.weight", "stage5.unit5.bn.bias"} <= names


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"darknet_tinny.*darknet_tiny_h.*such as \['darknet_tiny'"):
        build_backbone("darknet_tinny")
