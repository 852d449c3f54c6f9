"""Cutting a batch of crops out of stored frames: OpenCV on the CPU, one gather on an accelerator.

Both know the same convention: pixel (0, 0) is the centre of the first pixel, crop pixel ``p`` shows source pixel
``A p``; outside of the frame the picture has the border colour and the id is 0.
"""

from collections.abc import Sequence
from concurrent.futures import Executor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.pixels import move
from posedistill.geometry.cameras import Array

BORDER = (124, 116, 104)
"""Colour beyond the frame: the ImageNet mean, about 0 once normalised."""


def inverse_maps(homography: Array) -> Array:
    """``[B, 2, 3]`` maps from crop to source pixels, of affine ``[B, 3, 3]`` homographies source to crop."""
    return np.linalg.inv(homography)[:, :2].astype(np.float64)


def source_window(inverse: Array, size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Rows and columns ``(top, bottom, left, right)`` of a frame that a crop of side ``size`` can touch."""
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    low = np.floor(corners.min(axis=0)).astype(int) - 1
    high = np.ceil(corners.max(axis=0)).astype(int) + 2
    left, right = np.clip([low[0], high[0]], 0, shape[1]).tolist()
    top, bottom = np.clip([low[1], high[1]], 0, shape[0]).tolist()
    return top, bottom, left, right


def warp_one(frame: NDArray[np.uint8], inverse: Array, image: NDArray[np.uint8], ids: NDArray[np.uint8] | None) -> None:
    """Warp ``frame`` ``[H, W, 3 or 4]`` into ``image`` ``[S, S, 3]``, its fourth channel into ``ids`` ``[S, S]``.

    Colours are interpolated, ids are not. Only the part of the frame that the crop shows is read.
    """
    size = len(image)
    top, bottom, left, right = source_window(inverse, size, frame.shape)
    if top >= bottom or left >= right:
        image[:] = BORDER
        if ids is not None:
            ids[:] = 0
        return
    window = frame[top:bottom, left:right]
    shift = inverse.copy()
    shift[:, 2] -= (left, top)
    colours = cv2.cvtColor(window, cv2.COLOR_RGBA2RGB) if window.shape[2] == 4 else np.ascontiguousarray(window)
    flags = cv2.WARP_INVERSE_MAP
    cv2.warpAffine(
        colours,
        shift,
        (size, size),
        dst=image,
        flags=flags | cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=BORDER,
    )
    if ids is not None:
        labels = cv2.extractChannel(window, 3)
        cv2.warpAffine(
            labels, shift, (size, size), dst=ids, flags=flags | cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT
        )


def warp_on_cpu(
    frames: Sequence[NDArray[np.uint8]], inverse: Array, size: int, pool: Executor | None, with_ids: bool
) -> tuple[Tensor, Tensor | None]:
    """Crops of ``B`` frames ``[H, W, C]`` by OpenCV: images uint8 ``[B, S, S, 3]``, ids uint8 ``[B, S, S]`` or None.

    ``pool`` spreads the crops over its threads (OpenCV lets go of the interpreter lock).
    """
    images = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    ids = np.empty((len(frames), size, size), dtype=np.uint8) if with_ids else None
    jobs = (frames, inverse, images, ids if ids is not None else [None] * len(frames))
    list(map(warp_one, *jobs) if pool is None else pool.map(warp_one, *jobs))
    return torch.from_numpy(images), torch.from_numpy(ids) if ids is not None else None


class DeviceFrames:
    """Frames of any sizes, four bytes a pixel, in one flat int32 tensor, cut by a gather on their device."""

    def __init__(self, stacks: Sequence[NDArray[np.uint8]], device: torch.device) -> None:
        """``stacks``: arrays ``[F, H, W, 4]``; frames are numbered through all stacks."""
        self.pixels = torch.empty(sum(stack.size // 4 for stack in stacks), dtype=torch.int32, device=device)
        layout, start = [], 0
        for stack in stacks:
            count, height, width = stack.shape[:3]
            layout += [(start + index * height * width, height, width) for index in range(count)]
            for index in range(count):
                plane = torch.from_numpy(np.array(stack[index])).view(torch.int32).view(-1)
                self.pixels[start : start + plane.numel()].copy_(plane)
                start += plane.numel()
        self.layout = torch.tensor(layout, dtype=torch.int64)
        """CPU ``[F, 3]``: first pixel, height, width of each frame."""

    def warp(self, frames: Tensor, inverse: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Crops of the frames numbered ``frames`` (CPU int64 ``[B]``), see ``gather_crops``."""
        device = self.pixels.device
        return gather_crops(self.pixels, move(self.layout[frames], device), move(inverse, device), size)


def gather_crops(pixels: Tensor, layout: Tensor, inverse: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Bilinear crops and nearest ids out of a flat tensor of 4-byte pixels; no host synchronisation.

    Args:
        pixels: int32 ``[P]``, bytes R, G, B, id. layout: int64 ``[B, 3]`` start, height, width of each crop's frame.
        inverse: float ``[B, 2, 3]`` maps from crop to source pixels.

    Returns:
        uint8 images ``[B, S, S, 3]`` and ids ``[B, S, S]``.
    """
    start, height, width = (column[:, None, None] for column in layout.unbind(1))
    steps = torch.arange(size, device=pixels.device, dtype=torch.float32)
    maps = inverse.to(torch.float32)[:, :, None, None, :]
    x, y = (maps[..., 0] * steps + maps[..., 1] * steps[:, None] + maps[..., 2]).unbind(1)
    border = torch.tensor([*BORDER, 0], dtype=torch.uint8).view(torch.int32).item()

    def fetch(columns: Tensor, rows: Tensor) -> Tensor:
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        index = (start + rows * width + columns).masked_fill_(~inside, 0)
        return pixels[index].masked_fill_(~inside, border).view(torch.uint8).view(*index.shape, 4)

    left, top = x.floor(), y.floor()
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    left_index, top_index = left.long(), top.long()
    upper = torch.lerp(fetch(left_index, top_index).float(), fetch(left_index + 1, top_index).float(), right_share)
    lower = torch.lerp(
        fetch(left_index, top_index + 1).float(), fetch(left_index + 1, top_index + 1).float(), right_share
    )
    images = torch.lerp(upper, lower, bottom_share)[..., :3].add_(0.5).to(torch.uint8)
    ids = fetch((x + 0.5).floor().long(), (y + 0.5).floor().long())[..., 3]
    return images, ids


def warp_windows(
    frames: Sequence[NDArray[np.uint8]], inverse: Array, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Crops of host frames ``[H, W, 4]`` on a device: only the part that each crop shows is sent there."""
    windows = [source_window(one, size, frame.shape) for frame, one in zip(frames, inverse, strict=True)]
    heights, widths = ([max(w[i + 1] - w[i], 0) for w in windows] for i in (0, 2))
    ends = np.cumsum(np.multiply(heights, widths))
    buffer = torch.empty(max(int(ends[-1]), 1), dtype=torch.int32, pin_memory=device.type == "cuda")
    pixels = buffer.numpy().view(np.uint8).reshape(-1, 4)
    maps = inverse.copy()
    for index, (frame, (top, bottom, left, right)) in enumerate(zip(frames, windows, strict=True)):
        part = frame[top : max(top, bottom), left : max(left, right)]
        pixels[ends[index] - part.size // 4 : ends[index]] = part.reshape(-1, 4)
        maps[index, :, 2] -= (left, top)
    layout = torch.tensor(np.stack([ends - np.multiply(heights, widths), heights, widths], axis=1))
    sent = buffer.to(device, non_blocking=True)
    return gather_crops(sent, move(layout, device), move(torch.from_numpy(maps.astype(np.float32)), device), size)
