"""What poses and cameras of a scene look like when something is wrong with them, though every number is allowed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.errors import describe
from posedistill.geometry.cameras import Array

NEAR_M, NEAR_DEG = 0.05, 5.0
"""A test frame this near to a training frame shows the same picture."""
NEAR_SHARE = 0.02
"""The same in diagonals of the box around the training cameras, where the unit is unknown: 5 cm of a room's 2.5 m."""
SOME = 0.1
"""Share of frames from which a habit of the whole split is worth a warning."""
FAR_OFF = 20.0
"""Distance from the middle, in medians of it, at which a camera stands apart from all others."""
LONGEST, LONG, LONG_STEP = 1000.0, 100.0, 3.0
"""Metres: an extent that no walk has; one that few have; and a step between frames that is none of a walk."""
STRANGE = 0.5
"""Distance from all training cameras, in diagonals of the box around them, at which a test camera is elsewhere."""
SHORTEST = 0.05
"""Metres; a smaller extent means kilometres, or a camera that never moved."""
FIELDS = (20.0, 130.0)
"""Horizontal fields of view, degrees, that photographs have (without fisheye lenses)."""
OFF_CENTRE, OFF_SQUARE, OFF_FOCAL = 0.15, 1.05, 1.1
"""Principal point from the middle, in widths; ratio of the focal lengths; ratio of the largest to the smallest one."""


@dataclass(frozen=True)
class Concern:
    """A sentence, and the photographs that show it best."""

    message: str
    images: tuple[Path, ...] = ()


def concerns(whole: CameraDataset, splits: Mapping[str, CameraDataset], form: str) -> Iterator[Concern]:
    """Everything about poses and cameras that looks wrong, or will make scores look better than they are.

    Args:
        whole: all frames of all splits. form: the format, one of ``open_scene.FORMATS``.
    """
    apart = far_off(whole.centers)
    if apart.any():
        lost = [whole.frames[row] for row in np.flatnonzero(apart)]
        found = f"{len(lost)} cameras far from all others (first: {_name(lost[0])})"
        expected = f"positions within {FAR_OFF:g} median distances of the middle"
        yield Concern(describe(whole.root, "positions", found, expected), tuple(frame.image for frame in lost))
    if whole.metric:
        yield from _units(whole)
    yield from _posture(whole, form)
    yield from _intrinsics(whole)
    if "train" in splits and "test" in splits:
        yield from _strangers(splits["train"], splits["test"])
        yield from _neighbours(splits["train"], splits["test"], whole)


def extent(centers: Array) -> Array:
    """``[3]`` sides of the box around ``[N, 3]`` camera centres, without those that stand apart from all others."""
    return np.ptp(centers[~far_off(centers)], axis=0)


def far_off(centers: Array) -> NDArray[np.bool_]:
    """``[N]`` which of ``[N, 3]`` positions stand apart from all others.

    >>> far_off(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [900, 0, 0]])).tolist()
    [False, False, False, False, True]
    """
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    far: NDArray[np.bool_] = distances > FAR_OFF * max(float(np.median(distances)), 1e-9)
    return far


def recordings(dataset: CameraDataset) -> list[tuple[CameraFrame, ...]]:
    """The frames of each sequence, in the data set's order."""
    found: dict[str, list[CameraFrame]] = {}
    for frame in dataset:
        found.setdefault(frame.sequence, []).append(frame)
    return [tuple(frames) for frames in found.values()]


def steps(dataset: CameraDataset) -> float:
    """The median way from frame to frame within recordings; 0 where none has two."""
    ways = [np.diff(np.stack([frame.center for frame in frames]), axis=0) for frames in recordings(dataset)]
    moved = np.linalg.norm(np.concatenate(ways), axis=1)
    return float(np.median(moved)) if len(moved) else 0.0


def near_training(train: CameraDataset, test: CameraDataset) -> NDArray[np.bool_]:
    """``[N]`` which test frames stand within ``NEAR_M``, or ``NEAR_SHARE``, and ``NEAR_DEG`` of a training frame."""
    within = NEAR_M if train.metric else NEAR_SHARE * float(np.linalg.norm(extent(train.centers)))
    centers, rows, least = train.centers, train.R.reshape(-1, 9), 1 + 2 * np.cos(np.radians(NEAR_DEG))
    # A frame at a time, as many may stand beside each. The trace of a relative rotation tells its angle.
    tree, poses = cKDTree(centers), zip(test.centers, test.R, strict=True)
    near = ((rows[tree.query_ball_point(center, within)] @ R.ravel() >= least).any() for center, R in poses)
    return np.fromiter(near, np.bool_, len(test))


def _name(frame: CameraFrame) -> str:
    return f"{frame.image.parent.name}/{frame.image.name}"


