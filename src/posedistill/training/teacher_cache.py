"""What a teacher says of every training step, stored once and replayed bit by bit.

A batch is a pure function of (seed, step), augmentation included, so the teacher's views of a step are the same for
every student and every loss that trains on the same data with the same seed and batch size. They are stored a step a
record, 64 steps a memory-mapped file, a file a view: a loss that needs one more view adds that view alone.
"""

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill import __version__
from posedistill.data.batch import Batch
from posedistill.data.bop_parse import load_json
from posedistill.data.pack_build import exclusive, reserve
from posedistill.distill import Distiller
from posedistill.errors import CheckpointError, DataError, TrainingError, describe
from posedistill.estimators.base import Prediction, Votes
from posedistill.files import write_file
from posedistill.training.log import console
from posedistill.training.recipe import fingerprint
from posedistill.training.teachers import Teacher

FORMAT = 1
"""Raised whenever the layout of a cache changes."""
CHUNK = 64
"""Steps a file."""
_WITNESS, _SPREAD, _CHECKSUM = "batch", "spread", "checksum"


class CachedTeacher:
    """Another teacher's predictions on training steps, from the cache where they are there, else made and stored.

    Predictions carry the wanted views alone, fresh ones and replayed ones alike. A step outside training (-1) is passed
    on whole. A disk without room ends the storing, not the training.

    Args:
        about: what the predictions depend on, in words and hashes a reader can compare.
        views: of ``estimators.base.VIEWS``. steps: of the schedule, for the size that is told beforehand.

    Raises:
        CheckpointError: the folder's predictions are of another teacher, recipe or version of the code.
    """

    def __init__(
        self, teacher: Teacher, folder: Path, about: dict[str, Any], views: frozenset[str], steps: int
    ) -> None:
        self.teacher, self.folder, self.steps = teacher, folder, steps
        about = about | {"code": f"posedistill {__version__}, cache format {FORMAT}"}
        _claim(folder, about)
        self._shelves = {view: _Shelf(folder, view) for view in [_WITNESS, _SPREAD, *sorted(views)]}
        self._storing, self._sized, self._probed = True, False, False

    @property
    def offers(self) -> frozenset[str]:
        """Those of the teacher behind it."""
        return self.teacher.offers

    def predict(self, batch: Batch, step: int) -> Prediction:
        """The views of a step."""
        if step < 0:
            return self.teacher.predict(batch, step)
        stored = {view: shelf.read(step) for view, shelf in self._shelves.items()}
        missing = [view for view, tensors in stored.items() if tensors is None]
        device = batch.images.device
        if missing:
            fresh = self.teacher.predict(batch, step)
            made = {view: _tensors_of(view, fresh, batch) for view in self._shelves}
            self._store(step, {view: made[view] for view in missing})
            return _prediction(made, device)
        replayed = {view: tensors for view, tensors in stored.items() if tensors is not None}
        if not self._probed or step % CHUNK == 0:
            self._compare(step, replayed[_WITNESS], _tensors_of(_WITNESS, Prediction({}), batch), "pictures")
        if not self._probed:
            self._probe(batch, step, replayed)
        return _prediction(replayed, device)

    def _store(self, step: int, views: dict[str, dict[str, Tensor]]) -> None:
        tensors = [tensor for view in views.values() for tensor in view.values() if tensor.is_floating_point()]
        if not self._storing or not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            return
        try:
            for view, parts in views.items():
                self._shelves[view].prepare(parts)
            if not self._sized:
                self._tell_size(step)
            for view, parts in views.items():
                if self._storing:
                    self._shelves[view].write(step, parts)
        except (OSError, DataError) as error:
            self._give_up(str(error))

    def _tell_size(self, step: int) -> None:
        self._sized = True
        size = sum(shelf.record_bytes for shelf in self._shelves.values()) * (self.steps - step)
        free = shutil.disk_usage(self.folder).free
        console.print(f"teacher cache: {size / 1e9:.2f} GB for {self.steps - step} steps in {self.folder}")
        if size > free:
            self._give_up(f"{free / 1e9:.2f} GB are free")

    def _give_up(self, reason: str) -> None:
        self._storing = False
        console.print(f"teacher cache: no room ({reason}); training goes on, and what is stored is still replayed")

    def _probe(self, batch: Batch, step: int, replayed: dict[str, dict[str, Tensor]]) -> None:
        """Let the teacher say one stored step again: weights and settings may be the same and the code another."""
        self._probed = True
        fresh = self.teacher.predict(batch, step)
        for view, tensors in replayed.items():
            if view != _WITNESS:
                self._compare(step, tensors, _tensors_of(view, fresh, batch), f"the teacher's {view}")

    def _compare(self, step: int, stored: dict[str, Tensor], fresh: dict[str, Tensor], what: str) -> None:
        if stored.keys() != fresh.keys() or not all(_alike(stored[name], fresh[name]) for name in stored):
            raise CheckpointError(
                describe(self.folder, f"step {step}", f"{what} that differ", f"{what} as stored, made by the same code")
                + ". Remove the folder."
            )


