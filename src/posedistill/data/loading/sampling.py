"""Which rows a step's batch holds: pure functions of (seed, step), so that a resumed run goes on exactly."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import RecipeError, describe

Indices = NDArray[np.int64]
Sampler = Callable[[int], Indices]
"""Step to the rows ``[B]`` of the global batch."""

_SHUFFLE, _WEIGHTS = 2, 3
"""Tell the samplers' random numbers from each other's and from those of the view policies."""


class InOrder:
    """Every row once, in order; the last batch may be short."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __call__(self, step: int) -> Indices:
        """Rows of a step; ``IndexError`` past the end."""
        start = step * self.batch_size
        if not 0 <= start < self.count:
            raise IndexError(f"step {step} of {-(-self.count // self.batch_size)}")
        return np.arange(start, min(start + self.batch_size, self.count))


class Shuffled:
    """Every row once an epoch, each epoch in an order of its own; batches run on from one epoch into the next."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size = count, batch_size
        self._order = lru_cache(1)(lambda epoch: np.random.default_rng([seed, epoch, _SHUFFLE]).permutation(count))

    def __call__(self, step: int) -> Indices:
        """Rows of a step."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = positions // self.count, positions % self.count
        return np.concatenate([self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])


class Weighted:
    """Packs in given shares, each batch holding them to within one crop; rows of a pack at random, with replacement."""

    def __init__(self, packs: Indices, weights: Sequence[float], batch_size: int, seed: int) -> None:
        """``packs``: each row's pack ``[N]``; ``weights``: each pack's share, of any sum."""
        shares = np.asarray(weights, dtype=np.float64)
        counts = np.bincount(packs, minlength=len(shares))
        if len(counts) != len(shares) or not (shares >= 0).all() or not shares[counts > 0].sum() > 0:
            raise RecipeError(describe("recipe", "shares", list(weights), f"{len(counts)} shares >= 0, not all 0"))
        chance = (shares / np.maximum(counts, 1))[packs].cumsum()
        self.ends, self.batch_size, self.seed = chance / chance[-1], batch_size, seed

    def __call__(self, step: int) -> Indices:
        """Rows of a step (systematic sampling: one draw in each of ``batch_size`` equal parts of the whole)."""
        rng = np.random.default_rng([self.seed, step, _WEIGHTS])
        draws = (np.arange(self.batch_size) + rng.random(self.batch_size)) / self.batch_size
        return np.minimum(np.searchsorted(self.ends, draws, side="right"), len(self.ends) - 1)
