"""Loader: batches of views of packed frames; each batch is a pure function of its step."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from posedistill.data.loading.augment import draw, vary
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.frame_reader import FrameReader
from posedistill.data.loading.pixels import move, to_planes
from posedistill.data.loading.prefetch import one_torch_thread, prefetch
from posedistill.data.loading.sampling import InOrder, Sampler, Shuffled, Weighted
from posedistill.data.loading.views import Plan, ViewPolicy
from posedistill.errors import RecipeError, describe
from posedistill.machine import cores

_CHUNK = 4
"""Pictures that one thread makes at a time. A constant: convolutions may round by the size of their batch."""
_SHAPES = 6
"""Tells the numbers that draw the shapes of batches from those that place the pictures in them."""


class LoaderOptions(TypedDict):
    """What every loader is told, whatever its view policy."""

    seed: int
    """Of the order and of the variations."""
    batch_size: int
    """Units of the global batch, a multiple of ``world_size``."""
    device: torch.device | str
    augment: NotRequired[bool]
    """Shuffled and varied without end (the default), or in order, once, as they are."""
    rank: NotRequired[int]
    """This process's part of the global batch; 0."""
    world_size: NotRequired[int]
    """Processes that share the global batch; 1."""
    targets: NotRequired[frozenset[str]]
    """What the estimator's loss needs; views make some targets on request alone."""


class Loader:
    """Batches of the units of a view policy, varied and ready for the network.

    With ``augment`` the units are shuffled anew each epoch and batches run on through the epochs without end; without,
    they come in order, once, as they are. ``batch(step)`` depends on (seed, step) and nothing else, so a resumed run
    goes on exactly as it would have.

    Args:
        batch_size, seed, device, augment, rank, world_size, targets: see :class:`LoaderOptions`.
        shares: of each pack in a varied batch (units are then drawn with replacement); None draws every unit once an
            epoch.
        threads: that make pictures on the CPU; all cores where None.
    """

    def __init__(
        self,
        view: ViewPolicy,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        augment: bool = True,
        *,
        shares: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        targets: frozenset[str] = frozenset(),
    ) -> None:
        if batch_size % world_size:
            raise RecipeError(describe("recipe", "batch_size", batch_size, f"a multiple of {world_size} processes"))
        self.view = (view if augment else view.unvaried()).asked(targets)
        self.batch_size, self.seed, self.device = batch_size, seed, _exact(device)
        self.rank, self.world_size = rank, world_size
        self._frames = FrameReader([pack.frames for pack in view.packs], self.device)
        self._sample = self._sampler(augment, shares)
        self._pool = ThreadPoolExecutor(threads or cores(), initializer=one_torch_thread)

    def _sampler(self, augment: bool, shares: Sequence[float] | None) -> Sampler:
        if not augment:
            return InOrder(len(self), self.batch_size)
        if shares is None:
            return Shuffled(len(self), self.batch_size, self.seed)
        return Weighted(self._frames.stacks_of(self.view.frames), shares, self.batch_size, self.seed)

    @property
    def targets(self) -> frozenset[str]:
        """What of ``Batch.targets`` its batches hold."""
        return self.view.targets

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.view.shape

    def __len__(self) -> int:
        """Number of units."""
        return len(self.view.frames)

    @property
    def steps(self) -> int:
        """Batches that see every unit once."""
        return -(-len(self) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step (this rank's part of it); without augmentation the last one may be short."""
        plan = self._pool.submit(self.plan, step).result()
        images, targets = (self._pictures if self._frames.gathers(plan.maps) else self._in_threads)(plan)
        targets |= {name: move(values.astype(np.float32), self.device) for name, values in plan.targets.items()}
        floats = (plan.K, plan.R, plan.t, plan.score)
        K, R, t, score = (move(values.astype(np.float32), self.device) for values in floats)
        picture, label, ids = (move(values, self.device) for values in (plan.picture, plan.label, plan.ids))
        return Batch(images.contiguous(memory_format=torch.channels_last), K, picture, R, t, label, score, ids, targets)

    def prefetch(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches ``start`` to ``stop``, made ahead in a background thread; see ``prefetch.prefetch``."""
        return prefetch(self.batch, start, stop, self.device)

    def plan(self, step: int) -> Plan:
        """What a batch shows; drawn for the global batch, so that it is the same however many processes share it."""
        rng = np.random.default_rng([self.seed, step, self.view.stream])
        units = self._sample(step)
        part = slice(self.rank * len(units) // self.world_size, (self.rank + 1) * len(units) // self.world_size)
        chance = rng.random((len(units), self.view.chances))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        size = np.random.default_rng([self.seed, step, self.view.stream, _SHAPES]).random()
        shape = self.view.shape_of(step * self.batch_size // len(self), size)
        draws = draw(self.view.variation, len(units), min(shape), generator)
        return self.view.plan(units[part], shape, chance[part], draws.part(part.start, part.stop))

    def _in_threads(self, plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """The pictures of a plan, a few in each thread: parts that fit a cache."""
        count = len(plan.frames)
        images = torch.empty((count, 3, *plan.shape), memory_format=torch.channels_last, device=self.device)

        def make(start: int) -> dict[str, Tensor]:
            stop = min(start + _CHUNK, count)
            images[start:stop], targets = self._pictures(plan.part(start, stop))
            return targets

        made = list(self._pool.map(make, range(0, max(count, 1), _CHUNK)))
        return images, {name: torch.cat([targets[name] for targets in made]) for name in made[0]}

    def _pictures(self, plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """Varied, normalised planes ``[P, 3, H, W]`` and the targets that need pixels."""
        draws = plan.draws.to(self.device)
        images, ids = self._frames.cut(plan.frames, plan.maps, plan.shape, self.view.labelled)
        x = to_planes(images)
        targets = self.view.cover(x, ids, plan, draws)
        vary(x, draws)
        return self.view.normalise(x, plan), targets


def _exact(device: torch.device | str) -> torch.device:
    """The device with its number: "cuda" alone would mean another one in another thread."""
    device = torch.device(device)
    numbered = device.type != "cuda" or device.index is not None
    return device if numbered else torch.device("cuda", torch.cuda.current_device())
