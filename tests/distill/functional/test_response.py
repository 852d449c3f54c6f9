import math

import pytest
import torch
from torch import Tensor

from posedistill.distill.functional.response import (
    bit_divergence,
    confidence,
    divergence,
    imitation_loss,
    logit,
    residuals,
    responsible_cells,
    single_shot_loss,
)
from posedistill.estimators.views import Votes, cell_ids

GRID, SIDE = 13, 416


def waves(*shape: int) -> tuple[Tensor, Tensor]:
    """The catalogue's test tensors: the student's sine and the teacher's cosine."""
    steps = torch.arange(1.0, math.prod(shape) + 1).view(shape)
    return steps.sin().requires_grad_(), steps.cos().requires_grad_()


def grid(values: Tensor, scores: float | Tensor = 0.5) -> Votes:
    """Votes of the 13 x 13 cells of one crop."""
    weights = torch.as_tensor(scores).expand(1, GRID**2).clone()
    ids = cell_ids(SIDE // GRID, GRID, GRID).expand(1, -1)
    return Votes(values.expand(1, GRID**2, 9, 2).clone(), weights, torch.ones(1, GRID**2, dtype=torch.bool), ids)


CENTER = torch.full((1, 2), 0.5)
FAR = torch.full((1, 9, 2), 5.0)


@pytest.mark.parametrize(("temperature", "golden"), [(4.0, 0.172764), (1.0, 0.149558)])
def test_divergence_has_its_golden_values(temperature: float, golden: float) -> None:
    student, teacher = waves(4, 3)
    loss = divergence(student, teacher, temperature).mean()
    assert loss.item() == pytest.approx(golden, abs=1e-5)
    by_student, by_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert by_student.abs().max() > 0 and by_teacher is None


def test_the_teacher_is_the_target_of_the_divergence() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2)
    assert divergence(unsure, sure).item() == pytest.approx(math.log(2), abs=5e-3)
    assert divergence(sure, unsure).item() > 3


def test_divergence_is_a_mean_over_positions() -> None:
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    single = divergence(student.movedim(1, 3).reshape(-1, 5), teacher.movedim(1, 3).reshape(-1, 5))
    torch.testing.assert_close(divergence(student, teacher), single.view(2, -1).mean(1))


def test_bits_are_the_cross_entropy_less_the_targets_entropy() -> None:
    student, teacher = waves(4, 3)
    targets = teacher.detach().sigmoid()
    cross = torch.nn.functional.binary_cross_entropy_with_logits(student, targets, reduction="none")
    entropy = torch.nn.functional.binary_cross_entropy(targets, targets, reduction="none")
    torch.testing.assert_close(bit_divergence(student, teacher), cross - entropy)
    assert bit_divergence(teacher, teacher).abs().max() < 1e-6
    scaled = 16 * bit_divergence(student / 4, teacher / 4)
    torch.testing.assert_close(bit_divergence(student, teacher, temperature=4.0), scaled)


def test_bits_stay_finite_where_networks_are_certain() -> None:
    student = torch.tensor([1e4, -1e4, 1e4, 0.0], requires_grad=True)
    loss = bit_divergence(student, torch.tensor([-1e4, -1e4, 1e4, 1e4])).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite() and gradient.tolist() == [1, 0, 0, -0.5]
    certain = torch.tensor([0.0, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(bit_divergence(logit(certain), torch.zeros(2)).sum(), certain)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("norm", "expected"), [("l2", 6.5), ("l1", 5.0), ("smooth_l1", 4.9)])
def test_norms(norm: str, expected: float) -> None:
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 1.0]])
    assert residuals(x, y, norm, beta=0.1).item() == pytest.approx(expected)  # type: ignore[arg-type]
    assert residuals(x, x, norm, beta=0.1).item() == 0  # type: ignore[arg-type]


def test_codes_differ_by_their_bits() -> None:
    code, other = torch.full((1, 16), 0.5), torch.full((1, 16), 0.5)
    other[0, 0] = 1.0
    assert residuals(code, other, "bce", beta=1.0).item() == pytest.approx(math.log(2) / 16, rel=1e-4)


