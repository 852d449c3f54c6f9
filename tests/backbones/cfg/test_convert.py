from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from posedistill.backbones.cfg.convert import convert
from posedistill.backbones.cfg.description import layer_table, parse_cfg, read_cfg
from posedistill.backbones.cfg.network import CfgNetwork, pose_network
from posedistill.backbones.cfg.onnx import folded
from posedistill.backbones.cfg.weights import Header, read_weights, write_weights
from posedistill.cli import app
from posedistill.errors import CheckpointError, RecipeError

HEADER = Header(0, 2, 3, 2**35)
CONV = "[convolutional]\nbatch_normalize={}\nfilters={}\nsize=3\nstride=1\npad=1\ngroups={}\nactivation={}\n"
EVERY_LAYER = "".join(
    [
        "# all layers\n[net]\nwidth=32\nheight=64\n",
        CONV.format(1, 8, 1, "leaky"),
        "[maxpool]\nsize=2\nstride=2\n",
        CONV.format(1, 8, 4, "relu"),
        "[maxpool]\nsize=2\nstride=1\n",
        "[shortcut]\nfrom=-2\nactivation=leaky\n",
        "[reorg]\nstride=2\n",
        CONV.format(0, 8, 1, "linear"),
        "[upsample]\nstride=2\n",
        "[route]\nlayers=-1,4\n",
        "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n",
        "[maxpool]\nsize=3\nstride=2\n",
        "[dropout]\nprobability=.5\n",
        "[convolutional]\nfilters=20\nactivation=linear\n",
        "[region]\nanchors=\nclasses=1\ncoords=18\n",
    ]
)


def randomised(text: str, name: str = "net.cfg") -> CfgNetwork:
    torch.manual_seed(0)
    network = CfgNetwork(parse_cfg(text, name)).eval()
    for key, value in network.state_dict().items():
        if ".bn." in key:
            value.copy_(torch.rand(value.shape) + 0.5 if value.ndim else value)
    return network


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A pair of ``.cfg`` and ``.weights`` with every kind of layer, and the newer header."""
    network, path = randomised(EVERY_LAYER), tmp_path / "net.weights"
    path.with_suffix(".cfg").write_text(EVERY_LAYER)
    write_weights(path, network.cfg, HEADER, network.state_dict())
    return path


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["head"], {"images": images})[0]


def test_through_safetensors_and_back_is_byte_exact(weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "back.weights")
    assert (tmp_path / "back.weights").read_bytes() == weights.read_bytes()
    assert (tmp_path / "back.cfg").read_text() == EVERY_LAYER


def test_an_onnx_file_agrees_with_its_network_at_any_size(weights: Path, tmp_path: Path) -> None:
    network, told = convert(weights, tmp_path / "x.onnx")
    assert told.startswith("batch normalisation is folded, and outputs agree with the network's to ")
    assert layer_table(network) == layer_table(read_cfg(weights.with_suffix(".cfg")))
    for shape in ((1, 3, 64, 32), (3, 3, 32, 96)):
        images = np.random.default_rng(1).random(shape, np.float32)
        with torch.inference_mode():
            expected = randomised(EVERY_LAYER)(torch.from_numpy(images)).numpy()
        found = run_onnx(tmp_path / "x.onnx", images)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_graph_is_plain(weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node]
    assert "BatchNormalization" not in kinds and kinds.count("Conv") == 4 and kinds.count("SpaceToDepth") == 1


@pytest.mark.parametrize("ending", ["weights", "safetensors"])
def test_what_comes_back_from_onnx_is_the_folded_network(ending: str, weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.onnx")
    network, _ = convert(tmp_path / "x.onnx", tmp_path / f"back.{ending}")
    assert "batch_normalize=1" not in network.text
    convert(tmp_path / f"back.{ending}", tmp_path / "again.onnx")
    images = np.random.default_rng(1).random((1, 3, 64, 32), np.float32)
    assert np.array_equal(run_onnx(tmp_path / "again.onnx", images), run_onnx(tmp_path / "x.onnx", images))


def test_folding_keeps_the_function(weights: Path) -> None:
    network = randomised(EVERY_LAYER)
    cfg, tensors = folded(network.cfg, read_weights(weights, network.cfg)[1])
    plain = CfgNetwork(cfg).eval()
    plain.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    images = torch.rand(2, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), network(images), rtol=1e-4, atol=1e-5)


def test_the_shipped_networks_by_name(tmp_path: Path) -> None:
    network = randomised(read_cfg("yolo_lite_bn").text)
    write_weights(tmp_path / "x.weights", network.cfg, HEADER, network.state_dict())
    convert(tmp_path / "x.weights", tmp_path / "x.onnx", "yolo_lite_bn")
    images = np.random.default_rng(1).random((1, 3, 96, 64), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run_onnx(tmp_path / "x.onnx", images), expected, atol=1e-4 * np.abs(expected).max())


def test_the_teachers_reorg_agrees(tmp_path: Path) -> None:
    """A narrow network of the teacher's shape: through its route and reorg, channel by channel."""
    narrow = read_cfg("yolo_pose").text
    for width in (1024, 512, 256, 128):
        narrow = narrow.replace(f"filters={width}\n", f"filters={width // 16}\n")
    network = randomised(narrow.replace("width=416\nheight=416", "width=64\nheight=64"))
    (tmp_path / "x.cfg").write_text(network.cfg.text)
    write_weights(tmp_path / "x.weights", network.cfg, HEADER, network.state_dict())
    _, told = convert(tmp_path / "x.weights", tmp_path / "x.onnx")
    assert float(told.split()[-4]) < 1e-4


