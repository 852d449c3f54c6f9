"""CropView: a square crop of one instance. Each crop is a new camera, its pose and keypoints known exactly."""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.augment import AugmentSettings, Draws, hide
from posedistill.data.loading.object_view import ObjectView
from posedistill.data.loading.sampling import Indices
from posedistill.data.loading.views import Plan
from posedistill.data.packs.pack import Pack
from posedistill.geometry.cameras import Array, crop_cameras, pixel_box, project
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.surfaces import TARGET, Surfaces, strides_of
from posedistill.geometry.warp import affine_maps

_KEEP_IN_CROP = 0.45
"""The centre of the visible part stays within this share of the crop's side from the crop's centre."""


class CropView(ObjectView):
    """Crops of the instances of ``objects`` in ``packs``; poses of symmetric objects are in canonical form.

    Varied, the crops lie about the instance's box as ``settings`` say; else the box of the projected keypoints (with
    ``box: visible``, of what is visible) is centred and the side ``pad`` times the box's longer one.

    Args:
        packs: their instances are numbered through, in order; ``indices`` (from ``hold_out_frames``) selects among
            these numbers. Instances of objects outside ``objects`` are left out.
        objects: gives each object's class, keypoints, diameter and symmetries.
        crop_size: side of a crop, pixels.
        backgrounds: uint8 ``[M, h, w, 3]`` photographs for background replacement and occluders.
        surfaces: of the objects, for views that are asked for the points seen on them.

    Raises:
        RecipeError: no instance is left.
    """

    targets = frozenset({"masks", "keypoints3d", "keypoints", "diameters"})
    stream, chances = 1, 5

    def __init__(
        self,
        packs: Sequence[Pack],
        objects: ObjectTable,
        settings: AugmentSettings,
        crop_size: int,
        indices: Indices | None = None,
        backgrounds: NDArray[np.uint8] | None = None,
        pad: float = 1.5,
        surfaces: Surfaces | None = None,
    ) -> None:
        super().__init__(packs, objects, backgrounds)
        self.variation, self.varied, self.pad = settings, True, pad
        self._surfaces, self._strides = surfaces, list[int]()
        self.shape = (crop_size, crop_size)
        obj_id = self._column("obj_id")
        ids = np.arange(len(obj_id)) if indices is None else np.asarray(indices, dtype=np.int64)
        self._hold(ids[np.isin(obj_id[ids], objects.obj_ids)])
        self.frames = self._frame_column()[self.ids]
        self.K = np.concatenate([pack.K for pack in packs])[self.frames]
        self.amodal = pixel_box(project(objects.keypoints[self.label], self.R, self.t, self.K))

    def unvaried(self) -> Self:
        """Plain crops of the box that the varied ones lie about; of two kinds, of the projected keypoints."""
        plain = copy.copy(self)
        plain.variation, plain.varied = self.variation.unvaried(), False
        return plain

    def asked(self, targets: frozenset[str]) -> Self:
        """With the points that are seen on the surface, ``surface/STRIDE``, where they are among the targets."""
        strides = strides_of(targets)
        if self._surfaces is None or not strides:
            return self
        view = copy.copy(self)
        view._strides = strides
        view.targets = self.targets | {f"{TARGET}{stride}" for stride in strides}  # type: ignore[misc]
        return view

    def plan(self, units: Indices, shape: tuple[int, int], chance: Array, draws: Draws) -> Plan:
        """Crops of some instances."""
        centers, sides, angles = self.boxes(units, chance)
        cameras = crop_cameras(self.K[units], centers, sides, shape[0], angles)
        R, t, targets = self._posed(units, cameras.rotation, cameras.K)
        columns = (self.label[units], self.score[units], self.ids[units], self.slots[units])
        maps, picture = affine_maps(cameras.homography), np.arange(len(units))
        return Plan(self.frames[units], maps, cameras.K, shape, draws, picture, R, t, *columns, targets)

    def boxes(self, units: Indices, chance: Array) -> tuple[Array, Array, Array]:
        """Centres ``[B, 2]``, sides ``[B]`` and turns ``[B]`` of the crops (Dynamic Zoom-In, CDPN / SO-Pose)."""
        settings, visible = self.variation, self.visible[units]
        chance_of_visible = {"amodal": 0.0, "visible": 1.0, "mixed": 0.5}[settings.box]
        boxes = np.where(chance[:, :1] < chance_of_visible, visible, self.amodal[units])
        spread, extent = 2 * chance - 1, boxes[:, 2:]
        centers = boxes[:, :2] + extent * (0.5 + settings.shift * spread[:, 1:3])
        sides = self.pad * extent.max(axis=1) * (1 + settings.scale * spread[:, 3])
        angles = np.deg2rad(settings.turn) * spread[:, 4]
        if not self.varied:
            return centers, sides, angles
        # A shifted crop may miss what little can be seen of a hidden object; it is pulled back.
        middle, reach = visible[:, :2] + visible[:, 2:] / 2, _KEEP_IN_CROP * sides[:, None]
        return np.clip(centers, middle - reach, middle + reach), sides, angles

    def cover(self, x: Tensor, ids: Tensor | None, plan: Plan, draws: Draws) -> dict[str, Tensor]:
        """New backgrounds and occluders; ``masks`` of what is visible after that."""
        assert ids is not None
        masks = ids == pixels.move(plan.slots, x.device)[:, None, None]
        backgrounds, occluders = self._cuts(plan.draws, x.device)
        masks = hide(x, ids, masks, draws, backgrounds, occluders)
        return {"masks": masks, **{f"{TARGET}{stride}": self._seen(plan, stride, x.device) for stride in self._strides}}

    def _seen(self, plan: Plan, stride: int, device: torch.device) -> Tensor:
        assert self._surfaces is not None
        return pixels.move(self._surfaces.seen(plan.label, plan.K, plan.R, plan.t, plan.shape[0], stride), device)

    def _cuts(self, draws: Draws, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Random cuts of the photographs for the crops that get a new background, and for those with an occluder."""
        if self._photographs is None:
            return None, None
        groups = [draws.groups[name].values["photo"] for name in ("background", "photo_occlusion")]
        cuts = self._photographs.cut(torch.cat(groups), self.shape, device)
        return cuts[: len(groups[0])], cuts[len(groups[0]) :]
