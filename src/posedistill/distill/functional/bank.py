"""Banks of the training pictures, for losses that compare a picture with many more than its batch holds.

Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, keep a bank for each network and let both
lag behind what the networks are learning (:class:`MomentumBank`). A frozen teacher makes the same of a picture each
time, so its bank can be exact: it is filled once, before training (:class:`PictureBank`).
"""

import math

import psutil
import torch
from torch import Tensor, nn

from posedistill.distill.base import Example
from posedistill.errors import RecipeError, describe

_PRIME = 2_654_435_761
"""Spreads the numbers of batches over the bank (Knuth's multiplicative hash)."""


class PictureBank(nn.Module):
    """Pose and, where kept, teacher embedding of every training picture, in a shuffled order of its own.

    Attributes:
        embeddings: ``[N, D]`` float32, as the teacher made them; ``D`` is 0 where they are not kept.
        R: ``[N, 3, 3]``, centers: ``[N, 3]`` camera positions in the frame of the object or scene.
        ids: ``[N]`` int64, as in ``Batch.ids``. turns: ``[N]`` the batch's target, where it has it.
    """

    embeddings: Tensor
    R: Tensor
    centers: Tensor
    ids: Tensor
    turns: Tensor | None
    _sorted: Tensor
    _order: Tensor

    def __init__(
        self, embeddings: Tensor, R: Tensor, centers: Tensor, ids: Tensor, turns: Tensor | None = None
    ) -> None:
        super().__init__()
        known, order = ids.sort()
        tensors: dict[str, Tensor | None] = {"embeddings": embeddings, "R": R, "centers": centers, "ids": ids}
        tensors |= {"turns": turns, "_sorted": known, "_order": order}
        for name, tensor in tensors.items():
            # Not in checkpoints: the frozen teacher makes the same of the same pictures when a run goes on.
            self.register_buffer(name, tensor, persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B]`` of pictures by id, and whether the bank has them ``[B]`` (any row where it has not)."""
        places = torch.searchsorted(self._sorted, ids).clamp(max=len(self) - 1)
        return self._order[places], self._sorted[places] == ids

    def draw(self, ids: Tensor, count: int) -> Tensor:
        """``[min(count, N)]`` rows for a batch of these ids, without replacement, the same ones each time it is asked.

        The bank lies shuffled, and the rows follow a place that the ids spell: a run that goes on after an
        interrupt draws what it would have drawn, and nothing waits for the device.

        >>> bank = PictureBank(torch.zeros(5, 0), torch.zeros(5, 3, 3), torch.zeros(5, 3), torch.arange(5))
        >>> sorted(bank.draw(torch.tensor([3, 1]), 9).tolist())
        [0, 1, 2, 3, 4]
        """
        places = torch.arange(1, len(ids) + 1, device=ids.device)
        start = (ids * places).sum() * _PRIME % len(self)
        return (start + torch.arange(min(count, len(self)), device=ids.device)) % len(self)


class MomentumBank(nn.Module):
    """The published pair of banks, ``student`` and ``teacher`` ``[N, D]``: rows of length 1 that follow by halves.

    ``log_z`` holds the logarithms of the normalising constants of both sides, set by the first batch.
    """

    student: Tensor
    teacher: Tensor
    log_z: Tensor
    momentum = 0.5

    def __init__(self, count: int, width: int, device: torch.device) -> None:
        super().__init__()
        limit = (width / 3) ** -0.5
        for name in ("student", "teacher"):
            start = torch.empty(count, width, device=device).uniform_(-limit, limit)
            self.register_buffer(name, start)
        self.register_buffer("log_z", torch.full((2,), torch.nan, device=device))

    def normalise(self, side: int, scores: Tensor) -> Tensor:
        """Logarithms of ``exp(scores) / Z``; the first scores a side sees set its ``Z = N mean(exp(scores))``."""
        with torch.no_grad():
            first = scores.logsumexp((0, 1)) + math.log(len(self.student) / scores.numel())
            fresh = torch.arange(2, device=scores.device) == side
            self.log_z.copy_(self.log_z.where(~(fresh & self.log_z.isnan()), first))
        return scores - self.log_z[side]

    @torch.no_grad()
    def update(self, rows: Tensor, known: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Move the rows of ``known`` pictures half the way to what the networks make of these now."""
        for bank, fresh in ((self.student, student), (self.teacher, teacher)):
            old = bank[rows]
            mixed = self.momentum * old + (1 - self.momentum) * fresh
            bank[rows] = torch.where(known[:, None], nn.functional.normalize(mixed, dim=1), old)


def fill_bank(name: str, example: Example, width: int) -> PictureBank:
    """The bank of all training pictures, ``width`` numbers of each kept (all of its embedding, or 0).

    Raises:
        RecipeError: it is larger than the free memory (told before it is filled), or there are no pictures.
    """
    count, device = example.picture_count, example.batch.images.device
    if count == 0:
        expected = "the training pictures, each once (Teaching.training_pictures and picture_count)"
        raise RecipeError(describe("recipe", f"distill.{name}.form", "no training pictures", expected))
    refuse_beyond_memory(name, count, width, device)
    embeddings = torch.empty(count, width, device=device)
    R, centers = torch.empty(count, 3, 3, device=device), torch.empty(count, 3, device=device)
    ids = torch.empty(count, dtype=torch.int64, device=device)
    turns = torch.empty(count, device=device) if "turns" in example.batch.targets else None
    # A place of its own for each picture, drawn before any is seen.
    places = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(device)
    done = 0
    for prediction, batch in example.training_pictures():
        if done + len(batch) > count:
            raise RecipeError(describe("recipe", f"distill.{name}.form", f"over {count} pictures", f"{count} of them"))
        rows = places[done : done + len(batch)]
        if width:
            assert prediction.embedding is not None
            embeddings[rows] = prediction.embedding.detach().float()
        R[rows], centers[rows], ids[rows] = batch.R.float(), batch.camera_centers().float(), batch.ids
        if turns is not None:
            turns[rows] = batch.targets["turns"]
        done += len(batch)
    if done < count:
        raise RecipeError(describe("recipe", f"distill.{name}.form", f"{done} training pictures", f"{count}"))
    return PictureBank(embeddings, R, centers, ids, turns)


def refuse_beyond_memory(name: str, count: int, width: int, device: torch.device) -> None:
    """Refuse a bank ``count x width`` of float32 that does not fit into what is free on its device.

    Raises:
        RecipeError: with the bytes needed and available.
    """
    needed, available = count * width * 4, free_bytes(device)
    if needed > available:
        found = f"a bank of {count} x {width} numbers, {needed} bytes"
        expected = f"at most the {available} bytes free on {device}: fewer pictures, or a form without a bank"
        raise RecipeError(describe("recipe", f"distill.{name}.form", found, expected))


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; memory that only caches files counts as free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
