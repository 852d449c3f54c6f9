"""Scene coordinates: for each cell of a photograph the point of the scene that it shows -> PnP -> the camera's pose.

Shotton et al., CVPR 2013; Brachmann and Rother, PAMI 2021. Numpy, and poselib or OpenCV.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Arrays, Pose, Prepared, Readers, Tolerance, check, floats
from posedistill.decode.photograph import PhotographDecoder
from posedistill.geometry.cameras import Array, cell_centers
from posedistill.geometry.pnp import refine_on_all, solve_pnp

CELLS = 500
"""Most cells that a pose is searched with, the surest ones: all 4,800 of a picture would take thirty times as long. It
is then refined on all, which is as exact as to have searched with them."""
THRESHOLD = 10.0
"""Reprojection error of an outlier, pixels of a picture whose longer side has ``REFERENCE_SIDE``."""
REFERENCE_SIDE = 640
LEAST_CONFIDENCE = 0.01
"""Cells below it are not used."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What the pose of one photograph rests on, of its ``n`` usable cells.

    Attributes:
        points: ``[n, 3]`` in the scene. confidence: ``[n]`` of each. pose: of the camera, if there is one.
        inliers: ``[n]`` bool, cells that agree with the pose.
    """

    points: Array
    confidence: Array
    pose: Pose | None
    inliers: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class SceneCoordinatesDecoder(PhotographDecoder):
    """Photographs in; points ``[B, 3, h, w]`` of the scene and the confidence ``[B, 1, h, w]`` of each out.

    Attributes:
        stride: pixels from cell to cell.
        score_curve: (slope, offset) of the logistic curve from the share of cells that agree with a pose, weighted by
            their confidence, to the probability that it is right; empty leaves the share as it is.
    """

    family: ClassVar[str] = "scene_coordinates"
    needs_camera: ClassVar[bool] = True
    tolerance: ClassVar[Tolerance] = Tolerance(degrees=0.1, shift=5e-3, rounding=1e-3)
    readers: ClassVar[Readers] = {
        **PhotographDecoder.readers,
        "stride": int,
        "score_curve": floats,
    }
    stride: int = 8
    score_curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        check(
            ("stride", self.stride, "1 at least, and a cell at least in a picture", 0 < self.stride <= min(self.shape)),
            ("score_curve", self.score_curve, "a slope and an offset, or nothing", len(self.score_curve) in (0, 2)),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        height, width = self.shape
        return -(-height // self.stride), -(-width // self.stride)

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Points in the scene, and how sure the network is of each (0..1)."""
        return {"points": (3, *self.grid), "confidence": (1, *self.grid)}

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """From the scene to each picture's camera; none of a picture in which fewer than 4 cells are recognised."""
        found = (self.explain(outputs, prepared, row).pose for row in range(len(prepared)))
        return [pose for pose in found if pose is not None]

    def explain(self, outputs: Arrays, prepared: Prepared, row: int = 0) -> Explained:
        """The pose of one of the pictures with the cells it rests on."""
        points = np.asarray(outputs["points"][row], dtype=np.float64).reshape(3, -1).T
        confidence = np.asarray(outputs["confidence"][row], dtype=np.float64).ravel()
        usable = np.isfinite(points).all(axis=1) & (confidence >= LEAST_CONFIDENCE)
        points, confidence = points[usable], confidence[usable]
        pixels, K = cell_centers(*self.grid, self.stride)[usable], prepared.K[row]
        threshold = THRESHOLD * max(self.shape) / REFERENCE_SIDE
        chosen = surest(confidence, CELLS)
        # Fewer than 4 cells are none to it.
        result = solve_pnp(pixels[chosen], points[chosen], K, confidence[chosen], threshold)
        if result is None:
            return Explained(points, confidence, None, np.zeros(len(points), dtype=np.bool_))
        if len(points) > len(chosen):
            result = refine_on_all(result, pixels, points, K, confidence, threshold)
        # Of all cells: a handful that is sure of anything agrees with some pose in any picture.
        pose = Pose(result.R, result.t, score=self._score(result.score * usable.mean()), row=row)
        return Explained(points, confidence, pose, result.inliers)

    def _score(self, share: float) -> float:
        """Probability that a pose is right with which so many of the cells agree, or without a curve their share."""
        if not self.score_curve:
            return float(share)
        slope, offset = self.score_curve
        return float(1.0 / (1.0 + np.exp(-np.clip(slope * share + offset, -50, 50))))

    def stand_in(self, prepared: Prepared) -> Arrays:
        """Points that the pictures would show from the scene's origin, two in five of them wrong."""
        rng, rows = np.random.default_rng(0), len(prepared)
        pixels = cell_centers(*self.grid, self.stride)
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(prepared.K[0]).T
        points = rays * rng.uniform(1.0, 4.0, (len(rays), 1))
        wrong = rng.random(len(points)) < 0.4
        points[wrong] = rng.uniform(-4.0, 4.0, (int(wrong.sum()), 3))
        confidence = rng.uniform(0.5, 1.0, (rows, 1, *self.grid)).astype(np.float32)
        return {"points": np.tile(points.T.reshape(1, 3, *self.grid), (rows, 1, 1, 1)), "confidence": confidence}


def surest(confidence: Array, count: int) -> NDArray[np.int64]:
    """The cells of the highest confidence, at most ``count``, in their order.

    >>> surest(np.array([0.2, 0.0, 0.9, 0.5]), 2).tolist()
    [2, 3]
    """
    if len(confidence) <= count:
        return np.arange(len(confidence))
    return np.sort(np.argpartition(confidence, -count)[-count:])
