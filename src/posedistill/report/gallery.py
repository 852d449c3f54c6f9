"""Overlays of best and worst cases on the frames they were seen in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, project

Image = NDArray[np.uint8]

TRUTH, GUESS = (0, 158, 115), (230, 97, 0)
"""RGB of the true and of the predicted box; told apart by colour-blind eyes, and by their line width."""
_AXES = ((213, 52, 52), (60, 160, 60), (64, 110, 230))
_EDGES = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]
_SIDE = 320


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
    order = np.argsort(np.nan_to_num(np.asarray(errors, dtype=np.float64), nan=np.inf), kind="stable").tolist()
    best = order[: min(count, (len(order) + 1) // 2)]
    return best, order[::-1][: min(count, len(order) // 2)]


def save_cases(folder: str | Path, variant: str, items: Sequence[Case], count: int = 4) -> list[Path]:
    """Draw the ``count`` best and ``count`` worst of ``items`` into ``folder``, replacing those of an earlier call.

    Returns:
        The pictures; beside each lies a json with its variant, kind, rank and caption.

    Raises:
        DataError: when an image file cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{variant}_best_*"), *folder.glob(f"{variant}_worst_*")):
        old.unlink()
    pictures = []
    for kind, chosen in zip(("best", "worst"), select_cases([item.error for item in items], count), strict=True):
        for rank, index in enumerate(chosen):
            case, path = items[index], folder / f"{variant}_{kind}_{rank:02d}.jpg"
            encoded = cv2.imencode(".jpg", draw_case(case)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
            _write(path, encoded.tobytes())
            record = {"variant": variant, "kind": kind, "rank": rank, "caption": case.caption(), "obj_id": case.obj_id}
            record |= {"scene_id": case.scene_id, "im_id": case.im_id, "unit": case.unit}
            record["error"] = float(case.error) if np.isfinite(case.error) else None
            _write(path.with_suffix(".json"), json.dumps(record).encode())
            pictures.append(path)
    return pictures


def draw_case(case: Case, side: int = _SIDE) -> Image:
    """``[side, side, 3]`` RGB: the surroundings of the object with both boxes and the axes of the predicted pose."""
    image = _read(case.image) if isinstance(case.image, Path) else case.image
    truth = _visible(project(case.keypoints, case.R_gt, case.t_gt, case.K))
    poses = [] if case.R is None or case.t is None else [(case.R, case.t)]
    guesses = [_visible(project(case.keypoints, R, t, case.K)) for R, t in poses]
    left, top, extent = _window([truth, *guesses], image.shape)
    zoom = side / extent
    warp = np.array([[zoom, 0.0, -left * zoom], [0.0, zoom, -top * zoom]])
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    canvas = cv2.warpAffine(np.ascontiguousarray(image), warp, (side, side), flags=method)
    offset = np.array([left, top])
    _draw_box(canvas, (truth - offset) * zoom, TRUTH, 3)
    for guess, (R, t) in zip(guesses, poses, strict=True):
        _draw_box(canvas, (guess - offset) * zoom, GUESS, 1)
        center = case.keypoints.mean(axis=0)
        arms = np.eye(3) * 0.6 * np.ptp(case.keypoints, axis=0).max()
        ends = (project(np.vstack([center, center + arms]), R, t, case.K) - offset) * zoom
        for end, color in zip(ends[1:], _AXES, strict=True):
            _line(canvas, ends[0], end, color, 2)
    return canvas


def _visible(points: Array) -> Array:
    """Finite pixels of bounded size: what lies behind the camera must not break the drawing."""
    return np.clip(np.nan_to_num(points, nan=0.0, posinf=1e5, neginf=-1e5), -1e5, 1e5)


def _window(boxes: Sequence[Array], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Left, top and side of a square that shows the true box (first) and, as far as it is near, the predicted one."""
    low, high = boxes[0].min(axis=0), boxes[0].max(axis=0)
    reach = 1.0 * (high - low).max()
    for other in boxes[1:]:
        low = np.minimum(low, np.maximum(other.min(axis=0), low - reach))
        high = np.maximum(high, np.minimum(other.max(axis=0), high + reach))
    extent = float(min(max(1.3 * (high - low).max(), 32.0), max(shape[:2])))
    left, top = (low + high) / 2 - extent / 2
    return float(left), float(top), extent


def _draw_box(canvas: Image, corners: Array, color: tuple[int, int, int], width: int) -> None:
    for a, b in _EDGES:
        _line(canvas, corners[a], corners[b], color, width)


def _line(canvas: Image, a: Array, b: Array, color: tuple[int, int, int], width: int) -> None:
    """Anti-aliased, with sub-pixel ends (pixel centres at whole numbers)."""
    start, stop = np.round(_visible(np.stack([a, b])) * 16).astype(int).tolist()
    cv2.line(canvas, start, stop, color, width, cv2.LINE_AA, 4)


def _read(path: Path) -> Image:
    data = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DataError(describe(path, "image", "no readable picture", "a PNG, JPEG or TIFF file"))
    return np.ascontiguousarray(image[..., ::-1])


def _write(path: Path, data: bytes) -> None:
    """Write beside and rename, so that an interrupted run leaves no half file."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(path)
