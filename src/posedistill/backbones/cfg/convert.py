"""The weights of Darknet networks from one kind of file to another: ``.weights`` with ``.cfg``, safetensors, ONNX."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from posedistill.backbones.cfg.description import Cfg, parse_cfg, read_cfg
from posedistill.backbones.cfg.network import CfgNetwork
from posedistill.backbones.cfg.onnx import CFG_PROPERTY, from_onnx, to_onnx
from posedistill.backbones.cfg.weights import Array, Header, check_tensors, read_weights, write_weights
from posedistill.errors import CheckpointError, RecipeError, describe
from posedistill.files import read_text, write_file

HEADER_PROPERTY = "darknet_header"
PARITY = 1e-4
"""Largest difference between an ONNX file and its network, as a share of the largest output."""


@dataclass(frozen=True)
class Weights:
    """A network with all its numbers, as any of the files holds it."""

    cfg: Cfg
    header: Header
    tensors: dict[str, Array]


def convert(source: Path, target: Path, cfg: str | Path | None = None) -> tuple[Cfg, str]:
    """Write the network of one file as another; what they are, their endings say.

    Nothing is lost between ``.weights`` and ``.safetensors``. In ONNX batch normalisation is folded into the
    convolutions, and what is made of such a file has none.

    Args:
        source: ``.weights``, ``.safetensors`` or ``.onnx``. target: the same; the ``.cfg`` of ``.weights`` is written
            beside them.
        cfg: a name or ``.cfg`` file; by default the one beside ``.weights``, or the one inside the file.

    Returns:
        The network, and what was checked, in words.

    Raises:
        RecipeError: a bad ``.cfg``, an unknown ending. CheckpointError: weights that do not fit it.
    """
    if source.suffix not in _READERS or target.suffix not in _WRITERS:
        wrong = target if source.suffix in _READERS else source
        raise RecipeError(describe(wrong, "ending", repr(wrong.suffix), f"one of {', '.join(_WRITERS)}"))
    weights = _READERS[source.suffix](source, cfg)
    return weights.cfg, _WRITERS[target.suffix](target, weights)


def _read_darknet(path: Path, cfg: str | Path | None) -> Weights:
    if not path.exists():
        raise CheckpointError(describe(path, "file", "no such file", "a Darknet .weights file"))
    beside = path.with_suffix(".cfg")
    if cfg is None and not beside.exists():
        raise RecipeError(describe(path, "--cfg", f"none, and no {beside.name} beside it", "a .cfg file or a name"))
    network = read_cfg(cfg or beside)
    return Weights(network, *read_weights(path, network))


def _read_safetensors(path: Path, cfg: str | Path | None) -> Weights:
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(describe(path, "file", f"unreadable ({error})", "a .safetensors file")) from None
    if cfg is None and CFG_PROPERTY not in about:
        raise CheckpointError(describe(path, CFG_PROPERTY, "none in the file", "--cfg: a .cfg file or a name"))
    network = read_cfg(cfg) if cfg is not None else parse_cfg(about[CFG_PROPERTY], f"{path} (its cfg)")
    numbers = [int(word) for word in about.get(HEADER_PROPERTY, "0 0 0 0").split()]
    fitting = check_tensors(path, network, tensors)
    return Weights(network, Header(*numbers), {name: np.asarray(value, np.float32) for name, value in fitting.items()})


def _read_onnx(path: Path, cfg: str | Path | None) -> Weights:
    if cfg is not None:
        raise RecipeError(describe(path, "--cfg", cfg, "none: an ONNX file holds its own"))
    text, tensors = from_onnx(path)
    network = parse_cfg(text, f"{path} (its cfg)")
    return Weights(network, Header(), check_tensors(path, network, tensors))


def _write_darknet(path: Path, weights: Weights) -> str:
    beside = path.with_suffix(".cfg")
    if beside.exists() and read_text(beside) != weights.cfg.text:
        raise CheckpointError(describe(beside, "file", "another .cfg", "no such file, or the .cfg of these weights"))
    write_file(beside, weights.cfg.text, CheckpointError)
    write_weights(path, weights.cfg, weights.header, weights.tensors)
    return f"its .cfg is {beside}"


def _write_safetensors(path: Path, weights: Weights) -> str:
    header = weights.header
    numbers = f"{header.major} {header.minor} {header.revision} {header.seen}"
    write_file(path, save(weights.tensors, {CFG_PROPERTY: weights.cfg.text, HEADER_PROPERTY: numbers}), CheckpointError)
    return "its .cfg is inside"


def _write_onnx(path: Path, weights: Weights) -> str:
    data = to_onnx(weights.cfg, weights.tensors).SerializeToString()
    difference = _difference(data, weights)
    if difference > PARITY:
        raise CheckpointError(
            describe(path, "parity", f"outputs that differ by {difference:.1e}", f"at most {PARITY:.0e}")
        )
    write_file(path, data, CheckpointError)
    return f"batch normalisation is folded, and outputs agree with the network's to {difference:.1e} of the largest"


def _difference(data: bytes, weights: Weights) -> float:
    """Between an ONNX file and its network on noise, as a share of the largest output."""
    picture = weights.cfg.picture
    images = np.random.default_rng(0).random((1, picture.channels, picture.height, picture.width), np.float32)
    [ours] = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"images": images})
    network = CfgNetwork(weights.cfg).eval()
    network.load_state_dict({name: torch.from_numpy(values) for name, values in weights.tensors.items()}, strict=False)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(images)).numpy()
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), np.finfo(np.float32).tiny))


_READERS = {".weights": _read_darknet, ".safetensors": _read_safetensors, ".onnx": _read_onnx}
_WRITERS = {".weights": _write_darknet, ".safetensors": _write_safetensors, ".onnx": _write_onnx}
