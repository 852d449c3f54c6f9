"""Records: named tensors of every training step in memory-mapped files, given back as they were to the last bit."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.formats.bop_parse import load_json
from posedistill.data.loading.pack_build import exclusive, reserve
from posedistill.errors import TrainingError, describe
from posedistill.files import write_file

CHUNK = 64
"""Steps a file."""
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class _Layout:
    """How one tensor lies in a record: its dimensions by falling stride, those that only repeat stored once."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "_Layout":
        shape, strides = tuple(tensor.shape), tensor.stride()
        stored = tuple(1 if stride == 0 else size for size, stride in zip(shape, strides, strict=True))
        order = tuple(sorted(range(tensor.ndim), key=lambda axis: -strides[axis]))
        return cls(name, str(tensor.dtype).removeprefix("torch."), shape, stored, order)

    @property
    def field(self) -> tuple[str, str, tuple[int, ...]]:
        """The field of the record; numpy has no bfloat16, whose bits are kept as integers."""
        return self.name, "int16" if self.dtype == "bfloat16" else self.dtype, tuple(self.stored[a] for a in self.order)

    def encode(self, tensor: Tensor) -> NDArray[Any]:
        for axis, size in enumerate(self.stored):
            tensor = tensor.narrow(axis, 0, size)
        tensor = tensor.detach().cpu().permute(self.order).contiguous()
        array: NDArray[Any] = (tensor.view(torch.int16) if self.dtype == "bfloat16" else tensor).numpy()
        return array

    def decode(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array.copy()).view(getattr(torch, self.dtype))
        return tensor.permute(np.argsort(self.order).tolist()).expand(self.shape)


class Records:
    """Some tensors of every step, by name: ``<view>.json`` tells their layout, ``<view>-<chunk>.npy`` holds them.

    A record ends with a checksum, so that one which a crash left half-written is made again.
    """

    def __init__(self, folder: Path, view: str) -> None:
        self.folder, self.view = folder, view
        self._layouts: list[_Layout] | None = None
        path = self._layout_path
        if path.exists():
            entries = load_json(path)
            names = ("shape", "stored", "order")
            self._layouts = [_Layout(**{**entry, **{name: tuple(entry[name]) for name in names}}) for entry in entries]
        self._chunk: tuple[int, NDArray[Any]] = (-1, np.empty(0))

    @property
    def _layout_path(self) -> Path:
        return self.folder / f"{self.view}.json"

    @property
    def bytes_a_step(self) -> int:
        """0 before the first is stored."""
        return self._dtype.itemsize if self._layouts is not None else 0

    @property
    def _dtype(self) -> np.dtype[Any]:
        assert self._layouts is not None
        return np.dtype([*(layout.field for layout in self._layouts), (_CHECKSUM, "uint32")])

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Fix the layout by the first tensors there are."""
        if self._layouts is None:
            layouts = [_Layout.of(name, tensor) for name, tensor in tensors.items()]
            write_file(self._layout_path, "[" + ",\n ".join(json.dumps(asdict(layout)) for layout in layouts) + "]")
            self._layouts = layouts

    def read(self, step: int) -> dict[str, Tensor] | None:
        """What is stored of a step; None where nothing is, or what is there is damaged."""
        if self._layouts is None or not (chunk := self._open(step // CHUNK, create=False)).size:
            return None
        record = np.array(chunk[step % CHUNK : step % CHUNK + 1])
        if _checksum(record) != record[_CHECKSUM][0]:
            return None
        return {layout.name: layout.decode(record[layout.name][0]) for layout in self._layouts}

    def write(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Store a step.

        Raises:
            OSError, DataError: no room. TrainingError: tensors of another shape than those of the first step.
        """
        assert self._layouts is not None
        found, expected = (
            {e.name: (e.dtype, e.shape, e.stored) for e in side}
            for side in ([_Layout.of(name, tensor) for name, tensor in tensors.items()], self._layouts)
        )
        if found != expected:
            raise TrainingError(
                describe(self.folder, f"{self.view} of step {step}", found, f"{expected}, as at the first step")
                + ". Train with teacher.cache=false."
            )
        record = np.zeros(1, self._dtype)
        for layout in self._layouts:
            record[layout.name][0] = layout.encode(tensors[layout.name])
        record[_CHECKSUM] = _checksum(record)
        self._open(step // CHUNK, create=True)[step % CHUNK] = record[0]

    def _open(self, number: int, create: bool) -> NDArray[Any]:
        """The memory-mapped records of a chunk; empty where there are none and none are to be made."""
        if self._chunk[0] == number:
            return self._chunk[1]
        path = self.folder / f"{self.view}-{number:05d}.npy"
        records = _map(path, self._dtype)
        if records is None:
            if not create:
                return np.empty(0)
            with exclusive(self.folder / ".lock"):  # runs at the same time fill one file together
                records = _map(path, self._dtype)
                if records is None:
                    records = _create(path, self._dtype)
        self._chunk = (number, records)
        return records


def _checksum(record: NDArray[Any]) -> int:
    return zlib.crc32(record.view(np.uint8)[: -record.dtype[_CHECKSUM].itemsize].tobytes())


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The records of a file; None where it is missing, cut short or of another layout."""
    try:
        records: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return records if records.dtype == dtype and records.shape == (CHUNK,) else None


def _create(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty file of records, its blocks claimed: a full disk is an error here and would kill the process later."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        records = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(CHUNK,))
        reserve(temporary, records.offset + records.nbytes)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return records
