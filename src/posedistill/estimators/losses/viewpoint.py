"""Losses of viewpoints in bins, and the torch side of their decoding: pure functions of logits, offsets and labels.

Labels are ``geometry.viewpoint.label_angles``, degrees ``[B, 3]``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.decode.viewpoint import REACH, Grid

SIGMA = 5.0
"""Degrees by which soft targets spread over neighbouring bins."""
_SHARPNESS = 5.0
"""Of offsets within the smooth L1 loss, as published."""


def labels_of_rotations(R: Tensor) -> Tensor:
    """``[B, 3, 3] -> [B, 3]`` label angles in 0..360, 0..180 and 0..360; see ``geometry.viewpoint``.

    >>> R = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]])
    >>> labels_of_rotations(R).tolist()
    [[0.0, 90.0, 180.0]]
    """
    R = R.double()
    azimuth = torch.atan2(-R[:, 2, 0], R[:, 2, 1])
    elevation = torch.atan2(-R[:, 2, 2], torch.hypot(R[:, 2, 0], R[:, 2, 1]))
    inplane = torch.atan2(-R[:, 0, 2], -R[:, 1, 2])
    azimuth, elevation, inplane = (torch.rad2deg(angle) for angle in (azimuth, elevation, inplane))
    return torch.stack([-azimuth % 360, elevation + 90, (inplane + 180) % 360], 1).float()


def rotations_of_labels(labels: Tensor) -> Tensor:
    """``[B, 3] -> [B, 3, 3]``, differentiable: ``Rz(L2 - 180) Rx(L1 - 180) Rz(L0)`` in OpenCV's axes."""
    first, second, third = labels.unbind(1)
    first, second, third = (torch.deg2rad(angle) for angle in (first, second - 180, third - 180))
    (ca, cb, cc), (sa, sb, sc) = ((f(first), f(second), f(third)) for f in (torch.cos, torch.sin))
    rows = [
        *(cc * ca - sc * cb * sa, -cc * sa - sc * cb * ca, sc * sb),
        *(-sc * ca - cc * cb * sa, sc * sa - cc * cb * ca, cc * sb),
        *(-sb * sa, -sb * ca, -cb),
    ]
    return torch.stack(rows, 1).view(-1, 3, 3)


def bin_targets(labels: Tensor, count: int, size: float, grid: Grid, *, circular: bool) -> tuple[Tensor, Tensor]:
    """What one angle ``[B]`` asks of ``count`` bins: probabilities ``[B, K]``, and offsets ``[B, K]`` in bins.

    ``published``: the bin of the label alone, offset from its middle. ``centred``: a Gaussian of ``SIGMA`` degrees over
    the bins' middles, round the circle where the angle goes round, and the offset from each middle within reach.
    """
    bins = torch.arange(count, device=labels.device)
    if grid == "published":
        own = (labels / size).floor().clamp(max=count - 1)
        offset = labels / size - own - 0.5
        return (bins == own[:, None]).float(), offset[:, None].expand(-1, count)
    distance = labels[:, None] - size * bins
    if circular:
        span = size * count
        distance = (distance + span / 2) % span - span / 2
    return (-(distance / SIGMA).square() / 2).softmax(1), (distance / size).clamp(-REACH, REACH)


def bin_losses(
    logits: Tensor, offsets: Tensor, labels: Tensor, size: float, grid: Grid, *, circular: bool
) -> tuple[Tensor, Tensor]:
    """``[B], [B]``: cross-entropy of the bins, and smooth L1 of the offsets, of one angle.

    Args:
        logits, offsets: ``[B, K]``, the offsets before their tanh. labels: ``[B]`` degrees.
    """
    wanted, places = bin_targets(labels, logits.shape[1], size, grid, circular=circular)
    reach = 0.5 if grid == "published" else REACH
    found = reach * offsets.float().tanh()
    cross_entropy = -(wanted * logits.float().log_softmax(1)).sum(1)
    residual = functional.smooth_l1_loss(_SHARPNESS * found, _SHARPNESS * places, reduction="none")
    return cross_entropy, (wanted * residual).sum(1)


def decoded_angle(logits: Tensor, offsets: Tensor, grid: Grid, size: float, *, circular: bool) -> Tensor:
    """``[B]`` degrees, not wrapped: ``decode.viewpoint.decode_angle``, differentiable."""
    logits, offsets = logits.float(), offsets.float().tanh()
    best, count = logits.argmax(1, keepdim=True), logits.shape[1]
    if grid == "published":
        return (size * (best + 0.5 + offsets.gather(1, best) / 2)).squeeze(1)
    steps = torch.arange(-1, 2, device=logits.device)
    bins = best + steps
    known = torch.ones_like(bins, dtype=torch.bool) if circular else (bins >= 0) & (bins < count)
    bins = bins % count
    weights = logits.gather(1, bins).masked_fill(~known, -torch.inf).softmax(1)
    return (weights * size * (best + steps + REACH * offsets.gather(1, bins))).sum(1)
