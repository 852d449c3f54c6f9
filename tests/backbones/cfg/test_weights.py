import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_fuzz import fuzz

from posedistill.backbones.cfg.description import parse_cfg, read_cfg, with_head
from posedistill.backbones.cfg.library import MULTI_ANCHORS
from posedistill.backbones.cfg.weights import Header, layer_tensors, read_weights, write_weights
from posedistill.errors import CheckpointError, RecipeError

TEXT = """[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=5
groups=1
activation=linear
"""
COUNTS = (4 * 4 + 4 * 3 * 9, 5 + 5 * 4)
CFG = parse_cfg(TEXT, "small.cfg")


def write(path: Path, count: int, header: Header = Header(0, 1, 0, 64)) -> Path:  # noqa: B008
    path.write_bytes(header.to_bytes() + np.arange(count, dtype="<f4").tobytes())
    return path


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("yolo_pose", 50_568_436), ("tiny_yolo", 15_760_260), ("yolo_lite_bn", 547_204), ("yolo_lite", 545_332)],
)
def test_numbers_of_the_published_networks(name: str, numbers: int) -> None:
    assert sum(layer.count for layer in layer_tensors(read_cfg(name))) == numbers


def test_numbers_of_the_network_of_several_objects() -> None:
    multi = with_head(read_cfg("yolo_pose"), 13, 9, MULTI_ANCHORS)
    assert sum(layer.count for layer in layer_tensors(multi)) == 50_711_936


def test_offsets_of_the_published_student() -> None:
    layers = layer_tensors(read_cfg("yolo_lite"))
    starts = np.cumsum([0, *(layer.count for layer in layers)])
    assert [layer.index for layer in layers] == [0, 2, 4, 6, 8, 10, 11]
    assert starts.tolist() == [0, 448, 5_088, 23_584, 97_440, 245_024, 540_192, 545_332]


def test_darknet19_ends_after_layer_22() -> None:
    layers = layer_tensors(read_cfg("yolo_pose"))
    assert sum(layer.count for layer in layers if layer.index <= 22) == 19_831_776


def test_order_in_the_file(tmp_path: Path) -> None:
    header, tensors = read_weights(write(tmp_path / "x.weights", sum(COUNTS)), CFG)
    assert header == Header(0, 1, 0, 64)
    assert list(tensors) == [
        *(f"layers.0.bn.{name}" for name in ("bias", "weight", "running_mean", "running_var")),
        *("layers.0.conv.weight", "layers.2.conv.bias", "layers.2.conv.weight"),
    ]
    assert tensors["layers.0.bn.weight"].tolist() == [4, 5, 6, 7]
    assert tensors["layers.0.conv.weight"].shape == (4, 3, 3, 3)
    assert tensors["layers.0.conv.weight"][1, 0, 0].tolist() == [16 + 27, 16 + 28, 16 + 29]
    assert tensors["layers.2.conv.bias"][0] == COUNTS[0]


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (Header(0, 1, 0, 5_612_800), 16),
        (Header(0, 0, 0, 0), 16),
        (Header(0, 2, 0, 64), 20),
        (Header(0, 2, 5, 2**40), 20),
        (Header(1, 0, 0, 7), 20),
        (Header(1000, 2, 0, 7), 16),
    ],
)
def test_both_headers_come_back_byte_for_byte(header: Header, size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "in.weights", sum(COUNTS), header)
    assert path.stat().st_size == size + 4 * sum(COUNTS)
    found, tensors = read_weights(path, CFG)
    assert found == header
    write_weights(tmp_path / "out.weights", CFG, found, tensors)
    assert (tmp_path / "out.weights").read_bytes() == path.read_bytes()


def test_the_published_student_comes_back_byte_for_byte(real_cfg: Path, tmp_path: Path) -> None:
    """Its head has 125 filters, for the boxes of VOC; the text has been changed to 20."""
    weights, text = real_cfg.with_suffix(".weights"), real_cfg.read_text()
    voc = parse_cfg(text.replace("filters=20", "filters=125").partition("[region]")[0], "voc.cfg")
    header, tensors = read_weights(weights, voc)
    assert header == Header(0, 1, 0, 10_598_400)
    write_weights(tmp_path / "out.weights", voc, header, tensors)
    assert (tmp_path / "out.weights").read_bytes() == weights.read_bytes()


