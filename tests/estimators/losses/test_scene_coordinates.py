import math

import pytest
import torch

from posedistill.estimators.losses.scene_coordinates import (
    confidence_loss,
    coordinate_loss,
    reproject,
    robust_error,
    soft_limit,
)

K = torch.tensor([[[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]]])
PIXELS = torch.tensor([[[50.0, 40.0], [60.0, 45.0]]])
RAYS = torch.tensor([[[0.0, 0.0, 1.0], [0.1, 0.05, 1.0]]])
ALL = torch.ones(1, 2, dtype=torch.bool)


@pytest.mark.parametrize("error", [0.0, 10.0, 100.0])
@pytest.mark.parametrize(("progress", "limit"), [(0.0, 50.0), (0.5, 1 + 49 * math.sqrt(0.75)), (1.0, 1.0)])
def test_golden_values(error, progress, limit):
    assert soft_limit(progress) == pytest.approx(limit)
    expected = limit * math.tanh(error / limit)
    assert float(robust_error(torch.tensor(error), limit)) == pytest.approx(expected, rel=1e-6)
    point = torch.tensor([[[error / 100 * 2.0, 0.0, 2.0], [0.2, 0.1, 2.0]]])
    found = reproject(point, K, PIXELS, 0.1, 1000.0)
    torch.testing.assert_close(found.error, torch.tensor([[error, 0.0]]), atol=1e-4, rtol=0)
    loss = coordinate_loss(point, found, RAYS, ALL, soft_limit(progress), 2.0)
    assert float(loss) == pytest.approx(expected / 2, abs=1e-3)


def test_points_that_cannot_be_are_drawn_to_their_ray():
    """Behind the camera, too near, or thousands of pixels off: the gradient leads to the likely depth."""
    points = torch.tensor([[[0.3, -0.2, -1.0], [40.0, 0.1, 1.0]]], requires_grad=True)
    found = reproject(points, K, PIXELS, 0.1, 1000.0)
    assert found.valid.tolist() == [[False, False]]
    loss = coordinate_loss(points, found, RAYS, ALL, 50.0, 2.0)
    away = (points / 2 - RAYS).abs().sum() / 2
    assert loss.item() == pytest.approx(away.item())
    (gradient,) = torch.autograd.grad(loss, points)
    torch.testing.assert_close(gradient, (points - 2 * RAYS).sign() / 4)


@pytest.mark.parametrize("unit", [1e-3, 30.0, 1e6])
def test_the_unit_of_a_scene_changes_nothing(unit):
    """Good points, points a thousand pixels off and points behind the camera, in metres and in another unit."""
    points = torch.tensor([[[0.05, 0.0, 2.0], [0.3, -0.2, -1.0]]], dtype=torch.float64)
    losses = []
    for scale in (1.0, unit):
        found = reproject(scale * points, K.double(), PIXELS.double(), 0.1 * scale, 1000.0 * scale)
        losses.append(coordinate_loss(scale * points, found, RAYS.double(), ALL, 50.0, 2.0 * scale).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


def test_no_gradient_is_a_nan_where_a_point_is_at_the_camera():
    points = torch.zeros(1, 2, 3, requires_grad=True)
    found = reproject(points, K, PIXELS, 0.1, 1000.0)
    coordinate_loss(points, found, RAYS, ALL, 50.0, 2.0).backward()
    assert torch.isfinite(points.grad).all() and points.grad.abs().sum() > 0


def test_only_cells_that_show_something_count():
    points = torch.tensor([[[0.0, 0.0, 2.0], [9.0, 9.0, 1.0]]])
    found = reproject(points, K, PIXELS, 0.1, 1000.0)
    counted = torch.tensor([[True, False]])
    assert float(coordinate_loss(points, found, RAYS, counted, 50.0, 2.0)) == 0
    assert float(coordinate_loss(points, found, RAYS, counted & False, 50.0, 2.0)) == 0


def test_confidence_learns_what_is_right():
    error, valid = torch.tensor([[1.0, 9.0, 1.0]]), torch.tensor([[True, True, False]])
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = confidence_loss(logits, error, valid, torch.ones(1, 3, dtype=torch.bool), right=5.0)
    assert float(loss) == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.sign().tolist() == [[-1.0, 1.0, 1.0]]


def test_free_points_that_begin_behind_the_camera_find_their_rays():
    torch.manual_seed(0)
    pixels = torch.rand(1, 200, 2) * 80
    rays = torch.cat([pixels, torch.ones(1, 200, 1)], -1) @ torch.linalg.inv(K).transpose(1, 2)
    points = torch.nn.Parameter(torch.randn(1, 200, 3) - torch.tensor([0.0, 0.0, 3.0]))
    optimizer = torch.optim.Adam([points], lr=0.05)
    for step in range(400):
        found = reproject(points, K, pixels, 0.1, 1000.0)
        loss = coordinate_loss(points, found, rays, torch.ones(1, 200, dtype=torch.bool), soft_limit(step / 400), 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = reproject(points, K, pixels, 0.1, 1000.0)
    assert found.valid.all() and float(found.error.median()) < 1.0
