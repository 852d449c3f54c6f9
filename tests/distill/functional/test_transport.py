"""The transport divergence: published values, closed forms, invariances, gradients, and an independent solver."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posedistill.distill.functional.transport import sinkhorn_divergence
from posedistill.errors import RecipeError

PUBLISHED: dict[str, float] = {"blur": 0.001, "reach": 0.5}
ROOMY: dict[str, float] = {"blur": 0.05, "reach": 0.3}


def divergence(*problem: Tensor, **options: Any) -> Tensor:
    return sinkhorn_divergence(*problem, **options).value


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clouds(seed: int, problems: int = 6, n: int = 5, m: int = 7, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    center = torch.rand(problems, 1, 2, generator=rng)
    x = center + 0.05 * torch.randn(problems, n, 2, generator=rng)
    y = center + 0.03 * torch.randn(problems, m, 2, generator=rng) + 0.02
    a = 0.2 + 0.6 * torch.rand(problems, n, generator=rng)
    b = 0.4 + 0.6 * torch.rand(problems, m, generator=rng)
    return [tensor.to(dtype) for tensor in (x, a, y, b)]


X = double([[(0.40, 0.50), (0.42, 0.52)]])
A = double([(0.6, 0.3)])
Y = double([[(0.41, 0.50), (0.43, 0.53), (0.40, 0.51)]])
GOLDEN = [
    (
        (0.9, 0.8, 0.7),
        0.00293053708,
        ((-0.00339893, -0.00264362), (-0.00302476, -0.00302476)),
        (-0.00177364, -0.00206439),
        0.0902507773,
    ),
    (
        (0.3375, 0.30, 0.2625),
        5.97110312e-05,
        ((-0.00337333, -0.00262370), (-0.00300197, -0.00300197)),
        (0.000123261, -0.000165305),
        5.96489415e-05,
    ),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("b", "faithful", "by_x", "by_a", "converged"), GOLDEN)
def test_published_values(b: Any, faithful: float, by_x: Any, by_a: Any, converged: float, dtype: torch.dtype) -> None:
    x, a = X.to(dtype, copy=True).requires_grad_(), A.to(dtype, copy=True).requires_grad_()
    y, masses = Y.to(dtype), double([b]).to(dtype)
    value = divergence(x, a, y, masses, solver="faithful", **PUBLISHED)
    value.sum().backward()
    assert value.item() == pytest.approx(faithful, rel=1e-4)
    torch.testing.assert_close(x.grad, double([by_x]).to(dtype), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(a.grad, double([by_a]).to(dtype), rtol=1e-4, atol=1e-8)
    assert divergence(x, a, y, masses, **PUBLISHED).item() == pytest.approx(converged, rel=1e-4)


@pytest.mark.parametrize(("a", "b", "apart"), [(0.9, 0.5, 0.01), (2.0, 0.5, 0.2), (0.1, 10.0, 0.3), (1.0, 1.0, 0.05)])
def test_two_diracs_have_the_closed_form(a: float, b: float, apart: float) -> None:
    rho = 0.25
    y = double([[(apart, 0.0)]])
    value = divergence(torch.zeros_like(y), double([[a]]), y, double([[b]]), **PUBLISHED)
    closed = rho * (a + b - 2 * (a * b) ** 0.5 * torch.exp(double(-(apart**2) / (4 * rho))).item())
    assert value.item() == pytest.approx(closed, rel=1e-5)


def test_equal_positions_leave_the_difference_of_masses() -> None:
    x, a, *_ = clouds(0)
    value = divergence(x, a, x, 3 * a, **PUBLISHED)
    closed = 0.25 * (a.sum(1).sqrt() - (3 * a).sum(1).sqrt()).square()
    torch.testing.assert_close(value, closed, rtol=1e-4, atol=0)


def test_the_faithful_solver_stops_far_from_the_masses() -> None:
    """The published flaw, kept on purpose: two close Diracs of unequal masses are called almost equal."""
    y = double([[(0.01, 0.0)]])
    value = divergence(torch.zeros_like(y), double([[0.9]]), y, double([[0.5]]), solver="faithful", **PUBLISHED)
    assert value.item() == pytest.approx(6.1e-5, rel=0.01)


@pytest.mark.parametrize("solver", ["converged", "faithful"])
def test_a_measure_does_not_differ_from_itself(solver: Any) -> None:
    x, a, *_ = clouds(1)
    x.requires_grad_()
    value = divergence(x, a, x.detach(), a, solver=solver, **ROOMY)
    value.sum().backward()
    assert value.abs().max() < 1e-6 * ROOMY["reach"] ** 2
    assert x.grad is not None and x.grad.abs().max() < 1e-5


@given(seed=st.integers(0, 10_000), blur=st.sampled_from([0.005, 0.02, 0.1]), reach=st.sampled_from([0.1, 0.5, None]))
@settings(max_examples=25)
def test_it_is_positive_and_ignores_order_and_padding(seed: int, blur: float, reach: float | None) -> None:
    x, a, y, b = clouds(seed, problems=2, dtype=torch.float32)
    if reach is None:
        a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    value = divergence(x, a, y, b, blur=blur, reach=reach)
    assert (value > 0).all()
    order, other = torch.randperm(5), torch.randperm(7)
    shuffled = divergence(x[:, order], a[:, order], y[:, other], b[:, other], blur=blur, reach=reach)
    torch.testing.assert_close(shuffled, value, rtol=2e-4, atol=1e-8)
    junk = torch.full((2, 3, 2), 1e6)
    masks = [torch.arange(n + 3).expand(2, -1) < n for n in (5, 7)]
    padded = divergence(
        torch.cat([x, junk], 1),
        torch.cat([a, torch.ones(2, 3)], 1),
        torch.cat([y, junk], 1),
        torch.cat([b, torch.full((2, 3), torch.nan)], 1),
        blur=blur,
        reach=reach,
        x_mask=masks[0],
        y_mask=masks[1],
    )
    torch.testing.assert_close(padded, value, rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("solver", ["converged", "faithful"])
def test_a_problem_does_not_feel_its_neighbours(solver: Any) -> None:
    x, a, y, b = clouds(2)
    together = divergence(x, a, y, b, solver=solver, **ROOMY)
    alone = [divergence(*(t[i : i + 1] for t in (x, a, y, b)), solver=solver, **ROOMY) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_group_shares_one_schedule_and_padding_is_no_part_of_it() -> None:
    x, a, y, b = clouds(3, problems=4)
    x[:2] += 0.3 * torch.arange(2)[:, None, None]
    pairs = [divergence(*(t[i : i + 2] for t in (x, a, y, b)), solver="faithful", group=2, **PUBLISHED) for i in (0, 2)]
    far = torch.cat([x, torch.full((4, 1, 2), 9.0)], 1)
    mask = (torch.arange(6) < 5).expand(4, -1)
    masses = torch.cat([a, a[:, :1]], 1)
    together = divergence(far, masses, y, b, x_mask=mask, solver="faithful", group=2, **PUBLISHED)
    torch.testing.assert_close(together, torch.cat(pairs))
    single = divergence(x, a, y, b, solver="faithful", **PUBLISHED)
    assert (single - together)[:2].abs().max() > 1e-3
    with pytest.raises(RecipeError, match="multiple of 3"):
        divergence(x, a, y, b, solver="faithful", group=3, **PUBLISHED)


@pytest.mark.parametrize("reach", [0.3, None])
def test_gradients_are_those_of_the_value(reach: float | None) -> None:
    x, a, y, b = clouds(4, problems=2, n=3, m=4)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    masks = {"x_mask": torch.tensor([[True] * 3, [True, True, False]])}

    def of_equal_masses(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
        if reach is None:  # masses that sum to the same: only such changes have a gradient
            a, b = a.where(masks["x_mask"], 0), b
            a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
        return divergence(x, a, y, b, blur=0.1, reach=reach, iterations=300, **masks)

    inputs = [tensor.requires_grad_() for tensor in (x, a, y, b)]
    assert torch.autograd.gradcheck(of_equal_masses, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("solver", ["converged", "faithful"])
def test_gradients_in_y_mirror_those_in_x(solver: Any) -> None:
    x, a, y, b = (tensor.requires_grad_() for tensor in clouds(5))
    there = torch.autograd.grad(divergence(x, a, y, b, solver=solver, **ROOMY).sum(), (x, a, y, b))
    back = torch.autograd.grad(divergence(y, b, x, a, solver=solver, **ROOMY).sum(), (x, a, y, b))
    for one, other in zip(there, back, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "by_value", "by_x"), [({"blur": 0.02, "reach": 0.3}, 1e-5, 1e-3), (PUBLISHED, 1e-3, 0.02)]
)
def test_single_precision_agrees_with_double(options: dict[str, float], by_value: float, by_x: float) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        x, a, y, b = clouds(6, problems=16, dtype=dtype)
        x.requires_grad_()
        value = divergence(x, a, y, b, **options)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        results.append((value.detach().double(), gradient.double().flatten(1)))
    (value, gradient), (exact, exact_gradient) = results
    torch.testing.assert_close(value, exact, rtol=by_value, atol=0)
    assert ((gradient - exact_gradient).norm(dim=1) / exact_gradient.norm(dim=1)).median() < by_x


def test_half_precision_is_computed_in_single() -> None:
    x, a, y, b = clouds(7, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = divergence(x, a, y, b, **ROOMY)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, divergence(x.float(), a.float(), y.float(), b.float(), **ROOMY))


@pytest.mark.parametrize("solver", ["converged", "faithful"])
@pytest.mark.parametrize("reach", [0.3, None])
def test_empty_sides_and_degenerate_clouds_stay_finite(solver: Any, reach: float | None) -> None:
    x, a, y, b = clouds(8, problems=5, dtype=torch.float32)
    a[0], b[1] = 0, 0
    a[2], b[2] = 0, 0
    x[3], y[3] = 0.5, 0.5  # all coincide
    a[4, 0], b[4, :5] = 1e-30, 0
    x[4] += 50  # far beyond the reach
    x, a = x.requires_grad_(), a.requires_grad_()
    value = divergence(x, a, y, b, blur=0.01, reach=reach, solver=solver)
    value.sum().backward()
    assert value.isfinite().all() and (value[:3] == 0).all()
    for gradient in (x.grad, a.grad):
        assert gradient is not None and gradient.isfinite().all() and (gradient[:3] == 0).all()


@pytest.mark.parametrize("solver", ["converged", "faithful"])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_student_that_diverged_is_told_by_its_loss(solver: Any, wrong: float) -> None:
    x, a, y, b = clouds(10, problems=3)
    x[1, 2] = wrong
    finite = divergence(x, a, y, b, solver=solver, **ROOMY).isfinite()
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize("solver", ["converged", "faithful"])
@pytest.mark.parametrize("side", [1, 3])
def test_masses_that_are_nan_are_told_too(solver: Any, side: int) -> None:
    tensors = clouds(10, problems=3)
    tensors[side][1, 2] = torch.nan
    finite = divergence(*tensors, solver=solver, **ROOMY).isfinite()
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize(("problems", "n", "m"), [(2, 0, 3), (2, 3, 0), (0, 3, 3)])
def test_no_points_or_no_problems_at_all(problems: int, n: int, m: int) -> None:
    x, a, y, b = (tensor.requires_grad_() for tensor in clouds(11, problems, n, m))
    value = divergence(x, a, y, b, **ROOMY)
    assert value.shape == (problems,) and (value == 0).all()
    for gradient, tensor in zip(torch.autograd.grad(value.sum(), (x, a, y, b)), (x, a, y, b), strict=True):
        assert gradient.shape == tensor.shape and (gradient == 0).all()


def test_a_vote_without_weight_is_told_what_a_weight_would_do() -> None:
    """The derivative by a mass of zero, against the difference that a small mass makes."""
    x, a, y, b = clouds(12, problems=3)
    a[:, 1] = 0
    a.requires_grad_()
    options = {"iterations": 200, **ROOMY}
    value = divergence(x, a, y, b, **options)
    (gradient,) = torch.autograd.grad(value.sum(), a)
    more = a.detach().clone()
    more[:, 1] = 1e-5
    difference = (divergence(x, more, y, b, **options) - value.detach()) / 1e-5
    torch.testing.assert_close(gradient[:, 1], difference, rtol=1e-3, atol=0)


ISSUE = [double(values)[None] for values in ([(0, 0.9), (0.9, 0.3)], (0.5, 0.5), [(1, 0.3), (0.7, 0.7)], (0.5, 0.5))]


@pytest.mark.parametrize(("iterations", "tolerance"), [(16, 2e-3), (200, 1e-6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_votes_that_compete_get_their_price(iterations: int, tolerance: float, dtype: torch.dtype) -> None:
    """Certified by a primal-dual gap of 4e-18; potentials have to travel farther than one kernel's scalings can."""
    found = sinkhorn_divergence(*(t.to(dtype) for t in ISSUE), blur=0.02, reach=0.5, iterations=iterations)
    assert found.value.item() == pytest.approx(0.1043314649, rel=tolerance)
    assert found.residual is not None and found.residual.item() < 2e-3


