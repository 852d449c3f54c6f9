"""Cutting crops out of stored frames on an accelerator, by one gather; ``geometry.warp`` does so on the CPU.

Both know the same convention: pixel (0, 0) is the centre of the first pixel, crop pixel ``p`` shows source pixel
``A p``; outside of the frame the picture has the border colour and the id is 0. Where a crop pixel covers two source
pixels and more along a side, these are averaged, so that pictures of many megapixels do not alias.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.pixels import move
from posedistill.geometry.cameras import Array
from posedistill.geometry.warp import BORDER, reductions, source_windows

_MOST_TAPS = 6
"""Places along a side at which a crop pixel is sampled on an accelerator, at most."""

Image = NDArray[np.uint8]


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
    windows = source_windows(inverse, (size, size), shapes)
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
        uint8 images ``[B, size, size, 4]``, the fourth channel meaningless, and ids ``[B, size, size]``.
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
