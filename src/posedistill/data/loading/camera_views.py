"""Views of a photograph: each crop and each turn is a new camera at the same place, its pose known exactly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from posedistill.data.loading.augment import AugmentSettings
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import axis_angle, rotation_onto


class ViewSettings(BaseModel):
    """How photographs are varied in training. Probabilities are per picture.

    A network that sees no intrinsics can only learn from pictures of one camera. A crop beside the middle is taken by
    another one: ``turned`` re-projects it to the camera of the middle crop, turned about its centre to where the crop
    lies, and turns the label along. ``shifted`` cuts it as it is, which keeps the label and moves the principal point:
    the published way, an error of up to 16 degrees in what a network that knows no intrinsics is taught.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crops: Literal["turned", "shifted"] = "turned"
    reach: float = Field(1.0, ge=0, le=1)
    """How far crops lie from the middle, as a share of the room that the frame leaves."""
    roll: float = Field(5.0, ge=0, le=180)
    """Largest turn about the optical axis, degrees; the label turns along."""

    colour: float = Field(0.8, ge=0, le=1)
    """Probability of the changes of colour that follow."""
    brightness: float = Field(0.3, ge=0, lt=1)
    contrast: float = Field(0.3, ge=0, lt=1)
    saturation: float = Field(0.3, ge=0, le=1)
    hue: float = Field(10.0, ge=0, le=180)
    """Largest turn of the hue, degrees."""
    channel_gain: float = Field(0.1, ge=0, lt=1)
    gamma: float = Field(0.2, ge=0, le=1)
    """Probability of a gamma curve."""
    gamma_strength: float = Field(0.3, ge=0, lt=1)
    blur: float = Field(0.1, ge=0, le=1)
    """Probability of a blur out of focus. Blur and motion exclude each other."""
    motion: float = Field(0.1, ge=0, le=1)
    """Probability of a motion blur."""
    noise: float = Field(0.2, ge=0, le=1)
    """Probability of sensor noise."""
    noise_strength: float = Field(0.04, ge=0, le=0.5)

    @model_validator(mode="after")
    def _exclusive(self) -> "ViewSettings":
        if self.blur + self.motion > 1:
            raise ValueError(
                f"found blur + motion {self.blur + self.motion}, expected at most 1: they exclude each other"
            )
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


@dataclass(frozen=True)
class Views:
    """The cameras of ``B`` views.

    Attributes:
        maps: ``[B, 3, 3]`` view pixels to frame pixels.
        K: ``[B, 3, 3]`` of the view's camera. rotation: ``[B, 3, 3]`` frame's camera to view's camera: a pose ``R, t``
            becomes ``rotation @ R, rotation @ t``, and the camera's centre stays where it is.
    """

    maps: Array
    K: Array
    rotation: Array


def plan_views(
    K: Array, sizes: NDArray[np.int64], shape: tuple[int, int], settings: ViewSettings, chance: Array
) -> Views:
    """The cameras of views of ``shape`` (height, width), at places drawn by ``chance``.

    Args:
        K: ``[B, 3, 3]`` of the frames. sizes: ``[B, 2]`` their heights and widths. chance: ``[B, 3]`` uniform in 0..1:
            column, row and roll of each view.
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
    return Views(np.linalg.inv(K_view @ rotation @ np.linalg.inv(K)), K_view, rotation)


def _rays(K: Array, pixels: Array) -> Array:
    """``[B, 3]`` directions of pixels ``[B, 2]``."""
    ends = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    return np.einsum("bij,bj->bi", np.linalg.inv(K), ends)