def test_gates() -> None:
    """One image each: teacher nearer the truth than the student, equally far, farther."""
    student, truth = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    student[..., 0] = 1.0
    teacher = truth.clone()
    teacher[:, :, 1] = torch.tensor([0.5, 1.0, 2.0])[:, None]
    free = imitation_loss(student, teacher, norm="l2")
    torch.testing.assert_close(free, torch.tensor([0.625, 1.0, 2.5]))
    least = imitation_loss(student, teacher, truth, norm="l2", gate="min")
    torch.testing.assert_close(least, torch.tensor([0.5, 0.5, 0.5]))
    bounded = imitation_loss(student, teacher, truth, norm="l2", gate="upper_bound")
    torch.testing.assert_close(bounded, torch.tensor([0.625, 0.0, 0.0]))
    wide = imitation_loss(student, teacher, truth, norm="l2", gate="upper_bound", margin=0.6)
    assert (wide == 0).all()
    with pytest.raises(ValueError, match="truth"):
        imitation_loss(student, teacher, gate="min")


@pytest.mark.parametrize("gate", ["none", "min", "upper_bound"])
@pytest.mark.parametrize("norm", ["smooth_l1", "l1", "l2"])
def test_gates_are_smooth_where_all_agree(norm: str, gate: str) -> None:
    student = torch.zeros(2, 3, 2, requires_grad=True)
    loss = imitation_loss(student, torch.zeros(2, 3, 2), torch.zeros(2, 3, 2), norm=norm, gate=gate)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.eq(0).all() and gradient.eq(0).all()


def test_half_precision_is_computed_in_single() -> None:
    student, teacher = (side.detach() for side in waves(4, 3))
    halves = student.bfloat16(), teacher.bfloat16()
    for function in (divergence, bit_divergence):
        value = function(*halves)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, function(student, teacher), atol=0.02, rtol=0.02)
    value = imitation_loss(*(side[:, None] for side in halves), norm="l2")
    torch.testing.assert_close(
        value, imitation_loss(student[:, None], teacher[:, None], norm="l2"), atol=0.02, rtol=0.02
    )


GOLDEN_CONFIDENCES: dict[int, dict[float, float]] = {
    80: {
        0: 1,
        5: 0.8641,
        10: 0.7442,
        16.98: 0.6,
        20: 0.5449,
        22.65: 0.5,
        30: 0.3898,
        40: 0.2689,
        60: 0.1015,
        80: 0,
        500: 0,
    },
    30: {5: 0.6722, 10: 0.4373, 20: 0.1483},
}


@pytest.mark.parametrize("reach", [80, 30])
def test_confidence_has_its_golden_values(reach: int) -> None:
    golden = GOLDEN_CONFIDENCES[reach]
    found = confidence(torch.tensor(list(golden), dtype=torch.float32), reach)
    torch.testing.assert_close(found, torch.tensor(list(golden.values()), dtype=torch.float32), atol=6e-5, rtol=0)


