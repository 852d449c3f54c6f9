import math

import numpy as np
import pytest
import torch

from posedistill.estimators.losses.posenet import (
    frustum_points,
    homoscedastic,
    nearer_sign,
    point_distance,
    residual_norm,
    squared_pose_loss,
)
from posedistill.geometry.cameras import project
from posedistill.geometry.rotations import axis_angle, random_rotations


def golden() -> tuple[torch.Tensor, ...]:
    """Two predictions and their labels."""
    rows = [
        [(1, 2, 3), (0, 0, 1)],
        [(1, 0.1, 0, 0), (0.9, 0, 0.2, 0)],
        [(1, 1, 3), (0, 2, 1)],
        [(2, 0, 0, 0), (0.9238795325, 0, 0.3826834324, 0)],
    ]
    return tuple(torch.tensor(row, dtype=torch.float64) for row in rows)


def test_published_values() -> None:
    position, rotation = squared_pose_loss(*golden())
    assert position.item() == pytest.approx(0.83333333, abs=1e-6)
    assert rotation.item() == pytest.approx(0.00501697, abs=1e-6)
    assert (position + 500 * rotation).item() == pytest.approx(3.34181743, abs=2e-5)


def test_signs() -> None:
    x, q, true_x, true_q = golden()
    plain = squared_pose_loss(x, q, true_x, true_q)[1]
    assert squared_pose_loss(x, q, true_x, -true_q)[1] > 100 * plain
    torch.testing.assert_close(squared_pose_loss(x, q, true_x, -true_q, sign="either")[1], plain)
    assert torch.equal(nearer_sign(q, -true_q), true_q)


def test_norms_are_not_squared() -> None:
    residuals = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(residual_norm(residuals, "l2"), torch.tensor([5.0, 0.0]), atol=1e-5, rtol=0)
    assert residual_norm(residuals, "l1").tolist() == [7.0, 0.0]
    residual_norm(residuals, "l2").sum().backward()
    assert torch.isfinite(residuals.grad).all()


def test_learned_weights_settle_at_the_logarithm_of_the_losses() -> None:
    """``exp(-s) L + s`` is least at ``s = log L``, where it is ``1 + log L``."""
    losses = torch.tensor([0.3, 0.02])
    s = losses.log().requires_grad_()
    terms = homoscedastic(losses[0], losses[1], s)
    torch.stack(terms).sum().backward()
    torch.testing.assert_close(s.grad, torch.zeros(2), atol=1e-6, rtol=0)
    assert [term.item() for term in terms] == pytest.approx([1 + math.log(0.3), 1 + math.log(0.02)], abs=1e-6)


def views(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    R = torch.as_tensor(random_rotations(count, rng), dtype=torch.float32)
    K = torch.tensor([[80.0, 0.0, 50.0], [0.0, 82.0, 30.0], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    return R, torch.as_tensor(rng.normal(size=(count, 3)), dtype=torch.float32), K


def test_points_fill_the_view() -> None:
    points = frustum_points(views(2)[2], 64, 100, 2.0)
    assert points.shape == (2, 15, 3)
    assert sorted(set(points[0, :, 2].tolist())) == [1.0, 2.0, 4.0]
    pixels = project(points[0].double().numpy(), np.eye(3), np.zeros(3), views(1)[2][0].double().numpy())
    np.testing.assert_allclose(pixels[:5], [(0, 0), (99, 0), (0, 63), (99, 63), (49.5, 31.5)], atol=1e-4)


def test_a_shift_moves_all_points_alike_and_a_turn_the_far_ones_more() -> None:
    R, x, K = views(4)
    points = frustum_points(K, 64, 100, 2.0)
    assert point_distance(R, x, R, x, points).max() < 1e-5
    torch.testing.assert_close(point_distance(R, x + torch.tensor([0.3, 0, 0.4]), R, x, points), torch.full((4,), 0.5))
    turn = torch.as_tensor(axis_angle(np.array([0.0, 1.0, 0.0]), 0.1), dtype=torch.float32)
    near, far = (point_distance(turn @ R, x, R, x, points[:, part]) for part in (slice(0, 5), slice(10, 15)))
    torch.testing.assert_close(far, 4 * near, rtol=1e-3, atol=1e-5)


def test_a_camera_that_looks_the_wrong_way_has_a_gradient() -> None:
    R, x, K = views(1)
    wrong = (torch.as_tensor(axis_angle(np.array([0.0, 1.0, 0.0]), 3.0), dtype=torch.float32) @ R).requires_grad_()
    point_distance(wrong, x, R, x, frustum_points(K, 64, 100, 2.0)).sum().backward()
    assert torch.isfinite(wrong.grad).all()
    assert wrong.grad.norm() > 0.1
