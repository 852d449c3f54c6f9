from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from posedistill.backbones import build_backbone, build_trunk
from posedistill.backbones.cfg.description import parse_cfg, read_cfg, with_head
from posedistill.backbones.cfg.library import MULTI_ANCHORS
from posedistill.backbones.cfg.network import CfgBackbone, CfgNetwork, pose_network, space_to_depth, unit_images
from posedistill.backbones.cfg.weights import Header, write_weights
from posedistill.data.images import read_image
from posedistill.deploy.export import trace
from posedistill.errors import CheckpointError, RecipeError

NET = "[net]\nwidth=8\nheight=8\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def built(*sections: str) -> CfgNetwork:
    return CfgNetwork(parse_cfg(NET + "".join(sections))).eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [("yolo_pose", 50_547_764), ("tiny_yolo", 15_754_148), ("yolo_lite_bn", 545_956), ("yolo_lite", 545_332)],
)
def test_parameters_of_the_published_networks(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(CfgNetwork(read_cfg(name))) == count


def test_parameters_of_the_variants() -> None:
    with torch.device("meta"):
        assert parameters(CfgNetwork(with_head(read_cfg("yolo_pose"), 13, 9, MULTI_ANCHORS))) == 50_691_264
        tiny = read_cfg("tiny_yolo").text
        narrow = "filters=512".join(tiny.rsplit("filters=1024", 1))  # the one trained on COCO
        assert parameters(CfgNetwork(parse_cfg(narrow))) == 11_024_292


@pytest.mark.parametrize("name", ["yolo_lite", "yolo_lite_bn", "tiny_yolo"])
def test_head_and_features(name: str) -> None:
    network = pose_network(name, classes=3, keypoints=9, anchors=[(1, 2), (3, 4)]).eval()
    with torch.inference_mode():
        head, features = network.outputs(torch.rand(2, 3, 64, 96))
    assert head.shape == (2, 2 * (18 + 1 + 3), 2, 3) and network.stride == 32
    assert list(features) == [8, 16, 32] == list(network.channels)
    assert {s: tuple(level.shape[1:]) for s, level in features.items()} == {
        stride: (count, 64 // stride, 96 // stride) for stride, count in network.channels.items()
    }


def test_the_teacher_looks_back_at_stride_16() -> None:
    """Its head depends on the finer map, through the route; so small pictures' details reach it."""
    torch.manual_seed(0)
    network = pose_network("yolo_pose").eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        head, features = network.outputs(images)
        network.layers[26].conv.weight.zero_()
        network.layers[26].bn.running_mean.zero_()
        assert not torch.equal(network(images), head)
    assert network.channels == {8: 256, 16: 512, 32: 1024} and features[16].shape == (1, 512, 2, 2)


def test_space_to_depth_puts_the_channels_of_the_input_fastest() -> None:
    C, s = 3, 2
    x = torch.arange(2 * C * 4 * 6, dtype=torch.float32).reshape(2, C, 4, 6)
    out = space_to_depth(x, s)
    for dy in range(s):
        for dx in range(s):
            for c in range(C):
                assert torch.equal(out[:, (dy * s + dx) * C + c], x[:, c, dy::s, dx::s])
    assert not torch.equal(out, nn.functional.pixel_unshuffle(x, s))
    assert torch.equal(built("[reorg]\nstride=2\n")(x), out)


@pytest.mark.parametrize("size", [(48, 32), (64, 80)])
def test_pictures_that_a_reorg_cannot_take_are_refused(size: tuple[int, int]) -> None:
    told = rf"yolo_pose: '\[reorg\]': found pictures of {size[0]} x {size[1]}, expected .* multiples of 32"
    with torch.device("meta"), pytest.raises(RecipeError, match=told):
        build_backbone("yolo_pose")(torch.empty(2, 3, *size))
    assert list(build_backbone("yolo_lite")(torch.rand(2, 3, *size))) == [8, 16, 32], "no reorg, no harm"


def test_pooling_of_stride_1_keeps_the_size() -> None:
    x = torch.rand(1, 3, 4, 4) - 2  # negative: zeros around the picture would win
    out = built("[maxpool]\nsize=2\nstride=1\n")(x)
    assert out.shape == x.shape
    assert torch.equal(out[..., :-1, :-1], nn.functional.max_pool2d(x, 2, 1))
    assert torch.equal(out[..., -1, :-1], torch.maximum(x[..., -1, :-1], x[..., -1, 1:]))
    assert torch.equal(out[..., -1, -1], x[..., -1, -1])
    wide = built("[maxpool]\nsize=5\nstride=1\n")(x)
    assert torch.equal(wide, nn.functional.max_pool2d(x, 5, 1, padding=2))


def test_routes_and_shortcuts() -> None:
    x = torch.rand(1, 3, 8, 8)
    network = built(CONV, CONV, "[route]\nlayers=-1,0\n", "[shortcut]\nfrom=-1\nactivation=relu\n")
    first = network.layers[0](x)
    both = torch.cat([network.layers[1](first), first], 1)
    torch.testing.assert_close(network(x), (2 * both).relu())
    half = built(CONV, "[route]\nlayers=0\ngroups=2\ngroup_id=1\n")
    torch.testing.assert_close(half(x), half.layers[0](x)[:, 2:])


def test_the_other_layers() -> None:
    x = torch.rand(1, 3, 8, 8)
    network = built(
        "[maxpool]\nsize=2\nstride=2\n", "[upsample]\nstride=2\n", "[dropout]\nprobability=.5\n", "[avgpool]\n"
    )
    up = nn.functional.max_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(network(x), up.mean((2, 3), keepdim=True))
    assert network.train()(x).isfinite().all() and not torch.equal(network(x), network.eval()(x))


def test_grouped_convolutions_and_activations() -> None:
    x = torch.randn(1, 3, 8, 8)
    text = "[convolutional]\nfilters=6\nsize=3\nstride=2\npad=1\ngroups=3\nactivation={}\n"
    for activation, expected in (("relu", nn.functional.relu), ("leaky", lambda y: nn.functional.leaky_relu(y, 0.1))):
        network = built(text.format(activation))
        conv = network.layers[0].conv
        assert conv.weight.shape == (6, 1, 3, 3)
        torch.testing.assert_close(
            network(x), expected(nn.functional.conv2d(x, conv.weight, conv.bias, 2, 1, groups=3))
        )


def test_batch_normalisation_is_darknets() -> None:
    network = built(CONV)
    x, block = torch.rand(2, 3, 8, 8), network.layers[0]
    for name, values in (("bias", 0.3), ("weight", 2.0), ("running_mean", 0.1), ("running_var", 0.5)):
        getattr(block.bn, name).data.fill_(values)
    plain = nn.functional.conv2d(x, block.conv.weight, None, 1, 1)
    expected = nn.functional.leaky_relu((plain - 0.1) / (0.5 + 1e-4) ** 0.5 * 2 + 0.3, 0.1)
    torch.testing.assert_close(network(x), expected)


def test_gradients_reach_every_parameter() -> None:
    network = pose_network("yolo_lite_bn", classes=2).train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_network_without_normalisation_does_not_fade() -> None:
    torch.manual_seed(0)
    network = pose_network("yolo_lite")
    with torch.inference_mode():
        features = network.outputs(torch.rand(1, 3, 64, 64)).features
    assert 0.1 < features[32].std() < 10


def weights_file(path: Path, network: CfgNetwork) -> Path:
    write_weights(path, network.cfg, Header(0, 2, 0, 1), network.state_dict())
    return path


def randomised(name: str, seed: int, **head: int) -> CfgNetwork:
    torch.manual_seed(seed)
    network = pose_network(name, **head).eval()
    for key, value in network.state_dict().items():
        if "running" in key or ".bn." in key:
            value.copy_(torch.rand(value.shape) + 0.5)
    return network


@pytest.mark.parametrize("name", ["yolo_lite", "yolo_lite_bn"])
@pytest.mark.parametrize("ending", ["weights", "safetensors", "pth"])
def test_a_network_starts_from_its_own_file(name: str, ending: str, tmp_path: Path) -> None:
    network, path = randomised(name, 0), tmp_path / f"x.{ending}"
    if ending == "weights":
        weights_file(path, network)
    elif ending == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(pose_network(name, pretrained=path).eval()(images), network(images))


@pytest.mark.parametrize("ending", ["weights", "safetensors"])
def test_a_head_of_other_objects_is_left_out(ending: str, tmp_path: Path) -> None:
    network, path = randomised("yolo_lite_bn", 0), tmp_path / f"x.{ending}"
    weights_file(path, network) if ending == "weights" else save_file(network.state_dict(), path)
    other = pose_network("yolo_lite_bn", classes=8, pretrained=path)
    assert torch.equal(other.layers[10].conv.weight, network.layers[10].conv.weight)
    assert other.layers[11].conv.weight.shape == (27, 256, 1, 1)


def test_the_first_layers_alone(tmp_path: Path) -> None:
    network = randomised("yolo_lite_bn", 0)
    whole = weights_file(tmp_path / "x.weights", network).read_bytes()
    (tmp_path / "lite.conv.4").write_bytes(whole[: 20 + 4 * (16 * (4 + 27) + 32 * (4 + 144))])
    part = pose_network("yolo_lite_bn", pretrained=tmp_path / "lite.conv.4")
    assert torch.equal(part.layers[2].conv.weight, network.layers[2].conv.weight)
    assert not torch.equal(part.layers[4].conv.weight, network.layers[4].conv.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"x.weights: 'weights': found 547204 numbers .* expected 545332 of yolo_lite"
    ):
        pose_network("yolo_lite", pretrained=weights_file(tmp_path / "x.weights", randomised("yolo_lite_bn", 0)))
    save_file({"layers.0.conv.weight": torch.zeros(3), "x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x.safetensors: .*14 tensors missing or of another shape .*, 1 unknown"):
        pose_network("yolo_lite", pretrained=tmp_path / "x.safetensors")


def test_the_published_student_finds_people_in_photographs(real_cfg: Path) -> None:
    """Its weights are a detector's for the 20 classes of VOC, of which ``person`` is number 14."""
    voc = real_cfg.read_text().replace("filters=20", "filters=125").replace("coords=18", "coords=4")
    voc = (
        voc.replace("num=1", "num=5")
        .replace("classes=1", "classes=20")
        .replace("= 0.1067, 0.9223", "=" + "1," * 9 + "1")
    )
    network = CfgNetwork(parse_cfg(voc)).eval()
    network.load(real_cfg.with_suffix(".weights"))
    image = read_image(real_cfg.parents[1] / "backgrounds/285036.jpg")  # two firemen
    pixels = torch.from_numpy(cv2.resize(image, (224, 224))).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        boxes = network(pixels)[0].view(5, 25, 7, 7)
    scores = boxes[:, 4:5].sigmoid() * boxes[:, 5:].softmax(1)
    best = int(scores.argmax())
    assert np.unravel_index(best, scores.shape)[1] == 14 and scores.max() > 0.95


def normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return (images - mean[:, None, None]) / std[:, None, None]


def test_unit_images_undo_the_batchs_normalisation() -> None:
    images = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(unit_images(normalised(images)), images)


@pytest.mark.parametrize("name", ["tiny_yolo", "yolo_lite", "yolo_lite_bn"])
def test_backbones_by_name(name: str, tmp_path: Path) -> None:
    network = randomised(name, 0)
    backbone = build_backbone(name, weights_file(tmp_path / "x.weights", network)).eval()
    assert backbone.channels == network.channels
    assert parameters(backbone) == parameters(network) - parameters(network.layers[-2])
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = backbone(normalised(images)), network.outputs(images).features
    for stride, level in theirs.items():
        torch.testing.assert_close(ours[stride], level, rtol=1e-4, atol=1e-4)


def test_any_cfg_is_a_backbone(tmp_path: Path) -> None:
    pools = "[maxpool]\nsize=2\nstride=2\n" * 3
    (tmp_path / "own.cfg").write_text((NET + CONV + pools + CONV).replace("=8\n", "=64\n"))
    backbone = build_backbone(f"cfg:{tmp_path / 'own.cfg'}")
    assert isinstance(backbone, CfgBackbone) and backbone.channels == {8: 4}
    assert {s: m.shape for s, m in backbone(torch.rand(1, 3, 64, 64)).items()} == {8: (1, 4, 8, 8)}
    with pytest.raises(RecipeError, match=r"no.cfg: 'file': found no such file"):
        build_backbone(f"cfg:{tmp_path / 'no.cfg'}")
    (tmp_path / "fine.cfg").write_text(NET + CONV)
    with pytest.raises(RecipeError, match=r"fine.cfg: 'backbone': found maps of stride 1, expected 8 or coarser"):
        build_backbone(f"cfg:{tmp_path / 'fine.cfg'}")


@pytest.mark.parametrize(("name", "levels"), [("yolo_lite_bn", ["p3", "p4", "p5"]), ("cfg:FILE@16", ["p3", "p4"])])
def test_trunks_by_name(name: str, levels: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.cfg").write_text(read_cfg("yolo_lite").text)
    name = name.replace("FILE", str(tmp_path / "own.cfg"))
    trunk, backbone = build_trunk(name).eval(), build_backbone(name).eval()
    backbone.load_state_dict(trunk.backbone.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        (features, pooled), maps = trunk(images), backbone(images)
    assert list(features) == list(trunk.channels) == levels and pooled.shape == (2, trunk.width)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features.values(), maps.values(), strict=True))
    torch.testing.assert_close(pooled, maps[max(maps)].mean((2, 3)))


def test_the_exporter_of_estimators_takes_it() -> None:
    text = CONV + "[maxpool]\nsize=2\nstride=1\n" + CONV + "[reorg]\nstride=2\n" + CONV + "[route]\nlayers=-1,3\n"
    network = built(text)
    model = trace(network, {"images": torch.rand(2, 3, 8, 8)}, ["head"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, 8, 8)
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], network(images), atol=1e-5)


def test_half_precision_and_channels_last() -> None:
    network = randomised("yolo_lite_bn", 0).to(memory_format=torch.channels_last)
    images = torch.rand(1, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        head = network(images)
    assert head.isfinite().all()
    with torch.inference_mode():
        whole = network(images)
    assert np.corrcoef(head.float().flatten(), whole.flatten())[0, 1] > 0.999
