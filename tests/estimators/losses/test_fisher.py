import numpy as np
import pytest
import torch

from posedistill.decode.viewpoint import fisher_mode as numpy_mode
from posedistill.estimators.losses.fisher import fisher_likelihood, fisher_mode, log_constant, proper_singular_values
from posedistill.geometry.rotations import random_rotations


@pytest.mark.parametrize("s", [(0.5, 0.3, 0.1), (3.0, 2.0, 1.0), (3.0, 2.0, -1.5), (4.0, 0.0, 0.0)])
def test_the_constant_is_the_mean_over_all_rotations(s):
    R = random_rotations(200_000, np.random.default_rng(0))
    drawn = np.log(np.exp(R.diagonal(axis1=1, axis2=2) @ np.array(s)).mean())
    assert float(log_constant(torch.tensor([s], dtype=torch.float64))) == pytest.approx(drawn, abs=0.02)


def test_the_constant_of_narrow_distributions():
    """For large s it is a Gaussian of the rotation vector, whose space has the volume 8 pi^2."""
    for s in (np.array([40.0, 30.0, 20.0]), np.array([4000.0, 3000.0, 2500.0])):
        pairs = np.log([s[0] + s[1], s[0] + s[2], s[1] + s[2]]).sum()
        expected = s.sum() + 1.5 * np.log(2 * np.pi) - np.log(8 * np.pi**2) - pairs / 2
        found = float(log_constant(torch.as_tensor(s)[None]))
        assert found == pytest.approx(expected, abs=0.05)


def test_the_likelihood_is_largest_at_the_mode():
    rng = np.random.default_rng(1)
    F = torch.as_tensor(3 * rng.normal(size=(50, 3, 3)))
    mode = fisher_mode(F)
    assert (torch.linalg.det(mode) - 1).abs().max() < 1e-5
    best = fisher_likelihood(F, mode)
    for _ in range(20):
        other = torch.as_tensor(random_rotations(50, rng), dtype=torch.float32)
        assert (fisher_likelihood(F, other) <= best + 1e-5).all()
    theirs, sure = numpy_mode(F.numpy())
    np.testing.assert_allclose(theirs, mode.numpy(), atol=1e-5)
    assert ((sure >= 0) & (sure < 1)).all()


def test_reflections_have_a_negative_value_and_gradients_are_finite():
    F = torch.diag_embed(torch.tensor([[3.0, 2.0, -1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])).requires_grad_()
    assert proper_singular_values(F.detach())[0].tolist() == [3.0, 2.0, -1.0]
    fisher_likelihood(F, torch.eye(3).expand(3, 3, 3)).sum().backward()
    assert F.grad is not None and F.grad.isfinite().all()
    # At the mode, a likelihood rises with F along R by less than the whole trace does.
    assert 0 < float(F.grad[1].diagonal().sum()) < 3
