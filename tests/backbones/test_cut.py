"""Cut trunks keep the first layers of a network, and nothing of what lies deeper."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from posedistill.backbones import DarkNet, TimmBackbone, build_backbone
from posedistill.backbones.cfg.network import pose_network
from posedistill.backbones.timm_trunk import TimmTrunk
from posedistill.errors import RecipeError


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "strides"),
    [
        # timm's own feature networks of these two families keep and run the deepest stages.
        ("tf_efficientnet_lite0@16", 700_768, [8, 16]),
        ("tf_efficientnet_lite0@8", 55_504, [8]),
        ("mobilenetv3_small_100@16", 190_520, [8, 16]),
        ("resnet18@16", 2_782_784, [8, 16]),
        ("convnext_atto@16", 1_492_920, [8, 16]),
        ("timm:darknet53@16", 14_880_480, [8, 16]),
        ("swin_tiny_patch4_window7_224@16", 12_151_242, [8, 16]),  # takes pictures of one size alone
        ("darknet53@16", 14_880_480, [8, 16]),
        ("darknet_tiny_h@8", 11_560, [8]),
        ("yolo_lite@16", 245_024, [8, 16]),
        ("yolo_pose@16", 4_604_832, [8, 16]),
    ],
)
def test_sizes(name: str, parameters: int, strides: list[int]) -> None:
    with torch.device("meta"):
        network = build_backbone(name)
    assert count(network) == parameters
    assert list(network.channels) == strides


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "darknet_tiny_q", "convnext_atto", "yolo_lite"])
def test_the_weights_and_maps_of_the_whole_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = build_backbone(name).eval()
    timm_network = isinstance(whole, TimmBackbone)
    network = timm.create_model(name) if timm_network else whole if isinstance(whole, DarkNet) else pose_network(name)
    save_file(network.state_dict(), tmp_path / "whole.safetensors")
    whole = build_backbone(name, tmp_path / "whole.safetensors").eval()
    stride = sorted(whole.channels)[-2]
    cut = build_backbone(f"{name}@{stride}", tmp_path / "whole.safetensors").eval()
    assert count(cut) < count(whole) / 2
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        maps, expected = cut(images), whole(images)
    assert list(maps) == [found for found in whole.channels if found <= stride]
    assert all(torch.equal(maps[found], expected[found]) for found in maps)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tf_efficientnet_lite0", 700_768), ("resnet18", 2_782_784), ("mobilenetv3_small_100", 190_520)],
)
def test_trunks_pool_the_last_map(name: str, parameters: int) -> None:
    whole, cut = TimmTrunk(name).eval(), TimmTrunk(f"{name}@16").eval()
    assert count(cut) == parameters
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        (maps, pooled), (expected, _) = cut(images), whole(images)
    assert all(torch.equal(maps[tap], expected[tap]) for tap in maps)
    assert list(maps) == list(expected)[:-1]
    torch.testing.assert_close(pooled, maps[next(reversed(maps))].mean(dim=(2, 3)))
    assert pooled.shape == (2, cut.width)


@pytest.mark.parametrize("build", [build_backbone, TimmTrunk])
def test_what_cannot_be_cut_is_refused(build: type) -> None:
    with pytest.raises(RecipeError, match=r"found 'resnet18@12', expected one of .*resnet18@16, resnet18@32"):
        build("resnet18@12")
    with pytest.raises(RecipeError, match=r"found 'resnet18@p4', expected .* such as \['resnet18'"):
        build("resnet18@p4")
    with pytest.raises(RecipeError, match=r"hrnet_w18_small@16', of which \d+ parameters serve no map, such as stage4"):
        build("hrnet_w18_small@16")
    with pytest.raises(RecipeError, match=r"'backbone': found 'darknet_tiny@32', expected one of darknet_tiny@8, dark"):
        build_backbone("darknet_tiny@32")


@pytest.mark.parametrize(
    ("count_of_blocks", "parameters", "channels"),
    [(1, 87_584, 80), (3, 253_984, 80), (4, 360_288, 112), (6, 700_768, 112)],
)
def test_a_cut_after_a_block_gives_out_that_blocks_map(count_of_blocks: int, parameters: int, channels: int) -> None:
    """Blocks of one stride are counted through the stages of the network."""
    whole = build_backbone("tf_efficientnet_lite0@16").eval()
    cut = build_backbone(f"tf_efficientnet_lite0@16:{count_of_blocks}").eval()
    assert cut.channels == {8: 40, 16: channels} and count(cut) == parameters
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    expected: list[torch.Tensor] = []
    blocks = [block for stage in whole.net.blocks[3:] for block in stage]
    blocks[count_of_blocks - 1].register_forward_hook(lambda _, __, output: expected.append(output))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        fine, whole_fine = cut(images), whole(images)
    torch.testing.assert_close(fine[16], expected[0])
    torch.testing.assert_close(fine[8], whole_fine[8])


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"lite0' cut after block 7 of a stride, expected block 1 to 6"):
        build_backbone("tf_efficientnet_lite0@16:7")
    with pytest.raises(RecipeError, match=r"'resnet18' cut after a block, expected an EfficientNet"):
        build_backbone("resnet18@16:1")
