"""The region head of a single-shot network: its predictors, which of them answer for what, and the losses. Pure.

Tekin, Sinha and Fua, "Real-Time Seamless Single Shot 6D Object Pose Prediction", CVPR 2018. A picture is a grid of
cells, each with ``A`` predictors; each predicts ``K`` points (the object's centre and the corners of its box), how far
they can be trusted, and a class. Points are in *cells*: picture pixels over the stride of the grid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.loading.pixels import move
from posedistill.estimators.views import confidence
from posedistill.geometry.objects import BOX_POINTS

SILENT_ABOVE = 0.6
"""A predictor whose points are this good is not asked to be unsure, whoever answers for the object."""
BORDER = 0.999
"""Of the picture's side: where published labels end."""


class Region(NamedTuple):
    """What a region map says by its ``N`` predictors: row by row, the anchors of a cell together."""

    points: Tensor
    """``[P, N, K, 2]`` cells from the picture's left upper corner; the first point stays within its cell."""
    confidence: Tensor
    """``[P, N]`` logits."""
    classes: Tensor
    """``[P, N, C]`` logits."""
    shape: tuple[int, int, int]
    """Rows, columns and anchors."""

    def scores(self, labels: Tensor, picture: Tensor) -> Tensor:
        """``[I, N]`` how sure each predictor of an instance's picture is to see an object of the instance's class."""
        sure = self.confidence.sigmoid()[picture]
        if self.classes.shape[2] == 1:
            return sure
        shares = self.classes.softmax(2)[picture]
        return sure * shares.gather(2, labels[:, None, None].expand(-1, shares.shape[1], 1)).squeeze(2)


def read_region(raw: Tensor, classes: int) -> Region:
    """A network's map as its predictors.

    Args:
        raw: ``[P, A * (2 K + 1 + C), rows, columns]``; of each anchor x and y of the points, the confidence, the
            classes. classes: ``C``.

    >>> region = read_region(torch.zeros(1, 20, 2, 3), classes=1)
    >>> region.points[0, 5, :2].tolist(), region.shape
    ([[2.5, 1.5], [2.0, 1.0]], (2, 3, 1))
    """
    pictures, channels, rows, columns = raw.shape
    anchors = channels // (2 * BOX_POINTS + 1 + classes)
    flat = raw.float().view(pictures, anchors, -1, rows, columns).permute(0, 3, 4, 1, 2).flatten(1, 3)
    offsets = flat[..., : 2 * BOX_POINTS].reshape(pictures, -1, BOX_POINTS, 2)
    offsets = torch.cat([offsets[:, :, :1].sigmoid(), offsets[:, :, 1:]], 2)
    places = cell_corners(rows, columns, anchors, raw.device)
    return Region(
        offsets + places[:, None], flat[..., 2 * BOX_POINTS], flat[..., 2 * BOX_POINTS + 1 :], (rows, columns, anchors)
    )


def cell_corners(rows: int, columns: int, anchors: int, device: torch.device | str = "cpu") -> Tensor:
    """``[N, 2]`` column and row of each predictor's cell."""
    axes = (torch.arange(count, device=device, dtype=torch.float32) for count in (rows, columns))
    row, column = torch.meshgrid(*axes, indexing="ij")
    corners = torch.stack([column, row], -1).view(-1, 1, 2).expand(-1, anchors, 2)
    return corners.reshape(-1, 2)


class Answers(NamedTuple):
    """Which predictors answer for each instance, ``M`` at most: the cell that holds its centre, then its neighbours."""

    predictor: Tensor
    """``[I, M]`` into the ``N`` predictors of its picture."""
    mask: Tensor
    """``[I, M]`` bool, False where the grid ends or another instance has the predictor."""

    def rows(self, picture: Tensor, predictors: int) -> Tensor:
        """``[I, M]`` into the predictors of all pictures, one picture after another."""
        return picture[:, None] * predictors + self.predictor


def answering(
    truth: Tensor,
    picture: Tensor,
    pictures: int,
    shape: tuple[int, int, int],
    anchors: Sequence[tuple[float, float]] = (),
    neighbours: bool = True,
) -> Answers:
    """The predictors that answer for instances whose true points are ``[I, K, 2]`` cells, centre first.

    Where several instances claim one predictor, the one in whose own cell it lies has it, then the nearest, then the
    last. An instance whose centre is outside of the picture has no cell of its own.

    Args:
        picture: ``[I]``, of so many pictures. anchors: width and height in cells; the one most like an object's box
            answers for it.
        neighbours: whether the eight cells around answer too.

    >>> truth = torch.full((1, 9, 2), 6.5)
    >>> answering(truth, torch.tensor([0]), 1, (13, 13, 1), neighbours=False).predictor
    tensor([[84]])
    """
    rows, columns, count = shape
    reach = torch.arange(-1, 2, device=truth.device)
    steps = torch.cartesian_prod(reach, reach)
    steps = torch.cat([steps[4:5], steps[:4], steps[5:]]) if neighbours else steps[4:5]
    center = truth[:, :1]
    own = center.floor().long()
    cells = own + steps
    limits = move(torch.tensor([columns, rows]), cells.device)
    inside = ((cells >= 0) & (cells < limits)).all(2) & ((own >= 0) & (own < limits)).all(2)
    place = cells.clamp(min=0).minimum(limits - 1)
    anchor = likest_anchor(truth, anchors)
    index = (place[..., 1] * columns + place[..., 0]) * count + anchor[:, None]
    # Nearer than any neighbour is the instance whose centre is in the cell; among equals the last one has it.
    distance = (center - cells - 0.5).square().sum(2) + 10.0 * (steps != 0).any(1)
    order = distance.flip(0).flatten().argsort(stable=True)
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    rank = rank.view_as(distance).flip(0).where(inside, len(order))
    answers = Answers(index, inside)
    slots = answers.rows(picture, rows * columns * count)
    best = rank.new_full((pictures * rows * columns * count,), len(order))
    best = best.scatter_reduce(0, slots.flatten(), rank.flatten(), "amin")
    return Answers(index, inside & (best[slots] == rank))


