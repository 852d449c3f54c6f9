"""SceneView: a crop of a photograph. Each crop and turn is a new camera at the same place, its pose known exactly."""

import copy
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.augment import AugmentSettings, Draws
from posedistill.data.loading.sampling import Indices
from posedistill.data.loading.views import Plan, ViewPolicy
from posedistill.data.packs.pack import Pack
from posedistill.data.settings import Settings
from posedistill.errors import DataError, RecipeError, describe
from posedistill.geometry.cameras import Array, CropCameras
from posedistill.geometry.photographs import middle_crop
from posedistill.geometry.rotations import axis_angle, rotation_onto
from posedistill.geometry.warp import warp


class ViewSettings(Settings):
    """How photographs are varied in training. Probabilities are per picture.

    A network that sees no intrinsics can only learn from pictures of one camera. A crop beside the middle is taken by
    another one: ``turned`` re-projects it to the camera of the middle crop, turned about its centre to where the crop
    lies, and turns the label along. ``shifted`` cuts it as it is, which keeps the label and moves the principal point:
    the published way, an error of up to 16 degrees in what a network that knows no intrinsics is taught.
    """

    crops: Literal["turned", "shifted"] = Field(
        "turned",
        description="turned: exact views of a turned camera; shifted: cuts out of the picture, as was published.",
    )
    reach: float = Field(1.0, ge=0, le=1)
    """How far crops lie from the middle, as a share of the room that the frame leaves."""
    roll: float = Field(5.0, ge=0, le=180)
    """Largest turn about the optical axis, degrees; the label turns along."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Focal lengths between which views are zoomed, in those of the photograph; for networks that are told intrinsics
    or need none."""

    colour: float = Field(0.8, ge=0, le=1)
    """Probability of the changes of colour that follow."""
    brightness: float = Field(0.3, ge=0, lt=1, description="Largest relative change.")
    contrast: float = Field(0.3, ge=0, lt=1, description="Largest relative change.")
    saturation: float = Field(0.3, ge=0, le=1, description="Largest relative change.")
    hue: float = Field(10.0, ge=0, le=180)
    """Largest turn of the hue, degrees."""
    channel_gain: float = Field(0.1, ge=0, lt=1, description="Largest relative change of one colour channel.")
    gamma: float = Field(0.2, ge=0, le=1)
    """Probability of a gamma curve."""
    gamma_strength: float = Field(0.3, ge=0, lt=1, description="Largest change of the exponent's logarithm.")
    blur: float = Field(0.1, ge=0, le=1)
    """Probability of a blur out of focus. Blur and motion exclude each other."""
    motion: float = Field(0.1, ge=0, le=1)
    """Probability of a motion blur."""
    noise: float = Field(0.2, ge=0, le=1)
    """Probability of sensor noise."""
    noise_strength: float = Field(0.04, ge=0, le=0.5, description="Largest sigma, of a range of 1.")
    silent: ClassVar[frozenset[str]] = frozenset({"zoom"})

    @model_validator(mode="after")
    def _possible(self) -> "ViewSettings":
        if self.blur + self.motion > 1:
            raise ValueError(
                f"found blur + motion {self.blur + self.motion}, expected at most 1: they exclude each other"
            )
        if not 0.2 <= self.zoom[0] <= self.zoom[1] <= 5:
            raise ValueError(f"found zoom {list(self.zoom)}, expected two numbers of 0.2 to 5, the smaller one first")
        return self

    @classmethod
    def published(cls) -> "ViewSettings":
        """Random crops with the label of the whole frame; no other change."""
        unchanged = dict.fromkeys(("colour", "gamma", "blur", "motion", "noise"), 0.0)
        return cls(crops="shifted", roll=0.0, **unchanged)

    @classmethod
    def none(cls) -> "ViewSettings":
        """The middle crop as it is."""
        return cls.published().model_copy(update={"reach": 0.0})

    def pixels(self) -> AugmentSettings:
        """The changes of pixels, in the words of crops of objects."""
        shared = AugmentSettings.model_fields.keys() & type(self).model_fields.keys()
        return AugmentSettings.none().model_copy(update={name: getattr(self, name) for name in shared})


