"""Batched changes of pixels, in place on float32 planes ``[B, 3, S, S]`` in 0..1, each on its chosen rows only.

No loop over samples and no host synchronisation: what is chosen and how strongly was drawn beforehand on the CPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics of RGB in 0..1."""
MID_GREY = 0.45
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_TEXTURE = 1024
_NOISE = 1 << 21
_STEP = 1024


@dataclass(frozen=True)
class Group:
    """The samples chosen for one operation, int64 ``[r]``, and its parameters by name, ``[r, ...]`` each."""

    rows: Tensor
    values: Mapping[str, Tensor]

    def part(self, start: int, stop: int) -> "Group":
        """Of samples ``start`` to ``stop``, numbered from 0."""
        inside = (self.rows >= start) & (self.rows < stop)
        return Group(self.rows[inside] - start, {key: value[inside] for key, value in self.values.items()})

    def to(self, device: torch.device) -> "Group":
        """The same on a device."""
        return Group(move(self.rows, device), {key: move(value, device) for key, value in self.values.items()})


def move(values: Tensor | NDArray, device: torch.device) -> Tensor:
    """Copy a small host tensor or array to a device without waiting for the device."""
    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_planes(images: Tensor) -> Tensor:
    """Uint8 ``[B, S, S, 3 or more]`` to float32 planes ``[B, 3, S, S]`` of the first three channels, in 0..1."""
    return images[..., :3].permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def normalise(x: Tensor) -> Tensor:
    """Clip planes to 0..1 and normalise them by the ImageNet statistics, in place."""
    scale = _constant(tuple(1 / value for value in STD), x.device)
    shift = _constant(tuple(-mean / value for mean, value in zip(MEAN, STD, strict=True)), x.device)
    return x.clamp_(0, 1).mul_(scale).add_(shift)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return move(torch.tensor(values), device)[:, None, None]