def test_the_cell_of_the_origin_is_responsible() -> None:
    ids = cell_ids(SIDE // GRID, GRID, GRID).expand(4, -1)
    origins = torch.tensor([[0.5, 0.5], [0.99, 0.01], [-3.0, 0.5], [2.0, 2.0]])
    found = responsible_cells(ids, origins, (SIDE, SIDE)).nonzero().tolist()
    # Row 6 and column 6 of the published example; out of sight, the border's cell.
    assert found == [[0, 6 * 13 + 6], [1, 12], [2, 6 * 13], [3, 13 * 13 - 1]]


def test_a_picture_that_is_not_square_ends_at_its_own_border() -> None:
    ids = cell_ids(32, 3, 4).expand(2, -1)  # 96 x 128 pixels
    found = responsible_cells(ids, torch.tensor([[0.3, 0.9], [0.3, 0.5]]), (96, 128)).nonzero().tolist()
    assert found == [[0, 2 * 4 + 1], [1, 2 * 4 + 1]]


def test_each_level_has_its_responsible_cell() -> None:
    ids = torch.cat([cell_ids(8, 4, 4), cell_ids(16, 2, 2)]).expand(1, -1)
    found = responsible_cells(ids, torch.tensor([[0.6, 0.2]]), (32, 32)).nonzero()[:, 1]
    assert found.tolist() == [2, 17]


def test_confidence_weighs_five_in_the_responsible_cell() -> None:
    """c = 0.2 against 1 costs 0.5 * 5 * 0.64 = 1.6 there, and 0.5 * 0.1 * 0.64 in any other cell."""
    student, teacher = grid(torch.zeros(())), grid(torch.zeros(()))
    for cell, expected in ((6 * 13 + 6, 1.6), (0, 0.032)):
        student.weights[:] = teacher.weights[:] = 0.5
        student.weights[0, cell], teacher.weights[0, cell] = 0.2, 1.0
        assert single_shot_loss(student, teacher, FAR, CENTER, (SIDE, SIDE)).item() == pytest.approx(expected, rel=1e-5)


def test_a_cell_that_is_already_good_is_not_asked_to_be_unsure() -> None:
    truth = torch.full((1, 9, 2), 0.5)
    student, teacher = grid(torch.tensor(5.0), 0.9), grid(torch.tensor(5.0), 0.9)
    teacher.weights[0, 0] = 0.1
    student.values[0, 0] = truth[0]
    student.values[0, 0, :, 0] += 16.98 / 640 * 1.01
    assert single_shot_loss(student, teacher, truth, CENTER, (SIDE, SIDE)).item() == pytest.approx(0.032, rel=1e-5)
    student.values[0, 0, :, 0] -= 16.98 / 640 * 0.02
    assert single_shot_loss(student, teacher, truth, CENTER, (SIDE, SIDE)).item() == 0


def test_the_height_of_a_square_picture_stands_for_480_pixels() -> None:
    """13 of 416 pixels are 15 there, a confidence of 0.638 as in the region loss; across they are 20, one of 0.545."""
    truth = torch.full((1, 9, 2), 0.5)
    for axis, expected in ((0, 0.032), (1, 0.0)):
        student, teacher = grid(torch.tensor(5.0), 0.9), grid(torch.tensor(5.0), 0.9)
        teacher.weights[0, 0] = 0.1
        student.values[0, 0] = truth[0]
        student.values[0, 0, :, axis] += 13 / SIDE
        found = single_shot_loss(student, teacher, truth, CENTER, (SIDE, SIDE)).item()
        assert found == pytest.approx(expected, rel=1e-5)


def test_each_coordinate_learns_its_own_of_the_teacher_in_cells() -> None:
    """The published merge reads channels k + 1 and k + 2 for point k, where 2k and 2k + 1 are meant."""
    channels = torch.arange(18.0).view(9, 2)
    student, teacher = grid(torch.zeros(())), grid(channels)
    student.values.requires_grad_()
    loss = single_shot_loss(student, teacher, FAR, CENTER, (SIDE, SIDE))
    (gradient,) = torch.autograd.grad(loss.sum(), student.values)
    responsible = 6 * 13 + 6
    torch.testing.assert_close(gradient[0, responsible], -channels * GRID**2)
    gradient[0, responsible] = 0
    assert (gradient == 0).all()
    assert loss.item() == pytest.approx(0.5 * channels.square().sum().item() * GRID**2)


def test_coordinates_count_in_cells_of_their_level() -> None:
    """One cell of each level holds the origin: a vote 0.1 sides off is 0.4 and 0.2 cells off."""
    ids = torch.cat([cell_ids(8, 4, 4), cell_ids(16, 2, 2)]).expand(1, -1)
    teacher = Votes(torch.full((1, 20, 9, 2), 5.0), torch.full((1, 20), 0.5), torch.ones(1, 20, dtype=torch.bool), ids)
    student = Votes(teacher.values + 0.1, teacher.weights, teacher.mask, ids)
    loss = single_shot_loss(student, teacher, FAR, CENTER, (32, 32))
    assert loss.item() == pytest.approx(18 * (0.4**2 + 0.2**2) / 2, rel=1e-4)


def test_equal_grids_cost_nothing_and_masked_cells_may_hold_anything() -> None:
    student, teacher = grid(torch.rand(9, 2), 0.3), grid(torch.rand(9, 2), 0.3)
    assert single_shot_loss(teacher, teacher, FAR, CENTER, (SIDE, SIDE)).item() == 0
    teacher.mask[:] = False
    for votes in (student, teacher):
        votes.values[:] = torch.nan
        votes.weights[:] = torch.nan
    student.values.requires_grad_()
    student.weights.requires_grad_()
    loss = single_shot_loss(student, teacher, FAR, CENTER, (SIDE, SIDE))
    gradients = torch.autograd.grad(loss.sum(), (student.values, student.weights))
    assert loss.item() == 0 and all((gradient == 0).all() for gradient in gradients)
