"""What chance does to a batch of crops: the settings, the draw of its parameters, and the chain that applies them.

Every random parameter is drawn on the CPU from an explicit generator, one row a sample, so that a seed means the same
pictures on every device. An operation touches only the samples that were chosen for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.pixels import Group
from posedistill.data.settings import Settings

_PIXEL_CHANCES = (
    *("background", "occlusion", "grid", "light", "colour", "grey", "gamma"),
    *("blur", "motion", "sharpen", "resolution", "noise"),
)


class AugmentSettings(Settings):
    """How much crops are varied. Probabilities are per sample; lengths are shares of the crop's side.

    The default is meant for networks that must go from rendered to real images (the strength of DeepIM, CosyPose and
    GDR-Net). ``none()`` varies nothing, ``faithful()`` is the published WDRNet+ / ADLP recipe: affine changes only.
    """

    box: Literal["amodal", "visible", "mixed"] = "mixed"
    """The box a crop is cut around: that of the projected keypoints, of the visible part, or either by a coin. Crops of
    validation and calibration lie about the visible part if all others do; ``visible`` is for detectors that box it."""
    shift: float = Field(0.25, ge=0, le=0.5)
    """The crop's centre moves by up to this share of the box's width and height."""
    scale: float = Field(0.25, ge=0, le=0.5)
    """The crop's side varies by up to this share."""
    turn: float = Field(30.0, ge=0, le=180)
    """Largest turn about the optical axis, degrees."""

    background: float = Field(0.5, ge=0, le=1)
    """Probability of another photograph behind all foreground (needs backgrounds)."""
    occlusion: float = Field(0.4, ge=0, le=1)
    """Probability of one or two ellipses or rectangles in front."""
    occlusion_size: float = Field(0.35, gt=0, le=1)
    """Largest half axis of such a shape."""
    occlusion_keep: float = Field(0.3, ge=0, le=1)
    """An occlusion that would leave less than this share of the visible mask is dropped."""
    grid: float = Field(0.05, ge=0, le=1)
    """Probability of a grid of squares in front instead (GridMask, Chen et al. 2020)."""

    light: float = Field(0.4, ge=0, le=1)
    """Probability of an illumination gradient and a shadow edge."""
    light_strength: float = Field(0.5, ge=0, lt=1, description="Largest relative change by a gradient of light.")
    colour: float = Field(0.8, ge=0, le=1)
    """Probability of the changes of colour that follow."""
    brightness: float = Field(0.35, ge=0, lt=1, description="Largest relative change.")
    contrast: float = Field(0.35, ge=0, lt=1, description="Largest relative change.")
    saturation: float = Field(0.5, ge=0, le=1, description="Largest relative change.")
    hue: float = Field(20.0, ge=0, le=180)
    """Largest turn of the hue, degrees in the IQ plane."""
    channel_gain: float = Field(0.15, ge=0, lt=1, description="Largest relative change of one colour channel.")
    grey: float = Field(0.05, ge=0, le=1)
    """Probability of a grey picture."""
    gamma: float = Field(0.3, ge=0, le=1)
    """Probability of a gamma curve."""
    gamma_strength: float = Field(0.4, ge=0, lt=1)
    """Exponents lie between 1 - this and its inverse."""

    blur: float = Field(0.25, ge=0, le=1)
    """Probability of a Gaussian or box blur. Blur, motion and sharpening exclude each other."""
    blur_sigma: float = Field(0.008, gt=0, le=0.02)
    """Largest standard deviation (2 px of 256)."""
    motion: float = Field(0.15, ge=0, le=1)
    """Probability of motion blur."""
    motion_length: float = Field(0.035, gt=0, le=0.06)
    """Longest path (9 px of 256)."""
    sharpen: float = Field(0.1, ge=0, le=1)
    """Probability of an unsharp mask."""
    resolution: float = Field(0.2, ge=0, le=1)
    """Probability of a loss of resolution: scaled down and up again."""
    resolution_factor: float = Field(3.0, gt=1, le=8)
    """Largest factor; the samples of one batch share theirs."""
    noise: float = Field(0.4, ge=0, le=1)
    """Probability of sensor noise, Gaussian and shot."""
    noise_strength: float = Field(0.06, ge=0, le=0.5)
    """Largest standard deviation, where white is 1."""

    @model_validator(mode="after")
    def _exclusive(self) -> "AugmentSettings":
        for names in (("blur", "motion", "sharpen"), ("occlusion", "grid")):
            if (total := sum(getattr(self, name) for name in names)) > 1 + 1e-9:
                raise ValueError(f"{' + '.join(names)} exclude each other: found a sum of {total}, expected at most 1")
        return self

    @classmethod
    def none(cls) -> "AugmentSettings":
        """No change at all: boxes of the projected keypoints, pixels as they are."""
        return cls.faithful().model_copy(update={"shift": 0.0, "scale": 0.0, "turn": 0.0})

    def unvaried(self) -> "AugmentSettings":
        """No change of the box that all crops are cut around, if it is one kind; else as :meth:`none`."""
        return self.none().model_copy(update={"box": "visible" if self.box == "visible" else "amodal"})

    @classmethod
    def faithful(cls) -> "AugmentSettings":
        """The published recipe: shifted, scaled and turned crops, no change of pixels."""
        return cls(box="amodal", turn=10.0, **dict.fromkeys(_PIXEL_CHANCES, 0.0))


