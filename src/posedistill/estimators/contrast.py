"""InfoNCE and how much its negatives count, pure: what a family's own loss and the losses of ``distill`` share."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Weighting = Literal["linear", "sqrt", "square", "sin", "sinsin"]
LEAST_WEIGHT = 1e-3
"""A negative that counts for less is left out."""


def nce(positive: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
    """Negative log of the positive's share: ``-ln(e^p / (e^p + sum_j w_j e^(n_j)))`` for each anchor.

    Van den Oord et al. 2018 (InfoNCE), with weighted negatives as in PoseContrast (Xiao et al. 2021). Weights enter as
    logarithms, so that no exponential overflows at any temperature.

    Args:
        positive: ``[B]``, negatives: ``[B, K]`` similarities over temperature. weights: ``[B, K]``, 0 leaves out.

    Returns:
        ``[B]``, at least 0; 0 where nothing is left to compare with.

    >>> nce(torch.tensor([0.0]), torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]])).exp()
    tensor([3.])
    """
    logits = negatives + weights.log().masked_fill(weights < LEAST_WEIGHT, -math.inf)
    return torch.cat([positive[:, None], logits], dim=1).logsumexp(1) - positive


def negative_weights(distances: Tensor, weighting: Weighting) -> Tensor:
    """Weights in 0..1 of negatives whose poses are so many degrees off (3DAug-Pose's five choices).

    >>> negative_weights(torch.tensor([0.0, 45.0, 180.0]), "linear")
    tensor([0.0000, 0.2500, 1.0000])
    """
    share, sine = distances / 180, torch.deg2rad(distances).sin().abs()
    weights = {"linear": share, "sqrt": share.sqrt(), "square": share**2, "sin": sine, "sinsin": sine**2}
    return weights[weighting]


def nearest_equivalent(R: Tensor, reference: Tensor, turns: Tensor) -> Tensor:
    """Of the rotations in which a symmetric thing looks as under ``R``, those nearest to ``reference``.

    Args:
        R, reference: ``[..., 3, 3]``. turns: ``[...]`` degrees about the thing's z axis after which it looks the same;
            0 for any. The choice among them has no gradient.

    >>> half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    >>> nearest_equivalent(half, torch.eye(3), torch.tensor(180.0)).round().equal(torch.eye(3))
    True
    """
    product, step = (reference.transpose(-1, -2) @ R).detach(), turns.to(R.dtype).deg2rad()
    angle = torch.atan2(product[..., 0, 1] - product[..., 1, 0], product[..., 0, 0] + product[..., 1, 1])
    angle = torch.where(step == 0, angle, (angle / step).round() * step)[..., None]
    x, y, z = R.expand(product.shape).unbind(-1)
    return torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin(), z], -1)


def shared_turns(turns: Tensor | None, others: Tensor | None) -> Tensor | None:
    """``[B, K]`` degrees after which either of two things looks the same, of ``[B]`` and ``[K]`` or ``[B, K]`` theirs.

    >>> shared_turns(torch.tensor([360.0, 180.0]), torch.tensor([360.0, 0.0])).tolist()
    [[360.0, 0.0], [180.0, 0.0]]
    """
    return None if turns is None or others is None else torch.minimum(turns[:, None], others)


def viewpoint_distances(R: Tensor, others: Tensor, turns: Tensor | None = None) -> Tensor:
    """``[B, 3, 3], [K, 3, 3] -> [B, K]`` degrees between rotations, of symmetric things up to their symmetry.

    Args:
        turns: ``[B, K]`` degrees after which either of the two looks the same (:func:`nearest_equivalent`).

    >>> both = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))])
    >>> viewpoint_distances(both, both).tolist()
    [[0.0, 180.0], [180.0, 0.0]]
    """
    ours, theirs = R[:, None], others[None]
    if turns is not None:
        theirs = nearest_equivalent(theirs, ours, turns)
    chords = (ours - theirs).flatten(-2).norm(dim=-1)
    return 2 * (chords / 8**0.5).clamp(max=1).asin().rad2deg()


def unit(vectors: Tensor) -> Tensor:
    """``[N, D]`` of length 1; a vector of zeros stays one, with a gradient that is finite."""
    return functional.normalize(vectors, dim=1, eps=1e-6)
