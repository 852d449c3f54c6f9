"""CameraLoader: batches of photographs with camera poses out of a pack; each batch is a pure function of its step."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.augment import Draws, draw
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.camera_pack import CameraPack, one_size
from posedistill.data.loading.camera_views import Views, ViewSettings, plan_views
from posedistill.data.loading.prefetch import one_torch_thread, prefetch
from posedistill.data.loading.sampling import InOrder, Sampler, Shuffled
from posedistill.errors import DataError, RecipeError, describe
from posedistill.geometry.warp import warp
from posedistill.machine import cores

_CHUNK = 4
"""Pictures that one thread makes at a time. A constant: convolutions may round by the size of their batch."""
_VIEWS = 4
"""Tells this module's random numbers from those of the samplers."""


@dataclass(frozen=True)
class _Plan:
    """All of a batch but its pixels."""

    rows: NDArray[np.int64]
    views: Views
    draws: Draws


class CameraLoader:
    """Batches of views of the photographs in a pack, varied and ready for the network.

    With ``augment`` the frames are shuffled anew each epoch and batches run on through the epochs without end;
    without, they come in order, once: the middle crop, as it is. ``batch(step)`` depends on (seed, step) and nothing
    else, so a resumed run goes on exactly as it would have.

    Args:
        size: of the pictures, pixels: the side of a square, (height, width), or None for whole frames.
        batch_size: pictures of the global batch, a multiple of ``world_size``.
        indices: rows of the pack (from ``hold_out_blocks``); all where None.
        mean_image: ``[H, W, 3]`` in 0..255 of the whole frames; it is subtracted in the place of the ImageNet
            normalisation, and nothing is divided: the published preprocessing.
        rank, world_size: this process's part of the global batch under DDP.
        threads: all cores where None.

    Raises:
        DataError: frames smaller than the crop, or of several sizes where they must have one.
    """

    targets: frozenset[str] = frozenset()

    def __init__(
        self,
        pack: CameraPack,
        settings: ViewSettings,
        size: int | tuple[int, int] | None,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        indices: NDArray[np.int64] | None = None,
        augment: bool = True,
        *,
        mean_image: NDArray[np.float32] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
    ) -> None:
        if batch_size % world_size:
            raise RecipeError(describe("recipe", "batch_size", batch_size, f"a multiple of {world_size} processes"))
        self.pack, self.batch_size, self.seed = pack, batch_size, seed
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self.settings = settings if augment else ViewSettings.none()
        self.rows = np.arange(len(pack)) if indices is None else np.asarray(indices, dtype=np.int64)
        if not len(self.rows):
            raise RecipeError(describe("recipe", "data", "no frame", "at least one"))
        self.shape = _shape(pack, self.rows, size)
        if mean_image is not None and mean_image.shape != (*one_size(pack, "mean image"), 3):
            expected = f"{[*one_size(pack, 'mean image'), 3]}, as the frames have"
            raise DataError(describe("mean image", "shape", list(mean_image.shape), expected))
        self.mean_image = mean_image
        self._sample: Sampler = (
            Shuffled(len(self.rows), batch_size, seed) if augment else InOrder(len(self), batch_size)
        )
        self._pool = ThreadPoolExecutor(threads or cores(), initializer=one_torch_thread)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.rows)

    @property
    def steps(self) -> int:
        """Batches that see every frame once."""
        return -(-len(self) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step (this rank's part of it); without augmentation the last one may be short."""
        plan = self._plan(step)
        count = len(plan.rows)
        images = torch.empty((count, 3, *self.shape), memory_format=torch.channels_last, device=self.device)

        def fill(start: int) -> None:
            part = slice(start, min(start + _CHUNK, count))
            images[part] = self._pixels(plan, part)

        list(self._pool.map(fill, range(0, count, _CHUNK)))
        turn = plan.views.rotation
        R, t = turn @ self.pack.R[plan.rows], np.einsum("bij,bj->bi", turn, self.pack.t[plan.rows])
        floats = [torch.from_numpy(array.astype(np.float32)) for array in (plan.views.K, R, t)]
        K, R_view, t_view, ids = (pixels.move(x, self.device) for x in (*floats, torch.from_numpy(plan.rows)))
        return Batch.single(images, K, R_view, t_view, ids)

    def prefetch(self, start: int, stop: int, depth: int = 2) -> Iterator[Batch]:
        """Batches ``start`` to ``stop``, made ahead in a background thread; see ``threads.prefetch``."""
        return prefetch(self.batch, start, stop, self.device, depth)

    def _plan(self, step: int) -> _Plan:
        """What a batch shows; drawn for the global batch, so that it is the same however many processes share it."""
        rng = np.random.default_rng([self.seed, step, _VIEWS])
        rows = self.rows[self._sample(step)]
        part = slice(self.rank * len(rows) // self.world_size, (self.rank + 1) * len(rows) // self.world_size)
        chance = rng.random((len(rows), 3))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        draws = draw(self.settings.pixels(), len(rows), min(self.shape), generator).part(part.start, part.stop)
        rows = rows[part]
        views = plan_views(self.pack.K[rows], self.pack.sizes[rows], self.shape, self.settings, chance[part])
        return _Plan(rows, views, draws)

    def _pixels(self, plan: _Plan, part: slice) -> Tensor:
        """Varied, normalised planes ``[b, 3, H, W]`` of some of a batch's pictures."""
        rows, maps = plan.rows[part], plan.views.maps[part]
        sizes = self.pack.sizes[rows].tolist()
        frames = [self.pack.frames[row, :height, :width] for row, (height, width) in zip(rows, sizes, strict=True)]
        images = warp(frames, maps, np.empty((len(rows), *self.shape, 4), dtype=np.uint8))
        x = pixels.to_planes(pixels.move(torch.from_numpy(images), self.device))
        groups = plan.draws.part(part.start, part.stop).to(self.device).groups
        pixels.recolour(x, groups["colour"])
        pixels.curve(x, groups["gamma"])
        pixels.convolve(x, groups["filter"])
        pixels.add_noise(x, groups["noise"])
        if self.mean_image is None:
            return pixels.normalise(x)
        means = np.empty((len(rows), *self.shape, 3), dtype=np.float32)
        warp([self.mean_image] * len(rows), maps, means)
        return x.clamp_(0, 1).mul_(255).sub_(pixels.move(torch.from_numpy(means), self.device).permute(0, 3, 1, 2))


def _shape(pack: CameraPack, rows: NDArray[np.int64], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the pictures."""
    if size is None:
        return one_size(pack, "whole frames")
    shape = (size, size) if isinstance(size, int) else size
    small = rows[(pack.sizes[rows] < shape).any(axis=1)]
    if len(small):
        height, width = pack.sizes[small[0]]
        expected = f"{shape[0]}x{shape[1]} (height x width) at least: a larger pack, or a smaller crop"
        raise DataError(describe(pack.images[small[0]], "scaled size", f"{height}x{width}", expected))
    return shape
