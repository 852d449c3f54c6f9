"""Supervised losses of the pose families, unreduced: the caller divides by the count that fits."""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

_SURE = math.log((1 - 1e-4) / 1e-4)
"""Logit of the largest probability."""


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017) of each entry, probabilities kept within ``[1e-4, 1 - 1e-4]``.

    Beyond, as published, a cell has no gradient: a wrong label on a sure cell does not pull.

    Args:
        logits: any shape, float32. targets: bool, same shape.

    >>> focal_loss(torch.zeros(2), torch.tensor([True, False]))
    tensor([0.0433, 0.1300])
    """
    return sigmoid_focal_loss(logits.clamp(-_SURE, _SURE), targets.to(logits.dtype), alpha, gamma)


def back_project(pixels: Tensor, K: Tensor) -> Tensor:
    """``[B, ..., 2]`` pixels and ``[B, 3, 3]`` upper-triangular intrinsics -> ``[B, ..., 3]`` rays with z = 1.

    In closed form: a general inverse would wait for the device to report singular matrices.

    >>> back_project(torch.tensor([[[10.0, 5.0]]]), torch.tensor([[[10.0, 0, 0], [0, 5.0, 0], [0, 0, 1.0]]]))
    tensor([[[1., 1., 1.]]])
    """
    shape = (-1,) + (1,) * (pixels.ndim - 2)
    y = (pixels[..., 1] - K[:, 1, 2].view(shape)) / K[:, 1, 1].view(shape)
    x = (pixels[..., 0] - K[:, 0, 2].view(shape) - K[:, 0, 1].view(shape) * y) / K[:, 0, 0].view(shape)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def line_of_sight_loss(votes: Tensor, points: Tensor, K: Tensor, diameters: Tensor, sharpness: float = 50.0) -> Tensor:
    """Distance of each true keypoint from its vote's viewing ray, in object diameters (WDRNet, CVPR 2021, eq. 3).

    With ``b`` the ray of the vote and ``P = b b^T / (b^T b)``: the mean over keypoints and axes of
    ``SmoothL1(sharpness * P X / d, sharpness * X / d) / sharpness``, quadratic below ``1 / sharpness`` diameters.
    The camera may be the crop's: a crop turns both ray and point about the optical axis and changes no distance.

    Args:
        votes: ``[B, M, K, 2]`` pixels. points: ``[B, K, 3]`` mm, camera frame. diameters: ``[B]`` mm.

    Returns:
        ``[B, M]``.
    """
    rays = back_project(votes, K)
    scaled = (points / diameters[:, None, None])[:, None]
    along = (rays * scaled).sum(-1, keepdim=True) / rays.square().sum(-1, keepdim=True)
    residual = sharpness * (along * rays - scaled)
    loss = functional.smooth_l1_loss(residual, torch.zeros_like(residual), reduction="none", beta=1.0)
    return loss.mean(dim=(-1, -2)) / sharpness


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over True entries; exactly zero, with a gradient path, where there is none.

    >>> masked_mean(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
