"""The region head: golden values of the published loss, and what the corrected one must keep to."""

import math

import pytest
import torch
from torch import Tensor

from posedistill.estimators.losses.region import (
    Answers,
    Region,
    answered,
    answering,
    cell_corners,
    class_loss,
    confidence_goals,
    confidence_losses,
    likest_anchor,
    point_loss,
    published_losses,
    read_region,
)
from posedistill.geometry.objects import BOX_POINTS

FRAME = (640 / 13, 480 / 13)
"""Pixels of a cell of 13 x 13 in the published frame."""
MULTI = ((1.4820, 2.2412), (2.0501, 3.1265), (2.3946, 4.6891), (3.1018, 3.9910), (3.4879, 5.8851))


def picture_of(*counts: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def box(x: float, y: float, side: float = 2.0) -> Tensor:
    """``[9, 2]`` true points in cells, about a centre."""
    corners = side / 2 * torch.tensor([[i, j] for i in (-1.0, 1.0) for j in (-0.5, -1.0, 0.5, 1.0)])
    return torch.cat([torch.zeros(1, 2), corners]) + torch.tensor([x, y])


def saying(points: Tensor, logits: float, shape: tuple[int, int, int] = (13, 13, 1), classes: int = 1) -> Region:
    """Every predictor of one picture says the same points ``[9, 2]`` with the same confidence."""
    count = math.prod(shape)
    return Region(
        points.expand(1, count, -1, -1), torch.full((1, count), logits), torch.zeros(1, count, classes), shape
    )


def test_the_map_is_read_channel_by_channel() -> None:
    classes, anchors, rows, columns = 3, 2, 4, 5
    per = 2 * BOX_POINTS + 1 + classes
    raw = torch.arange(anchors * per, dtype=torch.float32).view(1, -1, 1, 1).repeat(2, 1, rows, columns)
    region = read_region(raw, classes)
    assert region.shape == (rows, columns, anchors) and region.points.shape == (2, rows * columns * anchors, 9, 2)
    predictor = (2 * columns + 3) * anchors + 1  # row 2, column 3, second anchor
    expected = torch.arange(per, 2 * per, dtype=torch.float32)
    offsets = region.points[1, predictor] - torch.tensor([3.0, 2.0])
    # Channels 2k and 2k + 1 are point k: reading k + 1 and k + 2 would scramble the box.
    assert offsets[1:].flatten().equal(expected[2 : 2 * BOX_POINTS])
    assert offsets[0].equal(expected[:2].sigmoid())
    assert region.confidence[1, predictor] == expected[2 * BOX_POINTS]
    assert region.classes[1, predictor].equal(expected[2 * BOX_POINTS + 1 :])


def test_golden_cell() -> None:
    truth = torch.full((1, 9, 2), 0.5)
    truth[0, 1, 0] = -0.1
    truth *= 13
    answers = answering(truth, picture_of(1), 1, (13, 13, 1), neighbours=False)
    assert answers.predictor.tolist() == [[6 * 13 + 6]] and answers.mask.all()
    corner = cell_corners(13, 13, 1)[answers.predictor[0, 0]]
    assert torch.allclose(truth[0, 0] - corner, torch.tensor([0.5, 0.5]))
    assert (truth[0, 1, 0] - corner[0]).item() == pytest.approx(-7.3)


@pytest.mark.parametrize(("reach", "golden"), [(80, {0: 1, 20: 0.5449, 40: 0.2689, 80: 0}), (30, {10: 0.4373})])
def test_golden_confidences(reach: int, golden: dict[int, float]) -> None:
    truth = box(6.5, 6.5)[None]
    for pixels, value in golden.items():
        region = saying(truth[0] + torch.tensor([pixels / FRAME[0], 0.0]), 0.0)
        answers = answering(truth, picture_of(1), 1, region.shape, neighbours=False)
        goals = confidence_goals(region, truth, picture_of(1), answers, FRAME, reach)
        assert goals.confidence[goals.positive].item() == pytest.approx(value, abs=1e-4)
        assert int(goals.positive.sum()) == 1 and int((goals.confidence > 0).sum()) == (value > 0)
        assert bool(goals.silent.any()) == (value > 0.6)


def test_golden_weights_of_the_published_confidence_loss() -> None:
    truth = box(6.5, 6.5)[None]
    region = saying(truth[0], math.log(0.2 / 0.8))
    answers = answering(truth, picture_of(1), 1, region.shape, neighbours=False)
    goals = confidence_goals(region, truth, picture_of(1), answers, FRAME, 80.0)
    # Responsible: 0.5 * 5 * (0.2 - 1)^2 = 1.6; all others are good and silent.
    assert published_losses(region, truth, picture_of(1), answers, goals, 5.0, 0.1)[1].item() == pytest.approx(1.6)
    far = saying(box(0.0, 0.0), math.log(0.2 / 0.8))
    goals = confidence_goals(far, truth, picture_of(1), answers, FRAME, 80.0)
    expected = 0.5 * 5 * 0.04 + 0.5 * 0.1 * 168 * 0.04
    assert published_losses(far, truth, picture_of(1), answers, goals, 5.0, 0.1)[1].item() == pytest.approx(expected)


def test_the_published_point_loss_is_half_the_squares_in_cells() -> None:
    truth = torch.stack([box(6.5, 6.5), box(2.2, 3.3)])
    region = saying(truth[0] + 0.25, 0.0)
    answers = answering(truth[:1], picture_of(1), 1, region.shape, neighbours=False)
    goals = confidence_goals(region, truth[:1], picture_of(1), answers, FRAME, 80.0)
    loss = published_losses(region, truth[:1], picture_of(1), answers, goals, 5.0, 1.0)[0]
    assert loss.item() == pytest.approx(0.5 * 18 * 0.25**2)


def test_several_instances_in_a_picture_each_have_their_cells() -> None:
    truth = torch.stack([box(6.5, 6.5), box(6.5, 7.4), box(6.6, 6.6), box(6.6, 6.6)])
    answers = answering(truth, picture_of(3, 1), 2, (13, 13, 1))
    assert answers.predictor[:, 0].tolist() == [6 * 13 + 6, 7 * 13 + 6, 6 * 13 + 6, 6 * 13 + 6]
    # The first lies nearer to the middle of the cell that two want; in another picture there is no conflict.
    assert answers.mask[:, 0].tolist() == [True, True, False, True]
    slots = answers.rows(picture_of(3, 1), 169)[answers.mask]
    assert len(slots) == len(slots.unique()), "a predictor answers twice"
    assert answers.mask[3].all()


def test_whose_centre_is_outside_has_no_cell() -> None:
    truth = torch.stack([box(-0.1, 3.0), box(12.9, 12.9), box(5.0, 13.0)])
    answers = answering(truth, picture_of(1, 1, 1), 3, (13, 13, 1))
    assert answers.mask.sum(1).tolist() == [0, 4, 0]


def test_grids_need_not_be_square() -> None:
    truth = box(11.5, 2.5)[None]
    answers = answering(truth, picture_of(1), 1, (4, 14, 1), neighbours=False)
    assert answers.predictor.tolist() == [[2 * 14 + 11]] and answers.mask.all()


def test_the_likest_anchor_answers() -> None:
    truth = torch.stack([box(6.5, 6.5, 1.7), box(6.5, 6.5, 5.0)])
    assert likest_anchor(truth, MULTI).tolist() == [0, 4]
    answers = answering(truth, picture_of(2), 1, (13, 13, 5), MULTI, neighbours=False)
    assert answers.predictor.flatten().tolist() == [84 * 5, 84 * 5 + 4] and answers.mask.all()


def test_goals_look_at_the_answering_anchor_of_the_own_picture() -> None:
    truth = box(6.5, 6.5, 5.0)[None]
    points = box(0.0, 0.0).expand(2, 169 * 5, -1, -1).clone()
    points[1, 84 * 5 + 4] = truth[0]
    region = Region(points, torch.zeros(2, 169 * 5), torch.zeros(2, 169 * 5, 1), (13, 13, 5))
    answers = answering(truth, torch.tensor([1]), 2, region.shape, MULTI, neighbours=False)
    goals = confidence_goals(region, truth, torch.tensor([1]), answers, FRAME, 80.0)
    assert goals.confidence[1, 84 * 5 + 4] == 1 and int(goals.positive.sum()) == 1 and goals.positive[1, 84 * 5 + 4]


def test_means_do_not_depend_on_how_many_there_are() -> None:
    torch.manual_seed(0)
    raw, truth = torch.randn(1, 22, 13, 13), torch.stack([box(3.5, 4.5), box(9.0, 8.0)])
    labels = torch.tensor([1, 2])

    def losses(times: int) -> list[float]:
        region, picture = read_region(raw.repeat(times, 1, 1, 1), 3), picture_of(*[2] * times)
        many, named = truth.repeat(times, 1, 1), labels.repeat(times)
        answers = answering(many, picture, times, region.shape)
        goals = confidence_goals(region, many, picture, answers, (32.0, 32.0), 30.0)
        parts = [point_loss(region, many, picture, answers, 1 / 18), *confidence_losses(region, goals)]
        return [float(part) for part in [*parts, class_loss(region, named, picture, answers)]]

    assert losses(3) == pytest.approx(losses(1), rel=1e-5)


def test_a_picture_of_nothing_teaches_to_be_unsure_alone() -> None:
    raw = torch.randn(2, 20, 3, 4, requires_grad=True)
    region, none, picture = read_region(raw, 1), torch.zeros(0, 9, 2), torch.zeros(0, dtype=torch.int64)
    answers = answering(none, picture, 2, region.shape)
    goals = confidence_goals(region, none, picture, answers, (32.0, 32.0), 30.0)
    there, elsewhere = confidence_losses(region, goals)
    points = point_loss(region, none, picture, answers, 1 / 5)
    assert points == 0 and there == 0 and class_loss(region, picture, picture, answers) == 0
    assert elsewhere.item() == pytest.approx(
        float(torch.nn.functional.softplus(region.confidence.detach()).mean()), rel=1e-5
    )
    (points + there + elsewhere).backward()
    assert raw.grad is not None and bool((raw.grad[:, 18] > 0).all()) and not raw.grad[:, :18].any()


def test_right_answers_cost_nothing() -> None:
    truth = box(6.5, 6.5)[None]
    region = saying(truth[0], 20.0)
    answers = answering(truth, picture_of(1), 1, region.shape)
    goals = confidence_goals(region, truth, picture_of(1), answers, (32.0, 32.0), 30.0)
    assert int(goals.positive.sum()) == 9 and int(goals.silent.sum()) == 160
    assert point_loss(region, truth, picture_of(1), answers, 1 / 18) == 0
    assert confidence_losses(region, goals)[0].item() == pytest.approx(0, abs=1e-4)


def test_neighbours_do_not_learn_a_centre_that_cannot_leave_their_cell() -> None:
    raw, truth = torch.zeros(1, 20, 13, 13, requires_grad=True), box(6.5, 6.5)[None]
    region = read_region(raw, 1)
    answers = answering(truth, picture_of(1), 1, region.shape)
    point_loss(region, truth + 0.1, picture_of(1), answers, 1 / 18).backward()
    assert raw.grad is not None
    taught = raw.grad[0].abs() > 0
    assert taught[:2].any(0).nonzero().tolist() == [[6, 6]]
    assert int(taught[2:18].any(0).sum()) == 9


def test_answered_takes_from_the_own_picture() -> None:
    values = torch.arange(2 * 6).view(2, 6)
    answers = Answers(torch.tensor([[1], [5]]), torch.ones(2, 1, dtype=torch.bool))
    assert answered(values, torch.tensor([0, 1]), answers).tolist() == [[1], [11]]
