"""Overlays of best and worst cases on the frames they were seen in."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posedistill.data.images import read_image, write_image
from posedistill.files import write_file
from posedistill.geometry.cameras import Array, crop_cameras, project
from posedistill.geometry.draw.poses import Image, draw_axes, draw_box

TRUTH, GUESS = (70, 225, 150), (255, 95, 190)
"""RGB of the true and of the predicted box, told apart by colour-blind eyes too."""


_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
# full colour resolution, or thin lines of two colours side by side turn grey


@dataclass(frozen=True)
class Case:
    """One prediction beside its ground truth.

    Attributes:
        image: RGB uint8 ``[H, W, 3]``, or the file that holds it (read only if the case is drawn).
        K: ``[3, 3]`` of the full image. keypoints: ``[8, 3]`` mm, box corners in the order of ``box_corners``.
        R_gt, t_gt: true pose, mm. R, t: predicted pose, None where no pose was found.
        error: what the case is ranked by, in ``unit``; inf where no pose was found.
    """

    image: Image | Path
    K: Array
    keypoints: Array
    R_gt: Array
    t_gt: Array
    R: Array | None = None
    t: Array | None = None
    error: float = np.inf
    unit: str = "mm"
    obj_id: int = 0
    scene_id: int = 0
    im_id: int = 0

    def caption(self) -> str:
        """What the case shows, in one line."""
        error = f"error {self.error:.1f} {self.unit}" if self.R is not None else "no pose found"
        return f"object {self.obj_id}, scene {self.scene_id}, image {self.im_id}: {error}"


def select_cases(errors: Sequence[float], count: int = 4) -> tuple[list[int], list[int]]:
    """Positions of the ``count`` smallest errors (ascending) and the ``count`` largest (descending), never the same.

    >>> select_cases([3.0, 1.0, float("inf"), 2.0], count=2)
    ([1, 3], [2, 0])
    """
    order = np.argsort(
        np.nan_to_num(np.asarray(errors, dtype=np.float64), nan=np.inf, posinf=np.inf), kind="stable"
    ).tolist()
    best = order[: min(count, (len(order) + 1) // 2)]
    return best, order[::-1][: min(count, len(order) // 2)]


def save_cases(folder: str | Path, stage: str, items: Sequence[Case], count: int = 4) -> list[Path]:
    """Draw the ``count`` best and ``count`` worst of ``items`` into ``folder``, replacing those of an earlier call.

    Returns:
        The pictures; beside each lies a json with its stage, kind, rank and caption.

    Raises:
        DataError: when an image file cannot be read.
    """
    keys = ("obj_id", "scene_id", "im_id", "unit")
    about = [{"caption": case.caption(), **{key: getattr(case, key) for key in keys}} for case in items]
    return save_pictures(folder, stage, [case.error for case in items], lambda i: draw_case(items[i]), about, count)


def save_pictures(
    folder: str | Path,
    stage: str,
    errors: Sequence[float],
    draw: Callable[[int], Image],
    about: Sequence[Mapping[str, Any]],
    count: int = 4,
) -> list[Path]:
    """Draw those of the ``count`` smallest and largest errors; see :func:`save_cases`.

    Args:
        draw: the picture of one, by its place. about: what the json of each says, a ``caption`` at least.
    """
    stated = [float(error) if np.isfinite(error) else None for error in errors]
    paths = []
    for kind, chosen in zip(("best", "worst"), select_cases(errors, count), strict=True):
        paths += _save(folder, stage, kind, ((draw(i), {**about[i], "error": stated[i]}) for i in chosen))
    return paths


def save_votes(folder: str | Path, stage: str, pictures: Sequence[tuple[Image, str]]) -> list[Path]:
    """Write what a network says of some photographs, with a caption each, replacing those of an earlier call."""
    return _save(folder, stage, "votes", ((picture, {"caption": caption}) for picture, caption in pictures))


def _save(folder: str | Path, stage: str, kind: str, pictures: Iterable[tuple[Image, Mapping[str, Any]]]) -> list[Path]:
    """Write pictures of a kind, and beside each what is said of it, in the place of those of an earlier call."""
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{stage}_{kind}_*"):
        old.unlink()
    for rank, (picture, about) in enumerate(pictures):
        path = folder / f"{stage}_{kind}_{rank:02d}.jpg"
        write_image(path, picture, _JPEG)
        write_file(path.with_suffix(".json"), json.dumps({"stage": stage, "kind": kind, "rank": rank, **about}))
        paths.append(path)
    return paths


def draw_case(case: Case, side: int = 400) -> Image:
    """``[side, side, 3]`` RGB: the surroundings of the object with both boxes and the axes of the predicted pose.

    The picture is a crop, so it is drawn through a camera of its own; no pixel coordinate is moved by hand.

    Raises:
        DataError: when the image file cannot be read.
    """
    image = read_image(case.image) if isinstance(case.image, Path) else case.image
    poses = [(case.R_gt, case.t_gt)]
    if case.R is not None and case.t is not None:
        poses.append((case.R, case.t))
    center, extent = _window([project(case.keypoints, R, t, case.K) for R, t in poses], image.shape)
    crop = crop_cameras(case.K[None], center[None], np.array([extent]), side)
    method = cv2.INTER_AREA if extent > side else cv2.INTER_CUBIC
    canvas = cv2.warpAffine(np.ascontiguousarray(image), crop.homography[0, :2], (side, side), flags=method)
    width = max(1, side // 200)
    truth = case.keypoints @ case.R_gt.T + case.t_gt
    draw_box(canvas, truth, crop.K[0], (20, 20, 20), width + 5)  # a dark rim, for bright photographs
    draw_box(canvas, truth, crop.K[0], TRUTH, width + 3)  # wider: it shows on both sides of a good prediction
    for R, t in poses[1:]:
        draw_box(canvas, case.keypoints @ R.T + t, crop.K[0], GUESS, width)
        length = 0.5 * float(np.ptp(case.keypoints, axis=0).max())
        draw_axes(canvas, R, t, crop.K[0], length, max(1, width // 2))
    return canvas


def _window(boxes: Sequence[Array], shape: tuple[int, ...]) -> tuple[Array, float]:
    """Centre and side of a square that shows the true box (first) and, as far as it is near, the predicted one.

    The square is kept inside the image where it fits.
    """
    boxes = [np.nan_to_num(box, nan=0.0, posinf=1e5, neginf=-1e5) for box in boxes]
    low, high = boxes[0].min(axis=0), boxes[0].max(axis=0)
    start, stop, reach = low, high, float((high - low).max())
    for other in boxes[1:]:
        start = np.minimum(start, np.maximum(other.min(axis=0), low - reach))
        stop = np.maximum(stop, np.minimum(other.max(axis=0), high + reach))
    extent = float(np.clip(1.3 * (stop - start).max(), 32.0, max(shape[:2])))
    size = np.array([shape[1], shape[0]], dtype=np.float64)
    half = np.minimum(extent / 2, size / 2)
    return np.clip((start + stop) / 2, half, size - half), extent
