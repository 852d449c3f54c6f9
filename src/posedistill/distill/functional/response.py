"""Response losses, pure: what a network answers is compared point by point with what the teacher answers.

Every function computes in float32, returns one value an image (or a vote) and sends no gradient to the teacher, whose
tensors come second. Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (``divergence``);
Saputra et al., ICCV 2019, and Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation",
NeurIPS 2017 (``imitation_loss`` and its gates); Felix et al., "Squeezed Deep 6DoF Object Detection Using Knowledge
Distillation", IJCNN 2020, on the head of Tekin et al., CVPR 2018 (``single_shot_loss``).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.estimators.views import PUBLISHED_REACH, Votes, confidence, place_of_cells, published_pixels

Norm = Literal["smooth_l1", "l1", "l2", "bce"]
Gate = Literal["none", "min", "upper_bound"]

OBJECT_WEIGHT, BACKGROUND_WEIGHT = 5.0, 0.1
"""Of the published confidence loss, in the cell that holds the object and in the others."""
SILENCED_ABOVE = 0.6
"""A student's cell whose votes score more than this is not asked to be unsure."""
BORDER = 0.999
"""A centre out of sight belongs to the cell at the border, as the published labels do."""


def residuals(student: Tensor, teacher: Tensor, norm: Norm, beta: float) -> Tensor:
    """``[..., D], [..., D] -> [...]``: how far two points are, or two codes of probabilities.

    ``l2`` is half the squared distance, ``l1`` and ``smooth_l1`` (Huber's, divided by ``beta``) sums over the
    components, ``bce`` the mean divergence of the bits, which is the binary cross entropy less its least value.
    """
    x, y = student.float(), teacher.detach().float()
    if norm == "l2":
        return (x - y).square().sum(-1) / 2
    if norm == "l1":
        return (x - y).abs().sum(-1)
    if norm == "smooth_l1":
        return functional.smooth_l1_loss(x, y, beta=beta, reduction="none").sum(-1)
    return bit_divergence(logit(x), logit(y)).mean(-1)


def imitation_loss(
    student: Tensor,
    teacher: Tensor,
    truth: Tensor | None = None,
    *,
    norm: Norm = "smooth_l1",
    beta: float = 0.02,
    gate: Gate = "none",
    margin: float = 0.0,
) -> Tensor:
    """``[P, K, D] -> [P]``: the student's points against the teacher's, a mean over ``K``.

    Args:
        truth: ``[P, K, D]``, for a gate.
        gate: ``none`` adds imitation to what is learned from labels. ``min`` takes the lesser of imitation and the
            distance from the truth. ``upper_bound`` imitates where the student is farther from the truth than the
            teacher is, by ``margin`` or more; a student that has passed its teacher is let alone.
        margin: as a mean distance over ``K``.

    >>> import torch
    >>> x, y, truth = (torch.tensor([[[value, 0.0]]]) for value in (3.0, 1.0, 2.5))
    >>> [imitation_loss(x, y, truth, norm="l2", gate=gate).item() for gate in ("none", "min", "upper_bound")]
    [2.0, 0.125, 0.0]
    """
    loss = residuals(student, teacher, norm, beta).mean(-1)
    if gate == "none":
        return loss
    if truth is None:
        raise ValueError("a gate needs the truth")
    if gate == "min":
        return torch.minimum(loss, residuals(student, truth, norm, beta).mean(-1))
    with torch.no_grad():
        ours, theirs = ((side.float() - truth.float()).norm(dim=-1).mean(-1) for side in (student, teacher))
        ahead = ours > theirs + margin
    return loss.where(ahead, 0)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``[B, classes, ...] -> [B]``: ``T^2 KL(softmax(teacher / T) | softmax(student / T))``, a mean over positions.

    ``T^2`` keeps the gradient's size as the temperature changes (Hinton et al., section 2.1).
    """
    x, y = (functional.log_softmax(side.float() / temperature, 1) for side in (student, teacher.detach()))
    per_position = functional.kl_div(x, y, reduction="none", log_target=True).sum(1)
    return temperature**2 * per_position.reshape(len(x), -1).mean(1)


def bit_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``[...]`` logits of single bits: ``T^2 KL`` of the teacher's probability from the student's.

    The binary cross entropy with soft targets less the targets' entropy: the same gradient, and zero at equality.

    >>> import torch
    >>> bit_divergence(torch.zeros(1), torch.tensor([50.0]))
    tensor([0.6931])
    """
    x, y = student.float() / temperature, teacher.detach().float() / temperature
    cross_entropy, targets = functional.binary_cross_entropy_with_logits, y.sigmoid()
    least = cross_entropy(y, targets, reduction="none")
    return temperature**2 * (cross_entropy(x, targets, reduction="none") - least)


