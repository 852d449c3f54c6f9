"""WDRNet+: scores and votes of all cells -> one pose. Numpy, OpenCV and poselib only."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Arrays, Prepared, Readers, Tolerance, check
from posedistill.decode.cells import PUBLISHED_STRIDES, CellLayout, level_anchors, level_budgets
from posedistill.decode.objects import CropDecoder, CropPose
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.pnp import solve_pnp


@dataclass(frozen=True)
class WDRNetDecoding:
    """How cells are chosen and votes turned into a pose.

    Attributes:
        cells: how many cells vote, over all levels.
        score_threshold: cells below it do not vote.
        scale_lambda: how sharply the object's size picks its levels.
        threshold: reprojection error that makes a vote an outlier, in crop sides. As published it is 0.02 (5 px of a
            256 px crop), which takes much of a small network's noise for outliers: poses then rest on what few votes
            happen to agree, and their distances spread by a quarter more.
        always_answer: where no cell passes the score threshold, let the best ones vote all the same; the pose then
            carries their low score. Without it such an object gets no pose.
        faithful: share the cells out over five levels even where the network has fewer, as published.
        seed: of the RANSAC.
    """

    cells: int = 10
    score_threshold: float = 0.1
    scale_lambda: float = 1.0
    threshold: float = 0.05
    always_answer: bool = True
    faithful: bool = False
    seed: int = 0


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
) -> CropPose | None:
    """The pose of the object a crop was made for; its score is the best cell's times the support of its votes in PnP.

    Args:
        logits: ``[N]``. votes: ``[N, K, 2]`` crop pixels. K: ``[3, 3]`` of the crop's camera.
        keypoints3d: ``[K, 3]`` mm, object frame.

    Returns:
        None where no cell votes (only without ``always_answer``) or PnP finds no pose.
    """
    scores = sigmoid(logits)
    votes = np.asarray(votes, dtype=np.float64)
    chosen = select_cells(scores, votes, cells, settings)
    if not len(chosen):
        return None
    points = np.tile(np.asarray(keypoints3d, dtype=np.float64), (len(chosen), 1))
    weights = np.repeat(scores[chosen], votes.shape[1])
    threshold = settings.threshold * cells.crop_size
    pose = solve_pnp(votes[chosen].reshape(-1, 2), points, K, weights, threshold, settings.seed)
    return None if pose is None else CropPose(pose.R, pose.t, float(scores[chosen].max()) * pose.score)


def sigmoid(logits: np.ndarray) -> Array:
    """Scores in 0..1."""
    return 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64)))


@dataclass(frozen=True, eq=False, kw_only=True)
class WDRNetDecoder(CropDecoder):
    """Crops in; logits ``[B, N]`` and votes ``[B, N, 8, 2]`` in crop pixels, of all cells, out.

    Attributes:
        strides: of the output levels, pixels; with the crop size they give the grid of cells.
        decoding: how cells are chosen; what a file does not name keeps its default.
    """

    family: ClassVar[str] = "wdrnet"
    tolerance: ClassVar[Tolerance] = Tolerance({"votes (px)": 0.05}, degrees=0.1)
    readers: ClassVar[Readers] = {
        **CropDecoder.readers,
        "strides": lambda value: tuple(int(item) for item in value),
        "decoding": lambda value: WDRNetDecoding(**value),
    }
    strides: tuple[int, ...]
    decoding: WDRNetDecoding = WDRNetDecoding()

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        check(("strides", self.strides, "positive numbers of pixels", min(self.strides, default=0) > 0))

    @cached_property
    def cells(self) -> CellLayout:
        """The grid that the network's outputs are laid out on."""
        return CellLayout.build(self.strides, self.crop_size)

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Of ``N`` cells."""
        count, keypoints = len(self.cells), self.objects.keypoints.shape[1]
        return {"logits": (count,), "votes": (count, keypoints, 2)}

    def decode_crop(self, outputs: Arrays, K: Array, index: int) -> CropPose | None:
        """See ``decode``."""
        keypoints = self.objects.keypoints[index]
        return decode(outputs["logits"], outputs["votes"], self.cells, K, keypoints, self.decoding)

    def differences(self, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """Between votes, and between scores, of all cells."""
        pixels = np.linalg.norm(ours["votes"] - theirs["votes"], axis=-1)
        scores = np.abs(sigmoid(ours["logits"]) - sigmoid(theirs["logits"]))
        return {"votes (px)": float(pixels.max(initial=0.0)), "scores": float(scores.max(initial=0.0))}

    def stand_in(self, prepared: Prepared) -> Arrays:
        """Outputs for a pose of the first object, seen in the middle of each crop; two in five votes are anywhere."""
        rng, size, cells = np.random.default_rng(0), self.crop_size, self.cells
        K, corners = prepared.K, self.objects.keypoints[0]
        distance = K[0, 0, 0] * float(self.objects.diameters[0]) / (0.6 * size)
        t = distance * np.linalg.solve(K[0], np.array([size / 2, size / 2, 1.0])) - corners.mean(axis=0)
        shape = (len(K), len(cells), len(corners))
        votes = project(corners, np.eye(3), t, K[0]) + rng.normal(scale=0.004 * size, size=(*shape, 2))
        wild = rng.random(shape) < 0.4
        votes[wild] = rng.uniform(0, size, (int(wild.sum()), 2))
        near = np.linalg.norm(cells.centers - size / 2, axis=1) < 0.3 * size
        logits = np.where(near, 2.0, -6.0) + rng.normal(scale=0.2, size=shape[:2])
        return {"logits": logits.astype(np.float32), "votes": votes.astype(np.float32)}
