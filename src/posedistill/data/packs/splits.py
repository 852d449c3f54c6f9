"""What of the training data trains, and what is held back to select the model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedistill.data.packs.pack import Pack
from posedistill.errors import DataError, describe


class HeldOut(NamedTuple):
    """Rows that train and rows that select the model, int64; what lies between blocks is in neither."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def hold_out_frames(packs: Sequence[Pack], share: float, seed: int) -> HeldOut:
    """Split the instances of ``packs`` (numbered through, in order) by whole frames drawn at random.

    ``share`` of each pack's frames is held back (at least one where ``share`` > 0 and two exist), so that no validation
    picture is ever trained on.
    """
    train, validation, start = [], [], 0
    for number, pack in enumerate(packs):
        frames = np.unique(pack.instances.frame)
        count = min(max(round(share * len(frames)), 1 if share > 0 else 0), len(frames) - 1)
        held = np.random.default_rng([seed, number]).permutation(frames)[:count]
        is_held = np.isin(pack.instances.frame, held)
        train.append(start + np.flatnonzero(~is_held))
        validation.append(start + np.flatnonzero(is_held))
        start += len(pack)
    return HeldOut(np.concatenate(train), np.concatenate(validation))


def hold_out_pictures(images: Sequence[str], share: float, seed: int) -> HeldOut:
    """Split objects by whole photographs drawn at random: what is in one picture stays together.

    Args:
        images: the photograph of each object. share: of the photographs that is held back, at least one of two.

    >>> held = hold_out_pictures(["a", "b", "a", "c"], share=0.3, seed=0)
    >>> len(held.train) + len(held.validation), len(held.validation) in (1, 2)
    (4, True)
    """
    names, photograph = np.unique(np.asarray(images), return_inverse=True)
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    held = np.isin(photograph, np.random.default_rng(seed).permutation(len(names))[:count])
    return HeldOut(np.flatnonzero(~held), np.flatnonzero(held))


def hold_out_blocks(sequences: Sequence[str], share: float, seed: int, blocks: int = 3, gap: int = 5) -> HeldOut:
    """Split frames into training and validation blocks: neighbours in time are near-duplicates and stay together.

    Of every sequence, ``blocks`` unbroken runs are held back, at random places, ``share`` of its frames in all. The
    ``gap`` frames before and after each run are used for neither.

    Args:
        sequences: the sequence of each frame, in the order of time within each.

    Raises:
        DataError: nothing is left to train on.

    >>> held = hold_out_blocks(["a"] * 100, share=0.1, seed=0, blocks=1, gap=5)
    >>> len(held.validation), len(held.train) in (80, 81, 82, 83, 84, 85)
    (10, True)
    """
    names = np.asarray(sequences)
    train, validation = np.ones(len(names), dtype=bool), np.zeros(len(names), dtype=bool)
    rng = np.random.default_rng(seed)
    for name in dict.fromkeys(sequences):
        rows = np.flatnonzero(names == name)
        wanted = round(share * len(rows))
        # One part of the sequence for each block, and the block anywhere within its part.
        parts = np.array_split(rows, min(blocks, max(wanted, 1)))
        lengths = np.diff(np.linspace(0, wanted, len(parts) + 1).round().astype(int))
        for part, length in zip(parts, lengths.tolist(), strict=True):
            start = int(rng.integers(len(part) - length + 1))
            position = int(np.searchsorted(rows, part[start])) if length else 0
            validation[rows[position : position + length]] = True
            if length:
                train[rows[max(position - gap, 0) : position + length + gap]] = False
    if not train.any():
        found = f"all {len(names)} frames within {gap} frames of a validation block"
        raise DataError(describe("recipe", "validation", found, "frames to train on"))
    return HeldOut(np.flatnonzero(train), np.flatnonzero(validation))
