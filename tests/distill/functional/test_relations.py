from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from posedistill.distill.functional import relations
from posedistill.distill.functional.kernels import cosines, off_diagonal, rotation_distances
from posedistill.distill.functional.relations import (
    consecutive_congruence,
    correlation_congruence,
    cross_scores,
    pearson_self_cross,
    pkt,
    pose_rows,
    rkd,
    rotation_rkd,
    self_cross,
    self_similarity,
    similarity_preserving,
)
from posedistill.geometry.rotations import axis_angle

Loss = Callable[[Tensor, Tensor], Tensor]

TEACHER = torch.tensor([[1, 0, 2], [2, 1, 0], [0, 3, 1], [1, 1, 1]], dtype=torch.float64)
STUDENT = torch.tensor([[1, 1, 0], [2, 0, 1], [0, 1, 2], [1, 2, 1]], dtype=torch.float64)
LABELS = torch.tensor(
    [
        [0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0.9238795325, 0, 0.3826834324, 0],
        [0, 2, 0, 0.7071067812, 0.7071067812, 0, 0],
        [1, 1, 1, 0.8660254038, 0, 0, 0.5],
    ],
    dtype=torch.float64,
)
rkd_distance = partial(rkd, distance_weight=1.0, angle_weight=0.0)
rkd_angle = partial(rkd, distance_weight=0.0, angle_weight=1.0)


def row_divergence(student: Tensor, teacher: Tensor, pairs: Tensor, temperature: float = 0.1) -> Tensor:
    """What ``rows_weight`` adds to the scores."""
    inputs = student, teacher, kernel(len(student)), pairs
    return pearson_self_cross(*inputs, rows_weight=1.0, temperature=temperature) - pearson_self_cross(*inputs)


def correlation_scores(similarities: Tensor, reference: Tensor, pairs: Tensor) -> Tensor:
    """Pearson correlations of the rows, over ``pairs``."""
    rows = [torch.stack([row, other])[:, kept] for row, other, kept in zip(similarities, reference, pairs, strict=True)]
    return torch.stack([torch.corrcoef(row)[0, 1] for row in rows])


STEPS = torch.arange(1, 13, dtype=torch.float64).view(4, 3)
MAP_STEPS = torch.arange(1, 17, dtype=torch.float64).view(2, 8)


def kernel(count: int) -> Tensor:
    """A kernel of poses on a line."""
    places = torch.linspace(0, 1, count)[torch.randperm(count, generator=torch.Generator().manual_seed(3))]
    return torch.exp(-4 * (places[:, None] - places).square())


def labels(count: int) -> Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(4))


def with_poses(loss: Callable[..., Tensor]) -> Loss:
    def call(student: Tensor, teacher: Tensor) -> Tensor:
        return loss(student, teacher, kernel(len(student)), off_diagonal(len(student)))

    return call


OF_PAIRS: dict[str, Loss] = {
    "similarity_preserving": similarity_preserving,
    "self_similarity": self_similarity,
    "correlation_congruence": correlation_congruence,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "pkt": pkt,
}
"""Of a student's and a teacher's vectors alone."""
TAUGHT: dict[str, Loss] = OF_PAIRS | {
    "self_cross": lambda s, t: self_cross(s, t, labels(len(s))),
    "self_cross_kl": lambda s, t: self_cross(s, t, labels(len(s)), temperature=0.1),
    "pearson": with_poses(pearson_self_cross),
    "pearson_full": with_poses(partial(pearson_self_cross, full=True)),
    "row_divergence": lambda s, t: row_divergence(s, t, off_diagonal(len(s))),
}
ALL: dict[str, Loss] = TAUGHT | {
    "consecutive": lambda s, t: consecutive_congruence(s, t.detach()),
    "rotation_rkd": lambda s, t: rotation_rkd(s, turns(len(s)), off_diagonal(len(s))),
    "pose_rows": lambda s, t: pose_rows(s, kernel(len(s)), off_diagonal(len(s))),
}
taught = pytest.mark.parametrize("loss", TAUGHT.values(), ids=TAUGHT.keys())
all_losses = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())


def turns(count: int) -> Tensor:
    angles = torch.arange(count).double().square() * 0.1
    return torch.from_numpy(axis_angle(torch.eye(3)[2].double().numpy(), angles.numpy())).view(count, 3, 3)


