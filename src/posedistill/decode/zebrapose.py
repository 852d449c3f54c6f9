"""ZebraPose: a mask and the bits of surface codes at every cell -> one pose. Numpy, OpenCV and poselib only.

Su et al., CVPR 2022. There every bit is rounded and all pixels of the mask go to PnP, however unsure their last bits.
Here a code is read as far as its bits are sure: a cell so matches a point of the surface with a known spread, and the
matches of the smallest cells make the pose.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Arrays, Prepared, Readers, Tolerance, check
from posedistill.decode.objects import CropDecoder, CropPose
from posedistill.decode.wdrnet import sigmoid
from posedistill.geometry.cameras import Array, cell_centers
from posedistill.geometry.codes import is_folded, node_count
from posedistill.geometry.codes.draw import draw_cells, draw_surface, side_by_side
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.pnp import PnPResult, solve_pnp, support

Floats = NDArray[np.float32]
_LEAST_CELLS = 32
"""Cells that answer where the mask is empty."""
_MOST_CELLS = 4096
"""Cells whose codes are read."""
_PANEL = 320
"""Side of a picture of a crop, pixels."""
_FLOOR = 0.05
"""Of the diameter: no match counts as surer than that to the pose, for bits that look sure may be wrong."""
_SHARP = 0.01
"""Likewise to the score, which tells objects from other things by how well the surest matches agree."""


@dataclass(frozen=True)
class ZebraPoseDecoding:
    """How bits become matches and matches a pose.

    Attributes:
        confidence: ``|2 p - 1|`` of the first bit that is too unsure to be read. 0 reads all bits, as published.
        within: how many of the unsure bits after it place the match in the cell that is read, at the mean of the
            smaller cells by their probabilities; 0 leaves it at the cell's centre.
        matches: how many go to PnP, those on the smallest cells of the surface; None takes all of the mask.
        weighted: let matches count the more the smaller their cells.
        threshold: reprojection error that makes a match an outlier, in crop sides.
        always_answer: where the mask is empty, let the likeliest cells answer all the same; the pose then carries
            their low score. Without it such an object gets no pose.
        seed: of the RANSAC.
    """

    confidence: float = 0.35
    within: int = 0
    matches: int | None = 512
    weighted: bool = True
    threshold: float = 6 / 128
    always_answer: bool = True
    seed: int = 0


USUAL = ZebraPoseDecoding(within=3)
"""Of a network for which nothing was chosen."""
READINGS = (replace(USUAL, confidence=0.5), USUAL, replace(USUAL, confidence=0.2, threshold=8 / 128))
"""From networks that know their codes to those that are still unsure."""


class Matches(NamedTuple):
    """``cells`` ``[n]``, numbered row by row; ``points`` ``[n, 3]`` mm and ``radii`` ``[n]`` mm they are read as."""

    cells: NDArray[np.intp]
    points: Array
    radii: Array


class CropMatches(NamedTuple):
    """What PnP is given: ``pixels`` ``[n, 2]`` of the crop, ``points`` ``[n, 3]`` mm, ``weights`` ``[n]`` up to 1.

    ``shares`` ``[n]`` of the matches in the score, of sum 1; ``threshold`` of an outlier in pixels; ``mask`` ``[n]``
    probabilities of the cells.
    """

    pixels: Array
    points: Array
    weights: Array
    shares: Array
    mask: Array
    threshold: float


def node_index(depths: NDArray[np.integer], cells: NDArray[np.integer]) -> NDArray[np.integer]:
    """Where cell ``cells`` of depth ``depths`` stands in tables of all depths from 1 on.

    >>> node_index(np.array([1, 2, 3]), np.array([1, 0, 7])).tolist()
    [1, 2, 13]
    """
    return (1 << depths) - 2 + cells


def read_codes(code_logits: Array, confidence: float, folded: bool = False) -> NDArray[np.integer]:
    """``[n]`` the cell of the surface that each code means, as its index in tables of all depths.

    Args:
        code_logits: ``[d, n]``, coarse to fine.
        folded: bit 1 tells one side of a half turn from the other. Where the canonical pose jumps it is unsure while
            all others are not, so it ends no code; its sign is read.
    """
    bits = len(code_logits)
    sure = np.abs(np.tanh(code_logits / 2)) >= confidence
    sure[0] |= folded
    depths = np.maximum(np.logical_and.accumulate(sure, axis=0).sum(axis=0), 1)
    cells = (1 << np.arange(bits)[::-1]) @ (code_logits > 0)
    return node_index(depths, cells >> (bits - depths))


def mean_places(
    nodes: NDArray[np.integer], code_logits: Array, points: Floats, radii: NDArray, bits: int
) -> tuple[Array, Array]:
    """Where on the surface codes are that are read as ``nodes``, ``[n, 3]`` mm, and their spread there, ``[n]`` mm.

    The mean over the cells that a node's next ``bits`` tell apart, by their probabilities, which are taken for
    independent: right for the few bits of one small cell, and wrong for whole codes, whose means would all lie deep in
    the object.

    Args:
        nodes: ``[n]`` of ``read_codes``. code_logits: ``[d, n]``.
        points: ``[nodes, 3]`` and radii: ``[nodes]`` mm of the cells of all depths.
    """
    places, spread = points[nodes].astype(np.float64), radii[nodes].astype(np.float64)
    depths = np.frexp(nodes + 2)[1] - 1
    deeper = np.minimum(bits, len(code_logits) - depths)
    for more in np.unique(deeper[deeper > 0]).tolist():
        own = np.flatnonzero(deeper == more)
        depth, likely = depths[own], np.ones((1, len(own)))
        for place in range(more):
            one = sigmoid(np.nan_to_num(code_logits[depth + place, own]))
            likely = np.stack([likely * (1 - one), likely * one], axis=1).reshape(-1, len(own))
        cells = (nodes[own] + 2 - (1 << depth) << more) + np.arange(1 << more)[:, None]
        inner = node_index(depth + more, cells)
        centers = points[inner].astype(np.float64)
        places[own] = middle = np.einsum("kn,knx->nx", likely, centers)
        apart = ((centers - middle) ** 2).sum(axis=2) + radii[inner].astype(np.float64) ** 2
        spread[own] = np.sqrt((likely * apart).sum(axis=0))
    return places, spread


def find_matches(
    mask: Array,
    code_logits: Array,
    points: Floats,
    radii: NDArray,
    settings: ZebraPoseDecoding = ZebraPoseDecoding(),
    folded: bool = False,
) -> Matches:
    """The cells of the mask that are read as the smallest parts of the surface.

    Of a folded object a cell that is unsure of its side is matched with both sides, its likelier one last: whichever
    side PnP takes all cells for, the pose is one of two equivalent ones.

    Args:
        mask: ``[G, G]`` probabilities. code_logits: ``[d, G, G]``.
        points: ``[nodes, 3]`` and radii: ``[nodes]`` mm of the cells of all depths.
    """
    inside = mask.ravel()
    chosen = np.flatnonzero(inside > 0.5)
    if settings.always_answer and len(chosen) < 4:
        chosen = np.argsort(-inside, kind="stable")[:_LEAST_CELLS]
    elif settings.matches and len(chosen) > _MOST_CELLS:
        chosen = np.sort(chosen[np.argsort(-inside[chosen], kind="stable")[:_MOST_CELLS]])
    logits = code_logits.reshape(len(code_logits), -1)[:, chosen]
    if folded:
        torn = np.abs(np.tanh(logits[0] / 2)) < settings.confidence
        other = logits[:, torn] * np.where(np.arange(len(logits)) == 0, -1, 1)[:, None]
        chosen, logits = np.append(chosen[torn], chosen), np.append(other, logits, axis=1)
    nodes = read_codes(logits, settings.confidence, folded)
    if settings.matches and len(chosen) > settings.matches:
        best = np.sort(np.argsort(radii[nodes], kind="stable")[: settings.matches])
        chosen, nodes, logits = chosen[best], nodes[best], logits[:, best]
    return Matches(chosen, *mean_places(nodes, logits, points, radii, settings.within))


@dataclass(frozen=True, eq=False, kw_only=True)
class ZebraPoseDecoder(CropDecoder):
    """Crops in; mask ``[B, 1, G, G]`` and code ``[B, d, G, G]``, logits, out.

    Attributes:
        grid: cells a side.
        points: ``[C, 2^(d + 1) - 2, 3]`` mm, radii: ``[C, 2^(d + 1) - 2]`` mm: centre and spread of each cell of the
            surface, of all depths from 1 to ``d``.
        decoding: how matches and poses are made; what a file does not name keeps its default.
    """

    family: ClassVar[str] = "zebrapose"
    tolerance: ClassVar[Tolerance] = Tolerance({"logits": 0.01}, degrees=0.5)
    readers: ClassVar[Readers] = {
        **CropDecoder.readers,
        "grid": int,
        "decoding": lambda value: ZebraPoseDecoding(**value),
    }
    grid: int
    points: Floats
    radii: NDArray
    decoding: ZebraPoseDecoding = ZebraPoseDecoding()

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        shape = (len(self.objects), node_count(self.bits))
        found = (self.points.shape, self.radii.shape)
        finite = bool(np.isfinite(self.points).all() and np.isfinite(self.radii).all())
        check(
            (
                "grid",
                self.grid,
                f"a divisor of the crop's {self.crop_size} px",
                self.crop_size % max(self.grid, 1) == 0,
            ),
            ("codes", found, f"{(*shape, 3)} and {shape}", self.bits > 0 and found == ((*shape, 3), shape)),
            ("codes", "NaN or infinity", "points of a surface", finite),
        )

    @property
    def bits(self) -> int:
        """Of a code."""
        return int(self.points.shape[1] + 2).bit_length() - 2

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Of the grid."""
        return {"mask": (1, self.grid, self.grid), "code": (self.bits, self.grid, self.grid)}

    def tables(self) -> dict[str, np.ndarray]:
        """The objects, their shapes, and the cells of their surfaces."""
        codes: dict[str, np.ndarray] = {"codes/points": self.points, "codes/radii": self.radii}
        return super().tables() | codes

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """What ``tables`` gave."""
        return {**super().fields_of(tables), "points": tables["codes/points"], "radii": tables["codes/radii"]}

    def halved(self) -> Self:
        """With points and radii of cells in 16 bits: off by a 2,048th at most; unless one is too large for them."""
        largest = max(np.abs(self.points).max(), self.radii.max())
        if largest > np.finfo(np.float16).max:
            return self
        return replace(self, points=self.points.astype(np.float16), radii=self.radii.astype(np.float16))

    def decode_crop(self, outputs: Arrays, K: Array, index: int) -> CropPose | None:
        """PnP on the matches; its score is the mask's mean probability on them times the share that agrees with it."""
        found = self.matches(outputs, index)
        pose = self._solve(found, K)
        if pose is None:
            return None
        score = float(found.mask.mean()) * support(pose.errors, found.shares, found.threshold)
        return CropPose(pose.R, pose.t, score)

    def _solve(self, found: CropMatches, K: Array) -> PnPResult | None:
        return solve_pnp(found.pixels, found.points, K, found.weights, found.threshold, self.decoding.seed)

    def matches(self, outputs: Arrays, index: int) -> CropMatches:
        """The matches of one crop of the object of class ``index``."""
        mask = sigmoid(outputs["mask"][0])
        found = self._read(mask, outputs["code"], index, self.decoding)
        spread = found.radii if self.decoding.weighted else np.zeros(len(found.cells))
        weights, shares = (1 / (spread**2 + (least * self.objects.diameters[index]) ** 2) for least in (_FLOOR, _SHARP))
        pixels = cell_centers(self.grid, self.grid, self.surface_stride)[found.cells]
        threshold = self.decoding.threshold * self.crop_size
        weights /= weights.max(initial=1e-300)
        shares /= shares.sum()
        return CropMatches(pixels, found.points, weights, shares, mask.ravel()[found.cells], threshold)

    def _read(self, mask: Array, code_logits: Array, index: int, settings: ZebraPoseDecoding) -> Matches:
        return find_matches(mask, code_logits, self.points[index], self.radii[index], settings, self._folded[index])

    @cached_property
    def _folded(self) -> list[bool]:
        return [is_folded(radii) for radii in self.radii]

    @property
    def surface_stride(self) -> int:
        """Of the grid."""
        return self.crop_size // self.grid

    def explain_crop(self, outputs: Arrays, prepared: Prepared, row: int, surface: np.ndarray) -> Image:
        """The photograph; the codes that are read, with the cells that the pose rests on; the true surface."""
        index = int(prepared.inputs["classes"][row])
        own, corners = {name: value[row] for name, value in outputs.items()}, self.objects.keypoints[index]
        scale = np.array(self.std)[:, None, None], np.array(self.mean)[:, None, None]
        planes = 255 * (prepared.inputs["images"][row] * scale[0] + scale[1])
        photograph = np.clip(np.rint(planes), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        photograph = cv2.resize(photograph, (_PANEL, _PANEL), interpolation=cv2.INTER_CUBIC)
        every = replace(self.decoding, matches=None)
        mask = sigmoid(own["mask"][0])
        read = self._read(mask, own["code"], index, every)
        points = np.full((self.grid**2, 3), np.nan)
        points[read.cells] = read.points
        predicted = draw_surface(photograph, points.reshape(self.grid, self.grid, 3), corners)
        found = self.matches(own, index)
        pose = self._solve(found, prepared.K[row])
        if pose is not None:
            draw_cells(predicted, (found.pixels[pose.inliers] + 0.5) * _PANEL / self.crop_size - 0.5)
        return side_by_side([photograph, predicted, draw_surface(photograph, surface, corners)])

    def differences(self, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """Between logits of mask and bits."""
        return {"logits": max(super().differences(ours, theirs).values())}

    def stand_in(self, prepared: Prepared) -> Arrays:
        """Outputs for crops in the middle of which the first object's surface is seen from the front.

        A fifth of the cells has any code, and a tenth of the fine bits is wrong.
        """
        rng, size, count = np.random.default_rng(0), self.crop_size, len(prepared.K)
        K, diameter = prepared.K[0], float(self.objects.diameters[0])
        leaves = np.asarray(self.points[0, 2**self.bits - 2 :], dtype=np.float64)
        distance = K[0, 0] * diameter / (0.66 * size)
        t = distance * np.linalg.solve(K, np.array([size / 2, size / 2, 1.0])) - leaves.mean(axis=0)
        rays = (leaves + t) @ K.T
        place = np.clip((rays[:, :2] / rays[:, 2:] + 0.5) * self.grid / size, 0, self.grid - 1).astype(np.int64)
        ids = np.full((self.grid, self.grid), -1)
        ids[place[:, 1], place[:, 0]] = np.arange(len(leaves))
        ids = cv2.dilate(ids.astype(np.float32), np.ones((3, 3))).astype(np.int64)
        one = np.maximum(ids, 0) >> np.arange(self.bits)[::-1, None, None] & 1
        bits = np.broadcast_to(one, (count, *one.shape)).copy()
        wild = rng.random((count, 1, self.grid, self.grid)) < 0.2
        fine = np.arange(self.bits)[:, None, None] >= self.bits // 2
        bits ^= wild & (rng.random(bits.shape) < 0.5) | fine & (rng.random(bits.shape) < 0.1)
        code: Array = np.where(bits, 2.5, -2.5) + rng.normal(scale=0.5, size=bits.shape)
        mask = np.broadcast_to(np.where(ids >= 0, 3.0, -3.0), (count, 1, self.grid, self.grid))
        return {"mask": mask.astype(np.float32), "code": code.astype(np.float32)}
