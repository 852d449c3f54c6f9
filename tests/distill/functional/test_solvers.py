"""The solvers against plain Sinkhorn iterations in the log domain and in double precision, which need no trick."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from posedistill.distill.functional import solvers
from posedistill.distill.functional.solvers import Problem, Solution, solve_converged, solve_faithful

BOTH = (True, True)


def exact(x: Tensor, a: Tensor, y: Tensor, b: Tensor, eps: float, rho: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials and plan, after so many plain iterations that nothing moves any more."""
    cost = torch.cdist(x, y).square() / 2
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for step in range(4000):
        now = max(eps, 0.5 ** (step / 20))
        damping = 1.0 if rho is None else rho / (rho + now)
        f = -damping * now * (b.log()[:, None] + (g[:, None] - cost) / now).logsumexp(2)
        g = -damping * now * (a.log()[:, :, None] + (f[:, :, None] - cost) / now).logsumexp(1)
        if rho is not None and step % 10 == 0:
            mass_f, mass_g = (m.log().sub(h / rho).logsumexp(1, keepdim=True) for m, h in ((a, f), (b, g)))
            f, g = f + rho / 2 * (mass_f - mass_g), g - rho / 2 * (mass_f - mass_g)
    plan = a[:, :, None] * b[:, None] * ((f[:, :, None] + g[:, None] - cost) / eps).exp()
    return f, g, plan


def exact_force(problem: Problem) -> Tensor:
    """``dS/dx``"""
    x, a, y, b, eps, rho = problem
    forces = []
    for other, masses in ((y, b), (x, a)):
        plan = exact(x, a, other, masses, eps, rho)[2]
        forces.append(plan.sum(2, keepdim=True) * x - plan @ other)
    return forces[0] - forces[1]


def problem(
    spread: float = 0.05, *, blur: float = 0.02, reach: float | None = 0.3, count: int = 8, dimensions: int = 2
) -> Problem:
    """Eleven votes of a student against seven of a teacher, who is sure, in double precision."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, n, dimensions, generator=rng, dtype=torch.float64) for n in (11, 7))
    x, y = spread * x, 0.02 * y + spread * torch.randn(count, 1, dimensions, generator=rng, dtype=torch.float64)
    a, b = (0.2 + torch.rand(count, n, generator=rng, dtype=torch.float64) for n in (11, 7))
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    return Problem(x, a, y, b, blur**2, None if reach is None else reach**2)


def single(given: Problem) -> Problem:
    x, a, y, b, eps, rho = given
    return Problem(x.float(), a.float(), y.float(), b.float(), eps, rho)


def relative(value: Tensor, truth: Tensor) -> Tensor:
    """Error of each problem's vector, as a fraction of its length."""
    difference = (value.double() - truth).flatten(1).norm(dim=1)
    return difference / truth.flatten(1).norm(dim=1)


@pytest.mark.parametrize("reach", [0.3, None])
@pytest.mark.parametrize(("spread", "tolerance"), [(0.05, 1e-3), (0.3, 5e-3)])
def test_sixteen_iterations_in_single_precision_are_enough(
    spread: float, tolerance: float, reach: float | None
) -> None:
    given = problem(spread, reach=reach)
    force = solve_converged(single(given), 16, BOTH).force_x
    assert force is not None and relative(force, exact_force(given)).median() < tolerance


@pytest.mark.parametrize("reach", [0.3, None])
@pytest.mark.parametrize("dimensions", [2, 16])
def test_potentials_converge(reach: float | None, dimensions: int) -> None:
    """Two of a unbalanced problem; of a balanced one their sums, since a constant may pass from one to the other."""
    given = problem(0.05, reach=reach, dimensions=dimensions)
    f, g, p, q = solve_converged(given, 200, BOTH).potentials
    true_f, true_g, _ = exact(*given)
    if reach is None:
        constant = (true_f - f).mean(1, keepdim=True)
        f, g = f + constant, g - constant
    torch.testing.assert_close(f, true_f, rtol=0, atol=1e-8)
    torch.testing.assert_close(g, true_g, rtol=0, atol=1e-8)
    x, a, y, b, eps, rho = given
    for own, points, masses in ((p, x, a), (q, y, b)):
        one, other, _ = exact(points, masses, points, masses, eps, rho)
        torch.testing.assert_close(own, (one + other) / 2, rtol=0, atol=1e-4 * eps)


