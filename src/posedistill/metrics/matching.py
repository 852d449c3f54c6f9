"""Which estimate stands for which annotated instance: BOP's targets and greedy matching, without loops over images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, Frame, Instance, Target
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.poses import Poses

_SHOWN_ROWS = 10
_GRID = 10_000_000
"""Elements of a matching's grid (targets x estimates x instances x thresholds) that are held at a time."""


@dataclass(frozen=True)
class GroundTruths:
    """The ``M`` annotated instances that are to be found: of each target the ``inst_count`` most visible ones.

    Attributes:
        scene_id, im_id, obj_id: ``[M]``. R: ``[M, 3, 3]``, t: ``[M, 3]`` mm. K: ``[M, 3, 3]`` of the image.
        visible: ``[M]`` share of the silhouette, 1 where it is not known.
        frame: ``[M]`` row of ``frames``, the images with targets.
    """

    scene_id: NDArray[np.int64]
    im_id: NDArray[np.int64]
    obj_id: NDArray[np.int64]
    R: Array
    t: Array
    K: Array
    visible: Array
    frame: NDArray[np.int64]
    frames: tuple[Frame, ...]

    def __len__(self) -> int:
        return len(self.obj_id)


@dataclass(frozen=True)
class Candidates:
    """Every pair of an estimate and a true instance that may belong together; each target is a group.

    Attributes:
        truths: the instances to be found.
        est_rows: ``[G, E]`` rows of the estimates that each of ``G`` targets admits (the ``inst_count`` surest),
            surest first, -1 for none.
        gt_rows: ``[G, H]`` rows of ``truths``, -1 for none.
        group, rank, slot: ``[P]`` indices of the pairs into ``est_rows`` and ``gt_rows``.
    """

    truths: GroundTruths
    est_rows: NDArray[np.int64]
    gt_rows: NDArray[np.int64]
    group: NDArray[np.int64]
    rank: NDArray[np.int64]
    slot: NDArray[np.int64]

    @property
    def est(self) -> NDArray[np.int64]:
        """``[P]`` row of the estimate of each pair."""
        return self.est_rows[self.group, self.rank]

    @property
    def gt(self) -> NDArray[np.int64]:
        """``[P]`` row of the true instance of each pair."""
        return self.gt_rows[self.group, self.slot]

    def by_object(self, estimates: Poses) -> Iterator[tuple[int, NDArray[np.intp], tuple[Array, Array, Array, Array]]]:
        """The pairs of each object: its id, their numbers, and ``R`` and ``t`` of the estimates, then of the truth."""
        obj_ids, est, gt = self.truths.obj_id[self.gt], self.est, self.gt
        for obj_id in np.unique(obj_ids).tolist():
            pairs = np.flatnonzero(obj_ids == obj_id)
            e, g = est[pairs], gt[pairs]
            yield obj_id, pairs, (estimates.R[e], estimates.t[e], self.truths.R[g], self.truths.t[g])

    def hits(self, errors: Array, thresholds: Array) -> NDArray[np.bool_]:
        """``[M, T]`` which instances are matched at thresholds ``[T]`` of errors ``[P]`` or ``[P, T]``."""
        return self.match(errors, np.broadcast_to(thresholds, (len(errors), len(thresholds)))) >= 0

    def match(self, errors: Array, thresholds: Array) -> NDArray[np.int64]:
        """Match greedily: the surest estimate first, each to the free instance of the smallest error.

        Each threshold is matched by itself, so an estimate that misses it occupies no instance.

        Args:
            errors: ``[P]`` of the pairs, or ``[P, T]``. thresholds: ``[P, T]``; an error must be *under* its own.

        Returns:
            ``[M, T]`` row of the estimate that each instance was matched with, -1 for none.
        """
        thresholds = np.asarray(thresholds, dtype=np.float64)
        errors = np.broadcast_to(errors if errors.ndim == 2 else errors[:, None], thresholds.shape)
        step = max(1, _GRID // max(1, self.est_rows.size * self.gt_rows.shape[1]))
        parts = [slice(start, start + step) for start in range(0, thresholds.shape[1], step)]
        return np.concatenate([self._match(errors[:, part], thresholds[:, part]) for part in parts], axis=1)

    def recall_areas(self, errors: Array, limit: float) -> Array:
        """``[M]`` for each instance the share of the thresholds from 0 to ``limit`` at which it is matched, exactly.

        Their mean is the area under the recall curve. Matching changes only where the threshold passes an error
        ``[P]`` of the target's own pairs; of one estimate and one instance the share is ``1 - error / limit``.
        """
        inside = np.flatnonzero(errors < limit)
        inside = inside[np.lexsort((errors[inside], self.group[inside]))]
        group = self.group[inside]
        place = np.arange(len(inside)) - np.searchsorted(group, group)
        shape = len(self.gt_rows), int(place.max(initial=0)) + 1
        # Column k of a target's row: the thresholds from its k-th smallest error on, up to the next.
        above, upper = np.zeros((shape[0], shape[1] + 1)), np.full(shape, limit)
        above[group, place] = 1.0 - errors[inside] / limit
        upper[group[place > 0], place[place > 0] - 1] = errors[inside][place > 0]
        own = np.empty(len(self.truths), dtype=np.int64)
        targets, slots = np.nonzero(self.gt_rows >= 0)
        own[self.gt_rows[targets, slots]] = targets
        areas: Array = ((self.match(errors, upper[self.group]) >= 0) * (above[:, :-1] - above[:, 1:])[own]).sum(axis=1)
        return areas

    def nearest(self, errors: Array) -> NDArray[np.int64]:
        """``[M]`` the pair that stands for each instance, the smallest errors ``[P]`` first, -1 for none.

        It has no threshold and asks no scores: to look at what was estimated, not to judge it.
        """
        groups, (estimates, slots) = np.arange(len(self.gt_rows)), (self.est_rows.shape[1], self.gt_rows.shape[1])
        grid = np.full((len(groups), estimates, slots), np.inf)
        pair = np.full(grid.shape, -1)
        grid[self.group, self.rank, self.slot], pair[self.group, self.rank, self.slot] = errors, np.arange(len(errors))
        chosen = np.full(len(self.truths), -1)
        for _ in range(min(estimates, slots)):
            rank, slot = np.divmod(grid.reshape(len(groups), -1).argmin(axis=1), slots)
            some = np.flatnonzero(np.isfinite(grid[groups, rank, slot]))
            chosen[self.gt_rows[some, slot[some]]] = pair[some, rank[some], slot[some]]
            grid[some, rank[some]] = np.inf
            grid[some, :, slot[some]] = np.inf
        return chosen

    def _match(self, errors: Array, thresholds: Array) -> NDArray[np.int64]:
        columns = thresholds.shape[1]
        grid = np.full((*self.est_rows.shape, self.gt_rows.shape[1], columns), np.inf)
        grid[self.group, self.rank, self.slot] = np.where(errors < thresholds, errors, np.inf)
        matched = np.full((len(self.truths), columns), -1)
        groups, every = np.arange(len(grid))[:, None], np.arange(columns)
        for rank in range(self.est_rows.shape[1]):
            best = grid[:, rank].argmin(axis=1)
            hit_group, hit_column = np.nonzero(np.isfinite(grid[groups, rank, best, every]))
            hit_slot = best[hit_group, hit_column]
            matched[self.gt_rows[hit_group, hit_slot], hit_column] = self.est_rows[hit_group, rank]
            grid[hit_group, :, hit_slot, hit_column] = np.inf
        return matched


def find_candidates(estimates: Poses, dataset: BopDataset) -> Candidates:
    """Pair estimates with the targets of a data set (BOP-19: ``inst_count`` surest estimates a target).

    Estimates of other images or objects are left out: see ``unused_rows``.

    Raises:
        DataError: no target, two unlike ones of one object and image, or a target's image with fewer annotated
            instances than the target asks for.
    """
    targets = list(dict.fromkeys(target for target in dataset.targets() if target.inst_count > 0))
    if not targets:
        raise DataError(describe(dataset.root / dataset.split, "targets", "none", "at least one visible instance"))
    known: dict[tuple[int, int, int], Target] = {}
    for target in targets:
        other = known.setdefault((target.scene_id, target.im_id, target.obj_id), target)
        if other is not target:
            found = f"{other} and {target}"
            raise DataError(describe(dataset.root / dataset.split, "targets", found, "each object of an image once"))
    return pair_up(estimates, dataset, targets, np.array([target.inst_count for target in targets]))


def pair_up(estimates: Poses, dataset: BopDataset, targets: Sequence[Target], limits: NDArray[np.int64]) -> Candidates:
    """Pair estimates with targets, each object of an image once; of each target the ``limits[g]`` surest estimates.

    Raises:
        DataError: a target's image with fewer annotated instances than the target asks for.
    """
    keys = {(target.scene_id, target.im_id, target.obj_id): group for group, target in enumerate(targets)}
    truths, groups = _collect_truths(dataset, targets)
    est_keys = zip(estimates.scene_id.tolist(), estimates.im_id.tolist(), estimates.obj_id.tolist(), strict=True)
    est_groups = np.fromiter((keys.get(key, -1) for key in est_keys), dtype=np.int64, count=len(estimates))
    est_groups[~estimates.found] = -1
    surest_first = np.argsort(-estimates.score, kind="stable")  # equal scores keep the order of the file
    est_rows = _padded(est_groups, surest_first, limits)
    gt_rows = _padded(groups, np.arange(len(truths)), np.full(len(targets), len(truths)))
    group, rank, slot = np.nonzero((est_rows >= 0)[:, :, None] & (gt_rows >= 0)[:, None, :])
    return Candidates(truths, est_rows, gt_rows, group, rank, slot)


def unused_rows(estimates: Poses, dataset: BopDataset, source: str | Path) -> list[str]:
    """A message for each kind of row that cannot count, with the lines of the csv (row ``i`` is line ``i + 2``)."""
    targets = dataset.targets()
    known = set(dataset.models_info)
    images = {(target.scene_id, target.im_id) for target in targets}
    image_keys = zip(estimates.scene_id.tolist(), estimates.im_id.tolist(), strict=True)
    foreign_image = np.array([key not in images for key in image_keys], dtype=bool)
    foreign_object = np.array([obj_id not in known for obj_id in estimates.obj_id.tolist()], dtype=bool)
    behind = estimates.t[:, 2] <= 0
    faults = [
        (foreign_object, "obj_id", "unknown objects", f"some of {sorted(known)}"),
        (foreign_image & ~foreign_object, "im_id", "images without targets", "target images"),
        (behind & ~foreign_image & ~foreign_object, "t", "objects behind the camera", "t_z > 0"),
    ]
    messages = []
    for mask, key, found, expected in faults:
        lines = (np.flatnonzero(mask) + 2).tolist()
        if lines:
            shown = ", ".join(map(str, lines[:_SHOWN_ROWS])) + (", ..." if len(lines) > _SHOWN_ROWS else "")
            messages.append(describe(source, key, f"{found} in {len(lines)} rows (lines {shown})", expected))
    return messages


def refuse_foreign(estimates: Poses, dataset: BopDataset, source: str | Path) -> None:
    """``DataError`` where none of the rows is of a target image and of an object of the data set."""
    images = set(dataset.target_images())
    keys = zip(estimates.scene_id.tolist(), estimates.im_id.tolist(), estimates.obj_id.tolist(), strict=True)
    if len(estimates) and not any(key[:2] in images and key[2] in dataset.models_info for key in keys):
        found = "; ".join(unused_rows(estimates, dataset, source))
        place = dataset.root / dataset.split
        raise DataError(f"{source}: no row is of a target image and an object of {place}: {found}")


def _collect_truths(dataset: BopDataset, targets: Sequence[Target]) -> tuple[GroundTruths, NDArray[np.int64]]:
    """The instances to be found, and the ``[M]`` target of each.

    BOP-19 counts ``inst_count`` instances a target, the most visible ones; it was set to the number of those that
    are visible to a tenth.
    """
    images: dict[tuple[int, int], tuple[int, Frame, tuple[Instance, ...]]] = {}
    rows = []
    for group, target in enumerate(targets):
        image = (target.scene_id, target.im_id)
        if image not in images:
            frame = dataset.frame(*image)
            images[image] = len(images), frame, frame.instances
        index, frame, instances = images[image]
        wanted = [instance for instance in instances if instance.obj_id == target.obj_id]
        if len(wanted) < target.inst_count:
            path = dataset.root / dataset.split / f"{target.scene_id:06d}" / "scene_gt.json"
            expected = f"{target.inst_count} of object {target.obj_id}, a target"
            raise DataError(describe(path, str(target.im_id), f"{len(wanted)} instances", expected))
        wanted.sort(key=lambda instance: -instance.visib_fract)
        rows += [(index, group, frame, instance) for instance in wanted[: target.inst_count]]
    truths = GroundTruths(
        scene_id=np.array([frame.scene_id for _, _, frame, _ in rows], dtype=np.int64),
        im_id=np.array([frame.im_id for _, _, frame, _ in rows], dtype=np.int64),
        obj_id=np.array([instance.obj_id for *_, instance in rows], dtype=np.int64),
        R=np.array([instance.R for *_, instance in rows], dtype=np.float64).reshape(-1, 3, 3),
        t=np.array([instance.t for *_, instance in rows], dtype=np.float64).reshape(-1, 3),
        K=np.array([frame.K for _, _, frame, _ in rows], dtype=np.float64).reshape(-1, 3, 3),
        visible=np.array([instance.visib_fract for *_, instance in rows], dtype=np.float64),
        frame=np.array([index for index, *_ in rows], dtype=np.int64),
        frames=tuple(frame for _, frame, _ in images.values()),
    )
    return truths, np.array([group for _, group, _, _ in rows], dtype=np.int64)


def _padded(groups: NDArray[np.int64], order: NDArray[np.int64], limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[G, width]`` the rows of each group in the given order, at most ``limits[g]`` of them, padded with -1.

    Args:
        groups: ``[N]`` group of each row, -1 for none. order: ``[N]`` permutation of the rows. limits: ``[G]``.
    """
    order = order[groups[order] >= 0]
    order = order[np.argsort(groups[order], kind="stable")]
    sorted_groups = groups[order]
    position = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)
    kept = position < limits[sorted_groups]
    width = int(position[kept].max(initial=-1)) + 1
    table = np.full((len(limits), width), -1)
    table[sorted_groups[kept], position[kept]] = order[kept]
    return table
