"""Losses of scene coordinates: pure functions of points in the camera's frame, of cells at known pixels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SOFT, HARD = 50.0, 1.0
"""Pixels at which an error stops to count in full, at the beginning and at the end of a training."""
FARTHEST_ERROR = 1000.0
"""Pixels beyond which a reprojection tells nothing about where the point should go."""


class Reprojection(NamedTuple):
    """Of each cell ``[B, N]``: L1 error in pixels, depth in the camera, and whether the two mean something."""

    error: Tensor
    depth: Tensor
    valid: Tensor


def reproject(
    points: Tensor, K: Tensor, pixels: Tensor, nearest: Tensor | float, farthest: Tensor | float
) -> Reprojection:
    """Where points appear, against the pixels whose cells claim to see them.

    Args:
        points: ``[B, N, 3]`` in the camera's frame. K: ``[B, 3, 3]``. pixels: ``[B, N, 2]``.
        nearest, farthest: depths between which a point can be, in the unit of the points.

    >>> K = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    >>> reproject(torch.tensor([[[0.1, 0.0, 1.0]]]), K, torch.tensor([[[50.0, 50.0]]]), 0.1, 1000.0).error
    tensor([[10.]])
    """
    depth = points[..., 2]
    # Points behind the camera are moved before it: their error is not used, but its gradient must stay a number.
    ahead = torch.cat([points[..., :2], depth.clamp(min=nearest)[..., None]], dim=-1)
    seen = ahead @ K.transpose(1, 2)
    error = (seen[..., :2] / seen[..., 2:] - pixels).abs().sum(-1)
    return Reprojection(error, depth, (depth >= nearest) & (depth <= farthest) & (error <= FARTHEST_ERROR))


def soft_limit(progress: float) -> float:
    """Pixels at which an error stops to count in full, ``progress`` (0..1) of the training being done.

    The schedule of Brachmann et al., CVPR 2023: from 50 to 1 along a quarter of a circle, slowly at first.

    >>> soft_limit(0.0), round(soft_limit(0.5), 2), soft_limit(1.0)
    (50.0, 43.44, 1.0)
    """
    return HARD + (SOFT - HARD) * math.sqrt(1 - progress**2)


def robust_error(error: Tensor, limit: float) -> Tensor:
    """``limit tanh(error / limit)``: the error itself while it is small, at most ``limit``."""
    return limit * torch.tanh(error / limit)


def coordinate_loss(
    points: Tensor, found: Reprojection, rays: Tensor, counted: Tensor, limit: float, depth: Tensor | float
) -> Tensor:
    """Mean over the cells that are counted: a robust reprojection error, or the way to a likely place.

    A point that cannot be what its cell sees (behind the camera, too near or far, a thousand pixels off) has no useful
    reprojection; it is pulled to the cell's ray at a likely depth instead (L1, Brachmann and Rother, PAMI 2021, there
    in metres; here in likely depths, so that the scene's unit changes nothing).

    Args:
        points: ``[B, N, 3]`` in the camera's frame, and ``found`` their reprojection.
        rays: ``[B, N, 3]`` directions of the cells, of depth 1. counted: ``[B, N]`` bool.
        limit: pixels, of :func:`soft_limit`. depth: the likely one.
    """
    away = (points / depth - rays).abs().sum(-1)
    losses = torch.where(found.valid, robust_error(found.error, limit), away)
    return losses.where(counted, 0).sum() / counted.sum().clamp(min=1)


def confidence_loss(logits: Tensor, error: Tensor, valid: Tensor, counted: Tensor, right: float) -> Tensor:
    """Binary cross entropy of "this point is less than ``right`` pixels off"; the error itself gets no gradient."""
    truth = ((error < right) & valid).detach().float()
    losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return losses.where(counted, 0).sum() / counted.sum().clamp(min=1)
