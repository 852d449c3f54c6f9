"""Views that come again: what the frozen layers of a network make of them is stored once and read from then on.

A batch is a pure function of (seed, step). Where the views of the first steps come again and again, a network whose
trunk is frozen need not look at a picture twice: of each of these batches the maps ``[P, N, C]`` lie in a file that is
mapped into memory, of which a step reads the cells that it draws. These are new in every step; they are cells of the
batch's own pictures.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.prefetch import prefetch
from posedistill.estimators.base import FROZEN_MAPS, FrozenPart
from posedistill.tasks.base import Batches
from posedistill.training.teaching.records import RecordStore, read_record

_TARGET = "target."


class RepeatedViews:
    """The batches of the first ``period`` steps, over and over.

    Args:
        batches: without repetition. maps: of a network's frozen part; without them pictures are made in every step.
        taught: whether a step's teacher is content without pictures.
    """

    def __init__(
        self,
        batches: Batches,
        period: int,
        device: torch.device,
        maps: "FrozenMaps | None" = None,
        taught: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self.batches, self.period, self.device = batches, period, device
        self.maps, self._taught = maps, taught

    @property
    def targets(self) -> frozenset[str]:
        """Those of the batches."""
        return self.batches.targets

    def batch(self, step: int) -> Batch:
        """The batch of one step, with its pictures."""
        batch = self.batches.batch(step % self.period)
        return batch if self.maps is None else self.maps.added(batch, step % self.period)

    def prefetch(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of some steps; but for the first without pictures where all that is made of them is stored."""

        def make(step: int) -> Batch:
            return self.stored_batch(step) if step > start else self.batch(step)

        return prefetch(make, start, stop, self.device)

    def stored_batch(self, step: int) -> Batch:
        """The batch of one step, without pictures where all that is made of them is stored."""
        stored = None
        if self.maps is not None and self._taught(step):
            stored = self.maps.read(step % self.period, self.device)
        return self.batch(step) if stored is None else stored


class FrozenMaps:
    """What a network's frozen part makes of the pictures of some steps, a file each; a damaged one is made anew.

    Args:
        folder: for the maps that this part makes of these batches, and no others. steps: that will be stored, for the
            size, which is told at the first. limit: gigabytes that the folder may hold.
    """

    def __init__(
        self,
        part: FrozenPart,
        folder: Path,
        steps: int,
        limit: float,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.part, self.folder, self.steps, self._autocast = part, folder, steps, autocast
        otherwise = "they are made anew in every step"
        self._records = RecordStore("maps of frozen layers", folder, "train.maps_limit", limit, otherwise)
        self._sound: set[int] = set()

    def added(self, batch: Batch, step: int) -> Batch:
        """The batch with its maps, from the disk or made of its pictures and stored."""
        stored = self.read(step, batch.images.device)
        if stored is not None and all(torch.equal(stored.targets[k], v) for k, v in batch.targets.items()):
            maps = stored.targets[FROZEN_MAPS]
        else:
            with torch.no_grad(), self._autocast():
                maps = self.part.maps(batch.images).to("cpu", torch.float16)
            self._store(step, batch, maps)
        batch.targets[FROZEN_MAPS] = maps
        return batch

    def read(self, step: int, device: torch.device) -> Batch | None:
        """A batch as it was stored, without pictures and with its maps; None where it is not, or damaged."""
        tensors = read_record(self._file(step), check=step not in self._sound)
        if tensors is None:
            return None
        self._sound.add(step)
        maps, shape = tensors.pop(FROZEN_MAPS), tensors.pop("shape").tolist()
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        targets = {key.removeprefix(_TARGET): tensors.pop(key) for key in list(tensors) if key.startswith(_TARGET)}
        images = torch.zeros((), device=device).expand(shape)
        return Batch(images, **tensors, targets=targets | {FROZEN_MAPS: maps})

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:06d}.safetensors"

    def _store(self, step: int, batch: Batch, maps: Tensor) -> None:
        self._records.tell_size(maps.numel() * maps.element_size(), self.steps)
        tensors = {entry.name: getattr(batch, entry.name) for entry in fields(batch)}
        del tensors["images"]
        targets = {_TARGET + name: value for name, value in tensors.pop("targets").items()}
        shape = torch.tensor(batch.images.shape)
        self._records.write({self._file(step): tensors | targets | {"shape": shape, FROZEN_MAPS: maps}})
