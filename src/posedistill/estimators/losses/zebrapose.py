"""Losses of surface codes: bits and mask, as ZebraPose (Su et al., CVPR 2022) weighs them and as it should.

As published, code logits are multiplied by the *predicted* mask and averaged over all pixels: a bit learns nothing
until the mask does, least of small objects, and wrongly predicted background learns code 0. The corrected form is a
mean over the pixels on which the object is seen. Both weigh bits by how often they are wrong: most those that are
neither learned nor out of reach.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_MEMORY = 0.95
"""Of the running share of wrong bits, per step."""
_SHARPNESS = 3.0
UNSEEN = -1.0
"""Running share before the first step."""


class CodeTerms(NamedTuple):
    """``losses`` ``[d]`` of the bits, ``errors`` ``[d]`` their share of wrong ones, ``pixels`` how many tell."""

    losses: Tensor
    errors: Tensor
    pixels: Tensor


def code_terms(logits: Tensor, bits: Tensor, weights: Tensor) -> CodeTerms:
    """Binary cross entropy of each bit, a mean over pixels.

    Args:
        logits: ``[B, d, G, G]``. bits: float, same shape. weights: ``[B, G, G]``, 0 where no code is known; where all
            are 0 so are the losses.
    """
    weights = weights[:, None]
    total = weights.sum()
    share = weights / total.clamp(min=1e-6)
    losses = functional.binary_cross_entropy_with_logits(logits, bits, reduction="none")
    wrong = (logits.detach() > 0) != (bits > 0.5)
    return CodeTerms((losses * share).sum((0, 2, 3)), (wrong * share).sum((0, 2, 3)), total)


def published_code_terms(logits: Tensor, bits: Tensor, mask_logits: Tensor) -> CodeTerms:
    """As published; ``bits`` are 0 off the object, ``mask_logits`` ``[B, 1, G, G]``."""
    inside = (mask_logits.detach() > 0).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits * inside, bits, reduction="none").mean((0, 2, 3))
    wrong = ((logits.detach() > 0) != (bits > 0.5)) * inside
    count = inside.sum()
    return CodeTerms(losses, wrong.sum((0, 2, 3)) / (count + 1), count)


def running_errors(before: Tensor, terms: CodeTerms) -> Tensor:
    """``[d]`` the running share of wrong bits after a step; as before where no pixel tells.

    >>> terms = CodeTerms(torch.zeros(2), torch.tensor([0.4, 0.0]), torch.tensor(5.0))
    >>> running_errors(torch.tensor([UNSEEN, 0.2]), terms)
    tensor([0.4000, 0.1900])
    """
    after = torch.where(before < 0, terms.errors, (1 - _MEMORY) * terms.errors + _MEMORY * before)
    return torch.where(terms.pixels > 0, after, before)


def bit_weights(errors: Tensor, hopeless: float = 0.5) -> Tensor:
    """``[d]`` weights of bits, which sum to 1: most at half of ``hopeless``, the share that is wrong by guessing.

    >>> bit_weights(torch.tensor([0.0, 0.25, 0.5])).round(decimals=3)
    tensor([0.2430, 0.5140, 0.2430])
    """
    return torch.softmax(_SHARPNESS * torch.minimum(errors, hopeless - errors), dim=0)


def mask_loss(logits: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Mean binary cross entropy of logits ``[B, 1, G, G]``; ``mask`` ``[B, G, G]``, ``weights`` ``[B]`` of crops."""
    losses = functional.binary_cross_entropy_with_logits(logits[:, 0], mask.to(logits.dtype), reduction="none")
    return (losses.mean((1, 2)) * weights).mean()


def published_mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of probabilities and mask."""
    return (logits[:, 0].sigmoid() - mask.to(logits.dtype)).abs().mean()


def soft_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """``1 - (2 sum p y + 1) / (sum p + sum y + 1)`` of a batch (Milletari et al., 2016)."""
    p, y = logits[:, 0].sigmoid(), mask.to(logits.dtype)
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
