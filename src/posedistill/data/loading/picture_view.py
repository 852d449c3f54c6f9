"""PictureView: whole frames with all their instances, squeezed to the network's size. Each is a new camera, exactly."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.augment import AugmentSettings, Draws
from posedistill.data.loading.object_view import ObjectView
from posedistill.data.loading.photographs import CHANCES
from posedistill.data.loading.pixels import Group
from posedistill.data.loading.sampling import Indices
from posedistill.data.loading.views import Plan
from posedistill.data.packs.pack import Pack
from posedistill.data.settings import Settings
from posedistill.geometry.cameras import Array, CropCameras, picture_cameras, pixel_box
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.warp import affine_maps

STRIDE = 32
"""Sides of pictures are multiples of it."""
KEEP = 0.25
"""An instance stays in a picture that shows at least this share of its visible part's box."""
MARGIN = 0.2
"""Of a window's sides: the middle of its instance keeps so far from its border, but where the picture ends."""
Side = Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)]
PictureSize = Side | tuple[Side, Side]
"""Of both sides, or [height, width]."""


class PictureSettings(Settings):
    """How whole frames are shown to a network. Probabilities are per picture.

    Nothing is ever mirrored: the mirror image of an object has no pose. ``faithful()`` is the published recipe of
    single-shot pose (Tekin et al., CVPR 2018): another background always, jitter, hue, saturation and exposure.
    """

    size: PictureSize = 416
    """Side of the network's input, or [height, width]: what is validated, tested and shipped."""
    resolutions: tuple[Side, Side] | Literal["published"] | None = None
    """Smallest and largest longer side of the batches in training, or the published ladder (of one object, or of
    several), which widens with the epochs; null: always ``size``."""

    window: PictureSize | None = None
    """Side, or [height, width], of the part of each picture that a training step sees, about one of its instances;
    null: all of it. Where objects are small most of a picture teaches little, and costs as much."""

    jitter: float = Field(0.2, ge=0, le=0.45)
    """Each edge moves in or out by up to this share of the frame, which shifts, scales and squeezes it."""
    turn: float = Field(15.0, ge=0, le=180)
    """Largest turn about the optical axis, degrees."""
    background: float = Field(0.8, ge=0, le=1)
    """Probability of another photograph behind all foreground."""
    negatives: float = Field(0.1, ge=0, lt=1)
    """Share of pictures that show such a photograph and nothing else."""

    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest change of hue, in whole turns."""
    saturation: float = Field(1.5, ge=1, le=4)
    """Largest factor of the saturation, and its inverse the smallest."""
    exposure: float = Field(1.5, ge=1, le=4)
    """Likewise of the brightness."""

    light: float = Field(0.3, ge=0, le=1)
    """Probability of an illumination gradient and a shadow edge."""
    light_strength: float = Field(0.4, ge=0, lt=1, description="Largest relative change by a gradient of light.")
    gamma: float = Field(0.2, ge=0, le=1)
    """Probability of a gamma curve."""
    gamma_strength: float = Field(0.3, ge=0, lt=1, description="Largest change of the exponent's logarithm.")
    blur: float = Field(0.1, ge=0, le=1)
    """Probability of a blur out of focus. Blur and motion exclude each other."""
    motion: float = Field(0.1, ge=0, le=1)
    """Probability of a motion blur."""
    noise: float = Field(0.3, ge=0, le=1)
    """Probability of sensor noise."""
    noise_strength: float = Field(0.05, ge=0, le=0.5, description="Largest sigma, of a range of 1.")

    @model_validator(mode="after")
    def _possible(self) -> "PictureSettings":
        if self.blur + self.motion > 1:
            raise ValueError(
                f"found blur + motion {self.blur + self.motion}, expected at most 1: they exclude each other"
            )
        if isinstance(self.resolutions, tuple) and self.resolutions[0] > self.resolutions[1]:
            raise ValueError(f"found resolutions {list(self.resolutions)}, expected the smaller one first")
        if (window := self.window_shape) is not None:
            if self.resolutions is not None:
                raise ValueError("found window and resolutions, expected one of them: windows are of one size")
            if window[0] > self.shape[0] or window[1] > self.shape[1]:
                raise ValueError(f"found window {list(window)}, expected one within pictures of {list(self.shape)}")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def window_shape(self) -> tuple[int, int] | None:
        """Height and width of the part that a training step sees, where that is not all."""
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    @classmethod
    def faithful(cls, **changes: Any) -> "PictureSettings":
        """The published recipe, at one size."""
        unchanged = dict.fromkeys(("turn", "negatives", "light", "gamma", "blur", "motion", "noise"), 0.0)
        return cls(**{"background": 1.0} | unchanged | changes)

    def plain(self) -> "PictureSettings":
        """The same size without any change: what validation looks at."""
        quiet = {"background": 0.0, "jitter": 0.0, "hue": 0.0, "saturation": 1.0, "exposure": 1.0}
        return self.faithful(size=self.size, **quiet)

    def pixels(self) -> AugmentSettings:
        """The other changes of pixels, in the words of crops of objects, which fill less of a picture."""
        shared = ("light", "light_strength", "gamma", "gamma_strength", "blur", "motion", "noise", "noise_strength")
        sizes = {"blur_sigma": 0.004, "motion_length": 0.015}
        return AugmentSettings.none().model_copy(update={name: getattr(self, name) for name in shared} | sizes)


class PictureView(ObjectView):
    """The frames of ``packs`` that hold any of the chosen instances, whole, with all instances of ``objects`` in them.

    Poses of symmetric objects are in canonical form. Instances come ordered by picture.

    Args:
        packs: their instances are numbered through, in order. indices: (from ``hold_out_frames``) chooses among them.
        others: frames besides, numbered through all packs, that show none of the objects.
        backgrounds: uint8 ``[M, h, w, 3]`` photographs to put behind objects, and to show alone.

    Raises:
        RecipeError: no instance is left.
    """

    targets = frozenset({"keypoints3d", "keypoints", "diameters"})
    stream, chances = 5, 14 + CHANCES

    def __init__(
        self,
        packs: Sequence[Pack],
        objects: ObjectTable,
        settings: PictureSettings,
        indices: Indices | None = None,
        backgrounds: NDArray[np.uint8] | None = None,
        others: Indices | None = None,
    ) -> None:
        super().__init__(packs, objects, backgrounds)
        self.settings, self.shape, self.variation = settings, settings.shape, settings.pixels()
        frame, learned = self._frame_column(), np.isin(self._column("obj_id"), objects.obj_ids)
        chosen = learned if indices is None else learned & np.isin(np.arange(len(learned)), indices)
        shown = np.unique(frame[chosen])
        ids = np.flatnonzero(learned & np.isin(frame, shown))
        self._hold(ids[np.argsort(frame[ids], kind="stable")])
        empty = np.empty(0, np.int64) if others is None else np.asarray(others, dtype=np.int64)
        self.frames = np.concatenate([shown, empty])
        # Rows of a unit's instances: from its first one, as many as it has.
        self._first = np.searchsorted(frame[self.ids], self.frames)
        self._count = np.searchsorted(frame[self.ids], self.frames, side="right") - self._first
        self.K, self.sizes = (np.concatenate([getattr(p, name) for p in packs])[self.frames] for name in ("K", "sizes"))

    def unvaried(self) -> Self:
        """Whole frames as they are, at the network's size."""
        same = copy.copy(self)
        same.settings = self.settings.plain()  # which has no window
        same.variation = same.settings.pixels()
        return same

    def shape_of(self, epoch: int, chance: float) -> tuple[int, int]:
        """One of the resolutions, in the proportions of the network's input."""
        resolutions = self.settings.resolutions
        if resolutions is None:
            return self.shape
        low, high = ladder(epoch, len(self.objects) > 1) if resolutions == "published" else resolutions
        side = low + STRIDE * int(chance * ((high - low) // STRIDE + 1))
        height, width = (max(round(side * length / max(self.shape) / STRIDE), 1) * STRIDE for length in self.shape)
        return height, width

    def plan(self, units: Indices, shape: tuple[int, int], chance: Array, draws: Draws) -> Plan:
        """Pictures of some frames."""
        settings, spread = self.settings, 2 * chance - 1
        edges, turns = settings.jitter * spread[:, :4], np.deg2rad(settings.turn) * spread[:, 4]
        cameras = picture_cameras(self.K[units], self.sizes[units], shape, edges, turns)
        alone = (chance[:, 5] < settings.negatives) & (self._photographs is not None)
        groups = {**draws.groups, **self._groups(chance, alone)}
        picture, rows = self._instances(units, alone)
        if (window := settings.window_shape) is not None:
            cameras = self._windows(cameras, shape, window, picture, rows, chance[:, 11:14])
            shape = window
        inside = shown_share(cameras.homography[picture], self.visible[rows], shape) >= KEEP
        picture, rows = picture[inside], rows[inside]
        R, t, targets = self._posed(rows, cameras.rotation[picture], cameras.K[picture])
        of_pictures = (self.frames[units], affine_maps(cameras.homography), cameras.K, shape)
        columns = (self.label[rows], self.score[rows], self.ids[rows], self.slots[rows])
        return Plan(*of_pictures, replace(draws, groups=groups), picture, R, t, *columns, targets)

    def _instances(self, units: Indices, alone: NDArray[np.bool_]) -> tuple[Indices, Indices]:
        """In which picture each instance is, and its row; pictures of a photograph ``alone`` have none."""
        counts = np.where(alone, 0, self._count[units])
        picture = np.repeat(np.arange(len(units)), counts)
        place = np.arange(len(picture)) - (np.cumsum(counts) - counts)[picture]
        return picture, self._first[units][picture] + place

    def _windows(
        self,
        cameras: CropCameras,
        shape: tuple[int, int],
        window: tuple[int, int],
        picture: Indices,
        rows: Indices,
        chance: Array,
    ) -> CropCameras:
        """The cameras of windows in pictures of ``shape``: each shows the middle of an instance's visible box.

        Of pictures without instances any part; none reaches beyond its picture. ``chance`` ``[P, 3]`` chooses the
        instance and places the window.
        """
        inner, outer = np.array(window[::-1]), np.array(shape[::-1])
        corner = chance[:, 1:] * (outer - inner)
        counts = np.bincount(picture, minlength=len(chance))
        shown = np.flatnonzero(counts)
        first = np.cumsum(counts) - counts
        chosen = first[shown] + (chance[shown, 0] * counts[shown]).astype(np.int64)
        boxes, H = self.visible[rows[chosen]], cameras.homography[shown]
        middle = np.einsum("pij,pj->pi", H[:, :2, :2], boxes[:, :2] + boxes[:, 2:] / 2) + H[:, :2, 2]
        corner[shown] = np.clip(middle - (MARGIN + (1 - 2 * MARGIN) * chance[shown, 1:]) * inner, 0, outer - inner)
        shift = np.tile(np.eye(3), (len(chance), 1, 1))
        shift[:, :2, 2] = -corner
        return CropCameras(shift @ cameras.homography, shift @ cameras.K, cameras.rotation)

    def _groups(self, chance: Array, alone: NDArray[np.bool_]) -> dict[str, Group]:
        """What chance does to hue, saturation and brightness, and to what is behind the objects."""
        settings = self.settings
        behind = (alone | (chance[:, 6] < settings.background)) & (self._photographs is not None)
        hue = settings.hue * (2 * chance[:, 7] - 1)
        saturation = _factor(settings.saturation, chance[:, 8])
        value = _factor(settings.exposure, chance[:, 9])
        changed = np.flatnonzero((hue != 0) | (saturation != 1) | (value != 1))
        hsv = {"hue": hue, "saturation": saturation, "value": value}
        return {
            "behind": _group(np.flatnonzero(behind), {"photo": chance[:, -CHANCES:]}),
            "alone": _group(np.flatnonzero(alone), {}),
            "hsv": _group(changed, hsv),
        }

    def cover(self, x: Tensor, ids: Tensor | None, plan: Plan, draws: Draws) -> dict[str, Tensor]:
        """Other backgrounds, photographs alone, and other colours."""
        assert ids is not None
        groups = draws.groups
        if self._photographs is not None and len(groups["behind"].rows):
            cuts = self._photographs.cut(plan.draws.groups["behind"].values["photo"], plan.shape, x.device)
            ids.index_fill_(0, groups["alone"].rows, 0)
            pixels.replace_background(x, ids, groups["behind"].rows, cuts)
        pixels.change_hsv(x, groups["hsv"])
        return {}


def ladder(epoch: int, several: bool = False) -> tuple[int, int]:
    """Smallest and largest side of the published schedule of resolutions, for one object or for ``several``.

    >>> [ladder(epoch) for epoch in (0, 10, 35, 500)]
    [(416, 416), (416, 640), (352, 704), (224, 832)]
    >>> [ladder(epoch, several=True) for epoch in (19, 20, 40, 60, 500)]
    [(416, 416), (416, 512), (384, 544), (352, 576), (320, 608)]
    """
    first = 512 if several else 640
    rung = min(epoch // 20, 4) if several else min(epoch // 10, 7)
    return (416, 416) if rung == 0 else (416 - STRIDE * (rung - 1), first + STRIDE * (rung - 1))


def shown_share(homography: Array, boxes: Array, shape: tuple[int, int]) -> Array:
    """``[I]`` which part of boxes ``[I, 4]`` (x, y, width, height) of frames lies inside of pictures of ``shape``.

    Args:
        homography: ``[I, 3, 3]`` affine, frame to picture pixels.

    >>> shown_share(np.eye(3)[None], np.array([[-10.5, 5.0, 20.0, 20.0]]), (100, 100)).tolist()
    [0.5]
    """
    corners = boxes[:, None, :2] + boxes[:, None, 2:] * [[0, 0], [0, 1], [1, 0], [1, 1]]
    placed = corners @ homography[:, :2, :2].swapaxes(1, 2) + homography[:, None, :2, 2]
    whole = pixel_box(placed)
    seen = pixel_box(np.clip(placed, -0.5, np.array(shape[::-1]) - 0.5))
    share: Array = (seen[:, 2] * seen[:, 3]) / np.maximum(whole[:, 2] * whole[:, 3], 1e-9)
    return share


def _factor(largest: float, chance: Array) -> Array:
    """A factor of 1 to ``largest`` or, as often, its inverse: uniform numbers ``[B]`` in 0..1 to factors."""
    factor = 1 + (largest - 1) * np.abs(2 * chance - 1)
    return np.where(chance < 0.5, 1 / factor, factor)


def _group(rows: Indices, values: dict[str, Array]) -> Group:
    """The chosen rows with their values, as tensors."""
    chosen = torch.as_tensor(rows, dtype=torch.int64)
    return Group(chosen, {name: torch.as_tensor(value, dtype=torch.float32)[chosen] for name, value in values.items()})
