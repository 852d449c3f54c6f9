"""Darknet's ``.weights`` files: a header and the numbers of all layers, in order, as little-endian float32."""

import logging
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from posedistill.backbones.cfg.description import Cfg
from posedistill.backbones.cfg.layers import Convolutional
from posedistill.errors import CheckpointError, describe
from posedistill.files import write_file

Array = NDArray[np.float32]


class HasShape(Protocol):
    """A tensor of numpy or torch."""

    @property
    def shape(self) -> Sequence[int]:
        """Sides."""
        ...


Shaped = TypeVar("Shaped", bound=HasShape)
_log = logging.getLogger(__name__)
_OLD, _NEW = struct.Struct("<iiii"), struct.Struct("<iiiQ")
_NORMALISED: Final = ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var")
_NEWEST: Final = 1000
"""Versions from here on are no versions: such files have the old header."""


@dataclass(frozen=True)
class Header:
    """What a file begins with: Darknet's version, and how many pictures the network has seen in training."""

    major: int = 0
    minor: int = 0
    revision: int = 0
    seen: int = 0

    @property
    def layout(self) -> struct.Struct:
        """16 bytes, or 20 from version 0.2 on, where ``seen`` has 64 bits."""
        is_new = self.major * 10 + self.minor >= 2 and max(self.major, self.minor) < _NEWEST
        return _NEW if is_new else _OLD

    def to_bytes(self) -> bytes:
        """As it is in a file.

        >>> len(Header(0, 1, 0, 64).to_bytes()), len(Header(0, 2, 0, 64).to_bytes())
        (16, 20)
        """
        return self.layout.pack(self.major, self.minor, self.revision, self.seen)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """The header that a file's content begins with; at least 20 bytes."""
        return cls(*cls(*_OLD.unpack_from(data)).layout.unpack_from(data))