def features(count: int = 6, width: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def assert_value(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found.item(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (cosines(TEACHER), [0.4, 0.282843, 0.774597, 0.424264, 0.774597, 0.730297]),
        (cosines(STUDENT), [0.632456, 0.316228, 0.866025, 0.4, 0.547723, 0.730297]),
        (cosines(LABELS), [0.653281, 0.316228, 0.433013, 0.206586, 0.636433, 0.584144]),
    ],
)
def test_golden_similarities(rows: Tensor, expected: list[float]) -> None:
    upper = rows[tuple(torch.triu_indices(4, 4, 1))]
    torch.testing.assert_close(upper, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_golden_scores() -> None:
    theirs, ours, poses = (cosines(side).fill_diagonal_(0) for side in (TEACHER, STUDENT, LABELS))
    pairs = off_diagonal(4)
    for found, expected in [
        (cross_scores(theirs, poses), [0.885841, 0.928616, 0.974330, 0.986457]),
        (cross_scores(ours, poses), [0.939958, 0.973679, 0.983279, 0.945937]),
        (correlation_scores(theirs, poses, pairs), [0.054613, 0.419059, 0.825083, -0.270111]),
        (correlation_scores(ours, poses, pairs), [0.421178, 0.944368, 0.887617, -0.936503]),
    ]:
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (self_cross(STUDENT, TEACHER, LABELS), 0.00167033),
        (self_cross(STUDENT, TEACHER, LABELS, temperature=1.0), 0.00069337),
        (self_cross(STUDENT, TEACHER, LABELS, temperature=0.1), 0.06712712),
        (self_similarity(STUDENT, TEACHER), 0.01444624),
        (similarity_preserving(STUDENT, TEACHER), 0.02399866),
        (similarity_preserving(MAP_STEPS.sin(), MAP_STEPS.cos()), 0.003913),
        (consecutive_congruence(STEPS.sin(), STEPS.cos()), 3.045236),
        (rkd_distance(STEPS.sin(), STEPS.cos()), 0.000076),
        (rkd_angle(STEPS.sin(), STEPS.cos()), 0.000283),
        (25 * rkd_distance(STEPS.sin(), STEPS.cos()) + 50 * rkd_angle(STEPS.sin(), STEPS.cos()), 0.016076),
        (pkt(STEPS.sin(), STEPS.cos()), 0.000073),
    ],
)
def test_golden_losses(losses: Tensor, expected: float) -> None:
    assert_value(losses.mean(), expected)


def test_golden_correlation_losses() -> None:
    theirs, ours, poses = (cosines(side).fill_diagonal_(0) for side in (TEACHER, STUDENT, LABELS))
    scores = [correlation_scores(side, poses, off_diagonal(4)) for side in (ours, theirs)]
    assert_value((scores[0] - scores[1]).square().mean(), 0.21457705)


@taught
def test_equal_sides_cost_nothing_and_teach_nothing(loss: Loss) -> None:
    student = features().requires_grad_()
    losses = loss(student, student.detach().clone())
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert losses.abs().max() < 1e-5 and gradient.abs().max() < 1e-4


@taught
def test_sides_of_any_width_are_compared_and_the_student_alone_learns(loss: Loss) -> None:
    student, teacher = features().requires_grad_(), features(width=33, seed=1).requires_grad_()
    losses = loss(student, teacher)
    losses.mean().backward()
    assert losses.shape == (6,) and losses.mean() > 1e-5
    assert student.grad is not None and student.grad.norm() > 1e-6
    assert teacher.grad is None


@all_losses
def test_gradients_are_those_of_the_value(loss: Loss) -> None:
    student, teacher = features(5, 4).double().requires_grad_(), features(5, 4, seed=1).double()
    assert torch.autograd.gradcheck(lambda side: loss(side, teacher), student)


@all_losses
def test_half_precision_is_computed_in_full(loss: Loss) -> None:
    student, teacher = features().bfloat16().requires_grad_(), features(seed=1).bfloat16()
    losses = loss(student, teacher)
    assert losses.dtype != torch.bfloat16
    torch.testing.assert_close(losses, loss(student.detach().float(), teacher.float()))
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert gradient.isfinite().all()


@all_losses
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_batch_too_small_to_relate_is_defined(loss: Loss, count: int) -> None:
    student = features(count).requires_grad_()
    losses = loss(student, features(count, seed=1))
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert losses.isfinite().all() and gradient.isfinite().all()
    if count < 2:
        assert losses.abs().sum() < 1e-6 and gradient.abs().sum() < 1e-6


