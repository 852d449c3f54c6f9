"""Views of stored frames on a device: by ``geometry.warp``, or affine ones on an accelerator by one gather.

Both know the same convention: pixel (0, 0) is the centre of the first pixel, a map takes pixels of the view to pixels
of the frame; beyond the frame a view has the border colour and the id is 0. Where a pixel of an affine view covers two
pixels of the frame and more along a side, these are averaged, so that pictures of many megapixels do not alias.
"""

from collections.abc import Sequence
from functools import cached_property
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.pixels import move
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.warp import BORDER, reductions, source_windows, warp, warp_ids

_MOST_TAPS = 6
"""Places along a side at which a pixel of a view is sampled on an accelerator, at most."""

_shared: WeakValueDictionary[tuple, "DeviceFrames"] = WeakValueDictionary()


class FrameReader:
    """Views of the frames of several stacks ``[F, H, W, 4]``, numbered through all of them."""

    def __init__(self, stacks: Sequence[Image], device: torch.device) -> None:
        self.stacks, self.device = list(stacks), device
        self._starts = np.cumsum([0, *map(len, self.stacks)])

    @cached_property
    def _stored(self) -> "DeviceFrames | None":
        return _device_frames(self.stacks, self.device)

    def gathers(self, maps: Array) -> bool:
        """Whether views by these maps are made on the device, whole batches at a time."""
        return self.device.type != "cpu" and maps.shape[1] == 2

    def stacks_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which stack each of these frames is in."""
        return np.searchsorted(self._starts, numbers, side="right") - 1

    def cut(
        self, numbers: NDArray[np.int64], maps: Array, shape: tuple[int, int], labelled: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Views of the frames with these numbers ``[B]``, bilinear, and (where ``labelled``) the nearest ids.

        Args:
            maps: ``[B, 2, 3]`` affine or ``[B, 3, 3]`` projective, of which there are no ids.

        Returns:
            uint8 images ``[B, *shape, 4]``, the fourth channel meaningless, and ids ``[B, *shape]``.
        """
        if self.gathers(maps) and self._stored is not None:
            return self._stored.cut(numbers, maps, shape)
        stacks = self.stacks_of(numbers)
        places = zip(stacks.tolist(), (numbers - self._starts[stacks]).tolist(), strict=True)
        frames = [self.stacks[stack][frame] for stack, frame in places]
        if self.gathers(maps):
            return cut_on_device(frames, maps, shape, self.device)
        images = warp(frames, maps, np.empty((len(frames), *shape, 4), dtype=np.uint8))
        ids = warp_ids(frames, maps, np.empty((len(frames), *shape), dtype=np.uint8)) if labelled else None
        return move(images, self.device), None if ids is None else move(ids, self.device)


def _device_frames(stacks: Sequence[Image], device: torch.device) -> "DeviceFrames | None":
    """All frames on an accelerator, shared by the readers of the same stacks; None where they would not fit."""
    key = (device, *map(id, stacks))
    frames = _shared.get(key)
    if frames is None and _fits(sum(stack.nbytes for stack in stacks), device):
        frames = _shared[key] = DeviceFrames(stacks, device)
    return frames


def _fits(size: int, device: torch.device) -> bool:
    """Whether that many bytes leave half of the device's free memory to the network."""
    return device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 2


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

    def cut(self, numbers: NDArray[np.int64], maps: Array, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Views of the frames with these numbers ``[B]``, see ``gather_views``."""
        layout = self.layout[torch.from_numpy(numbers)]
        return _gather(self.pixels, layout, maps, shape)


def cut_on_device(
    frames: Sequence[Image], maps: Array, shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Affine views of host frames ``[H, W, 4]`` on a device, see ``gather_views``; only what they show is sent."""
    sizes = np.array([frame.shape[:2] for frame in frames])
    windows = source_windows(maps, shape, sizes)
    heights, widths = windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]
    ends = np.cumsum(heights * widths)
    buffer = torch.empty(int(ends[-1]) + 1, dtype=torch.int32, pin_memory=device.type == "cuda")
    pixels = buffer.numpy().view(np.uint8).reshape(-1, 4)
    for frame, end, (top, bottom, left, right) in zip(frames, ends.tolist(), windows.tolist(), strict=True):
        part = frame[top:bottom, left:right].reshape(-1, 4)
        pixels[end - len(part) : end] = part
    shifted = maps.copy()
    shifted[:, :, 2] -= windows[:, [2, 0]]
    layout = torch.from_numpy(np.stack([ends - heights * widths, heights, widths], axis=1))
    return _gather(buffer.to(device, non_blocking=True), layout, shifted, shape)


def _gather(pixels: Tensor, layout: Tensor, maps: Array, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Averages over a few places within each pixel of a view where that covers several pixels of its frame."""
    factors = reductions(maps)
    count = int(np.clip(factors.max(initial=1), 1, _MOST_TAPS))
    steps = (np.arange(count) + 0.5) / count - 0.5
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 1, 2) * (factors >= 2)[:, None]
    taps = np.repeat(maps[None], count * count, axis=0)
    taps[..., 2] += np.einsum("bij,tbj->tbi", maps[:, :, :2], offsets)
    places = np.concatenate([maps[None], taps]).astype(np.float32)
    return gather_views(pixels, move(layout, pixels.device), move(places, pixels.device), shape)


def gather_views(pixels: Tensor, layout: Tensor, maps: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bilinear views and nearest ids out of a flat tensor of 4-byte pixels; no host synchronisation.

    Args:
        pixels: int32 ``[P]``, bytes R, G, B, id. layout: int64 ``[B, 3]`` start, height, width of each view's frame.
        maps: float ``[1 + T, B, 2, 3]`` maps from view to frame pixels: the first for the ids, the mean over the
            others for the colours.

    Returns:
        uint8 images ``[B, *shape, 4]``, the fourth channel meaningless, and ids ``[B, *shape]``.
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

    images = torch.stack([blend(*_places(one, shape)) for one in maps[1:]]).mean(dim=0)
    x, y = _places(maps[0], shape)
    ids = fetch((x + 0.5).floor().long(), (y + 0.5).floor().long())[..., 3]
    return images.add_(0.5).to(torch.uint8), ids


def _places(maps: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Columns and rows ``[B, *shape]`` in the frame of every pixel of a view."""
    rows, columns = (torch.arange(length, device=maps.device, dtype=torch.float32) for length in shape)
    entries = maps[:, :, None, None, :]
    x, y = (entries[..., 0] * columns + entries[..., 1] * rows[:, None] + entries[..., 2]).unbind(1)
    return x, y
