"""Which instances a step's batch holds: pure functions of (seed, step), so that a resumed run goes on exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from posedistill.data.loading.pack import FramePack, Indices
from posedistill.errors import RecipeError, describe
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import ObjectTable

Sampler = Callable[[int], Indices]
"""Step to the rows ``[B]`` of the global batch."""

_SHUFFLE, _WEIGHTS = 2, 3
"""Tell the samplers' random numbers from each other's and from those of the crops."""


@dataclass(frozen=True)
class Table:
    """What the crops of ``N`` instances need, one array per column.

    Attributes:
        ids: the instance's number through all packs. frames: likewise its frame's. slots: its value in the id channel.
        classes: class index. K: ``[N, 3, 3]``. R: ``[N, 3, 3]``. t: ``[N, 3]`` mm.
        amodal: ``[N, 4]`` x, y, w, h of the projected keypoints' extent. visible: of the visible part.
        scores: ``[N]`` of the estimator that made the pose, 1 of a person.
    """

    ids: Indices
    frames: Indices
    slots: NDArray[np.uint8]
    classes: Indices
    K: Array
    R: Array
    t: Array
    amodal: Array
    visible: Array
    scores: Array

    def __getitem__(self, rows: Indices) -> "Table":
        return Table(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __len__(self) -> int:
        return len(self.ids)


def tabulate(packs: Sequence[FramePack], objects: ObjectTable, indices: Indices | None) -> Table:
    """The usable instances of all packs, restricted to ``indices``."""
    frame_starts = np.cumsum([0, *(len(pack.frames) for pack in packs)])
    columns = {
        name: np.concatenate([getattr(pack.instances, name) for pack in packs])
        for name in ("slot", "obj_id", "K", "R", "t", "bbox_visib", "score")
    }
    frames = np.concatenate([start + pack.instances.frame for start, pack in zip(frame_starts, packs, strict=False)])
    ids = np.arange(len(frames)) if indices is None else np.asarray(indices, dtype=np.int64)
    ids = ids[np.isin(columns["obj_id"][ids], objects.obj_ids)]
    order = np.argsort(objects.obj_ids)
    obj_ids = np.asarray(objects.obj_ids, dtype=np.int64)
    classes = order[np.searchsorted(obj_ids[order], columns["obj_id"][ids])]
    K, R, t = columns["K"][ids], columns["R"][ids], columns["t"][ids]
    corners = project(objects.keypoints[classes], R, t, K)
    low, high = corners.min(axis=1), corners.max(axis=1)
    amodal = np.concatenate([low, high - low], axis=1)
    visible, scores = columns["bbox_visib"][ids], columns["score"][ids]
    return Table(ids, frames[ids], columns["slot"][ids], classes, K, R, t, amodal, visible, scores)


class InOrder:
    """Every row once, in order; the last batch may be short."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __call__(self, step: int) -> Indices:
        """Rows of a step; ``IndexError`` past the end."""
        start = step * self.batch_size
        if not 0 <= start < self.count:
            raise IndexError(f"step {step} of {-(-self.count // self.batch_size)}")
        return np.arange(start, min(start + self.batch_size, self.count))


class Shuffled:
    """Every row once an epoch, each epoch in an order of its own; batches run on from one epoch into the next."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._order: tuple[int, Indices] = (-1, np.empty(0, dtype=np.int64))

    def __call__(self, step: int) -> Indices:
        """Rows of a step."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = positions // self.count, positions % self.count
        return np.concatenate([self._epoch(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _epoch(self, epoch: int) -> Indices:
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([self.seed, epoch, _SHUFFLE]).permutation(self.count)
            self._order = (epoch, order)
        return order


class Weighted:
    """Packs in given shares, each batch holding them to within one crop; rows of a pack at random, with replacement."""

    def __init__(self, packs: Indices, weights: Sequence[float], batch_size: int, seed: int) -> None:
        """``packs``: each row's pack ``[N]``; ``weights``: each pack's share, of any sum."""
        shares = np.asarray(weights, dtype=np.float64)
        counts = np.bincount(packs, minlength=len(shares))
        if len(counts) != len(shares) or not (shares >= 0).all() or not shares[counts > 0].sum() > 0:
            raise RecipeError(describe("recipe", "shares", list(weights), f"{len(counts)} shares >= 0, not all 0"))
        chance = (shares / np.maximum(counts, 1))[packs].cumsum()
        self.ends, self.batch_size, self.seed = chance / chance[-1], batch_size, seed

    def __call__(self, step: int) -> Indices:
        """Rows of a step (systematic sampling: one draw in each of ``batch_size`` equal parts of the whole)."""
        rng = np.random.default_rng([self.seed, step, _WEIGHTS])
        draws = (np.arange(self.batch_size) + rng.random(self.batch_size)) / self.batch_size
        return np.minimum(np.searchsorted(self.ends, draws, side="right"), len(self.ends) - 1)