def views_of(distillers: Sequence[Distiller], teacher: Teacher) -> frozenset[str]:
    """The teacher's views that any of the losses, or its trust, looks at."""
    views: frozenset[str] = frozenset()
    for distiller in distillers:
        views |= distiller.needs if distiller.needs_teacher is None else distiller.needs_teacher
    if any(distiller.trust.by != "none" for distiller in distillers):
        views |= {"votes", "regression"} & teacher.offers
    return views


def cache_folder(root: Path, about: dict[str, Any]) -> Path:
    """The folder of predictions that depend on ``about``."""
    return root / f"teacher-{fingerprint(about)}"


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


class _Shelf:
    """The records of one view: ``<view>.json`` tells their layout, ``<view>-<chunk>.npy`` holds them.

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
    def record_bytes(self) -> int:
        """Bytes a step."""
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


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note what the folder's predictions depend on, or compare it with what is noted."""
    path = folder / "fingerprint.json"
    if not path.exists():
        text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()) + "\n}"
        write_file(path, text, TrainingError)
        return
    found = load_json(path)
    keys = sorted(key for key in found.keys() | about.keys() if found.get(key) != about.get(key))
    if keys:
        was, wanted = ("; ".join(f"{key} {side.get(key)}" for key in keys) for side in (found, about))
        raise CheckpointError(describe(path, ", ".join(keys), was, wanted) + ". Remove the folder, or name another.")


def _tensors_of(view: str, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """The tensors of a view by name; none where the prediction lacks the view."""
    if view == _WITNESS:
        side = max(batch.images.shape[-1] // 4, 1)
        pixels = batch.images[:, :, side // 2 :: side, side // 2 :: side].contiguous()
        return {"ids": batch.ids, "K": batch.K, "R": batch.R, "t": batch.t, "pixels": pixels}
    content = getattr(prediction, view)
    if isinstance(content, Votes):
        named = {name: getattr(content, name) for name in ("values", "weights", "mask", "cells")}
    elif isinstance(content, dict):
        named = dict(content)
    else:
        named = {view: content}
        if view == "regression":
            named["regression_truth"] = prediction.regression_truth
    return {name: tensor.detach() for name, tensor in named.items() if tensor is not None}


def _prediction(views: dict[str, dict[str, Tensor]], device: torch.device) -> Prediction:
    """The Prediction whose views hold these tensors."""
    prediction = Prediction({})
    for view, stored in views.items():
        tensors = {name: tensor.to(device) for name, tensor in stored.items()}
        if view in ("votes", "cells") and tensors:
            setattr(prediction, view, Votes(**tensors))
        elif view in ("features", "logits"):
            setattr(prediction, view, tensors)
        elif view != _WITNESS:
            for name, tensor in tensors.items():
                setattr(prediction, name, tensor)
    return prediction


def _alike(stored: Tensor, fresh: Tensor) -> bool:
    """Equal but for rounding, which may also swap a few votes of equal score: the mean difference is below 5 %."""
    if stored.shape != fresh.shape or stored.dtype != fresh.dtype:
        return False
    a, b = stored.float(), fresh.cpu().float()
    return not a.numel() or float((a - b).abs().mean()) <= 0.05 * float(a.abs().mean()) + 1e-6


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
