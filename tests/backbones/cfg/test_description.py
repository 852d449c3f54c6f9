"""The tables are those that Darknet prints of the published networks."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.backbones.cfg.description import (
    feature_layers,
    layer_table,
    parse_cfg,
    read_cfg,
    with_head,
    without_head,
)
from posedistill.backbones.cfg.layers import Convolutional, MaxPool, Region, Route, Shortcut
from posedistill.backbones.cfg.library import MULTI_ANCHORS, SHIPPED
from posedistill.errors import RecipeError

TITLE = "layer     filters    size              input                output\n"
YOLO_POSE = """\
    0 conv     32  3 x 3 / 1   416 x 416 x   3   ->   416 x 416 x  32
    1 max          2 x 2 / 2   416 x 416 x  32   ->   208 x 208 x  32
    2 conv     64  3 x 3 / 1   208 x 208 x  32   ->   208 x 208 x  64
    3 max          2 x 2 / 2   208 x 208 x  64   ->   104 x 104 x  64
    4 conv    128  3 x 3 / 1   104 x 104 x  64   ->   104 x 104 x 128
    5 conv     64  1 x 1 / 1   104 x 104 x 128   ->   104 x 104 x  64
    6 conv    128  3 x 3 / 1   104 x 104 x  64   ->   104 x 104 x 128
    7 max          2 x 2 / 2   104 x 104 x 128   ->    52 x  52 x 128
    8 conv    256  3 x 3 / 1    52 x  52 x 128   ->    52 x  52 x 256
    9 conv    128  1 x 1 / 1    52 x  52 x 256   ->    52 x  52 x 128
   10 conv    256  3 x 3 / 1    52 x  52 x 128   ->    52 x  52 x 256
   11 max          2 x 2 / 2    52 x  52 x 256   ->    26 x  26 x 256
   12 conv    512  3 x 3 / 1    26 x  26 x 256   ->    26 x  26 x 512
   13 conv    256  1 x 1 / 1    26 x  26 x 512   ->    26 x  26 x 256
   14 conv    512  3 x 3 / 1    26 x  26 x 256   ->    26 x  26 x 512
   15 conv    256  1 x 1 / 1    26 x  26 x 512   ->    26 x  26 x 256
   16 conv    512  3 x 3 / 1    26 x  26 x 256   ->    26 x  26 x 512
   17 max          2 x 2 / 2    26 x  26 x 512   ->    13 x  13 x 512
   18 conv   1024  3 x 3 / 1    13 x  13 x 512   ->    13 x  13 x1024
   19 conv    512  1 x 1 / 1    13 x  13 x1024   ->    13 x  13 x 512
   20 conv   1024  3 x 3 / 1    13 x  13 x 512   ->    13 x  13 x1024
   21 conv    512  1 x 1 / 1    13 x  13 x1024   ->    13 x  13 x 512
   22 conv   1024  3 x 3 / 1    13 x  13 x 512   ->    13 x  13 x1024
   23 conv   1024  3 x 3 / 1    13 x  13 x1024   ->    13 x  13 x1024
   24 conv   1024  3 x 3 / 1    13 x  13 x1024   ->    13 x  13 x1024
   25 route  16
   26 conv     64  1 x 1 / 1    26 x  26 x 512   ->    26 x  26 x  64
   27 reorg              / 2    26 x  26 x  64   ->    13 x  13 x 256
   28 route  27 24
   29 conv   1024  3 x 3 / 1    13 x  13 x1280   ->    13 x  13 x1024
   30 conv     20  1 x 1 / 1    13 x  13 x1024   ->    13 x  13 x  20
   31 detection"""
TINY_YOLO = """\
    0 conv     16  3 x 3 / 1   416 x 416 x   3   ->   416 x 416 x  16
    1 max          2 x 2 / 2   416 x 416 x  16   ->   208 x 208 x  16
    2 conv     32  3 x 3 / 1   208 x 208 x  16   ->   208 x 208 x  32
    3 max          2 x 2 / 2   208 x 208 x  32   ->   104 x 104 x  32
    4 conv     64  3 x 3 / 1   104 x 104 x  32   ->   104 x 104 x  64
    5 max          2 x 2 / 2   104 x 104 x  64   ->    52 x  52 x  64
    6 conv    128  3 x 3 / 1    52 x  52 x  64   ->    52 x  52 x 128
    7 max          2 x 2 / 2    52 x  52 x 128   ->    26 x  26 x 128
    8 conv    256  3 x 3 / 1    26 x  26 x 128   ->    26 x  26 x 256
    9 max          2 x 2 / 2    26 x  26 x 256   ->    13 x  13 x 256
   10 conv    512  3 x 3 / 1    13 x  13 x 256   ->    13 x  13 x 512
   11 max          2 x 2 / 1    13 x  13 x 512   ->    13 x  13 x 512
   12 conv   1024  3 x 3 / 1    13 x  13 x 512   ->    13 x  13 x1024
   13 conv   1024  3 x 3 / 1    13 x  13 x1024   ->    13 x  13 x1024
   14 conv     20  1 x 1 / 1    13 x  13 x1024   ->    13 x  13 x  20
   15 detection"""
YOLO_LITE = """\
    0 conv     16  3 x 3 / 1   416 x 416 x   3   ->   416 x 416 x  16
    1 max          2 x 2 / 2   416 x 416 x  16   ->   208 x 208 x  16
    2 conv     32  3 x 3 / 1   208 x 208 x  16   ->   208 x 208 x  32
    3 max          2 x 2 / 2   208 x 208 x  32   ->   104 x 104 x  32
    4 conv     64  3 x 3 / 1   104 x 104 x  32   ->   104 x 104 x  64
    5 max          2 x 2 / 2   104 x 104 x  64   ->    52 x  52 x  64
    6 conv    128  3 x 3 / 1    52 x  52 x  64   ->    52 x  52 x 128
    7 max          2 x 2 / 2    52 x  52 x 128   ->    26 x  26 x 128
    8 conv    128  3 x 3 / 1    26 x  26 x 128   ->    26 x  26 x 128
    9 max          2 x 2 / 2    26 x  26 x 128   ->    13 x  13 x 128
   10 conv    256  3 x 3 / 1    13 x  13 x 128   ->    13 x  13 x 256
   11 conv     20  1 x 1 / 1    13 x  13 x 256   ->    13 x  13 x  20
   12 detection"""

NET = "[net]\nwidth=32\nheight=64\nchannels=3\n"
CONV = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"


def expand(*sections: str) -> str:
    return NET + "".join(CONV if section == "conv" else section for section in sections)


@pytest.mark.parametrize(
    ("name", "table"),
    [("yolo_pose", YOLO_POSE), ("tiny_yolo", TINY_YOLO), ("yolo_lite", YOLO_LITE), ("yolo_lite_bn", YOLO_LITE)],
)
def test_the_printed_table(name: str, table: str) -> None:
    assert layer_table(read_cfg(name)) == TITLE + table


@pytest.mark.parametrize(
    ("name", "giga"), [("yolo_pose", 14.662), ("tiny_yolo", 3.467), ("yolo_lite", 0.823), ("yolo_lite_bn", 0.823)]
)
def test_multiplications(name: str, giga: float) -> None:
    cfg = read_cfg(name)
    kernels = [
        (layer.size**2 * cfg.inputs(index).channels, cfg.outputs[index])
        for index, layer in enumerate(cfg.layers)
        if isinstance(layer, Convolutional)
    ]
    total = sum(kernel * output.width * output.height * output.channels for kernel, output in kernels)
    assert round(total / 1e9, 3) == giga


def test_the_published_student_is_read_as_it_is(real_cfg: Path) -> None:
    cfg = read_cfg(real_cfg)
    assert layer_table(cfg) == TITLE + YOLO_LITE
    assert cfg.layers[:-1] == read_cfg("yolo_lite_bn").layers[:-1]
    assert cfg.region == Region(((0.1067, 0.9223),), 1, 1, 18, 5.0, 0.1, 1.0, 1.0)


def test_head_of_several_objects() -> None:
    multi = with_head(read_cfg("yolo_pose"), 13, 9, MULTI_ANCHORS)
    assert multi.outputs[-1] == (13, 13, 160, 32)
    assert multi.region.anchors == MULTI_ANCHORS and multi.region.noobject_scale == 0.1
    assert multi.layers[:-2] == read_cfg("yolo_pose").layers[:-2]
    single = with_head(multi, 1, 9)
    assert (single.layers, single.outputs) == (read_cfg("yolo_pose").layers, read_cfg("yolo_pose").outputs)


def test_a_network_without_its_head() -> None:
    body = without_head(read_cfg("tiny_yolo"))
    assert len(body.layers) == 14 and without_head(body) == body
    assert feature_layers(body) == feature_layers(read_cfg("tiny_yolo")) == {8: 6, 16: 8, 32: 13}
    with pytest.raises(RecipeError, match=r"tiny_yolo: '\[region\]': found no such section"):
        with_head(body, 1, 9)


def test_maps_that_come_back_up() -> None:
    """The last map stands for its stride, other maps of the way up do not."""
    down = [f"[maxpool]\nsize=2\nstride=2\n{CONV}"] * 5
    cfg = parse_cfg(expand(*down, "[upsample]\nstride=2\n", "[upsample]\nstride=2\n", CONV))
    assert feature_layers(cfg) == {8: 12, 16: 7, 32: 9}


@pytest.mark.parametrize("text", ["[maxpool]\nsize=2\nstride=1\n", "[maxpool]\nsize=5\nstride=1\n", "[dropout]\n"])
def test_layers_that_keep_the_size(text: str) -> None:
    assert parse_cfg(expand(text)).outputs[0] == (32, 64, 3, 1)


def test_defaults_and_comments() -> None:
    text = (
        "# first\r\n[net]\r\n ; second\r\nwidth = 32\r\nheight=32\r\n\r\n[convolutional]\r\nactivation = linear  \r\n"
    )
    cfg = parse_cfg(text)
    assert cfg.layers == (Convolutional(1, 1, 1, 0, 1, False, "linear"),) and cfg.outputs == ((32, 32, 1, 1),)


def test_routes_and_shortcuts_name_layers_from_here_or_from_the_start() -> None:
    cfg = parse_cfg(expand("conv", "conv", "[route]\nlayers=-1, 0,1\n", "[shortcut]\nfrom=-1\nactivation=relu\n"))
    assert cfg.layers[2:] == (Route((1, 0, 1), 1, 0), Shortcut(2, "relu"))
    assert cfg.outputs[2] == (32, 64, 12, 1)
    half = parse_cfg(expand("conv", "[route]\nlayers=0\ngroups=2\ngroup_id=1\n"))
    assert half.layers[1] == Route((0,), 2, 1) and half.outputs[1].channels == 2


def test_average_pooling_ends_the_grid() -> None:
    cfg = parse_cfg(expand("conv", "[avgpool]\n"))
    assert cfg.outputs[1] == (1, 1, 4, 0) and layer_table(cfg).splitlines()[-1].startswith("    1 avg")


def test_every_kind_of_layer_has_a_row() -> None:
    up = "[upsample]\nstride=2\n"
    text = expand("conv", "[maxpool]\nsize=2\nstride=2\n", up, "[shortcut]\nfrom=0\n", "[dropout]\nprobability=.3\n")
    assert [row.split()[1] for row in layer_table(parse_cfg(text)).splitlines()[1:]] == [
        *("conv", "max", "upsample", "shortcut", "dropout"),
    ]


REGION = "[region]\nanchors=\nclasses=1\ncoords=18\nnum=1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"net.cfg: 'section': found none"),
        ("width=3\n[net]\n", r"net.cfg, line 1: 'line': found 'width=3', expected \[section\]"),
        (CONV, r"net.cfg, line 1: 'section': found \[convolutional\], expected \[net\] first"),
        (NET, "found no layers"),
        (expand("[yolo]\nmask=1\n"), r"net.cfg, line 5: 'section': found \[yolo\], expected one of \[convolutional\]"),
        (
            expand(CONV, "[route]\nlayers=7\n"),
            r"line 11: 'layers': found layer 7 \(written 7\), expected a layer before",
        ),
        (expand(CONV, "[route]\nlayers=-2\n"), r"line 11: 'layers': found layer -1 \(written -2\)"),
        (expand(CONV, "[route]\nlayers=1\n"), r"'layers': found layer 1 \(written 1\)"),
        (expand(CONV, "[route]\n"), "line 10: 'layers': found none"),
        (expand(CONV, "[route]\nlayers=0\ngroups=3\n"), "line 12: 'groups': found part 0 of 3, expected .*4 channels"),
        (
            expand(CONV, "[maxpool]\nsize=2\nstride=2\n", "[route]\nlayers=-1,-2\n"),
            r"'layers': found maps of several sizes \(1:  16 x  32 x   4, 0:  32 x  64 x   4\)",
        ),
        (
            expand(CONV, CONV.replace("4", "5"), "[shortcut]\nfrom=-2\n"),
            "'from': found layer 0 of .*as the layer before",
        ),
        (
            expand(CONV.replace("leaky", "mish")),
            "line 9: 'activation': found 'mish', expected one of leaky, linear, relu",
        ),
        (expand("[convolutional]\nfilters=4\n"), "line 5: 'activation': found 'logistic'"),
        (
            expand(CONV + "dilation=2\n"),
            "line 10: 'dilation': found an unknown key of .convolutional., expected one of",
        ),
        (expand(CONV + "size=5\n"), "line 7: 'size': found it again in line 10"),
        (
            expand(CONV.replace("filters=4", "filters=4 # four")),
            "line 6: 'filters': found '4 # four', expected a whole",
        ),
        (
            expand(CONV.replace("filters=4", "filters=0")),
            "line 6: 'filters': found 0, expected one whole number from 1",
        ),
        (expand(CONV.replace("filters=4", "filters=a=b")), "line 6: 'line': found 'filters=a=b'"),
        (expand(CONV + "groups=2\n"), "line 10: 'groups': found 2, expected a divisor of 3 channels and 4 filters"),
        (expand("[maxpool]\nsize=128\nstride=128\n"), "found an output of .*expected a picture larger than 32 x 64"),
        (expand("[reorg]\nstride=3\n"), "'stride': found 3, expected a divisor of the map's 32 x 64"),
        (expand("[upsample]\nstride=2\n"), "'stride': found 2, expected a divisor of the map's stride, 1"),
        (expand(CONV, "[shortcut]\nfrom=0,0\n"), "'from': found 2 indices, expected the index of one layer"),
        (expand(CONV, "[shortcut]\n"), "'from': found 0 indices"),
        (expand("[dropout]\nprobability=1\n"), "'probability': found 1.0"),
        (expand("[dropout]\nprobability=nan\n"), "'probability': found 'nan'"),
        (
            expand(CONV, REGION),
            r"found 4 in the layer before \[region\], expected 20 = 1 x \(18 coords \+ 1 \+ 1 classes\)",
        ),
        (expand(CONV, REGION.replace("anchors=", "anchors=1,2,3")), "'anchors': found 3 numbers, expected 2 positive"),
        (expand(CONV, REGION.replace("num=1", "num=2")), "'anchors': found 0 numbers, expected 4 positive"),
        (expand(CONV.replace("4", "20"), REGION, CONV), r"found a layer after \[region\]"),
    ],
)
def test_faults_are_told_with_their_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_cfg(text, "net.cfg")


def test_a_head_that_is_no_convolution(tmp_path: Path) -> None:
    cfg = parse_cfg(expand(CONV.replace("4", "20"), "[dropout]\n", REGION), "net.cfg")
    with pytest.raises(
        RecipeError, match=r"net.cfg, line 10: '\[dropout\]': found 20 channels of a layer that is none"
    ):
        with_head(cfg, 2, 9)


WORDS = st.sampled_from(
    ["0", "-1", "9" * 500, "1e999", "nan", "", "1,2", "-3,99", "leaky", "[route]", "[net]", "=", "#", "\x00"]
)


@settings(max_examples=300)
@given(st.integers(0, 200), WORDS, st.sampled_from(["value", "line", "cut"]))
def test_whatever_a_text_holds_is_read_or_refused(place: int, word: str, how: str) -> None:
    lines = read_cfg("yolo_pose").text.splitlines()
    lines[place] = f"{lines[place].partition('=')[0]}={word}" if how == "value" else word
    with contextlib.suppress(RecipeError):
        cfg = parse_cfg("\n".join(lines[: place + 1] if how == "cut" else lines))
        assert layer_table(cfg) and feature_layers(without_head(cfg)) is not None


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=f"found an unknown name, expected one of {', '.join(SHIPPED)}, or a .cfg file"
    ):
        read_cfg("yolo_heavy")
    with pytest.raises(RecipeError, match=r"no.cfg: 'file': found no such file, expected a Darknet .cfg file"):
        read_cfg(tmp_path / "no.cfg")
    (tmp_path / "binary.cfg").write_bytes(bytes(range(256)))
    with pytest.raises(RecipeError, match=r"binary.cfg: 'text'"):
        read_cfg(tmp_path / "binary.cfg")


def test_pooling_pads_as_darknet_does() -> None:
    assert [MaxPool(*case).padding for case in ((2, 2), (2, 1), (5, 1), (3, 2))] == [0, 1, 4, 2]
