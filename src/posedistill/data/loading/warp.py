"""Cutting crops out of stored frames: OpenCV on the CPU, one gather on an accelerator.

Both know the same convention: pixel (0, 0) is the centre of the first pixel, crop pixel ``p`` shows source pixel
``A p``; outside of the frame the picture has the border colour and the id is 0. Where a crop pixel covers two source
pixels and more along a side, these are averaged, so that pictures of many megapixels do not alias.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.pixels import move
from posedistill.geometry.cameras import Array

BORDER = (124, 116, 104)
"""Colour beyond the frame: the ImageNet mean, about 0 once normalised."""
_MOST_TAPS = 6
"""Places along a side at which a crop pixel is sampled on an accelerator, at most."""

Image = NDArray[np.uint8]


def inverse_maps(homography: Array) -> Array:
    """``[B, 2, 3]`` maps from crop to source pixels, of affine ``[B, 3, 3]`` homographies source to crop."""
    return np.linalg.inv(homography)[:, :2].astype(np.float64)


def reductions(inverse: Array) -> NDArray[np.int64]:
    """Source pixels under a crop pixel along a side, ``[B]``, rounded down (1 and less: nothing to average)."""
    steps: Array = np.sqrt(np.abs(np.linalg.det(inverse[:, :, :2])))
    return np.floor(steps + 1e-6).astype(np.int64)


def source_windows(inverse: Array, size: int, shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of each frame that a crop of side ``size`` can touch: ``[B, 4]`` top, bottom, left, right.

    Where pixels are averaged in blocks, it starts at a whole block and holds one more than is needed on every side, so
    that the averages are those of the whole frame.

    Args:
        inverse: ``[B, 2, 3]``. shapes: ``[B, 2]`` height and width of the frames.
    """
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.swapaxes(1, 2)
    block = np.maximum(reductions(inverse), 1)[:, None]
    low = np.floor(corners.min(axis=1)).astype(np.int64)[:, ::-1] - block
    high = np.ceil(corners.max(axis=1)).astype(np.int64)[:, ::-1] + 2 * block
    low, high = np.clip(low, 0, shapes) // block * block, np.clip(high, 0, shapes)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def cut(frames: Sequence[Image], inverse: Array, size: int) -> Image:
    """Bilinear crops by OpenCV, ``[B, size, size, 4]``, of frames ``[H, W, 4]``; the fourth channel is meaningless."""
    images = np.empty((len(frames), size, size, 4), dtype=np.uint8)
    factors = reductions(inverse).tolist()
    for factor, (window, shift, image) in zip(factors, _windows(frames, inverse, images), strict=True):
        if factor >= 2 and min(window.shape[:2]) >= factor:
            window, shift = _reduce(window, shift, factor)
        _warp(window, shift, image, cv2.INTER_LINEAR, (*BORDER, 0))
    return images


