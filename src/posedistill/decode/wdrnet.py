"""WDRNet+: scores and votes of all cells -> one pose. Numpy, OpenCV and poselib only."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.cells import PUBLISHED_STRIDES, CellLayout, level_anchors, level_budgets
from posedistill.geometry.cameras import Array
from posedistill.geometry.pnp import solve_pnp


@dataclass(frozen=True)
class WDRNetDecoding:
    """How cells are chosen and votes turned into a pose.

    Attributes:
        cells: how many cells vote, over all levels.
        score_threshold: cells below it do not vote.
        scale_lambda: how sharply the object's size picks its levels.
        threshold: reprojection error that makes a vote an outlier, in crop sides (0.02 is 5 px of a 256 px crop).
        always_answer: where no cell passes the score threshold, let the best ones vote all the same; the pose then
            carries their low score. Without it such an object gets no pose.
        faithful: share the cells out over five levels even where the network has fewer, as published.
        seed: of the RANSAC.
    """

    cells: int = 10
    score_threshold: float = 0.1
    scale_lambda: float = 1.0
    threshold: float = 0.02
    always_answer: bool = True
    faithful: bool = False
    seed: int = 0


@dataclass(frozen=True)
class PoseCandidate:
    """A pose in the crop's camera (its caller turns it back into the full image's).

    Attributes:
        R: ``[3, 3]`` object to camera. t: ``[3]`` mm.
        score: in 0..1, the best cell's score times the support of its votes in PnP.
        inliers: share of the votes that agree with the pose.
        seconds: wall-clock time of selection and PnP.
    """

    R: Array
    t: Array
    score: float
    inliers: float
    seconds: float


def select_cells(
    scores: Array, votes: Array, cells: CellLayout, settings: WDRNetDecoding = WDRNetDecoding()
) -> NDArray[np.int64]:
    """Indices of the cells that vote: the best of each level, as many as the object's size gives the level.

    The size is read off the votes of the most confident cell.

    Args:
        scores: ``[N]`` in 0..1. votes: ``[N, K, 2]`` crop pixels.

    Returns:
        Indices in level order, best first in a level; empty where no score passes the threshold and
        ``always_answer`` is off.
    """
    allowed = scores > settings.score_threshold
    if not allowed.any():
        if not settings.always_answer:
            return np.empty(0, dtype=np.int64)
        allowed = np.ones_like(allowed)
    best = votes[int(np.argmax(scores))]
    budgets = _budgets(float(np.ptp(best, axis=0).max()), cells, settings)
    # Level by level, allowed before forbidden, best first: the first n of a level are the ones wanted.
    order = np.lexsort((-scores, ~allowed, cells.level))
    sizes = np.asarray(cells.level_sizes)
    rank = np.arange(len(scores)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = (rank < budgets[cells.level]) & allowed[order]
    return order[wanted]


def _budgets(span: float, cells: CellLayout, settings: WDRNetDecoding) -> NDArray[np.int64]:
    """``[L]`` budgets of the network's own levels."""
    norm = PUBLISHED_STRIDES if settings.faithful else cells.strides
    budgets = level_budgets(np.asarray(span), level_anchors(norm), settings.cells, settings.scale_lambda)
    return budgets[[norm.index(stride) for stride in cells.strides]]


def decode(
    logits: Array,
    votes: Array,
    cells: CellLayout,
    K: Array,
    keypoints3d: Array,
    settings: WDRNetDecoding = WDRNetDecoding(),
) -> PoseCandidate | None:
    """The pose of the object a crop was made for.

    Args:
        logits: ``[N]``. votes: ``[N, K, 2]`` crop pixels. K: ``[3, 3]`` of the crop's camera.
        keypoints3d: ``[K, 3]`` mm, object frame.

    Returns:
        None where no cell votes (only without ``always_answer``) or PnP finds no pose.
    """
    start = time.perf_counter()
    scores = 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64)))
    votes = np.asarray(votes, dtype=np.float64)
    chosen = select_cells(scores, votes, cells, settings)
    if not len(chosen):
        return None
    keypoints = votes.shape[1]
    points = np.tile(np.asarray(keypoints3d, dtype=np.float64), (len(chosen), 1))
    weights = np.repeat(scores[chosen], keypoints)
    threshold = settings.threshold * cells.crop_size
    pose = solve_pnp(votes[chosen].reshape(-1, 2), points, K, weights, threshold, settings.seed)
    if pose is None:
        return None
    score = float(scores[chosen].max()) * pose.score
    return PoseCandidate(pose.R, pose.t, score, float(pose.inliers.mean()), time.perf_counter() - start)
