"""Two solvers of the dual of entropic, unbalanced optimal transport, for ``P`` problems at once.

Their notation is that of :mod:`posedistill.distill.transport`. Neither records gradients: each returns potentials and
the forces that the envelope theorem gives.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

_RELAXATION = 1.7
"""Over-relaxation: where plain Sinkhorn's error shrinks by 0.93 a step, this one's shrinks by 0.7; it must stay < 2."""
_SELF_STEP = 2 / 3
"""A symmetric problem's update has slopes in [-1, 0]; this step contracts every one of them by 3 or more."""
_SELF_ITERATIONS = 10
_SIDES = ((0, 1, 1), (1, 0, 0), (0, 0, 2), (1, 1, 3))
"""Of f, g, p and q: whose points (0: x, 1: y), against whose, and which potential stands on the other side."""
_TINY, _HUGE = 1e-37, 1e37
_LARGEST = 80.0


class Problem(NamedTuple):
    """``P`` transport problems: points ``x [P, N, D]``, ``y [P, M, D]``, masses ``a [P, N]``, ``b [P, M]``.

    No measure is empty. ``eps = blur^2``; ``rho = reach^2`` is None for balanced transport.
    """

    x: Tensor
    a: Tensor
    y: Tensor
    b: Tensor
    eps: float
    rho: float | None


class Potentials(NamedTuple):
    """Dual potentials ``f [P, N]``, ``g [P, M]`` of (x, y), ``p [P, N]`` of (x, x) and ``q [P, M]`` of (y, y)."""

    f: Tensor
    g: Tensor
    p: Tensor
    q: Tensor


class Solution(NamedTuple):
    """Potentials and the forces ``dS/dx [P, N, D]`` and ``dS/dy [P, M, D]`` (None where not asked for)."""

    potentials: Potentials
    force_x: Tensor | None
    force_y: Tensor | None


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|^2 / 2``: ``[P, N, M]``, from the differences themselves (an expanded square would cancel)."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(0.5)