def _reduce(window: Image, shift: Array, factor: int) -> tuple[Image, Array]:
    """The window scaled down by a whole factor, and the map into it."""
    height, width = (length // factor for length in window.shape[:2])
    whole = window[: height * factor, : width * factor]
    small = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, (shift - [0, 0, (factor - 1) / 2]) / factor


def cut_ids(frames: Sequence[Image], inverse: Array, size: int) -> Image:
    """Crops of the fourth channel of frames ``[H, W, 4]`` by OpenCV, nearest pixel: ``[B, size, size]``."""
    ids = np.empty((len(frames), size, size), dtype=np.uint8)
    for window, shift, labels in _windows(frames, inverse, ids):
        _warp(cv2.extractChannel(window, 3), shift, labels, cv2.INTER_NEAREST, (0,))
    return ids


def _windows(frames: Sequence[Image], inverse: Array, targets: Image) -> Iterable[tuple[Image, Array, Image]]:
    """The window of each frame that is needed, the map into that window, and where the crop goes."""
    shapes = np.array([frame.shape[:2] for frame in frames]).reshape(-1, 2)
    windows = source_windows(inverse, targets.shape[1], shapes)
    # One pixel at least, so that a crop beside the frame needs no case of its own: it samples the border alone.
    for axis in (0, 2):
        windows[:, axis] = np.minimum(windows[:, axis], shapes[:, axis // 2] - 1)
        windows[:, axis + 1] = np.maximum(windows[:, axis + 1], windows[:, axis] + 1)
    shifts = inverse.copy()
    shifts[:, :, 2] -= windows[:, [2, 0]]
    for frame, (top, bottom, left, right), shift, target in zip(frames, windows.tolist(), shifts, targets, strict=True):
        yield frame[top:bottom, left:right], shift, target


def _warp(source: Image, inverse: Array, target: Image, interpolation: int, border: tuple[int, ...]) -> None:
    flags, size = cv2.WARP_INVERSE_MAP | interpolation, (target.shape[1], target.shape[0])
    cv2.warpAffine(source, inverse, size, dst=target, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border)


class DeviceFrames:
    """Frames of any sizes, four bytes a pixel, in one flat int32 tensor on a device."""

    def __init__(self, stacks: Sequence[Image], device: torch.device) -> None:
        """``stacks``: arrays ``[F, H, W, 4]``; frames are numbered through all stacks."""
        shapes = [stack.shape[1:3] for stack in stacks for _ in range(len(stack))]
        ends = np.cumsum([height * width for height, width in shapes])
        self.pixels = torch.empty(int(ends[-1]), dtype=torch.int32, device=device)
        self.layout = torch.tensor([(end - h * w, h, w) for end, (h, w) in zip(ends.tolist(), shapes, strict=True)])
        """CPU int64 ``[F, 3]``: first pixel, height, width of each frame."""
        frames = (frame for stack in stacks for frame in stack)
        for (start, height, width), frame in zip(self.layout.tolist(), frames, strict=True):
            plane = np.array(frame).view(np.int32).reshape(-1)
            self.pixels[start : start + height * width].copy_(torch.from_numpy(plane))

    def cut(self, numbers: NDArray[np.int64], inverse: Array, size: int) -> tuple[Tensor, Tensor]:
        """Crops of the frames with these numbers ``[B]``, see ``gather_crops``."""
        layout = self.layout[torch.from_numpy(numbers)]
        return _gather(self.pixels, layout, inverse, size)


def cut_on_device(frames: Sequence[Image], inverse: Array, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Crops of host frames ``[H, W, 4]`` on a device, see ``gather_crops``; only what they show is sent there."""
    shapes = np.array([frame.shape[:2] for frame in frames])
    windows = source_windows(inverse, size, shapes)
    heights, widths = windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]
    ends = np.cumsum(heights * widths)
    buffer = torch.empty(int(ends[-1]) + 1, dtype=torch.int32, pin_memory=device.type == "cuda")
    pixels = buffer.numpy().view(np.uint8).reshape(-1, 4)
    for frame, end, (top, bottom, left, right) in zip(frames, ends.tolist(), windows.tolist(), strict=True):
        part = frame[top:bottom, left:right].reshape(-1, 4)
        pixels[end - len(part) : end] = part
    maps = inverse.copy()
    maps[:, :, 2] -= windows[:, [2, 0]]
    layout = torch.from_numpy(np.stack([ends - heights * widths, heights, widths], axis=1))
    return _gather(buffer.to(device, non_blocking=True), layout, maps, size)


def _gather(pixels: Tensor, layout: Tensor, inverse: Array, size: int) -> tuple[Tensor, Tensor]:
    """Averages over a few places within each crop pixel where that covers several source pixels."""
    factors = reductions(inverse)
    count = int(np.clip(factors.max(initial=1), 1, _MOST_TAPS))
    steps = (np.arange(count) + 0.5) / count - 0.5
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 1, 2) * (factors >= 2)[:, None]
    taps = np.repeat(inverse[None], count * count, axis=0)
    taps[..., 2] += np.einsum("bij,tbj->tbi", inverse[:, :, :2], offsets)
    maps = torch.from_numpy(np.concatenate([inverse[None], taps]).astype(np.float32))
    return gather_crops(pixels, move(layout, pixels.device), move(maps, pixels.device), size)


def gather_crops(pixels: Tensor, layout: Tensor, maps: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Bilinear crops and nearest ids out of a flat tensor of 4-byte pixels; no host synchronisation.

    Args:
        pixels: int32 ``[P]``, bytes R, G, B, id. layout: int64 ``[B, 3]`` start, height, width of each crop's frame.
        maps: float ``[1 + T, B, 2, 3]`` maps from crop to source pixels: the first for the ids, the mean over the
            others for the colours.

    Returns:
        uint8 images ``[B, size, size, 4]`` (as ``cut``) and ids ``[B, size, size]``.
    """
    start, height, width = (column[:, None, None] for column in layout.unbind(1))
    border = int(np.array([*BORDER, 0], dtype=np.uint8).view(np.int32)[0])

    def fetch(columns: Tensor, rows: Tensor) -> Tensor:
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        index = (start + rows * width + columns).masked_fill_(~inside, 0)
        return pixels[index].masked_fill_(~inside, border).view(torch.uint8).view(*index.shape, 4)

    def blend(x: Tensor, y: Tensor) -> Tensor:
        left, top = x.floor(), y.floor()
        right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
        column, row = left.long(), top.long()
        upper = torch.lerp(fetch(column, row).float(), fetch(column + 1, row).float(), right_share)
        lower = torch.lerp(fetch(column, row + 1).float(), fetch(column + 1, row + 1).float(), right_share)
        return torch.lerp(upper, lower, bottom_share)

    images = torch.stack([blend(*_places(one, size)) for one in maps[1:]]).mean(dim=0)
    x, y = _places(maps[0], size)
    ids = fetch((x + 0.5).floor().long(), (y + 0.5).floor().long())[..., 3]
    return images.add_(0.5).to(torch.uint8), ids


def _places(maps: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Source columns and rows ``[B, size, size]`` of every crop pixel."""
    steps = torch.arange(size, device=maps.device, dtype=torch.float32)
    entries = maps[:, :, None, None, :]
    x, y = (entries[..., 0] * steps + entries[..., 1] * steps[:, None] + entries[..., 2]).unbind(1)
    return x, y
