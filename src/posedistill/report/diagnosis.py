"""What a run that has learned nothing says instead of a row of zeros: which network, and the likely reason."""

from pathlib import Path

import numpy as np

from posedistill.errors import DataError
from posedistill.geometry.rotations import angle_between, mean_rotation
from posedistill.metrics.evaluation import Metric
from posedistill.poses import Poses
from posedistill.report.evaluations import Group
from posedistill.report.results import History, RunResults

STAGES = ("teacher", "student", "distilled")
FALLING = 0.95
"""A loss falls still if its last fifth is below so much of the fifth before."""
ALIKE = (3.0, 0.01)
"""Degrees, and a share of the distance: poses that differ by less in the median are alike."""


def diagnose(run: RunResults) -> list[str]:
    """A sentence for each network of a run whose scores say that it has learned nothing.

    That is a recall of zero, or a median error no smaller than that of the best constant pose.
    """
    group, told = run.main_group(), []
    for stage in (name for name in STAGES if name in group.names and group.headline):
        if reached := _nothing(group, stage, group.headline):
            reasons = [*_alike(run.folder / stage), *_unfinished(list(run.histories.get(stage, {}).values()))]
            told.append(f"{stage}: {reached}, it has learned nothing: {'; '.join(reasons or [_UNKNOWN])}.")
    return told


_UNKNOWN = "the loss no longer falls: look at the training pictures (posedistill data check), or at a smaller train.lr"


def _nothing(group: Group, stage: str, metrics: list[Metric]) -> str:
    """In which scores a network is as bad as can be; empty where it is not in all of them."""
    found = []
    for metric in metrics:
        mean = group.summary(stage, metric).mean
        if metric.lower_is_better:
            constant = group.summary("constant pose", metric).mean
            if not mean >= constant:
                return ""
            found.append(f"{metric.quantity(mean)} in {metric.label}, a constant pose {metric.quantity(constant)}")
        elif not mean < 0.0005:
            return ""
        else:
            found.append(f"{metric.quantity(mean)} in {metric.label}")
    return " and ".join(found)


def _unfinished(histories: list[History]) -> list[str]:
    """That the loss is still falling, where it is."""
    losses = [np.array(list(history["loss"].values())) for history in histories if len(history.get("loss", ())) >= 10]
    fifths = [[part.mean() for part in np.array_split(loss, 5)[-2:]] for loss in losses]
    if fifths and np.mean([late < FALLING * before for before, late in fifths]) > 0.5:
        return ["the loss is still falling, so train longer (train.steps)"]
    if not losses:
        return ["too few steps to tell more, so train longer (train.steps)"]
    return []


def _alike(folder: Path) -> list[str]:
    """That all poses of an object are alike, where they are."""
    for path in sorted(folder.glob("seed*/results.csv")):
        try:
            poses = Poses.read(path)
        except DataError:
            continue
        kept = poses.select(np.flatnonzero(poses.found))
        if len(kept) >= 5 and all(_same(kept.select(kept.obj_id == label)) for label in np.unique(kept.obj_id)):
            return ["all poses are alike, whatever the picture shows"]
    return []


def _same(poses: Poses) -> bool:
    turns = np.rad2deg(angle_between(poses.R, np.broadcast_to(mean_rotation(poses.R), poses.R.shape)))
    middle = np.median(poses.t, axis=0)
    shifts = np.linalg.norm(poses.t - middle, axis=1) / max(float(np.linalg.norm(middle)), 1e-9)
    return bool(np.median(turns) < ALIKE[0] and not np.median(shifts) > ALIKE[1])