class SceneView(ViewPolicy):
    """Crops of the photographs in a pack: at random places and turned as ``settings`` say, or else of the middle.

    Args:
        size: of the pictures, pixels: the side of a square, (height, width), or None for whole frames.
        indices: instances of the pack (from ``hold_out_blocks``); all where None.
        mean_image: ``[H, W, 3]`` in 0..255 of the whole frames; it is subtracted in the place of the ImageNet
            normalisation, and nothing is divided: the published preprocessing.
        novel: as many views of each photograph of the pack, one photograph after the other (``NovelViews``), of which
            a varied picture is one with the probability ``share``.

    Raises:
        RecipeError: no photograph.
        DataError: frames smaller than the crop, or of several sizes where they must have one.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"places"})
    stream = 4

    def __init__(
        self,
        pack: Pack,
        settings: ViewSettings,
        size: int | tuple[int, int] | None,
        indices: Indices | None = None,
        mean_image: NDArray[np.float32] | None = None,
        novel: Pack | None = None,
        share: float = 0.0,
    ) -> None:
        self.pack, self.packs = pack, [pack] if novel is None else [pack, novel]
        self.settings, self.variation, self.share = settings, settings.pixels(), share
        self.chances = (3 if settings.zoom[0] == settings.zoom[1] else 4) + (novel is not None)
        self.ids = np.arange(len(pack)) if indices is None else np.asarray(indices, dtype=np.int64)
        if not len(self.ids):
            raise RecipeError(describe("recipe", "data", "no frame", "at least one"))
        self.frames = pack.instances.frame[self.ids]
        self._sizes, self._K = (np.concatenate([getattr(part, name) for part in self.packs]) for name in ("sizes", "K"))
        self._R, self._t = (np.concatenate([getattr(part.instances, name) for part in self.packs]) for name in "Rt")
        self.shape = _shape(pack, self.frames, size)
        if mean_image is not None and mean_image.shape != (*pack.one_size("mean image"), 3):
            expected = f"{[*pack.one_size('mean image'), 3]}, as the frames have"
            raise DataError(describe("mean image", "shape", list(mean_image.shape), expected))
        self.mean_image = mean_image

    def unvaried(self) -> Self:
        """The middle crop as it is."""
        plain = copy.copy(self)
        plain.settings, plain.variation, plain.share = ViewSettings.none(), ViewSettings.none().pixels(), 0.0
        return plain

    def plan(self, units: Indices, shape: tuple[int, int], chance: Array, draws: Draws) -> Plan:
        """Views of some photographs."""
        ids, frames, picture = self.ids[units], self._frames(units, chance[:, -1]), np.arange(len(units))
        sizes, K, R, t = self._sizes[frames], self._K[frames], self._R[frames], self._t[frames]
        cameras = place_views(K, sizes, shape, self.settings, chance)
        R, t = cameras.rotation @ R, np.einsum("bij,bj->bi", cameras.rotation, t)
        columns = (np.zeros_like(ids), self.pack.instances.score[ids], ids, self.pack.instances.slot[ids])
        maps = np.linalg.inv(cameras.homography).astype(np.float64)
        shares = frame_shares(sizes) @ maps
        return Plan(frames, maps, cameras.K, shape, draws, picture, R, t, *columns, {"places": shares})

    def _frames(self, units: Indices, chance: Array) -> Indices:
        """The photograph of each unit, or one of its novel views; numbered through both packs."""
        own = self.frames[units]
        if not self.share:
            return own
        each = len(self.packs[1].frames) // len(self.pack.frames)
        novel = len(self.pack.frames) + own * each + (chance / self.share * each).astype(np.int64)
        return np.where(chance < self.share, novel, own)

    def normalise(self, x: Tensor, plan: Plan) -> Tensor:
        """By the ImageNet statistics, or by the mean image under the same view."""
        if self.mean_image is None:
            return super().normalise(x, plan)
        means = np.empty((len(plan.maps), *self.shape, 3), dtype=np.float32)
        warp([self.mean_image] * len(means), plan.maps, means)
        return x.clamp_(0, 1).mul_(255).sub_(pixels.move(means, x.device).permute(0, 3, 1, 2))

    def mean_crop(self) -> NDArray[np.float32] | None:
        """``[H, W, 3]`` of the mean image where the middle crop lies; None where none is subtracted."""
        return None if self.mean_image is None else middle_crop(self.mean_image, self.shape)


def _shape(pack: Pack, frames: Indices, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the pictures."""
    if size is None:
        return pack.one_size("whole frames")
    shape = (size, size) if isinstance(size, int) else size
    small = frames[(pack.sizes[frames] < shape).any(axis=1)]
    if len(small):
        height, width = pack.sizes[small[0]]
        expected = f"{shape[0]}x{shape[1]} (height x width) at least: a larger pack, or a smaller crop"
        raise DataError(describe(pack.images[small[0]], "scaled size", f"{height}x{width}", expected))
    return shape


def place_views(
    K: Array, sizes: NDArray[np.int64], shape: tuple[int, int], settings: ViewSettings, chance: Array
) -> CropCameras:
    """The cameras of views of ``shape`` (height, width), at places drawn by ``chance``: turned, never moved.

    Args:
        K: ``[B, 3, 3]`` of the frames. sizes: ``[B, 2]`` their heights and widths. chance: ``[B, 3]`` uniform in 0..1:
            column, row and roll of each view; ``[B, 4]`` with its zoom.
    """
    room = (sizes - shape)[:, ::-1].astype(np.float64)
    middle = np.floor(room / 2 + 0.5)
    corner = middle + settings.reach * (np.floor(chance[:, :2] * (room + 1)) - middle)
    turn = np.deg2rad(settings.roll) * (2 * chance[:, 2] - 1)
    rotation = axis_angle(np.array([0.0, 0.0, 1.0]), turn)
    if settings.crops == "turned":
        half = (np.array(shape[::-1]) - 1) / 2
        rotation = rotation @ rotation_onto(_rays(K, corner + half), _rays(K, middle + half))
        corner = middle
    else:
        corner = np.floor(corner + 0.5)
    K_view = K.copy()
    K_view[:, :2, 2] -= corner
    low, high = settings.zoom
    zoom = np.full(len(K), low) if low == high else low * (high / low) ** chance[:, 3]
    K_view[:, :2, :2] *= zoom[:, None, None]
    return CropCameras(K_view @ rotation @ np.linalg.inv(K), K_view, rotation)


def frame_shares(sizes: NDArray[np.int64]) -> Array:
    """``[B, 3, 3]`` from pixels of frames of ``sizes`` (height, width) to shares of them, the outer edges at 0 and 1.

    >>> frame_shares(np.array([[2, 4]]))[0] @ [3.5, -0.5, 1.0]
    array([1., 0., 1.])
    """
    shares = np.tile(np.eye(3), (len(sizes), 1, 1))
    height, width = sizes.T
    shares[:, 0, 0], shares[:, 1, 1] = 1 / width, 1 / height
    shares[:, 0, 2], shares[:, 1, 2] = 0.5 / width, 0.5 / height
    return shares


def _rays(K: Array, pixels: Array) -> Array:
    """``[B, 3]`` directions of pixels ``[B, 2]``."""
    ends = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    return np.einsum("bij,bj->bi", np.linalg.inv(K), ends)