def _on_rows(x: Tensor, rows: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Replace the chosen rows of ``x`` by what ``change`` makes of them."""
    if len(rows):
        x.index_copy_(0, rows, change(x.index_select(0, rows)))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def replace_background(x: Tensor, ids: Tensor, rows: Tensor, backgrounds: Tensor) -> None:
    """Put uint8 ``backgrounds`` ``[r, S, S, 3 or more]`` where ``ids`` is 0; foreground keeps its pixels."""
    behind = (ids.index_select(0, rows) == 0)[:, None]
    _on_rows(x, rows, lambda images: torch.where(behind, to_planes(backgrounds), images))


def occlude(
    x: Tensor,
    masks: Tensor,
    group: Group,
    shape: Callable[[Mapping[str, Tensor], int], Tensor],
    keep: float,
    photos: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Draw a ``shape`` (``blobs``, ``grid``) in front of the chosen crops; the returned masks lack what it hides.

    Shapes that would leave less than ``keep`` of a mask are not drawn. They are filled with a flat colour or a made
    texture, or with ``photos``: the rows (some of the chosen) and their pictures, uint8 ``[p, S, S, 3 or more]``.
    """
    if not len(group.rows):
        return masks
    size, values = x.shape[-1], group.values
    before = masks.index_select(0, group.rows)
    hidden = shape(values, size)
    after = before & ~hidden
    fits = after.sum((1, 2)) >= keep * before.sum((1, 2))
    hidden &= fits[:, None, None]
    strides = (_TEXTURE * _TEXTURE, _TEXTURE, 1)
    fill = _windows(textures(x.device), values["texture"], (3, size, size), strides)
    fill *= _per_image(values["contrast"])
    fill += values["tint"][:, :, None, None]
    if photos is not None and len(photos[0]):
        fill.index_copy_(0, torch.searchsorted(group.rows, photos[0]), to_planes(photos[1]))
    _on_rows(x, group.rows, lambda images: torch.where(hidden[:, None], fill, images))
    return masks.index_copy(0, group.rows, before & ~hidden)


def _axis(size: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size


def _turned(centre: Tensor, angle: Tensor, unit: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Coordinates ``[r, S, S]`` about ``centre`` ``[r, 2]``, turned by ``angle`` ``[r]``, in ``unit`` ``[r, 2]``.

    ``centre`` and ``unit`` are shares of the side.
    """
    axis = _axis(size, centre.device)
    x, y = axis - centre[:, :1], axis - centre[:, 1:]
    cos, sin = angle.cos()[:, None] / unit, angle.sin()[:, None] / unit
    along = (x * cos[:, :1])[:, None, :] + (y * sin[:, :1])[:, :, None]
    across = (y * cos[:, 1:])[:, :, None] - (x * sin[:, 1:])[:, None, :]
    return along, across


def blobs(values: Mapping[str, Tensor], size: int) -> Tensor:
    """The union of a few ellipses and rectangles, bool ``[r, size, size]``."""
    inside = []
    for shape in range(values["angle"].shape[1]):
        half = values["half"][:, shape].clamp(min=1e-6)
        u, v = (axis.square_() for axis in _turned(values["centre"][:, shape], values["angle"][:, shape], half, size))
        inside.append(torch.where(values["round"][:, shape, None, None], u + v, torch.maximum(u, v)) < 1)
    return torch.stack(inside).any(0)


def grid(values: Mapping[str, Tensor], size: int) -> Tensor:
    """A turned grid of squares, bool ``[r, size, size]``."""
    period = values["period"][:, None].expand(-1, 2)
    u, v = _turned(values["centre"][:, 0], values["angle"][:, 0], period, size)
    return torch.maximum(u.remainder_(1), v.remainder_(1)) < values["duty"][:, None, None]


def shade(x: Tensor, group: Group) -> None:
    """Multiply by an illumination gradient and a soft-edged shadow."""
    down, across = (2 * _axis(length, x.device) - 1 for length in x.shape[2:])
    values = group.values

    def change(images: Tensor) -> Tensor:
        gradient, edge = values["gradient"], values["edge"]
        light = 1 + (across * gradient[:, :1])[:, None, :] + (down * gradient[:, 1:])[:, :, None]
        depth = ((across - values["distance"][:, None]) * edge[:, :1])[:, None, :] + (down * edge[:, 1:])[:, :, None]
        light -= depth.clamp_(0, 1).mul_(values["shadow"][:, None, None])
        return images.mul_(light.clamp_(min=0.05)[:, None])

    _on_rows(x, group.rows, change)


def colour_map(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """One affine map of RGB a sample: matrix ``[B, 3, 3]`` and offset ``[B, 3]``.

    Hue (radians) and saturation act on the IQ plane, contrast about a middle grey.
    """
    to_yiq = torch.tensor(_RGB_TO_YIQ)
    chroma = torch.zeros(len(hue), 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * hue.cos()
    chroma[:, 1, 2] = -saturation * hue.sin()
    chroma[:, 2, 1] = saturation * hue.sin()
    scale = (brightness * contrast)[:, None] * gain
    matrix = scale[:, :, None] * (torch.linalg.inv(to_yiq) @ chroma @ to_yiq)
    return matrix, (brightness * (1 - contrast) * MID_GREY)[:, None] * gain


def recolour(x: Tensor, group: Group) -> None:
    """Apply the affine colour maps ``matrix``, ``offset`` and clip to 0..1."""

    def change(images: Tensor) -> Tensor:
        matrix, offset = group.values["matrix"], group.values["offset"]
        return torch.baddbmm(offset[:, :, None], matrix, images.flatten(2)).view_as(images).clamp_(0, 1)

    _on_rows(x, group.rows, change)


def change_hsv(x: Tensor, group: Group) -> None:
    """Turn the ``hue`` (in whole turns) and multiply ``saturation`` and ``value`` of hue, saturation and value."""
    change = hsv_by_opencv if x.device.type == "cpu" else hsv_by_torch  # three times as fast, on a processor
    _on_rows(x, group.rows, lambda images: change(images.clamp_(0, 1), group.values))


def hsv_by_torch(images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """:func:`change_hsv` of planes ``[r, 3, H, W]`` in 0..1, in place, on any device."""
    factors = {name: factor[:, None, None] for name, factor in values.items()}
    value, spread = images.amax(1), images.amax(1) - images.amin(1)
    red, green, blue = images.unbind(1)
    inverse = 1 / spread.clamp(min=1e-8)
    hue = torch.where(value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    hue = torch.where(value == red, (green - blue) * inverse, hue)  # in sixths of a turn
    hue += 6 * factors["hue"]
    saturation = (spread / value.clamp(min=1e-8)).mul_(factors["saturation"]).clamp_(max=1)
    value = (value * factors["value"]).clamp_(max=1)
    chroma = saturation.mul_(value)
    for channel, shift in enumerate((5, 3, 1)):
        place = (hue + shift).remainder_(6)
        images[:, channel] = value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
    return images


def hsv_by_opencv(images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """:func:`change_hsv` of planes ``[r, 3, H, W]`` in 0..1 on a processor, one below the other."""
    count, _, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).contiguous().numpy().reshape(count * height, width, 3)
    hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV).reshape(count, height, width, 3)  # hue in degrees
    hue, saturation, value = (values[name].numpy()[:, None, None] for name in ("hue", "saturation", "value"))
    hsv[..., 0] += 360 * hue % 360
    hsv[..., 0] -= 360 * (hsv[..., 0] >= 360)
    hsv[..., 1] *= saturation
    hsv[..., 2] *= value
    np.minimum(hsv[..., 1:], 1, out=hsv[..., 1:])
    rgb = cv2.cvtColor(hsv.reshape(count * height, width, 3), cv2.COLOR_HSV2RGB)
    return torch.from_numpy(rgb.reshape(count, height, width, 3)).permute(0, 3, 1, 2)


def curve(x: Tensor, group: Group) -> None:
    """Raise to ``exponent`` (gamma)."""
    _on_rows(x, group.rows, lambda images: images.clamp_(0, 1).pow_(_per_image(group.values["exponent"])))


def _taps(radius: int) -> Tensor:
    return torch.arange(-radius, radius + 1, dtype=torch.float32)


def _unit_sum(kernels: Tensor) -> Tensor:
    return kernels / kernels.sum((1, 2), keepdim=True)


def gaussian_kernels(sigma: Tensor, radius: int) -> Tensor:
    """``[B, k, k]`` Gaussians, ``k = 2 radius + 1``; sigma ``[B]`` in pixels."""
    line = torch.exp(-((_taps(radius) / sigma[:, None]) ** 2) / 2)
    return _unit_sum(line[:, :, None] * line[:, None, :])


def box_kernels(half: Tensor, radius: int) -> Tensor:
    """``[B, k, k]`` box filters of half width ``half`` ``[B]`` pixels, anti-aliased."""
    line = (half[:, None] + 0.5 - _taps(radius).abs()).clamp(0, 1)
    return _unit_sum(line[:, :, None] * line[:, None, :])


def motion_kernels(length: Tensor, angle: Tensor, radius: int) -> Tensor:
    """``[B, k, k]`` straight streaks of ``length`` ``[B]`` pixels at ``angle`` ``[B]`` radians."""
    taps = _taps(radius)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = (taps * cos + taps[:, None] * sin).abs()
    across = (taps[:, None] * cos - taps * sin).abs()
    return _unit_sum((length[:, None, None] / 2 + 0.5 - along).clamp(0, 1) * (1 - across).clamp(min=0))


def unsharp_kernels(strength: Tensor, sigma: float, radius: int) -> Tensor:
    """``[B, k, k]`` unsharp masks: the picture plus ``strength`` times its difference to a blurred one."""
    blurred = gaussian_kernels(torch.full_like(strength, sigma), radius)
    kernels = -strength[:, None, None] * blurred
    kernels[:, radius, radius] += 1 + strength
    return kernels


def convolve(x: Tensor, group: Group) -> None:
    """Filter each chosen crop with its own ``kernel``, as one depthwise convolution; edges are repeated."""

    def change(images: Tensor) -> Tensor:
        kernels = group.values["kernel"]
        radius = kernels.shape[-1] // 2
        padded = F.pad(images, (radius,) * 4, mode="replicate").flatten(0, 1)[None]
        weight = kernels.repeat_interleave(3, dim=0, output_size=3 * len(kernels))[:, None]
        return F.conv2d(padded, weight, groups=len(weight)).view_as(images)

    _on_rows(x, group.rows, change)


def lose_resolution(x: Tensor, group: Group, factor: float) -> None:
    """Scale the chosen pictures down by ``factor`` and up again."""
    height, width = x.shape[2:]
    small = (max(round(height / factor), 1), max(round(width / factor), 1))

    def change(images: Tensor) -> Tensor:
        reduced = F.interpolate(images, size=small, mode="bilinear", antialias=True)
        return F.interpolate(reduced, size=(height, width), mode="bilinear")

    _on_rows(x, group.rows, change)


def add_noise(x: Tensor, group: Group) -> None:
    """Add Gaussian noise of deviation ``sqrt(sigma_0^2 + sigma_1^2 x)``: read-out and shot noise."""

    def change(images: Tensor) -> Tensor:
        noise = _windows(noise_bank(x.device), group.values["offset"], (x[0].numel(),), (1,))
        read, shot = group.values["sigma"].square()[..., None, None, None].unbind(1)
        deviation = images.clamp(min=0).mul_(shot).add_(read).sqrt_()
        return images.addcmul_(deviation, noise.view_as(images))

    _on_rows(x, group.rows, change)


@lru_cache(maxsize=4)
def noise_bank(device: torch.device) -> Tensor:
    """Standard normal numbers ``[2^21]``, the same on every device; crops cut their noise out of it."""
    return move(torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)), device)


@lru_cache(maxsize=4)
def textures(device: torch.device) -> Tensor:
    """Fractal noise, ``[3, 1024, 1024]`` flattened, about 0, deviation 0.2: stuff to fill occluders with."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.zeros(1, 3, _TEXTURE, _TEXTURE)
    for octave in range(2, 9):
        grid = torch.randn(1, 3, 2**octave, 2**octave, generator=generator)
        picture += F.interpolate(grid, size=(_TEXTURE, _TEXTURE), mode="bicubic") * 0.75**octave
    return move(picture[0].mul_(0.2 / float(picture.std())).flatten(), device)


def _windows(bank: Tensor, where: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Overlapping windows ``[r, *shape]`` of a flat bank, at the places ``where`` ``[r]`` in 0..1.

    The windows begin at multiples of a coarse step: a view of all of them keeps to 32-bit indices, which CUDA wants.
    """
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    count = (bank.numel() - span) // _STEP + 1
    views = bank.as_strided((count, *shape), (_STEP, *strides))
    return views.index_select(0, (where * count).long())