def test_a_small_blur_takes_more_rounds() -> None:
    """Clouds far apart at a blur of a hundredth of the reach, in single precision."""
    rng = torch.Generator().manual_seed(0)
    x, y = (0.3 * torch.randn(8, n, 2, generator=rng, dtype=torch.float64) for n in (11, 7))
    a, b = (torch.full((8, n), 1 / n, dtype=torch.float64) for n in (11, 7))
    given = Problem(x, a, y + 0.3, b, 0.003**2, 0.3**2)
    truth = solve_converged(given, 1000, BOTH).force_x
    for iterations in (16, 160):
        force = solve_converged(single(given), iterations, BOTH).force_x
        assert truth is not None and force is not None and relative(force, truth).max() < 0.02


def test_outliers_of_balanced_transport_come_near() -> None:
    """A vote 40 diameters off has to be sent to the one 24 off on the other side: the reference itself is 5 % off."""
    given = problem(reach=None)
    x, y = given.x.clone(), given.y.clone()
    x[:, 0] += 40
    y[:, 0] -= 24
    given = Problem(x, given.a, y, *given[3:])
    force = solve_converged(single(given), 16, BOTH).force_x
    assert force is not None and relative(force, exact_force(given)).max() < 0.06


def scattered(seed: int, n: int, m: int, blur: float, reach: float | None, dimensions: int = 2) -> Problem:
    """Votes of both sides all over the place: many compete for few, and prices have far to go."""
    rng = torch.Generator().manual_seed(seed)
    x, y = (0.3 * torch.randn(4, count, dimensions, generator=rng, dtype=torch.float64) for count in (n, m))
    a, b = (0.2 + torch.rand(4, count, generator=rng, dtype=torch.float64) for count in (n, m))
    masses = (mass / mass.sum(1, keepdim=True) for mass in (a, b))
    return Problem(x, next(masses), y, next(masses), blur**2, None if reach is None else reach**2)


@given(
    seed=st.integers(0, 1000),
    sizes=st.sampled_from([(1, 6), (2, 2), (10, 10), (10, 30)]),
    blur=st.sampled_from([0.02, 0.05]),
    reach=st.sampled_from([0.3, 1.0, None]),
    dimensions=st.sampled_from([2, 18]),
)
@settings(max_examples=6)
def test_any_problem_is_solved_to_two_percent(
    seed: int, sizes: tuple[int, int], blur: float, reach: float | None, dimensions: int
) -> None:
    hard = scattered(seed, *sizes, blur, reach, dimensions)
    plan = exact(*hard)[2]
    assume(reach is not None or (plan.sum(2) - hard.a).abs().sum(1).max() < 1e-3)
    solution = solve_converged(single(hard), 16, BOTH)
    assert solution.force_x is not None and relative(solution.force_x, exact_force(hard)).max() < 0.02
    assert solution.residual is not None and solution.residual.max() < 2e-3