def likest_anchor(truth: Tensor, anchors: Sequence[tuple[float, float]]) -> Tensor:
    """``[I]`` the anchor with the largest overlap (IoU about one centre) with the box around true points, in cells."""
    if len(anchors) < 2:
        return torch.zeros(len(truth), dtype=torch.int64, device=truth.device)
    boxes = move(torch.tensor(anchors, dtype=truth.dtype), truth.device)
    corners = truth[:, 1:]
    extent = (corners.amax(1) - corners.amin(1))[:, None]
    shared = torch.minimum(extent, boxes).prod(2)
    return (shared / (extent.prod(2) + boxes.prod(1) - shared)).argmax(1)


class Goals(NamedTuple):
    """What the confidences of all predictors ``[P, N]`` should be."""

    confidence: Tensor
    """Of a predictor that answers for an instance: how good its points are at present; else 0."""
    positive: Tensor
    """Bool: it answers for an instance."""
    silent: Tensor
    """Bool: it does not, but is good enough to be let alone."""


@torch.no_grad()
def confidence_goals(
    region: Region, truth: Tensor, picture: Tensor, answers: Answers, scale: tuple[float, float], reach: float
) -> Goals:
    """What every predictor should say of itself; its goal moves with its own points (equation 1 of the paper).

    Args:
        truth: ``[I, K, 2]`` cells. scale: pixels of a cell's width and height. reach: distance at which a point is
            worth nothing, in the same pixels.
    """
    pictures, predictors = region.confidence.shape
    per_cell = move(torch.tensor(scale, dtype=truth.dtype), truth.device)
    offsets = (region.points.detach()[picture] - truth[:, None]) * per_cell
    quality = confidence(offsets.norm(dim=-1), reach).mean(-1)
    best = quality.new_zeros(pictures, predictors)
    best = best.scatter_reduce(0, picture[:, None].expand(-1, predictors), quality, "amax")
    rows = answers.rows(picture, predictors).flatten()
    own = quality.gather(1, answers.predictor).where(answers.mask, 0).flatten()
    goal = best.new_zeros(best.numel()).scatter_reduce(0, rows, own, "amax").view_as(best)
    claimed = answers.mask.flatten().float()
    positive = best.new_zeros(best.numel()).scatter_reduce(0, rows, claimed, "amax").view_as(best) > 0
    return Goals(goal, positive, (best > SILENT_ABOVE) & ~positive)


def answered(values: Tensor, picture: Tensor, answers: Answers) -> Tensor:
    """``[P, N, ...] -> [I, M, ...]``: what the answering predictors say."""
    rows = answers.rows(picture, values.shape[1])
    return values.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, *values.shape[2:])


def published_losses(
    region: Region, truth: Tensor, picture: Tensor, answers: Answers, goals: Goals, object_scale: float, noobject: float
) -> tuple[Tensor, Tensor]:
    """The losses of points and of confidences as published: half squares, in cells, summed over everything."""
    offsets = answered(region.points, picture, answers) - truth[:, None]
    points = (offsets.square().sum((2, 3)) * answers.mask).sum() / 2
    weights = torch.where(goals.positive, object_scale, torch.where(goals.silent, 0.0, noobject))
    return points, (weights * (region.confidence.sigmoid() - goals.confidence).square()).sum() / 2


def point_loss(
    region: Region, truth: Tensor, picture: Tensor, answers: Answers, scale: float, beta: float = 0.01
) -> Tensor:
    """Smooth L1 of the answering predictors' points, a mean over them and over their points.

    The centre is learned in its own cell alone, for other cells' centres cannot leave them.

    Args:
        scale: units of a cell's side; in these errors are measured, and ``beta`` is where the loss turns linear.
    """
    offsets = scale * (answered(region.points, picture, answers) - truth[:, None])
    errors = functional.smooth_l1_loss(offsets, torch.zeros_like(offsets), beta=beta, reduction="none").sum(3)
    counted = answers.mask[:, :, None].expand_as(errors).clone()
    counted[:, 1:, 0] = False
    return (errors * counted).sum() / counted.sum().clamp(min=1)


def confidence_losses(region: Region, goals: Goals) -> tuple[Tensor, Tensor]:
    """Binary cross entropy of confidences: means over the predictors that answer for something, and over the others.

    The entropy of the goal is taken off, so that a confidence that is right costs nothing.
    """
    cross_entropy, goal = functional.binary_cross_entropy_with_logits, goals.confidence
    least = cross_entropy(goal.clamp(1e-6, 1 - 1e-6).logit(), goal, reduction="none")
    losses = cross_entropy(region.confidence, goal, reduction="none") - least
    others = ~(goals.positive | goals.silent)
    means = [(losses * chosen).sum() / chosen.sum().clamp(min=1) for chosen in (goals.positive, others)]
    return means[0], means[1]


def class_loss(region: Region, labels: Tensor, picture: Tensor, answers: Answers, *, mean: bool = True) -> Tensor:
    """Cross entropy of the answering predictors' classes; their mean, or their sum as published."""
    logits = answered(region.classes, picture, answers)
    losses = functional.cross_entropy(
        logits.transpose(1, 2), labels[:, None].expand_as(answers.predictor), reduction="none"
    )
    total = (losses * answers.mask).sum()
    return total / answers.mask.sum().clamp(min=1) if mean else total