@pytest.mark.parametrize("solver", ["converged", "faithful"])
@pytest.mark.parametrize("masked", [True, False])
def test_what_has_no_mass_changes_nothing(solver: Any, masked: bool) -> None:
    """Beside a vote far beyond all reach, a slot at the origin would take any price."""
    x, a, y, b = double([[(1, 1)]]), double([[1]]), double([[(0.2, 0.2)]]), double([[1]])
    for dtype in (torch.float64, torch.float32):
        results = []
        for extra in ([], [(0.0, 0.0)], [(0.2, 0.2)], [(1e6, torch.nan if masked else -1e6)]):
            points = torch.cat([x, double([extra]).view(1, -1, 2)], 1).to(dtype).requires_grad_()
            masses = torch.cat([a, torch.ones(1, len(extra)) * masked], 1).to(dtype).requires_grad_()
            mask = torch.arange(1 + len(extra))[None] < 1 if masked else None
            options = {"blur": 0.02, "reach": 0.1, "x_mask": mask, "solver": solver}
            value = divergence(points, masses, y.to(dtype), b.to(dtype), **options)
            by_x, by_a = torch.autograd.grad(value.sum(), (points, masses))
            assert by_x.isfinite().all() and by_a.isfinite().all() and (by_x[:, 1:] == 0).all()
            results.append((value.detach(), by_x[:, :1], by_a[:, :1]))
        for result in results[1:] if masked else results[1:3] * (solver == "converged"):
            torch.testing.assert_close(result, results[0])