def _units(whole: CameraDataset) -> Iterator[Concern]:
    size, step = extent(whole.centers), steps(whole)
    longest = float(size.max())
    shown = f"cameras spread over {' x '.join(f'{side:.4g}' for side in size)}, {step:.3g} from frame to frame"
    if longest > LONGEST or (longest > LONG and step > LONG_STEP):
        yield Concern(describe(whole.root, "positions", shown, "metres (are these millimetres?)"))
    elif longest < SHORTEST:
        expected = "metres, of a camera that moves (are these kilometres?)"
        yield Concern(describe(whole.root, "positions", shown, expected))


def _posture(whole: CameraDataset, form: str) -> Iterator[Concern]:
    """Photographs have a common up; rotations that were inverted, or given other axes, lose or turn it."""
    up = -whole.R[:, 1].mean(axis=0)
    inverted = float(np.linalg.norm(whole.R[:, :, 1].mean(axis=0)))
    common = float(np.linalg.norm(up))
    if common < 0.5 and inverted > 0.9:
        expected = f"a common one (there is one, {inverted:.2f}, if every rotation is inverted)"
        yield Concern(describe(whole.root, "rotations", f"cameras without a common up ({common:.2f})", expected))
    if form == "transforms.json" and up[2] < -0.5:
        expected = "OpenGL's axes, y up (are these OpenCV's?), in a world with z up"
        yield Concern(describe(whole.root, "transform_matrix", "cameras that hang upside down", expected))


def _intrinsics(whole: CameraDataset) -> Iterator[Concern]:
    K, sizes = whole.K, np.array([(frame.width, frame.height) for frame in whole])
    fields = np.degrees(2 * np.arctan(sizes[:, 0] / 2 / K[:, 0, 0]))
    off = np.abs(K[:, :2, 2] - (sizes - 1) / 2).max(axis=1) / sizes[:, 0]
    square = np.maximum(K[:, 0, 0] / K[:, 1, 1], K[:, 1, 1] / K[:, 0, 0])
    for key, values, wrong, shown, expected in (
        ("field of view", fields, (fields < FIELDS[0]) | (fields > FIELDS[1]), "{:.4g} degrees", "{} to {} degrees"),
        ("principal point", off, off > OFF_CENTRE, "{:.0%} of the width from the middle", "about the middle"),
        ("focal lengths", square, square > OFF_SQUARE, "fx and fy in a ratio of {:.3g}", "square pixels"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            found = f"{shown.format(values[row])} in {wrong.sum()} frames (first: {_name(whole.frames[row])})"
            wanted = expected.format(*(f"{bound:g}" for bound in FIELDS))
            yield Concern(describe(whole.root, key, found, wanted), (whole.frames[row].image,))
    focal = K[:, 1, 1] / sizes.min(axis=1)
    low, high = np.percentile(focal, [1, 99])
    if high > OFF_FOCAL * low:
        found = f"{low:.3g} to {high:.3g} shorter sides: photographs of several cameras"
        expected = "one camera: the network is not told which one it looks through"
        yield Concern(describe(whole.root, "focal lengths", found, expected))
    counts = {
        f"{w}x{h}": int(count) for (w, h), count in zip(*np.unique(sizes, axis=0, return_counts=True), strict=True)
    }
    if len(counts) > 1:
        found = ", ".join(f"{size} ({count})" for size, count in counts.items())
        yield Concern(describe(whole.root, "image size", found, "one size, for all that is not cut to squares"))


def _strangers(train: CameraDataset, test: CameraDataset) -> Iterator[Concern]:
    """No network answers for places it never saw; splits in two worlds or two units look like this, too."""
    room = STRANGE * float(np.linalg.norm(extent(train.centers)))
    nearest, _ = cKDTree(train.centers).query(test.centers)
    if (nearest > room).mean() >= SOME:
        first = test.frames[int(np.flatnonzero(nearest > room)[0])]
        found = f"{(nearest > room).mean():.0%} of test frames far from all training frames (first: {_name(first)})"
        yield Concern(describe(train.root, "split", found, "two splits of one place, in one world and unit"))


def _neighbours(train: CameraDataset, test: CameraDataset, whole: CameraDataset) -> Iterator[Concern]:
    near = near_training(train, test)
    if near.mean() >= SOME:
        first = test.frames[int(np.flatnonzero(near)[0])]
        within = f"{100 * NEAR_M:g} cm" if train.metric else f"{NEAR_SHARE:.0%} of the scene's extent"
        found = (
            f"{near.mean():.0%} of test frames stand within {within} and {NEAR_DEG:g} degrees of a training frame: "
            f"neighbouring frames (first: {_name(first)})"
        )
        yield Concern(describe(whole.root, "split", found, "another recording for testing"))
    trained, tested = ({frame.image for frame in split} for split in (train, test))
    between = 0
    for frames in recordings(whole):
        for row, frame in enumerate(frames):
            beside = frames[max(row - 1, 0) : row + 2]
            between += frame.image in tested and any(other.image in trained for other in beside)
    if between >= 0.5 * len(test):
        found = f"{between / len(test):.0%} of test frames come next to a training frame in the same recording"
        yield Concern(describe(whole.root, "split", found, "another recording for testing"))