@dataclass(frozen=True)
class Draws:
    """The random parameters of one batch, those of each operation in a group."""

    groups: Mapping[str, Group]
    resolution_factor: float = 1.0
    occlusion_keep: float = 0.0

    def part(self, start: int, stop: int) -> "Draws":
        """The draws of samples ``start`` to ``stop``, numbered from 0."""
        return replace(self, groups={name: group.part(start, stop) for name, group in self.groups.items()})

    def to(self, device: torch.device) -> "Draws":
        """The same draws on a device, copied without waiting for it."""
        return replace(self, groups={name: group.to(device) for name, group in self.groups.items()})


class _Chance:
    """Uniform numbers, one row a sample."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator

    def __call__(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, generator=self.generator)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * self(*shape)


def draw(settings: AugmentSettings, count: int, size: int, generator: torch.Generator) -> Draws:
    """Draw all parameters of a batch of ``count`` crops of side ``size``.

    The same numbers are drawn whatever the settings, so that changing one strength changes nothing else.
    """
    chance = _Chance(count, generator)
    in_front, both = chance(), settings.occlusion + settings.grid
    is_hidden, is_grid = in_front < settings.occlusion, (in_front >= settings.occlusion) & (in_front < both)
    chosen_values = {
        "background": (chance() < settings.background, {"photo": chance(5)}),
        "occlusion": (is_hidden, _occluders(settings, chance)),
        "grid": (is_grid, _occluders(settings, chance)),
        "photo_occlusion": (is_hidden & (chance() < 0.5), {"photo": chance(5)}),
        "light": (chance() < settings.light, _lights(settings, chance)),
        "colour": _colours(settings, chance),
        "gamma": (chance() < settings.gamma, {"exponent": _exponents(settings.gamma_strength, chance)}),
        "filter": _filters(settings, chance, size),
        "resolution": (chance() < settings.resolution, {}),
        "noise": (chance() < settings.noise, {"sigma": settings.noise_strength * chance(2) ** 2, "offset": chance()}),
    }
    factor = 1.3 + (settings.resolution_factor - 1.3) * float(torch.rand((), generator=generator))
    groups = {}
    for name, (chosen, values) in chosen_values.items():
        rows = torch.nonzero(chosen).flatten()
        groups[name] = Group(rows, {key: value[rows] for key, value in values.items()})
    return Draws(groups, max(factor, 1.0), settings.occlusion_keep)


def _occluders(settings: AugmentSettings, chance: _Chance) -> dict[str, Tensor]:
    """Two shapes a sample; the second is absent (half axis 0) in half of the samples."""
    half = chance.between(0.15, 1.0, 2, 2) * settings.occlusion_size
    half[:, 1] *= (chance(1) < 0.5).float()
    return {
        "centre": chance.between(0.1, 0.9, 2, 2),
        "half": half,
        "angle": chance.between(0, math.pi, 2),
        "round": chance(2) < 0.5,
        "period": chance.between(0.08, 0.3),
        "duty": chance.between(0.3, 0.55),
        "tint": chance(3),
        "contrast": torch.where(chance() < 0.3, 0.0, chance.between(0.3, 1.5)),
        "texture": chance(),
    }


def _lights(settings: AugmentSettings, chance: _Chance) -> dict[str, Tensor]:
    """A linear gradient and a shadow behind a soft straight edge, in coordinates -1..1."""
    angles = chance.between(0, 2 * math.pi, 2)
    return {
        "gradient": _direction(angles[:, 0]) * (settings.light_strength * chance(1)),
        "edge": _direction(angles[:, 1]) / chance.between(0.02, 0.4, 1),
        "distance": chance.between(-0.8, 0.8),
        "shadow": settings.light_strength * chance() * (chance() < 0.6),
    }


def _direction(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def _colours(settings: AugmentSettings, chance: _Chance) -> tuple[Tensor, dict[str, Tensor]]:
    """Brightness, contrast, saturation, hue, gain of channels and grey as one affine map of RGB."""
    on, grey = (chance() < settings.colour).float(), chance() < settings.grey
    brightness, contrast, saturation = (
        1 + on * strength * chance.between(-1, 1)
        for strength in (settings.brightness, settings.contrast, settings.saturation)
    )
    hue = on * math.radians(settings.hue) * chance.between(-1, 1)
    gain = 1 + on[:, None] * settings.channel_gain * chance.between(-1, 1, 3)
    saturation = torch.where(grey, 0.0, saturation)
    matrix, offset = pixels.colour_map(brightness, contrast, saturation, hue, gain)
    return (on > 0) | grey, {"matrix": matrix, "offset": offset}


def _exponents(strength: float, chance: _Chance) -> Tensor:
    return torch.exp(-math.log(1 - strength) * chance.between(-1, 1))


def _filters(settings: AugmentSettings, chance: _Chance, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """One small convolution kernel a sample: a blur, a motion blur or an unsharp mask."""
    pick, strength, angle, boxy = chance(), chance(), chance.between(0, math.pi), chance() < 0.3
    sigma = size * settings.blur_sigma * strength.clamp(min=0.15)
    length = size * settings.motion_length * strength.clamp(min=0.2)
    radius = math.ceil(max(2 * size * settings.blur_sigma, size * settings.motion_length / 2))
    blurred = torch.where(
        boxy[:, None, None], pixels.box_kernels(2 * sigma, radius), pixels.gaussian_kernels(sigma, radius)
    )
    sharp = pixels.unsharp_kernels(0.3 + 1.2 * strength, size / 256, radius)
    is_blur = (pick < settings.blur)[:, None, None]
    is_motion = (pick < settings.blur + settings.motion)[:, None, None]
    kernels = torch.where(is_motion, pixels.motion_kernels(length, angle, radius), sharp)
    kernels = torch.where(is_blur, blurred, kernels)
    return pick < settings.blur + settings.motion + settings.sharpen, {"kernel": kernels}


def hide(
    x: Tensor,
    ids: Tensor,
    masks: Tensor,
    draws: Draws,
    backgrounds: Tensor | None = None,
    occluders: Tensor | None = None,
) -> Tensor:
    """Put other things behind and before the object of each crop, as drawn, in place.

    Args:
        x: float32 planes ``[B, 3, S, S]`` in 0..1. ids: uint8 ``[B, S, S]``, above 0 where there is foreground.
        masks: bool ``[B, S, S]`` visible mask of each crop's object. draws: on the same device.
        backgrounds: uint8 ``[r, S, S, 3 or 4]``, one for each row of the background group; None leaves them alone.
        occluders: uint8 ``[r, S, S, 3 or 4]``, one for each row of the photo_occlusion group; None fills with textures.

    Returns:
        The masks less what is now occluded.
    """
    groups = draws.groups
    if backgrounds is not None and len(backgrounds):
        pixels.replace_background(x, ids, groups["background"].rows, backgrounds)
    photos = None if occluders is None else (groups["photo_occlusion"].rows, occluders)
    masks = pixels.occlude(x, masks, groups["occlusion"], pixels.blobs, draws.occlusion_keep, photos)
    return pixels.occlude(x, masks, groups["grid"], pixels.grid, draws.occlusion_keep)


def vary(x: Tensor, draws: Draws) -> None:
    """Change light, colour, sharpness and noise of planes ``[B, 3, H, W]`` in 0..1 as drawn, in place."""
    groups = draws.groups
    pixels.shade(x, groups["light"])
    pixels.recolour(x, groups["colour"])
    pixels.curve(x, groups["gamma"])
    pixels.convolve(x, groups["filter"])
    pixels.lose_resolution(x, groups["resolution"], draws.resolution_factor)
    pixels.add_noise(x, groups["noise"])