def test_the_published_student(real_cfg: Path, tmp_path: Path) -> None:
    """Its text says 20 filters where the weights have 125: refused with both, and converted once the text is right."""
    with pytest.raises(CheckpointError, match=r"found 574189 numbers \(the last layer has 125 filters\)"):
        convert(real_cfg.with_suffix(".weights"), tmp_path / "x.onnx")
    voc = real_cfg.read_text().replace("filters=20", "filters=125")
    voc = voc.replace("num=1", "num=5").replace("coords=18", "coords=4").replace("classes=1", "classes=20")
    voc = voc.replace("anchors = 0.1067, 0.9223", "anchors = 1,1,2,2,3,3,4,4,5,5")
    (tmp_path / "voc.cfg").write_text(voc)
    convert(real_cfg.with_suffix(".weights"), tmp_path / "x.safetensors", tmp_path / "voc.cfg")
    convert(tmp_path / "x.safetensors", tmp_path / "x.weights")
    assert (tmp_path / "x.weights").read_bytes() == real_cfg.with_suffix(".weights").read_bytes()
    convert(tmp_path / "x.weights", tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").stat().st_size < 4 * 574_189 + 8_000


def test_a_converted_file_starts_a_network(weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.safetensors")
    network = pose_network(weights.with_suffix(".cfg"), pretrained=tmp_path / "x.safetensors").eval()
    images = torch.rand(1, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), randomised(EVERY_LAYER)(images))


def test_a_trained_networks_checkpoint_becomes_darknets_weights(weights: Path, tmp_path: Path) -> None:
    """In which the names of all tensors begin with where the network is in its estimator."""
    states = {f"network.grid.{name}": value for name, value in randomised(EVERY_LAYER).state_dict().items()}
    save_file(states, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "x.weights", weights.with_suffix(".cfg"))
    assert (tmp_path / "x.weights").read_bytes()[16:] == weights.read_bytes()[20:]
    network = pose_network(weights.with_suffix(".cfg"), pretrained=tmp_path / "model.safetensors")
    assert torch.equal(network.layers[0].conv.weight, states["network.grid.layers.0.conv.weight"])


def test_a_state_dict_needs_a_cfg(tmp_path: Path) -> None:
    save_file(randomised(EVERY_LAYER).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x.safetensors: 'darknet_cfg': found none in the file, expected --cfg"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.weights")
    (tmp_path / "net.cfg").write_text(EVERY_LAYER)
    convert(tmp_path / "x.safetensors", tmp_path / "net.weights", tmp_path / "net.cfg")
    assert read_weights(tmp_path / "net.weights", parse_cfg(EVERY_LAYER))[0] == Header()


def test_the_command_prints_the_layers(weights: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(weights), str(tmp_path / "x.safetensors")])
    assert result.output.startswith(layer_table(parse_cfg(EVERY_LAYER)))
    assert result.output.endswith("x.safetensors: its .cfg is inside\n") and (tmp_path / "x.safetensors").exists()


def test_another_cfg_is_not_overwritten(weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.safetensors")
    (tmp_path / "other.cfg").write_text("[net]\n")
    with pytest.raises(CheckpointError, match=r"other.cfg: 'file': found another .cfg, expected no such file"):
        convert(tmp_path / "x.safetensors", tmp_path / "other.weights")
    assert not (tmp_path / "other.weights").exists() and (tmp_path / "other.cfg").read_text() == "[net]\n"


def test_files_of_other_origin(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(RecipeError, match=r"x.caffe: 'ending': found '.caffe', expected one of .weights, .safetensors"):
        convert(tmp_path / "x.caffe", tmp_path / "x.onnx")
    with pytest.raises(RecipeError, match=r"x.caffe: 'ending'"):
        convert(weights, tmp_path / "x.caffe")
    for ending in ("onnx", "safetensors"):
        path = tmp_path / f"bad.{ending}"
        with pytest.raises(CheckpointError, match=rf"bad.{ending}: 'file'"):
            convert(path, tmp_path / "x.weights")
        path.write_bytes(b"something else")
        with pytest.raises(CheckpointError, match=rf"bad.{ending}: 'file': found unreadable"):
            convert(path, tmp_path / "x.weights")
    torch.manual_seed(0)
    torch.onnx.export(
        torch.nn.Conv2d(3, 4, 1).eval(), (torch.rand(1, 3, 8, 8),), tmp_path / "other.onnx", verbose=False
    )
    with pytest.raises(
        CheckpointError, match=r"other.onnx: 'darknet_cfg': found .*expected a file that posedistill conv"
    ):
        convert(tmp_path / "other.onnx", tmp_path / "x.weights")
    convert(weights, tmp_path / "x.onnx")
    with pytest.raises(RecipeError, match=r"x.onnx: '--cfg': found yolo_lite, expected none"):
        convert(tmp_path / "x.onnx", tmp_path / "y.weights", "yolo_lite")


def test_tensors_of_another_network(weights: Path, tmp_path: Path) -> None:
    convert(weights, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x.safetensors: 'tensors': found \d+ tensors missing .*of yolo_lite$"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.onnx", "yolo_lite")


def test_a_file_that_disagrees_is_not_written(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posedistill.backbones.cfg.convert.PARITY", 0.0)
    with pytest.raises(CheckpointError, match=r"x.onnx: 'parity': found outputs that differ by .*, expected at most"):
        convert(weights, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_missing_file_or_cfg_is_told_with_the_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"net\.weights: 'file': found no such file"):
        convert(tmp_path / "net.weights", tmp_path / "net.onnx")
    (tmp_path / "net.weights").touch()
    with pytest.raises(
        RecipeError, match=r"net\.weights: '--cfg': found none, and no net\.cfg beside it, expected a \.cfg"
    ):
        convert(tmp_path / "net.weights", tmp_path / "net.onnx")
