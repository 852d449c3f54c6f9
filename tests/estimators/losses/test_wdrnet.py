"""Both losses against naive computations, cell by cell and corner by corner, and against known values."""

import math

import numpy as np
import pytest
import torch

from posedistill.estimators.losses.wdrnet import back_project, focal_loss, line_of_sight_loss, masked_mean


def naive_focal(logit: float, target: bool, gamma: float, alpha: float) -> float:
    p = min(max(1 / (1 + math.exp(-logit)), 1e-4), 1 - 1e-4)
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
def test_focal_loss_is_the_naive_one(gamma: float, alpha: float) -> None:
    logits = torch.tensor([-30.0, -4.6, -1.0, 0.0, 0.3, 5.0, 30.0], dtype=torch.float64)
    for target in (True, False):
        ours = focal_loss(logits, torch.full((7,), target), gamma, alpha)
        expected = [naive_focal(float(logit), target, gamma, alpha) for logit in logits]
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-11)


def test_focal_loss_of_an_untrained_positive_cell() -> None:
    """p = 0.01: 0.25 * 0.99^2 * ln 100 = 1.12837."""
    loss = focal_loss(torch.tensor([-math.log(99.0)]), torch.tensor([True]))
    assert float(loss) == pytest.approx(1.128372, abs=1e-5)


def naive_line_of_sight(vote: np.ndarray, point: np.ndarray, K: np.ndarray, diameter: float) -> float:
    """One cell: votes ``[8, 2]``, points ``[8, 3]``."""
    total = 0.0
    for (u, v), X in zip(vote, point, strict=True):
        ray = np.linalg.inv(K) @ [u, v, 1.0]
        P = np.outer(ray, ray) / (ray @ ray)
        for a, b in zip(50 * (P @ X) / diameter, 50 * X / diameter, strict=True):
            error = abs(a - b)
            total += 0.5 * error**2 if error < 1 else error - 0.5
    return total / 24 / 50


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    K = np.stack([np.array([[600.0, s, 130.0], [0.0, 590.0, 120.0], [0.0, 0.0, 1.0]]) for s in (0.0, 7.0)])
    points = rng.uniform(-50, 50, (2, 8, 3)) + np.array([0, 0, 800])
    pixels = np.einsum("bij,bkj->bki", K, points)
    pixels = pixels[..., :2] / pixels[..., 2:]
    votes = pixels[:, None] + rng.normal(scale=[[[[1.0]], [[20.0]], [[0.0]]]], size=(2, 3, 8, 2))
    return torch.as_tensor(votes), torch.as_tensor(points), torch.as_tensor(K), torch.tensor([104.0, 250.0])


def test_line_of_sight_loss_is_the_naive_one() -> None:
    votes, points, K, diameters = scene()
    ours = line_of_sight_loss(votes, points, K, diameters.double())
    for b in range(2):
        for m in range(3):
            expected = naive_line_of_sight(votes[b, m].numpy(), points[b].numpy(), K[b].numpy(), float(diameters[b]))
            assert float(ours[b, m]) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert float(ours[:, 2].abs().max()) < 1e-20  # exact votes
    assert (ours[:, 1] > ours[:, 0]).all()


def test_line_of_sight_loss_of_one_known_error() -> None:
    """A point on the axis at 1 m and a vote off by atan(0.003): 3 mm off the ray, 0.02 d for d = 150 mm is the bend."""
    K = torch.eye(3, dtype=torch.float64)[None]
    point = torch.tensor([[[0.0, 0.0, 1000.0]]], dtype=torch.float64)
    vote = torch.tensor([[[[0.001, 0.0]]]], dtype=torch.float64)
    # Residual (1, 0, -0.001) mm to first order; in the quadratic part 0.5 * 50 * (1 / 150)^2 / 3.
    loss = line_of_sight_loss(vote, point, K, torch.tensor([150.0], dtype=torch.float64))
    assert float(loss) == pytest.approx(0.5 * 50 / 150**2 / 3, rel=1e-4)


def test_float32_is_enough() -> None:
    votes, points, K, diameters = scene()
    double = line_of_sight_loss(votes, points, K, diameters.double())
    single = line_of_sight_loss(votes.float(), points.float(), K.float(), diameters)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-7)


def test_gradients() -> None:
    votes, points, K, diameters = scene()
    assert torch.autograd.gradcheck(
        lambda v: line_of_sight_loss(v, points, K, diameters.double()), votes[:, :2].requires_grad_()
    )
    logits = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, torch.arange(7) % 2 == 0), logits)


def test_back_projection_inverts_any_upper_triangular_camera() -> None:
    _, points, K, _ = scene()
    pixels = torch.einsum("bij,bkj->bki", K, points)
    rays = back_project(pixels[..., :2] / pixels[..., 2:], K)
    torch.testing.assert_close(rays, points / points[..., 2:])


def test_mean_of_nothing_is_zero_with_a_gradient() -> None:
    values = torch.ones(3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0
    assert torch.equal(values.grad, torch.zeros(3))