def test_the_residual_tells_the_error_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a single round, before any further one: neither a tenth of it nor ten times as much."""
    monkeypatch.setattr(solvers, "_TOLERANCE", 1e3)
    for hard in (scattered(0, 10, 30, 0.02, 0.3), problem(0.05), scattered(1, 20, 20, 0.05, 1.0, 18)):
        truth = exact_force(hard)
        for iterations in (8, 16, 32):
            solution = solve_converged(single(hard), iterations, BOTH)
            assert solution.force_x is not None and solution.residual is not None
            error = relative(solution.force_x, truth)
            assert ((error < 10 * solution.residual + 1e-5) & (error > solution.residual / 10)).all()


def test_what_cannot_be_solved_is_told() -> None:
    """Prices in steps of blur^2, a billionth of the costs."""
    hard = scattered(0, 10, 10, 1e-4, None)
    far = Problem(3 * hard.x, hard.a, 3 * hard.y, *hard[3:])
    residual = solve_converged(far, 2, BOTH).residual
    assert residual is not None and residual.max() > 0.01


def test_annealing_alone_comes_close() -> None:
    """Within five percent of the force before over-relaxation begins."""
    given = problem(0.05)
    force = solve_converged(given, 2, BOTH).force_x
    assert force is not None and relative(force, exact_force(given)).median() < 0.05


def test_forces_are_derivatives_of_the_value() -> None:
    """With the plans held, as the envelope theorem allows: sum_ij plan_ij |x_i - y_j|^2 / 2, less the own parts."""
    given = problem(0.1)
    x, a, y, b, eps, rho = given
    solution = solve_converged(given, 400, BOTH)
    moving, other = x.clone().requires_grad_(), y.clone().requires_grad_()
    plans = [exact(*pair, eps, rho)[2] for pair in ((x, a, y, b), (x, a, x, a), (y, b, y, b))]
    pairs = ((moving, other, 1.0), (moving, moving, -0.5), (other, other, -0.5))
    value = sum(
        (share * plan * (one[:, :, None] - two[:, None]).square().sum(-1) / 2).sum()
        for plan, (one, two, share) in zip(plans, pairs, strict=True)
    )
    for force, truth in zip(solution[1:3], torch.autograd.grad(value, (moving, other)), strict=True):  # type: ignore[arg-type]
        assert isinstance(force, Tensor)
        torch.testing.assert_close(force, truth, rtol=0, atol=1e-7)


def test_forces_nobody_asked_for_are_left_out() -> None:
    for solve in (lambda wanted: solve_converged(problem(), 4, wanted), faithful):
        assert [force is None for force in solve((True, False))[1:3]] == [False, True]
        assert [force is None for force in solve((False, True))[1:3]] == [True, False]


def faithful(wanted: tuple[bool, bool]) -> Solution:
    given = problem()
    return solve_faithful(given, torch.ones(len(given.x), 1, dtype=torch.float64), 0.5, wanted)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, False)])
def test_parts_that_fit_the_cache_are_the_whole(monkeypatch: pytest.MonkeyPatch, wanted: tuple[bool, bool]) -> None:
    """Three problems at once leave a rest of two."""
    given = problem()
    whole = solve_converged(given, 16, wanted)
    monkeypatch.setattr(solvers, "_CACHED", 3 * 11 * 11)
    parts = solve_converged(given, 16, wanted)
    for one, other in zip([*whole.potentials, *whole[1:]], [*parts.potentials, *parts[1:]], strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


def test_costs_do_not_cancel_far_from_the_origin() -> None:
    """Coordinate by coordinate, and with many coordinates by cdist, to the last digit of the differences."""
    rng = torch.Generator().manual_seed(0)
    for dimensions in (1, 2, 3, 16):
        x = 100 + 0.01 * torch.randn(2, 5, dimensions, generator=rng)
        truth = (x[:, :, None].double() - x[:, None].double()).square().sum(-1) / 2
        torch.testing.assert_close(solvers._cost(x, x).double(), truth, rtol=1e-5, atol=0)


def test_the_shift_is_the_best_one() -> None:
    """The dual objective, -rho (<a, e^(-f/rho)> + <b, e^(-g/rho)>) but for what f + t, g - t leave alone."""
    rng = torch.Generator().manual_seed(0)
    f, g, a, b = (torch.rand(4, n, generator=rng, dtype=torch.float64) for n in (5, 7, 5, 7))
    rho = 0.09

    def dual(t: Tensor) -> Tensor:
        return -((a * torch.exp(-(f + t) / rho)).sum(1) + (b * torch.exp(-(g - t) / rho)).sum(1))

    best = solvers._shift(f, g, a, b, rho)
    for off in (-1e-3, 1e-3):
        assert (dual(best) > dual(best + off)).all()
    assert (solvers._shift(f, g, a, b, None) == 0).all()


def test_votes_beyond_all_reach_are_given_up_and_found_when_balanced() -> None:
    """Fifty diameters apart: no force without a plan, and the whole distance with one."""
    given = problem(reach=0.3)
    far = Problem(given.x + 50, given.a, given.y, given.b, given.eps, given.rho)
    force = solve_converged(single(far), 16, BOTH).force_x
    assert force is not None and force.isfinite().all() and force.abs().max() < 0.01
    balanced = Problem(*far[:5], None)
    force = solve_converged(single(balanced), 16, BOTH).force_x
    assert force is not None
    torch.testing.assert_close(force.sum(1), torch.full((8, 2), 50.0), rtol=0.01, atol=0)


def test_the_faithful_schedule_is_as_long_as_each_problem_needs() -> None:
    """Beside a problem of a larger diameter, and so of a longer schedule, a problem stops where it stops alone."""
    given = problem(count=2)
    diameters = torch.tensor([[0.2], [5.0]], dtype=torch.float64)
    together = solve_faithful(given, diameters, 0.5, BOTH).potentials
    for index in range(2):
        some = slice(index, index + 1)
        one = Problem(given.x[some], given.a[some], given.y[some], given.b[some], given.eps, given.rho)
        alone = solve_faithful(one, diameters[some], 0.5, BOTH).potentials
        for potential, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(potential[some], expected)
