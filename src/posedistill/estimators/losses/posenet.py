"""Losses of camera pose regression: pure functions of predicted and true positions and rotations."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.loading.pixels import move

Norm = Literal["l2", "l1"]
Sign = Literal["either", "fixed"]
_TINY = 1e-12


def residual_norm(residuals: Tensor, norm: Norm) -> Tensor:
    """``[B, D] -> [B]``: not squared, so that no outlier rules; ``l1`` sums the absolute values."""
    if norm == "l1":
        return residuals.abs().sum(-1)
    return (residuals.square().sum(-1) + _TINY).sqrt()


def nearer_sign(quaternions: Tensor, truth: Tensor) -> Tensor:
    """``truth`` ``[B, 4]`` or its negative, which is the same rotation, whichever is nearer to ``quaternions``."""
    return torch.where((quaternions * truth).sum(-1, keepdim=True) < 0, -truth, truth)


def squared_pose_loss(
    position: Tensor, quaternion: Tensor, true_position: Tensor, true_quaternion: Tensor, sign: Sign = "fixed"
) -> tuple[Tensor, Tensor]:
    """The published pair of losses: mean squared errors over all elements, of positions and of unit quaternions.

    Their sum, the second times beta, is the loss of PoseNet's reimplementations; Kendall et al., ICCV 2015, use norms
    that are not squared (``residual_norm``), for which the same beta means another balance.

    Args:
        position, true_position: ``[B, 3]``. quaternion, true_quaternion: ``[B, 4]``, normalised here.

    >>> x, q = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    >>> squared_pose_loss(x, q, x + 1, -q)
    (tensor(1.), tensor(1.))
    """
    predicted, truth = (functional.normalize(value.float(), dim=-1) for value in (quaternion, true_quaternion))
    if sign == "either":
        truth = nearer_sign(predicted, truth)
    return functional.mse_loss(position.float(), true_position.float()), functional.mse_loss(predicted, truth)


def homoscedastic(position: Tensor, rotation: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses weighted by learned variances: ``exp(-s) L + s`` (Kendall and Cipolla, CVPR 2017, eq. 6).

    Args:
        position, rotation: scalars. log_weights: ``[2]``, s of both.
    """
    weighted = torch.exp(-log_weights) * torch.stack([position, rotation]) + log_weights
    return weighted[0], weighted[1]


def point_distance(R: Tensor, position: Tensor, true_R: Tensor, true_position: Tensor, points: Tensor) -> Tensor:
    """``[B]``: how far points that the true camera sees move in the eyes of the predicted one, a mean over them.

    The geometric loss of Kendall and Cipolla, CVPR 2017, in the camera's frame instead of the image, so that a camera
    that looks the wrong way still has a gradient; it weighs turn against shift as their effect on what is seen does.

    Args:
        R, true_R: ``[B, 3, 3]`` world to camera. position, true_position: ``[B, 3]`` camera centres.
        points: ``[B, P, 3]`` in the true camera's frame.
    """
    offsets = points @ true_R + (true_position - position)[:, None]
    moved = offsets @ R.transpose(1, 2) - points
    return (moved.square().sum(-1) + _TINY).sqrt().mean(-1)


def frustum_points(K: Tensor, height: int, width: int, depth: float) -> Tensor:
    """``[B, 15, 3]``: corners and middle of each picture at half, once and twice a depth, in the camera's frame."""
    columns, rows = (length - 1 for length in (width, height))
    pixels = [(0, 0), (columns, 0), (0, rows), (columns, rows), (columns / 2, rows / 2)]
    places = move(torch.tensor([(x, y, 1.0) for x, y in pixels]), K.device)
    rays = places @ torch.linalg.inv(K).transpose(1, 2)
    depths = move(depth * torch.tensor([0.5, 1.0, 2.0]), K.device)
    return (depths[:, None, None] * rays[:, None]).flatten(1, 2)