def test_default_iterations_reach_the_fixed_point_in_training() -> None:
    """Votes 0.05 diameters off, and votes of an untrained student 0.3 off."""
    rng = torch.Generator().manual_seed(0)
    for spread, tolerance in ((0.05, 1e-4), (0.3, 1e-3)):
        x = spread * torch.randn(64, 10, 2, generator=rng)
        y = 0.02 * torch.randn(64, 10, 2, generator=rng) + spread * torch.randn(64, 1, 2, generator=rng)
        a, b = torch.full((64, 10), 0.1), torch.full((64, 10), 0.1)
        options = {"blur": 0.02, "reach": 0.3}
        value = divergence(x, a, y, b, **options)
        exact = divergence(*(t.double() for t in (x, a, y, b)), iterations=2000, **options)
        torch.testing.assert_close(value.double(), exact, rtol=tolerance, atol=0)


def test_agrees_with_geomloss_at_fine_scaling() -> None:
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    x, a, y, b = clouds(9)
    a, b = 0.2 * a, 0.2 * b
    x.requires_grad_()
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.1, reach=0.4, scaling=0.98, backend="tensorized")
    theirs = loss(a, x, b, y)
    ours = divergence(x, a, y, b, blur=0.1, reach=0.4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    mine, other = (torch.autograd.grad(value.sum(), x)[0] for value in (ours, theirs))
    # Its gradient by the positions keeps the value's factor rho + eps / 2, where the derivative has rho + eps.
    torch.testing.assert_close(mine * (0.16 + 0.005) / (0.16 + 0.01), other, rtol=0.01, atol=5e-6)


def test_votes_far_apart_stay_finite_whatever_fills_the_padding():
    """An untrained student beside a sure teacher: the potentials of padded slots may run away, but no farther."""
    generator = torch.Generator().manual_seed(0)
    x = 0.9 + 0.3 * torch.randn(4096, 11, 2, generator=generator)
    y = 1.2 + 0.3 * torch.randn(4096, 11, 2, generator=generator)
    x[:, 4:] *= 1.5 * torch.rand(4096, 7, 1, generator=generator)
    a, b = torch.rand(4096, 11, generator=generator), torch.rand(4096, 11, generator=generator)
    a[:, 4:], b[:, 10:] = 0.0, 0.0
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    x.requires_grad_()
    value = divergence(x, a, y, b, blur=0.02, reach=0.3)
    value.sum().backward()
    assert torch.isfinite(value).all() and value.min() > -1e-4
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_far_from_all_votes_changes_nothing(dtype: torch.dtype) -> None:
    """Votes of a whole picture: some a few objects away, padding in the corner; its sums overflow."""
    for seed in range(40):
        rng = torch.Generator().manual_seed(seed)
        x = 3 * torch.rand(1, 1, 2, generator=rng) + 0.1 * torch.randn(1, 9, 2, generator=rng)
        y, a, b = (torch.rand(1, *shape, generator=rng).to(dtype) for shape in ((24, 2), (9,), (24,)))
        a[:, 6:] = 0
        problem = (x.to(dtype), a / a.sum(), 2.5 * y, b / b.sum())
        padded = divergence(*problem, x_mask=a > 0, blur=0.02, reach=0.3)
        without = divergence(
            x[:, :6].to(dtype), *(part[:, :6] for part in problem[1:2]), *problem[2:], blur=0.02, reach=0.3
        )
        torch.testing.assert_close(padded, without, atol=1e-4, rtol=1e-3)