def pooled_bits(logits: Tensor, size: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """``[B, d, *size]`` logits of the mean probabilities of maps ``[B, d, H, W]`` over equal blocks.

    Args:
        size: divides that of the maps. mask: ``[B, 1, H, W]`` logits, whose probabilities weigh the positions.

    >>> import torch
    >>> pooled_bits(torch.tensor([[[[2.0, -2.0]]]]), (1, 1)).abs().max().item() < 1e-6
    True
    """
    if logits.shape[2:] == size:
        return logits
    pooled = functional.adaptive_avg_pool2d
    if mask is None:
        return logit(pooled(logits.float().sigmoid(), size))
    weights = mask.float().sigmoid()
    return logit(pooled(weights * logits.float().sigmoid(), size) / pooled(weights, size).clamp(min=1e-6))


def logit(probabilities: Tensor) -> Tensor:
    """Logits of probabilities, kept off 0 and 1."""
    return probabilities.float().clamp(1e-6, 1 - 1e-6).logit()


def responsible_cells(cells: Tensor, centers: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[B, N]`` bool: the cell of each level that holds the projected centre of the object's box.

    Args:
        cells: ``[B, N]`` ids as ``cell_ids`` numbers them.
        centers: ``[B, 2]`` in picture widths. shape: height and width of the picture in pixels.
    """
    stride, row, column = place_of_cells(cells)
    x, y = (shape[1] * centers.float()).unbind(-1)
    x, y = x.clamp(0, BORDER * shape[1]), y.clamp(0, BORDER * shape[0])
    return (column == (x[:, None] / stride).floor()) & (row == (y[:, None] / stride).floor())


def single_shot_loss(student: Votes, teacher: Votes, truth: Tensor, centers: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[B]``: the published distillation of a single-shot head (Felix et al.), a sum over the cells of an image.

    Coordinates are imitated in the cell that holds the object's centre alone, in units of cells and as half squares.
    Confidences are imitated in all cells: with weight 5 in that one, 0 where the student's votes already are good
    (their confidence function against ``truth``, in pixels of a 640 x 480 picture, passes 0.6), 0.1 elsewhere.
    ``truth`` selects and weighs: nothing is learned from it.

    Args:
        student: votes of cells. teacher: those of the same cells, masked where it has none.
        truth: ``[B, K, 2]`` annotated keypoints, centers: ``[B, 2]`` projected centres, both in picture widths.
        shape: height and width of the picture in pixels.
    """
    if student.cells is None:
        raise ValueError("votes without cells")
    x, y = (votes.values.float().where(teacher.mask[..., None, None], 0) for votes in (student, teacher))
    scores, targets = (votes.weights.float().where(teacher.mask, 0) for votes in (student, teacher))
    per_side = shape[1] / place_of_cells(student.cells)[0]
    responsible = responsible_cells(student.cells, centers, shape)
    squares = ((x - y.detach()) * per_side[..., None, None]).square().sum((2, 3))
    with torch.no_grad():
        per_x, per_y = (shape[1] * per_pixel for per_pixel in published_pixels(shape))
        dx, dy = (x - truth[:, None]).unbind(-1)
        quality = confidence(torch.hypot(per_x * dx, per_y * dy), PUBLISHED_REACH).mean(-1)
        weights = torch.where(quality > SILENCED_ABOVE, 0.0, BACKGROUND_WEIGHT)
        weights = torch.where(responsible, OBJECT_WEIGHT, weights)
    losses = squares.where(responsible, 0) + weights * (scores - targets.detach()).square()
    return losses.sum(1) / 2