def _force(plan: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``sum_j plan_ij (x_i - y_j)``: ``[P, N, M], [P, N, D], [P, M, D] -> [P, N, D]``."""
    # [P, D, N, M]: the short dimension stands outside, where the sum over the points is fast.
    return (plan[:, None] * (x.mT[..., None] - y.mT[:, :, None])).sum(-1).mT


def _softmin(cost: Tensor, h: Tensor, eps: Tensor | float) -> Tensor:
    """``-eps log sum_j exp(h_j - cost_ij / eps)``: ``[P, N, M], [P, M] -> [P, N]``; ``eps`` a number or ``[P, 1]``."""
    if isinstance(eps, Tensor):
        logits = torch.addcdiv(h[:, None], cost, eps[..., None], value=-1)
    else:
        logits = torch.add(h[:, None], cost, alpha=-1 / eps)
    largest = logits.amax(-1)
    # torch.logsumexp does the same, guarded against rows of infinities, which no problem has, at twice the time.
    return -eps * logits.sub_(largest[..., None]).exp_().sum(-1).log_().add_(largest)


def _damping(eps: Tensor | float, rho: float | None) -> Any:
    return 1.0 if rho is None else rho / (rho + eps)


def solve_converged(problem: Problem, iterations: int, wanted: tuple[bool, bool]) -> Solution:
    """Go to the fixed point, nearly.

    ``wanted`` says whether the forces on x and on y are asked for.
    """
    x, a, y, b, eps, rho = problem
    f, g, plan = _solve_cross(_cost(x, y), a, b, eps, rho, iterations)
    p, plan_x = _solve_self(x, a, eps, rho)
    q, plan_y = _solve_self(y, b, eps, rho)
    force_x = force_y = None
    if wanted[0]:
        force_x = _force(plan, x, y) - _force(plan_x, x, x)
    if wanted[1]:
        force_y = _force(plan.mT, y, x) - _force(plan_y, y, y)
    return Solution(Potentials(f, g, p, q), force_x, force_y)


def _solve_cross(
    cost: Tensor, a: Tensor, b: Tensor, eps: float, rho: float | None, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials ``f [P, N]``, ``g [P, M]`` and plan ``[P, N, M]``.

    A few log-domain iterations of falling eps come close; from there the kernel is fixed, and an over-relaxed Sinkhorn
    on the logarithms of its scalings needs no exponential of a matrix.
    """
    f, g = _anneal(cost, a, b, eps, rho)
    # Only a pair of two massless points can reach the bound.
    kernel = ((f[:, :, None] + g[:, None] - cost) / eps).clamp_(max=_LARGEST).exp_()
    kernel_a, kernel_b = kernel * a[:, :, None], kernel * b[:, None]
    damping = _damping(eps, rho)
    pull_f, pull_g = (damping - 1) / eps * f, (damping - 1) / eps * g
    u, v = torch.zeros_like(f), torch.zeros_like(g)
    for step in range(iterations):
        relaxation = _RELAXATION if step < iterations - 2 else 1.0
        rows = (kernel_b * v.exp()[:, None]).sum(-1).clamp_(_TINY, _HUGE)
        u = u.lerp(torch.sub(pull_f, rows.log_(), alpha=damping), relaxation).clamp_(-_LARGEST, _LARGEST)
        columns = (kernel_a * u.exp()[:, :, None]).sum(-2).clamp_(_TINY, _HUGE)
        v = v.lerp(torch.sub(pull_g, columns.log_(), alpha=damping), relaxation).clamp_(-_LARGEST, _LARGEST)
    plan = kernel_a * u.exp()[:, :, None] * (b * v.exp())[:, None]
    return *_balanced(f + eps * u, g + eps * v, a.log(), b.log(), rho), plan


def _anneal(cost: Tensor, a: Tensor, b: Tensor, eps: float, rho: float | None) -> tuple[Tensor, Tensor]:
    """Potentials after one log-domain iteration at each eps, from each problem's largest cost down to blur^2."""
    log_a, log_b = a.log(), b.log()
    present = (a > 0)[:, :, None] & (b > 0)[:, None]
    start = cost.where(present, 0).amax((1, 2)).clamp(min=eps)[:, None]
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    # From reach^2 to blur^2 by factors of at most 5.
    stages = max(2, math.ceil(math.log((1.0 if rho is None else rho) / eps, 5)))
    for step in range(stages + 1):
        now = start * (eps / start) ** (step / stages)
        damping = _damping(now, rho)
        f = damping * _softmin(cost, log_b + g / now, now)
        g = damping * _softmin(cost.mT, log_a + f / now, now)
        f, g = _balanced(f, g, log_a, log_b, rho)
    return f, g


def _balanced(f: Tensor, g: Tensor, log_a: Tensor, log_b: Tensor, rho: float | None) -> tuple[Tensor, Tensor]:
    """The potentials with the constant ``f + t, g - t`` that is best for the dual objective; it leaves the plan as is.

    The constant carries the masses, and iterations alone correct it by a factor of 1 / (1 + eps / rho) a step.
    """
    if rho is None:
        return f, g
    mass_f, mass_g = (log_a - f / rho).logsumexp(-1), (log_b - g / rho).logsumexp(-1)
    shift = (rho / 2 * (mass_f - mass_g))[:, None]
    return f + shift, g - shift


def _solve_self(x: Tensor, a: Tensor, eps: float, rho: float | None) -> tuple[Tensor, Tensor]:
    """Potential ``[P, N]`` and plan ``[P, N, N]`` of the problem (alpha, alpha).

    The kernel has ones on its diagonal, so its scalings never under- or overflow and no annealing is needed.
    """
    kernel = _cost(x, x).div_(-eps).exp_().mul_(a[:, None])
    damping = _damping(eps, rho)
    u = kernel.sum(-1).clamp_(min=_TINY).log_() * (-damping / (1 + damping))
    for _ in range(_SELF_ITERATIONS):
        rows = (kernel * u.exp()[:, None]).sum(-1).clamp_(min=_TINY)
        u = (1 - _SELF_STEP) * u - (_SELF_STEP * damping) * rows.log_()
    scaling = u.exp()
    return eps * u, kernel * (a * scaling)[:, :, None] * scaling[:, None]


def solve_faithful(problem: Problem, diameter: Tensor, scaling: float, wanted: tuple[bool, bool]) -> Solution:
    """Stop where the published system stops.

    Averaged Jacobi updates along a schedule of eps that starts at ``diameter [P, 1]`` squared and shrinks by
    ``scaling`` squared, then one plain update at blur^2. Problems whose schedule is over wait for the others.
    """
    points, masses = (problem.x, problem.y), (problem.a, problem.b)
    eps, rho = problem.eps, problem.rho
    costs = [_cost(points[own], points[other]) for own, other, _ in _SIDES]

    def scaled(potentials: list[Tensor], now: Tensor | float) -> list[Tensor]:
        """What each potential is the softmin of."""
        return [masses[other].log() + potentials[partner] / now for _, other, partner in _SIDES]

    def update(potentials: list[Tensor], now: Tensor | float) -> list[Tensor]:
        targets = scaled(potentials, now)
        return [_damping(now, rho) * _softmin(cost, h, now) for cost, h in zip(costs, targets, strict=True)]

    def pull(side: int) -> Tensor:
        """Gradient by the points of the mass that one plain update leaves where it is."""
        own, other, _ = _SIDES[side]
        plan = (scaled(potentials, eps)[side][:, None] - costs[side] / eps).softmax(-1)
        kept = masses[own] if rho is None else masses[own] * torch.exp(-final[side] / rho)
        return _force(kept[:, :, None] * plan, points[own], points[other])

    start = diameter.square()
    # The start counts twice, and blur^2 ends the schedule.
    steps = 2 + torch.ceil((start.log() - math.log(eps)) / (-2 * math.log(scaling))).clamp(min=0)
    potentials = update([torch.zeros_like(masses[own]) for own, _, _ in _SIDES], start)
    for step in range(int(steps.max())):
        now = (start * scaling ** (2 * max(step - 1, 0))).where(step < steps - 1, eps)
        pairs = zip(potentials, update(potentials, now), strict=True)
        potentials = [((old + new) / 2).where(step < steps, old) for old, new in pairs]
    final = update(potentials, eps)
    force_x = pull(0) - pull(2) if wanted[0] else None
    force_y = pull(1) - pull(3) if wanted[1] else None
    return Solution(Potentials(*final), force_x, force_y)
