import pytest
import torch

from posedistill.backbones import FeaturePyramid
from posedistill.errors import RecipeError


def run(channels: dict[int, int], strides: tuple[int, ...], size: int = 128) -> dict[int, tuple[int, ...]]:
    pyramid = FeaturePyramid(channels, strides, 32)
    maps = {stride: torch.rand(2, count, size // stride, size // stride) for stride, count in channels.items()}
    outputs = pyramid(maps)
    sum(level.sum() for level in outputs.values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())  # DDP refuses parameters that take no part
    return {stride: tuple(level.shape) for stride, level in outputs.items()}


@pytest.mark.parametrize(
    ("channels", "strides"),
    [
        ({8: 4, 16: 5}, (8, 16, 32, 64)),
        ({8: 4, 16: 5}, (16, 32, 64)),
        ({8: 4, 16: 5}, (32, 64)),
        ({8: 4, 16: 5, 32: 6}, (8, 16, 32, 64, 128)),
        ({8: 4, 16: 5, 32: 6}, (8, 16)),
    ],
)
def test_levels_have_their_strides_and_all_parameters_learn(channels: dict[int, int], strides: tuple[int, ...]) -> None:
    assert run(channels, strides) == {s: (2, 32, 128 // s, 128 // s) for s in strides}


@pytest.mark.parametrize("strides", [(), (4, 8), (8, 32), (16, 8), (64, 128)])
def test_impossible_strides_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match=r"the backbone gives \[8, 16\]"):
        FeaturePyramid({8: 4, 16: 5}, strides, 32)


def test_extra_levels_stem_from_the_backbone_not_from_the_pyramid() -> None:
    """Also where both happen to be equally wide."""
    pyramid = FeaturePyramid({8: 4, 16: 32}, (8, 16, 32, 64), 32)
    maps = {8: torch.rand(1, 4, 16, 16), 16: torch.rand(1, 32, 8, 8)}
    deep = pyramid(maps)
    expected = torch.nn.functional.conv2d(maps[16], pyramid.extra[0].weight, stride=2, padding=1)
    torch.testing.assert_close(deep[32], expected)
    above = torch.nn.functional.conv2d(expected.relu(), pyramid.extra[1].weight, stride=2, padding=1)
    torch.testing.assert_close(deep[64], above)
