"""Where each crop of a batch lies and what it does to camera, pose and keypoints; drawn from (seed, step) alone."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from posedistill.data.loading.augment import AugmentSettings, Draws, draw
from posedistill.data.loading.pack import Indices
from posedistill.data.loading.sampling import Sampler, Table
from posedistill.geometry.cameras import Array, crop_cameras, project
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.symmetries import canonical_pose
from posedistill.geometry.warp import affine_maps

_CROPS = 1
"""Tells this module's random numbers from those of the samplers."""
_KEEP_IN_CROP = 0.45
"""The centre of the visible part stays within this share of the crop's side from the crop's centre."""


@dataclass(frozen=True)
class Plan:
    """All of a batch but its pixels: geometry, and what augmentation will do."""

    rows: Table
    inverse: Array
    K: Array
    R: Array
    t: Array
    keypoints3d: Array
    keypoints: Array
    diameters: Array
    draws: Draws

    def part(self, part: slice) -> "Plan":
        """The plan of some of the crops."""
        arrays = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("rows", "draws")
        }
        rows = self.rows[np.arange(part.start, part.stop)]
        draws = self.draws.part(part.start, part.stop)
        return Plan(rows=rows, draws=draws, **{name: array[part] for name, array in arrays.items()})


class Planner:
    """Step to ``Plan``.

    Args:
        settings: None makes plain evaluation crops of the amodal box.
        pad: side of a crop over the longer one of its box.
        rank, world_size: which part of the global batch the plan holds.
    """

    def __init__(
        self,
        table: Table,
        sampler: Sampler,
        objects: ObjectTable,
        settings: AugmentSettings | None,
        crop_size: int,
        pad: float,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.table, self.sampler, self.objects, self.settings = table, sampler, objects, settings
        self.crop_size, self.pad, self.seed, self.rank, self.world_size = crop_size, pad, seed, rank, world_size

    def __call__(self, step: int) -> Plan:
        """The plan of a step."""
        rng = np.random.default_rng([self.seed, step, _CROPS])
        rows = self.table[self.sampler(step)]
        part = slice(self.rank * len(rows) // self.world_size, (self.rank + 1) * len(rows) // self.world_size)
        centers, sides, angles = self.boxes(rows, rng)
        # Drawn for the global batch, so that the pictures do not depend on how many processes share it.
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        draws = draw(self.settings or AugmentSettings.none(), len(rows), self.crop_size, generator)

        rows = rows[np.arange(part.start, part.stop)]
        cameras = crop_cameras(rows.K, centers[part], sides[part], self.crop_size, angles[part])
        R = cameras.rotation @ rows.R
        t = np.einsum("bij,bj->bi", cameras.rotation, rows.t)
        R, t = self._canonical(rows.classes, R, t)
        keypoints3d = self.objects.keypoints[rows.classes]
        return Plan(
            rows=rows,
            inverse=affine_maps(cameras.homography),
            K=cameras.K,
            R=R,
            t=t,
            keypoints3d=keypoints3d,
            keypoints=project(keypoints3d, R, t, cameras.K),
            diameters=self.objects.diameters[rows.classes],
            draws=draws.part(part.start, part.stop),
        )

    def boxes(self, rows: Table, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Centres ``[B, 2]``, sides ``[B]`` and turns ``[B]`` of the crops (Dynamic Zoom-In, CDPN / SO-Pose)."""
        settings, chance = self.settings or AugmentSettings.none(), rng.random((len(rows), 5))
        visible = {"amodal": 0.0, "visible": 1.0, "mixed": 0.5}[settings.box]
        boxes = np.where(chance[:, :1] < visible, rows.visible, rows.amodal)
        spread, extent = 2 * chance - 1, boxes[:, 2:]
        centers = boxes[:, :2] + extent * (0.5 + settings.shift * spread[:, 1:3])
        sides = self.pad * extent.max(axis=1) * (1 + settings.scale * spread[:, 3])
        angles = np.deg2rad(settings.turn) * spread[:, 4]
        if self.settings is None:
            return centers, sides, angles
        # A shifted crop may miss what little can be seen of a hidden object; it is pulled back.
        middle, reach = rows.visible[:, :2] + rows.visible[:, 2:] / 2, _KEEP_IN_CROP * sides[:, None]
        return np.clip(centers, middle - reach, middle + reach), sides, angles

    def _canonical(self, classes: Indices, R: Array, t: Array) -> tuple[Array, Array]:
        """Of the poses that look the same, the one that stands for all."""
        R, t = R.copy(), t.copy()
        for index in np.unique(classes):
            symmetries = self.objects.symmetries[index]
            if len(symmetries) > 1:
                chosen = classes == index
                R[chosen], t[chosen] = canonical_pose(R[chosen], t[chosen], symmetries)
        return R, t


def photo_maps(chance: Array, shape: tuple[int, ...], size: int) -> Array:
    """``[r, 2, 3]`` maps from crop to photograph pixels: a square window of random side and place, maybe mirrored.

    Args:
        chance: ``[r, 4]`` uniform: side (0.4 to 1 of what fits), place x, place y, mirrored.
    """
    height, width = shape
    side = min(height, width) * (0.4 + 0.6 * chance[:, 0])
    left, top = chance[:, 1] * (width - side), chance[:, 2] * (height - side)
    mirrored = chance[:, 3] < 0.5
    maps = np.zeros((len(chance), 2, 3))
    scale = (side - 1) / (size - 1)
    maps[:, 0, 0] = np.where(mirrored, -scale, scale)
    maps[:, 0, 2] = np.where(mirrored, left + side - 1, left)
    maps[:, 1, 1], maps[:, 1, 2] = scale, top
    return maps
