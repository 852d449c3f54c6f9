from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from posedistill.backbones.timm_trunk import RESNET_TAPS, TimmTrunk
from posedistill.errors import CheckpointError, RecipeError


@pytest.mark.parametrize(
    ("name", "parameters", "buffers"),
    [
        ("resnet18", 11_176_512, 9_620),
        ("resnet34", 21_284_672, 17_060),
        ("resnet50", 23_508_032, 53_173),
        ("resnet101", 42_500_160, 105_448),
        ("mobilenetv3_small_100", 927_008, None),
        ("mobilenetv3_large_100", 2_971_952, None),
        ("efficientnet_b0", 4_007_548, None),
        ("tf_efficientnet_lite0", 3_371_008, None),
    ],
)
def test_published_sizes(name: str, parameters: int, buffers: int | None) -> None:
    with torch.device("meta"):
        trunk = TimmTrunk(name)
    assert sum(weight.numel() for weight in trunk.parameters()) == parameters
    if buffers is not None:
        assert sum(buffer.numel() for buffer in trunk.net.buffers()) == buffers


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", (64, 64, 128, 256, 512)), ("resnet50", (64, 256, 512, 1024, 2048))],
)
def test_resnets_are_tapped_by_name(name: str, channels: tuple[int, ...]) -> None:
    trunk = TimmTrunk(name).eval()
    with torch.inference_mode():
        maps, pooled = trunk(torch.randn(1, 3, 256, 455))
    assert tuple(maps) == RESNET_TAPS
    sizes = [(128, 228), (64, 114), (32, 57), (16, 29), (8, 15)]
    assert [tuple(entry.shape[1:]) for entry in maps.values()] == [
        (width, *size) for width, size in zip(channels, sizes, strict=True)
    ]
    assert trunk.channels == dict(zip(RESNET_TAPS, channels, strict=True))
    assert pooled.shape == (1, trunk.width)
    assert all((entry >= 0).all() for entry in maps.values())
    torch.testing.assert_close(pooled, maps["layer4"].mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "width", "names"),
    [
        ("mobilenetv3_small_100", 576, ["p1", "p2", "p3", "p4", "p5"]),
        ("tf_efficientnet_lite0", 1280, ["p1", "p2", "p3", "p4", "p5"]),
        ("repvit_m0_9", 384, ["p2", "p3", "p4", "p5"]),
    ],
)
def test_others_are_tapped_by_stride(name: str, width: int, names: list[str]) -> None:
    trunk = TimmTrunk(name).eval()
    with torch.inference_mode():
        maps, pooled = trunk(torch.randn(2, 3, 64, 96))
    assert list(maps) == names
    for tap, entry in maps.items():
        stride = 2 ** int(tap[1:])
        assert tuple(entry.shape) == (2, trunk.channels[tap], 64 // stride, 96 // stride)
    assert pooled.shape == (2, width)
    assert trunk.width == width


def test_the_same_network_as_torchvision(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    for module in theirs.modules():  # statistics that would show a layer left out or in the wrong order
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    save_file(theirs.state_dict(), tmp_path / "resnet18.safetensors")
    ours = TimmTrunk("resnet18", tmp_path / "resnet18.safetensors").eval()
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        maps, pooled = ours(images)
        x = theirs.relu(theirs.bn1(theirs.conv1(images)))
        expected = {"stem": x}
        x = theirs.maxpool(x)
        for layer in RESNET_TAPS[1:]:
            x = expected[layer] = getattr(theirs, layer)(x)
    for tap, entry in maps.items():
        torch.testing.assert_close(entry, expected[tap], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, theirs.avgpool(x).flatten(1), atol=1e-5, rtol=0)


def test_real_imagenet_weights_load() -> None:
    """In the file, EfficientNet-Lite0 has names of its own; the input is normalised as these weights want it."""
    first, second = TimmTrunk("tf_efficientnet_lite0", "lite0"), TimmTrunk("tf_efficientnet_lite0", "lite0")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.renormalise.needed
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(first.renormalise(white.view(1, 3, 1, 1)).flatten(), torch.ones(3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"found 'resnet19', expected a timm model such as \['resnet18'"),
        ("vit_tiny_patch16_224", "ends in features"),
        ("swin_tiny_patch4_window7_224", "ends in features"),
    ],
)
def test_what_cannot_be_a_trunk(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TimmTrunk(name)


def test_weights_of_another_network(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        TimmTrunk("resnet18", tmp_path / "part.safetensors")