@all_losses
@pytest.mark.parametrize("degenerate", ["zeros", "equal", "constant", "pairs", "one zero"])
def test_degenerate_features_have_finite_gradients(loss: Loss, degenerate: str) -> None:
    made = {
        "zeros": torch.zeros(6, 20),
        "equal": features(1).repeat(6, 1),
        "constant": torch.full((6, 20), 3.7),
        "pairs": features(3).repeat_interleave(2, 0),
        "one zero": features() * (torch.arange(6) > 0)[:, None],
    }[degenerate]
    for student, teacher in ((made, features()), (features(), made), (made, made.clone())):
        student = student.clone().requires_grad_()
        losses = loss(student, teacher)
        (gradient,) = torch.autograd.grad(losses.sum(), student)
        assert losses.isfinite().all() and gradient.isfinite().all() and gradient.abs().max() < 1e4


@pytest.mark.parametrize("loss", OF_PAIRS.values(), ids=OF_PAIRS.keys())
def test_the_order_of_the_batch_is_nothing_to_a_loss(loss: Loss) -> None:
    student, teacher, order = features(), features(seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher)[order])


def test_the_order_of_the_batch_is_nothing_to_losses_with_poses() -> None:
    student, teacher, order = features(), features(seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    poses, pairs, rotations = kernel(6), off_diagonal(6), turns(6)
    ours, theirs, shuffled = student[order], teacher[order], poses[order][:, order]
    for after, before in [
        (self_cross(ours, theirs, labels(6)[order]), self_cross(student, teacher, labels(6))),
        (self_cross(ours, theirs, labels(6)[order], None, 0.1), self_cross(student, teacher, labels(6), None, 0.1)),
        (pearson_self_cross(ours, theirs, shuffled, pairs), pearson_self_cross(student, teacher, poses, pairs)),
        (
            pearson_self_cross(ours, theirs, shuffled, pairs, full=True),
            pearson_self_cross(student, teacher, poses, pairs, full=True),
        ),
        (row_divergence(ours, theirs, pairs), row_divergence(student, teacher, pairs)),
        (pose_rows(ours, shuffled, pairs), pose_rows(student, poses, pairs)),
        (rotation_rkd(ours, rotations[order], pairs), rotation_rkd(student, rotations, pairs)),
    ]:
        torch.testing.assert_close(after, before[order], atol=1e-5, rtol=1e-5)


def test_consecutive_congruence_depends_on_the_order_and_forgives_every_second_image() -> None:
    student, teacher = features(), features(seed=1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert (
        consecutive_congruence(student[order], teacher[order]).mean() - consecutive_congruence(student, teacher).mean()
    ).abs() > 0.1
    student[::2] = teacher[::2]
    assert consecutive_congruence(student, teacher).eq(0).all()


def test_angles_are_those_of_all_triplets() -> None:
    def angles(points: Tensor) -> Tensor:
        arms = functional.normalize(points[None] - points[:, None], dim=2)
        return arms @ arms.mT

    student, teacher = features(5, 4), features(5, 4, seed=1)
    expected = functional.smooth_l1_loss(angles(student), angles(teacher), reduction="none").mean((1, 2))
    torch.testing.assert_close(rkd_angle(student, teacher), expected, atol=1e-6, rtol=1e-5)
    limited = rkd_angle(student, teacher, limit=3)
    assert limited[3:].eq(0).all()
    torch.testing.assert_close(limited.mean(), rkd_angle(student[:3], teacher[:3]).mean())


def test_distances_are_compared_up_to_scale() -> None:
    student = features()
    assert rkd_distance(student, 7 * student + 100).max() < 1e-6


def test_rotations_teach_without_a_teacher() -> None:
    """Cameras turning about one axis: features that are the angles have the right distances, up to scale."""
    rotations, pairs = turns(5), off_diagonal(5)
    angles = torch.arange(5)[:, None].double().square() * 0.1
    assert rotation_distances(rotations)[0, 4].item() == pytest.approx(1.6)
    assert rotation_rkd(3 * angles, rotations, pairs).abs().max() < 1e-12
    assert rotation_rkd(angles.flip(0), rotations, pairs).mean() > 1e-2


def test_a_mean_that_all_images_share_drowns_the_published_form_alone() -> None:
    """Features after a ReLU: the correlations do not see the common part, the published cosines see little else."""
    student, teacher, offset = features(8), features(8, seed=1), 20.0
    poses, pairs = kernel(8), off_diagonal(8)
    torch.testing.assert_close(
        pearson_self_cross(student + offset, teacher + offset, poses, pairs),
        pearson_self_cross(student, teacher, poses, pairs),
        atol=1e-4,
        rtol=1e-3,
    )

    def gradient(loss: Callable[[Tensor], Tensor]) -> float:
        shifted = (student + offset).requires_grad_()
        return torch.autograd.grad(loss(shifted).mean(), shifted)[0].norm().item()

    published = gradient(lambda s: self_cross(s, teacher + offset, labels(8)))
    assert gradient(lambda s: pearson_self_cross(s, teacher + offset, poses, pairs)) > 1e3 * published


def test_rounding_is_not_taken_for_structure() -> None:
    """Rows that are constant but for their last digits have no correlation, and pull at nothing."""
    noise = 1e-7 * features(6, 6)
    similarities = (0.3 + noise).requires_grad_()
    scores = relations._standard_rows(similarities, off_diagonal(6)) * kernel(6)
    (gradient,) = torch.autograd.grad(scores.sum(), similarities)
    assert scores.eq(0).all() and gradient.eq(0).all()


def test_the_full_cross_matrix() -> None:
    def standard(rows: Tensor) -> Tensor:
        others = rows[off_diagonal(6)].view(6, 5)
        others = functional.normalize(others - others.mean(1, keepdim=True))
        return torch.zeros(6, 6).masked_scatter(off_diagonal(6), others)

    student, teacher, poses = features(), features(seed=1), kernel(6)
    ours, theirs = (
        standard(functional.normalize(side - side.mean(0)) @ functional.normalize(side - side.mean(0)).T)
        for side in (student, teacher)
    )
    difference = ours @ standard(poses).T - theirs @ standard(poses).T
    pairs = off_diagonal(6)
    torch.testing.assert_close(
        pearson_self_cross(student, teacher, poses, pairs, full=True), difference.square().mean(1)
    )
    torch.testing.assert_close(pearson_self_cross(student, teacher, poses, pairs), difference.diagonal().square())


def test_divergences_are_those_of_rows_without_the_diagonal() -> None:
    student, teacher, poses, pairs = features(), features(seed=1), kernel(6), off_diagonal(6)

    def rows(values: Tensor) -> Tensor:
        return values[pairs].view(6, 5)

    def log_rows(side: Tensor) -> Tensor:
        return (rows(cosines(side - side.mean(0))) / 0.2).log_softmax(1)

    expected = functional.kl_div(log_rows(student), log_rows(teacher), log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(row_divergence(student, teacher, pairs, 0.2), expected)
    target = rows(poses) / rows(poses).sum(1, keepdim=True)
    expected = functional.kl_div(log_rows(student), target, reduction="none").sum(1)
    torch.testing.assert_close(pose_rows(student, poses, pairs, 0.2), expected)


def test_poses_alone_teach_which_images_are_alike() -> None:
    torch.manual_seed(0)
    poses, pairs = kernel(8), off_diagonal(8)
    student = torch.randn(8, 16, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.05)
    first = correlation_scores(cosines(student - student.mean(0)), poses, pairs).mean()
    for _ in range(60):
        optimizer.zero_grad()
        pose_rows(student, poses, pairs).mean().backward()
        optimizer.step()
    assert correlation_scores(cosines(student - student.mean(0)), poses, pairs).mean() > first + 0.3


@pytest.mark.parametrize("form", ["pearson", "full", "rows", "poses", "rotations"])
def test_images_that_are_not_paired_do_not_matter(form: str) -> None:
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    pairs = (group[:, None] == group) & off_diagonal(7)

    def losses(student: Tensor) -> Tensor:
        teacher, poses = features(7, seed=1), kernel(7)
        return {
            "pearson": lambda: pearson_self_cross(student, teacher, poses, pairs),
            "full": lambda: pearson_self_cross(student, teacher, poses, pairs, full=True),
            "rows": lambda: row_divergence(student, teacher, pairs),
            "poses": lambda: pose_rows(student, poses, pairs),
            "rotations": lambda: rotation_rkd(student, turns(7), pairs),
        }[form]()

    student = features(7).requires_grad_()
    before = losses(student)
    (gradient,) = torch.autograd.grad(before[:4].sum(), student)
    assert before[6] == 0 and before[:4].min() > 1e-5
    if form != "rotations":  # whose unit is the mean distance of all pairs
        assert gradient[4:].eq(0).all()


def test_the_students_own_prediction_can_be_the_reference() -> None:
    predicted = labels(6).requires_grad_()
    student, teacher = features(), features(seed=1)
    torch.testing.assert_close(
        self_cross(student, teacher, labels(6), predicted), self_cross(student, teacher, labels(6))
    )
    off = (predicted + 0.1 * features(6, 7)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(self_cross(student, teacher, labels(6), off).sum(), off)
    assert gradient.norm() > 0


def test_each_images_part_of_the_divergence_can_be_weighted() -> None:
    losses = self_cross(features(), features(seed=1), labels(6), temperature=0.05)
    assert (losses >= 0).all()