def test_the_published_student_starts_a_pose_network(real_cfg: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg, weights = read_cfg(real_cfg), real_cfg.with_suffix(".weights")
    with pytest.raises(
        CheckpointError, match=r"found 574189 numbers \(the last layer has 125 filters\), expected 547204"
    ):
        read_weights(weights, cfg)
    caplog.set_level(logging.INFO)
    _, tensors = read_weights(weights, cfg, start=True)
    assert {int(name.split(".")[1]) for name in tensors} == {0, 2, 4, 6, 8, 10}
    assert "6 of 7 convolutions of " in caplog.text and "32125 of a last layer with other filters" in caplog.text


def test_a_start_may_be_the_first_layers(tmp_path: Path) -> None:
    path = write(tmp_path / "small.conv.1", COUNTS[0])
    assert list(read_weights(path, CFG, start=True)[1])[-1] == "layers.0.conv.weight"
    with pytest.raises(
        CheckpointError, match=r"found 124 numbers \(it ends after layer 0\), expected 149 of small.cfg$"
    ):
        read_weights(path, CFG)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, r"x.weights: 'weights': found 16 bytes, expected a header"),
        (
            100,
            r"found 100 numbers \(49 too few: it ends within layer 0\), expected 149 of small.cfg",
        ),
        (140, r"found 140 numbers \(9 too few: it ends within layer 2\)"),
        (147, r"found 147 numbers \(2 too few: it ends within layer 2\)"),
        (150, r"found 150 numbers \(one too many or too few: the header is the one of another version\)"),
        (148, r"found 148 numbers \(one too many or too few"),
        (5000, r"found 5000 numbers \(4851 too many: another network\)"),
    ],
)
@pytest.mark.parametrize("start", [False, True])
def test_other_counts_are_refused(count: int, message: str, start: bool, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=message + (", or those of its first layers" if start and "149 of" in message else "")
    ):
        read_weights(write(tmp_path / "x.weights", count), CFG, start)


def test_a_header_of_20_bytes_that_calls_itself_old(tmp_path: Path) -> None:
    data = struct.pack("<iiiQ", 0, 1, 0, 64) + bytes(4 * sum(COUNTS))
    (tmp_path / "x.weights").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"found 150 numbers .*the header is the one of another version"):
        read_weights(tmp_path / "x.weights", CFG, start=True)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no.weights: 'weights': found No such file"):
        read_weights(tmp_path / "no.weights", CFG)
    (tmp_path / "odd.weights").write_bytes(bytes(101))
    with pytest.raises(CheckpointError, match="found 101 bytes: 16 of a header, and 85, expected a multiple of 4"):
        read_weights(tmp_path / "odd.weights", CFG)


@pytest.mark.parametrize(("place", "value"), [(13, -1.0), (60, np.nan), (130, np.inf)])
def test_numbers_that_no_network_has(place: int, value: float, tmp_path: Path) -> None:
    numbers = np.ones(sum(COUNTS), "<f4")
    numbers[place] = value
    (tmp_path / "x.weights").write_bytes(Header().to_bytes() + numbers.tobytes())
    with pytest.raises(
        CheckpointError, match=r"'layers\.\d\..*': found 1 of \d+ numbers that are not finite, or negative"
    ):
        read_weights(tmp_path / "x.weights", CFG)


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, full_disk) -> None:
    path = write(tmp_path / "x.weights", sum(COUNTS))
    header, tensors = read_weights(path, CFG)
    before = path.read_bytes()
    with full_disk(), pytest.raises(CheckpointError, match=r"x.weights"):
        write_weights(path, CFG, header, tensors)
    assert path.read_bytes() == before


def test_damaged_files_end_in_errors_of_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", sum(COUNTS))
    fuzz(path, lambda: read_weights(path, CFG), 1, CheckpointError)


def test_damaged_descriptions_end_in_errors_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    path.write_text(TEXT)
    fuzz(path, lambda: read_cfg(path), 2, RecipeError)
