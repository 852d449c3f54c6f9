"""CategoryView: a square crop of one thing of a category, as it is or mirrored; and the cloud of its shape."""

import copy
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.formats.viewpoint.renderings import Renderings
from posedistill.data.loading.augment import AugmentSettings, Draws, hide
from posedistill.data.loading.sampling import Indices
from posedistill.data.loading.views import Plan, ViewPolicy
from posedistill.data.packs.pack import Pack
from posedistill.errors import RecipeError, describe
from posedistill.geometry.cameras import Array, crop_cameras
from posedistill.geometry.viewpoint import (
    canonical_viewpoint,
    flipped,
    mirrored_shape,
    rotation_viewpoint,
    viewpoint_rotation,
)
from posedistill.geometry.warp import affine_maps


class CategoryView(ViewPolicy):
    """Crops of the objects in a pack of ``CategoryFrames``; rotations of symmetric ones are in canonical form.

    A mirrored crop has the rotation and the shape of the mirrored thing, a turned one the turned rotation: exactly.
    Where any is symmetric, the target ``turns`` tells of each thing after how many degrees it looks the same.

    Args:
        settings: how crops are varied; ``box`` and ``background`` mean nothing here.
        flip: probability of a mirrored crop. crop_size: pixels. pad: side of a crop over the box's longer side.
        orders: ``[S]`` of each label: how many turns about the upright axis look the same, 0 for all.
        clouds: ``[S, N, 3]`` of each label; without them batches have none.
        points: how many of a cloud's points a batch has: others in each varied crop, the first where nothing varies.
        renderings: ``[S, V, side, side, 3]`` of each label; without them batches have none. mirrored_views: ``[V]``
            which of them, mirrored, is each view of the mirrored shape.
        turn_frames: the target ``frames``: degrees by which a shape's own frame may be turned, drawn between minus and
            plus this; 0 for labels that ``frozen`` ``[S]`` names.

    Raises:
        RecipeError: no object.
    """

    stream, chances = 6, 10

    def __init__(
        self,
        pack: Pack,
        settings: AugmentSettings,
        flip: float,
        crop_size: int,
        pad: float,
        orders: NDArray[np.int64],
        clouds: Array | None = None,
        points: int = 2500,
        renderings: Renderings | None = None,
        mirrored_views: Indices | None = None,
        turn_frames: float = 0.0,
        frozen: NDArray[np.bool_] | None = None,
        indices: Indices | None = None,
    ) -> None:
        self.pack, self.packs, self.variation, self.flip, self.pad = pack, [pack], settings, flip, pad
        self.shape, self.orders, self.clouds, self.points = (crop_size, crop_size), orders, clouds, points
        self.renderings, self.mirrored_views = renderings, mirrored_views
        self.turn_frames, self.frozen = turn_frames, np.zeros(len(orders), bool) if frozen is None else frozen
        self.ids = np.arange(len(pack)) if indices is None else np.asarray(indices, dtype=np.int64)
        if not len(self.ids):
            raise RecipeError(describe("recipe", "data", "no object", "at least one"))
        self.frames = pack.instances.frame[self.ids]
        self.varied = True

    @property
    def targets(self) -> frozenset[str]:  # type: ignore[override]
        """Clouds and the turns of their frames, where there are shapes; and renderings of them, where there are any."""
        shapes = frozenset() if self.clouds is None else frozenset({"clouds", "frames"})
        shapes = shapes if (self.orders == 1).all() else shapes | {"turns"}
        return shapes if self.renderings is None else shapes | {"views"}

    def unvaried(self) -> Self:
        """The box in the middle, as it is."""
        plain = copy.copy(self)
        plain.variation, plain.varied = AugmentSettings.none(), False
        return plain

    def plan(self, units: Indices, shape: tuple[int, int], chance: Array, draws: Draws) -> Plan:
        """Crops of some objects."""
        table, ids, frames, size = self.pack.instances, self.ids[units], self.frames[units], shape[0]
        settings, spread, boxes = self.variation, 2 * chance - 1, table.bbox_obj[ids]
        centers = boxes[:, :2] + boxes[:, 2:] * (0.5 + settings.shift * spread[:, :2])
        sides = self.pad * boxes[:, 2:].max(axis=1) * (1 + settings.scale * spread[:, 2])
        cameras = crop_cameras(self.pack.K[frames], centers, sides, size, np.deg2rad(settings.turn) * spread[:, 3])
        R, homography, K = cameras.rotation @ table.R[ids], cameras.homography, cameras.K
        mirrored = self.varied & (chance[:, 4] < self.flip)
        mirror = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        homography = np.where(mirrored[:, None, None], mirror @ homography, homography)
        K[:, 0, 2] = np.where(mirrored, size - 1 - K[:, 0, 2], K[:, 0, 2])
        K[:, 0, 1] = np.where(mirrored, -K[:, 0, 1], K[:, 0, 1])
        label = table.obj_id[ids]
        R = self._canonical(np.where(mirrored[:, None, None], flipped(R), R), label)
        targets = self._shapes(label, mirrored, chance[:, 5:]) | self._views(label, mirrored) | self._turns(label)
        columns = (label, table.score[ids], ids, table.slot[ids])
        maps, picture = affine_maps(homography), np.arange(len(units))
        return Plan(frames, maps, K, shape, draws, picture, R, np.zeros((len(ids), 3)), *columns, targets)

    def _canonical(self, R: Array, label: Indices) -> Array:
        """Of the rotations that look the same, the one that stands for all."""
        orders = self.orders[label]
        if (orders == 1).all():
            return R
        canonical = viewpoint_rotation(canonical_viewpoint(rotation_viewpoint(R), orders))
        return np.where((orders == 1)[:, None, None], R, canonical)

    def _turns(self, label: Indices) -> dict[str, Array]:
        """Degrees ``[B]`` after which each thing looks the same, 0 for any; none where nothing is symmetric."""
        steps = np.where(self.orders == 0, 0.0, 360.0 / np.maximum(self.orders, 1))
        return {"turns": steps[label]} if "turns" in self.targets else {}

    def _shapes(self, label: Indices, mirrored: NDArray[np.bool_], chance: Array) -> dict[str, Array]:
        """Clouds ``[B, points, 3]`` and turns of their frames ``[B]``; ``chance`` ``[B, 3]`` at least."""
        if self.clouds is None:
            return {}
        rows, count = np.arange(self.points), self.clouds.shape[1]
        chosen = np.broadcast_to(rows % count, (len(label), self.points))
        if self.varied:
            # Every point once before any comes again: steps of a length that has no divisor in common with the count.
            strides = _coprime(count)
            strides = strides[(chance[:, 0] * len(strides)).astype(np.int64)]
            chosen = ((chance[:, 1] * count).astype(np.int64)[:, None] + strides[:, None] * rows) % count
        clouds = self.clouds[label[:, None], chosen]
        clouds = np.where(mirrored[:, None, None], mirrored_shape(clouds), clouds)
        turns = np.where(self.frozen[label] | (not self.varied), 0.0, self.turn_frames * (2 * chance[:, 2] - 1))
        return {"clouds": clouds, "frames": turns}

    def _views(self, label: Indices, mirrored: NDArray[np.bool_]) -> dict[str, Array]:
        """``[B, V, 3, side, side]`` in 0..1: renderings of each shape, or of the mirrored one."""
        if self.renderings is None:
            return {}
        views = self.renderings[label]
        views[mirrored] = views[mirrored][:, self.mirrored_views, :, ::-1]
        return {"views": views.transpose(0, 1, 4, 2, 3).astype(np.float32) / 255}

    def cover(self, x: Tensor, ids: Tensor | None, plan: Plan, draws: Draws) -> dict[str, Tensor]:
        """Occluders before the crops; no targets need pixels."""
        everywhere = torch.ones_like(x[:, 0], dtype=torch.bool)
        hide(x, everywhere.to(torch.uint8), everywhere, draws)
        return {}


@lru_cache
def _coprime(count: int) -> NDArray[np.int64]:
    """Numbers below ``count`` that have no divisor in common with it."""
    numbers = np.arange(1, max(count, 2))
    return numbers[np.gcd(numbers, count) == 1]