@dataclass(frozen=True)
class LayerTensors:
    """Name and shape of the tensors of a layer, in the order of the file."""

    index: int
    shapes: dict[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """Numbers in all."""
        return sum(map(math.prod, self.shapes.values()))


def is_darknet(path: Path) -> bool:
    """Whether a file is Darknet's, by its name: ``net.weights``, ``net.backup`` or ``net.conv.23``."""
    return path.suffix in (".weights", ".backup") or ".conv." in path.name


def layer_tensors(cfg: Cfg) -> list[LayerTensors]:
    """The layers of a network that have numbers in a file, named as in ``CfgNetwork``."""
    return [_tensors(cfg, i, layer) for i, layer in enumerate(cfg.layers) if isinstance(layer, Convolutional)]


def _tensors(cfg: Cfg, index: int, layer: Convolutional) -> LayerTensors:
    kernel = (layer.filters, cfg.inputs(index).channels // layer.groups, layer.size, layer.size)
    vectors = _NORMALISED if layer.batch_normalize else ("conv.bias",)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(vectors, (layer.filters,)) | {"conv.weight": kernel}
    return LayerTensors(index, {f"layers.{index}.{name}": shape for name, shape in shapes.items()})


def read_weights(path: str | Path, cfg: Cfg, start: bool = False) -> tuple[Header, dict[str, Array]]:
    """The header of a file and its tensors by name, which must be those of ``cfg``.

    Args:
        start: the network is to be trained from it, so that a part will do: the first layers (``darknet19_448.conv.23``
            ends after layer 22), or all but the last one, when the file's has another number of filters.

    Raises:
        CheckpointError: too short, too long, of another network or damaged, with the counts of both.
    """
    path = Path(path)
    header, numbers = _read(path)
    layers = layer_tensors(cfg)
    ends = list(accumulate(layer.count for layer in layers))
    taken = _fitting(path, cfg, numbers.size, layers, ends, start)
    if taken < len(layers):
        left = numbers.size - (ends[taken - 1] if taken else 0)
        told = f"; {left} of a last layer with other filters left unused" if left else ""
        _log.info("%s: %d of %d convolutions of %s loaded%s", path, taken, len(layers), cfg.name, told)
    tensors = dict(_cut(numbers, layers[:taken]))
    for name, values in tensors.items():
        bad = ~np.isfinite(values) | (values < 0 if name.endswith("running_var") else False)
        if np.any(bad):
            found = f"{np.count_nonzero(bad)} of {values.size} numbers that are not finite, or negative variances"
            raise CheckpointError(describe(path, name, found, f"weights of {cfg.name}"))
    return header, tensors


def check_tensors(path: str | Path, cfg: Cfg, tensors: Mapping[str, Shaped], start: bool = False) -> dict[str, Shaped]:
    """The tensors of a file that are those of ``cfg``, without counters of batches and without a prefix of all names.

    Args:
        start: the last layer may have other filters, and is then left out.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    layers = layer_tensors(cfg)
    shapes = {name: shape for layer in layers for name, shape in layer.shapes.items()}
    prefix = next(iter(tensors), "").partition("layers.")[0]  # an estimator's, in a checkpoint
    found = {
        name.removeprefix(prefix): values
        for name, values in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    wrong = [name for name, shape in shapes.items() if name not in found or tuple(found[name].shape) != shape]
    unknown = [name for name in found if name not in shapes]
    if unknown or set(wrong) - (layers[-1].shapes.keys() if start and layers else set()):
        told = f"{len(wrong)} tensors missing or of another shape {wrong[:3]}, {len(unknown)} unknown {unknown[:3]}"
        raise CheckpointError(describe(path, "tensors", told, f"the {len(shapes)} tensors of {cfg.name}"))
    return {name: values for name, values in found.items() if name not in wrong}


def write_weights(path: str | Path, cfg: Cfg, header: Header, tensors: Mapping[str, Any]) -> None:
    """Write a network's tensors (numpy or torch, on the CPU) as Darknet reads them; what was read comes out the same.

    Raises:
        CheckpointError: the disk refuses.
    """
    names = [name for layer in layer_tensors(cfg) for name in layer.shapes]
    body = b"".join(np.asarray(tensors[name], dtype="<f4").tobytes() for name in names)
    write_file(Path(path), header.to_bytes() + body, CheckpointError)


def _read(path: Path) -> tuple[Header, Array]:
    """Header and all numbers."""
    try:
        data = path.read_bytes()
    except OSError as failure:
        raise CheckpointError(describe(path, "weights", failure.strerror, "a Darknet .weights file")) from None
    if len(data) < _NEW.size:
        raise CheckpointError(
            describe(path, "weights", f"{len(data)} bytes", "a header of 16 or 20 bytes, and weights")
        )
    header = Header.from_bytes(data)
    size = header.layout.size
    if (len(data) - size) % 4:
        found = f"{len(data)} bytes: {size} of a header, and {len(data) - size}"
        raise CheckpointError(describe(path, "weights", found, "a multiple of 4 after the header; the file is damaged"))
    return header, np.frombuffer(data, "<f4", offset=size).astype(np.float32)


def _fitting(path: Path, cfg: Cfg, count: int, layers: list[LayerTensors], ends: list[int], start: bool) -> int:
    """How many of the layers a file of so many numbers holds."""
    total = ends[-1] if ends else 0
    if count == total:
        return len(layers)
    if start and count in ends:
        return ends.index(count) + 1
    filters = _other_filters(count, cfg, layers, ends)
    if start and filters:
        return len(layers) - 1
    expected = f"{total} of {cfg.name}"
    if start:
        expected += ", or those of its first layers"
    raise CheckpointError(
        describe(path, "weights", f"{count} numbers ({_why(count, total, filters, layers, ends)})", expected)
    )


def _other_filters(count: int, cfg: Cfg, layers: list[LayerTensors], ends: list[int]) -> int:
    """Filters of the last layer of a file that is the network's up to there; 0 if it cannot be."""
    last = cfg.layers[layers[-1].index] if layers else None
    if not isinstance(last, Convolutional) or len(layers) < 2:
        return 0
    filters, rest = divmod(count - ends[-2], layers[-1].count // last.filters)
    return filters if filters > 0 and not rest else 0


def _why(count: int, total: int, filters: int, layers: list[LayerTensors], ends: list[int]) -> str:
    if abs(count - total) == 1:
        return "one too many or too few: the header is the one of another version"
    if filters:
        return f"the last layer has {filters} filters"
    if count > total:
        return f"{count - total} too many: another network"
    if count in ends:
        return f"it ends after layer {layers[ends.index(count)].index}"
    cut = next(layer.index for layer, end in zip(layers, ends, strict=True) if end > count)
    return f"{total - count} too few: it ends within layer {cut}"


def _cut(numbers: Array, layers: list[LayerTensors]) -> Iterator[tuple[str, Array]]:
    offset = 0
    for layer in layers:
        for name, shape in layer.shapes.items():
            count = math.prod(shape)
            yield name, numbers[offset : offset + count].reshape(shape)
            offset += count
