"""CropLoader: batches out of frame packs. Each crop is a new camera, each batch a pure function of its step."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.augment import AugmentSettings, Draws, apply
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.device_frames import DeviceFrames, cut_on_device
from posedistill.data.loading.pack import FramePack, Indices
from posedistill.data.loading.pack_build import cores
from posedistill.data.loading.pixels import move
from posedistill.data.loading.planning import Plan, Planner, photo_maps
from posedistill.data.loading.prefetch import one_torch_thread, prefetch
from posedistill.data.loading.sampling import InOrder, Sampler, Shuffled, Weighted, tabulate
from posedistill.errors import RecipeError, describe
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.warp import warp, warp_ids

_CHUNK = 4
"""Crops that one thread makes at a time on the CPU. A constant: convolutions may round by the size of their batch."""
_shared_frames: WeakValueDictionary[tuple, DeviceFrames] = WeakValueDictionary()


class CropLoader:
    """Batches of crops of the instances in ``packs``, cut, augmented and ready for the network.

    With ``augment`` the instances are shuffled anew each epoch and batches run on through the epochs without end;
    without, they come in order, once, uncut by chance: box centred, side ``pad`` times the box's longer one.
    ``batch(step)`` depends on (seed, step) and nothing else, so a resumed run goes on exactly as it would have.

    Args:
        packs: their instances are numbered through, in order; ``indices`` (from ``split_validation``) selects among
            these numbers. Instances of objects outside ``objects`` are left out.
        objects: gives each object's class, keypoints, diameter and symmetries.
        crop_size: side of a crop, pixels. batch_size: crops of the global batch, a multiple of ``world_size``.
        backgrounds: uint8 ``[M, h, w, 3]`` photographs for background replacement and occluders.
        pack_weights: share of each pack in a batch (instances are then drawn with replacement); None draws every
            instance once an epoch.
        rank, world_size: this process's part of the global batch under DDP.
        threads: for cutting on the CPU; all cores where None.
    """

    targets = frozenset({"masks", "keypoints3d", "keypoints", "diameters"})

    def __init__(
        self,
        packs: Sequence[FramePack],
        objects: ObjectTable,
        settings: AugmentSettings,
        crop_size: int,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        backgrounds: NDArray[np.uint8] | None = None,
        indices: Indices | None = None,
        augment: bool = True,
        *,
        pad: float = 1.5,
        pack_weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
    ) -> None:
        if batch_size % world_size:
            raise RecipeError(describe("recipe", "batch_size", batch_size, f"a multiple of {world_size} processes"))
        self.packs, self.crop_size, self.batch_size, self.device = list(packs), crop_size, batch_size, _exact(device)
        table = tabulate(self.packs, objects, indices)
        if not len(table):
            raise RecipeError(describe("recipe", "data", "no instance", f"instances of {list(objects.obj_ids)}"))
        self._starts = np.cumsum([0, *(len(pack.frames) for pack in self.packs)])
        sampler: Sampler
        if not augment:
            sampler = InOrder(len(table), batch_size)
        elif pack_weights is None:
            sampler = Shuffled(len(table), batch_size, seed)
        else:
            sampler = Weighted(self._pack_of(table.frames), pack_weights, batch_size, seed)
        chosen = settings if augment else None
        self.plan = Planner(table, sampler, objects, chosen, crop_size, pad, seed, rank, world_size)
        self._pool = ThreadPoolExecutor(threads or cores(), initializer=one_torch_thread)
        self._backgrounds = _four_bytes(backgrounds) if backgrounds is not None and len(backgrounds) else None
        on_device = self.device.type != "cpu"
        self._frames = _device_frames(self.packs, self.device) if on_device else None
        photos = self._backgrounds
        self._photos = DeviceFrames([photos], self.device) if on_device and photos is not None else None

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.plan.table)

    @property
    def steps(self) -> int:
        """Batches that see every instance once."""
        return -(-len(self) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step (this rank's part of it); without augmentation the last one may be short."""
        plan = self._pool.submit(self.plan, step).result()
        size, count = self.crop_size, len(plan.rows)
        if self.device.type == "cpu":
            images = torch.empty((count, 3, size, size), memory_format=torch.channels_last)
            masks = torch.empty((count, size, size), dtype=torch.bool)

            def fill(start: int) -> None:
                part = slice(start, min(start + _CHUNK, count))
                images[part], masks[part] = self._pixels(plan.part(part))

            list(self._pool.map(fill, range(0, count, _CHUNK)))
        else:
            planes, masks = self._pixels(plan)
            images = planes.contiguous(memory_format=torch.channels_last)
        floats = (plan.K, plan.R, plan.t, plan.keypoints3d, plan.keypoints, plan.diameters, plan.rows.scores)
        K, R, t, keypoints3d, keypoints, diameters, scores = (self._send(array.astype(np.float32)) for array in floats)
        classes, numbers = self._send(plan.rows.classes), self._send(plan.rows.ids)
        targets = {"masks": masks, "keypoints3d": keypoints3d, "keypoints": keypoints, "diameters": diameters}
        return Batch.single(images, K, R, t, numbers, classes, scores, **targets)

    def prefetch(self, start: int, stop: int, depth: int = 2) -> Iterator[Batch]:
        """Batches ``start`` to ``stop``, made ahead in a background thread.

        What goes wrong there is raised here; closing the iterator ends the thread.
        """
        return prefetch(self.batch, start, stop, self.device, depth)

    def _send(self, array: NDArray) -> Tensor:
        return move(torch.from_numpy(array), self.device)

    def _pack_of(self, frames: Indices) -> Indices:
        return np.searchsorted(self._starts, frames, side="right") - 1

    def _pixels(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Augmented, normalised planes ``[B, 3, S, S]`` and masks ``[B, S, S]``."""
        images, ids = self._cut(plan)
        masks = ids == self._send(plan.rows.slots)[:, None, None]
        backgrounds, occluders = self._photographs(plan.draws)
        return apply(images, ids, masks, plan.draws.to(self.device), backgrounds, occluders)

    def _cut(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Images uint8 ``[B, S, S, 4]`` and ids ``[B, S, S]``."""
        if self._frames is not None:
            return self._frames.cut(plan.rows.frames, plan.inverse, self.crop_size)
        packs = self._pack_of(plan.rows.frames)
        places = zip(packs.tolist(), (plan.rows.frames - self._starts[packs]).tolist(), strict=True)
        frames = [self.packs[pack].frames[frame] for pack, frame in places]
        if self.device.type != "cpu":
            return cut_on_device(frames, plan.inverse, self.crop_size, self.device)
        shape = (len(frames), self.crop_size, self.crop_size)
        images = warp(frames, plan.inverse, np.empty((*shape, 4), dtype=np.uint8))
        return torch.from_numpy(images), torch.from_numpy(warp_ids(frames, plan.inverse, np.empty(shape, np.uint8)))

    def _photographs(self, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """Random cuts of the backgrounds for the crops that get a new background, and for those with an occluder."""
        if self._backgrounds is None:
            return None, None
        groups = [draws.groups[name].values["photo"].double().numpy() for name in ("background", "photo_occlusion")]
        chance = np.concatenate(groups)
        numbers = (chance[:, 0] * len(self._backgrounds)).astype(np.int64)
        inverse = photo_maps(chance[:, 1:], self._backgrounds.shape[1:3], self.crop_size)
        if self._photos is not None:
            cuts = self._photos.cut(numbers, inverse, self.crop_size)[0]
        else:
            out = np.empty((len(numbers), self.crop_size, self.crop_size, 4), dtype=np.uint8)
            cuts = torch.from_numpy(warp([self._backgrounds[number] for number in numbers], inverse, out))
        return cuts[: len(groups[0])], cuts[len(groups[0]) :]


def _exact(device: torch.device | str) -> torch.device:
    """The device with its number: "cuda" alone would mean another one in another thread."""
    device = torch.device(device)
    return (
        torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device
    )


def _device_frames(packs: Sequence[FramePack], device: torch.device) -> DeviceFrames | None:
    """All frames on the device, shared by the loaders of the same packs; None where they would not fit."""
    key = (device, *(id(pack) for pack in packs))
    frames = _shared_frames.get(key)
    if frames is None and _fits(sum(pack.frames.nbytes for pack in packs), device):
        frames = _shared_frames[key] = DeviceFrames([pack.frames for pack in packs], device)
    return frames


def _four_bytes(photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures ``[M, h, w, 4]`` of ``[M, h, w, 3]``: OpenCV warps four bytes a pixel twice as fast as three."""
    return np.concatenate([photos, np.zeros_like(photos[..., :1])], axis=-1)


def _fits(size: int, device: torch.device) -> bool:
    """Whether that many bytes leave half of the device's free memory to the network."""
    return device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 2
