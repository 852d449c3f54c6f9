"""Two solvers of the dual of entropic, unbalanced optimal transport, for ``P`` problems at once.

Their notation is that of :mod:`..transport`. Neither records gradients: each returns potentials and
the forces that the envelope theorem gives.

``solve_converged`` goes on until a residual is small, with three things in mind. An exponential of a matrix costs as
much as ten products with a vector, so matrices are exponentiated twice and multiplied often. Halving eps squares the
kernel. And a row times a matrix is far faster than a matrix times a column, so the kernel is kept in both layouts.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_RELAXATION = 1.7
"""Over-relaxation: where plain Sinkhorn's error shrinks by 0.93 a step, this one's shrinks by 0.7; it must stay < 2."""
_SELF_STEPS = tuple(1 / (1.5 + 0.5 * math.cos(math.pi * (2 * k + 1) / 12)) for k in range(6))
"""A symmetric problem's update has slopes in [-1, 0]: Chebyshev's steps shrink any such error by 20,000 together."""
_SIDES = ((0, 1, 1), (1, 0, 0), (0, 0, 2), (1, 1, 3))
"""Of f, g, p and q: whose points (0: x, 1: y), against whose, and which potential stands on the other side."""
_CACHED = 2**18
"""Elements of a matrix that a processor core keeps near while it iterates on it."""
_TINY, _HUGE = 1e-37, 1e17
_LARGEST = 80.0
"""Exponents stay within this of 0 in single precision."""
_LARGEST_DOUBLE = 300.0
_TOLERANCE = 2e-3
"""A problem is solved when its residual is below; the error of its gradient is between half and four times that."""
_ROUNDS = 6
_MOVED = 1e-3
"""Residuals count in the mass that is moved, or in this share of all mass where hardly any is."""


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
    """Potentials and the forces ``dS/dx [P, N, D]`` and ``dS/dy [P, M, D]`` (None where not asked for).

    ``residual [P]``, on the host: how far the marginals are off, as a share of the mass that is moved; None where the
    solver makes no attempt to converge.
    """

    potentials: Potentials
    force_x: Tensor | None
    force_y: Tensor | None
    residual: Tensor | None


class _Crossing(NamedTuple):
    """What is found of the problem (alpha, beta): potentials, pulls on x and y, residual."""

    f: Tensor
    g: Tensor
    pull_x: Tensor | None
    pull_y: Tensor | None
    residual: Tensor


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|^2 / 2``: ``[P, N, M]``, from the differences themselves (an expanded square would cancel)."""
    if x.shape[-1] > 4:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(0.5)
    # Coordinate by coordinate, each contiguous: several times as fast as cdist.
    first, *others = zip(x.movedim(-1, 0).contiguous(), y.movedim(-1, 0).contiguous(), strict=True)
    cost = torch.sub(first[0][:, :, None], first[1][:, None]).square_()
    difference = torch.empty_like(cost)
    for own, other in others:
        torch.sub(own[:, :, None], other[:, None], out=difference)
        cost.addcmul_(difference, difference)
    return cost.mul_(0.5)


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
    """Iterate until the residual is below 0.2 percent, at most about 64 times ``iterations``.

    ``wanted`` says whether the forces on x and on y are asked for.
    """
    x, a, y, b, eps, rho = problem
    center = x.mean(1, keepdim=True)
    x, y = x - center, y - center
    # A processor iterates on as many problems as its cache holds, any other device on all at once.
    at_once = max(1, _CACHED // max(x.shape[1], y.shape[1]) ** 2) if x.device.type == "cpu" else len(x)
    slices = [slice(start, start + at_once) for start in range(0, len(x), at_once)]
    parts = [_solve(Problem(x[some], a[some], y[some], b[some], eps, rho), iterations, wanted) for some in slices]
    if len(parts) == 1:
        return parts[0]
    potentials, *others = zip(*parts, strict=True)
    return Solution(Potentials(*map(torch.cat, zip(*potentials, strict=True))), *map(_joined, others))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _solve(problem: Problem, iterations: int, wanted: tuple[bool, bool]) -> Solution:
    x, a, y, b, eps, rho = problem
    cost = _cost(x, y)
    f, g = _anneal(cost, a, b, eps, rho)
    f, g, pull_x, pull_y, residual = _converge(problem, cost, f, g, iterations, _RELAXATION, wanted)
    p, own_x = _solve_self(x, a, eps, rho, wanted[0])
    q, own_y = _solve_self(y, b, eps, rho, wanted[1])
    force_x = None if pull_x is None or own_x is None else pull_x - own_x
    force_y = None if pull_y is None or own_y is None else pull_y - own_y
    return Solution(Potentials(f, g, p, q), force_x, force_y, residual)


def _converge(
    problem: Problem,
    cost: Tensor,
    f: Tensor,
    g: Tensor,
    iterations: int,
    relaxation: float,
    wanted: tuple[bool, bool],
    rounds: int = _ROUNDS,
) -> _Crossing:
    """Iterate from potentials f and g in rounds: what one leaves unsolved, the next takes up with new kernels.

    Each round has twice the iterations of the one before, relaxed half as far from 2 (what is left is slow), and all
    but the first are in double precision: each new kernel rounds costs and potentials, which in single precision
    throws the slowest modes back. The last one starts afresh.
    """
    found = _iterate(problem, cost, f, g, iterations, relaxation, wanted)
    # The one wait for the device: who warns of residuals needs no further one.
    found = found._replace(residual=found.residual.cpu())
    # NaN is not hard: no round would mend it.
    hard = found.residual > _TOLERANCE
    if rounds == 1 or not hard.any():
        return found
    x, a, y, b, f, g = (tensor[hard].double() for tensor in (*problem[:4], found.f, found.g))
    part, cost = Problem(x, a, y, b, problem.eps, problem.rho), _cost(x, y)
    if rounds == 2:
        f, g = _anneal_slowly(cost, a, b, problem.eps, problem.rho)
    again = _converge(part, cost, f, g, 2 * iterations, 1 + relaxation / 2, wanted, rounds - 1)
    for old, new in zip(found, again, strict=True):
        if old is not None and new is not None:
            old[hard] = new.to(old.dtype)
    return found


def _iterate(
    problem: Problem, cost: Tensor, f: Tensor, g: Tensor, iterations: int, relaxation: float, wanted: tuple[bool, bool]
) -> _Crossing:
    """Over-relaxed Sinkhorn on the logarithms u and v of a fixed kernel's scalings; ``cost`` is overwritten.

    That needs no exponential of a matrix. The last two iterations are plain ones.
    """
    x, y, eps, rho = problem.x, problem.y, problem.eps, problem.rho
    # All vectors are rows [P, 1, N] from here on.
    a, b, f, g = (vector[:, None] for vector in (problem.a, problem.b, f, g))
    damping, largest = _damping(eps, rho), _LARGEST if cost.dtype == torch.float32 else _LARGEST_DOUBLE
    # Only a pair of two massless points can reach the upper bound.
    kernel = cost.neg_().add_(f.mT).add_(g).mul_(1 / eps).clamp_(-largest, largest).exp_()
    kernel_t = kernel.mT.contiguous()
    pull_f, pull_g = (damping - 1) / eps * f, (damping - 1) / eps * g
    # Sums of a padded or given-up point may vanish or overflow, and relaxation would make NaN of infinity.
    finite = torch.finfo(cost.dtype).tiny, torch.finfo(cost.dtype).max
    u, v, scaled_b = torch.zeros_like(f), torch.zeros_like(g), b
    for step in range(iterations):
        weight = relaxation if step < iterations - 2 else 1.0
        if step == iterations - 2:
            shift = _shift(f + eps * u, g + eps * v, a, b, rho).div_(eps)
            u, v, scaled_b = u + shift, v - shift, scaled_b * shift.neg().exp_()
        target = torch.sub(pull_f, scaled_b.bmm(kernel_t).clamp_(*finite).log_(), alpha=damping)
        scaled_a = u.lerp_(target, weight).clamp_(-largest, largest).exp().mul_(a)
        target = torch.sub(pull_g, scaled_a.bmm(kernel).clamp_(*finite).log_(), alpha=damping)
        scaled_b = v.lerp_(target, weight).clamp_(-largest, largest).exp().mul_(b)
    f, g = f + eps * u, g + eps * v
    # The last half step made the columns right; the rows tell how far it is to the fixed point.
    kept = a if rho is None else (f * (-1 / rho)).exp_().mul_(a)
    gap = scaled_b.bmm(kernel_t).mul_(scaled_a).sub_(kept).abs_().sum(-1)
    residual = gap / kept.sum(-1).add_(a.sum(-1), alpha=_MOVED)
    # Entries of the kernel that the bound has raised must stay invisible, or the potentials are to be absorbed.
    risen = u.where(a > 0, 0).amax(-1) + v.where(b > 0, 0).amax(-1)
    residual = residual.where(~(risen > 0.75 * largest), torch.inf)
    shift = _shift(f, g, a, b, rho)
    force_x = _force(x, scaled_a, y, scaled_b, kernel_t) if wanted[0] else None
    force_y = _force(y, scaled_b, x, scaled_a, kernel) if wanted[1] else None
    return _Crossing((f + shift)[:, 0], (g - shift)[:, 0], force_x, force_y, residual[:, 0])


def _force(x: Tensor, a: Tensor, y: Tensor, b: Tensor, kernel: Tensor) -> Tensor:
    """``a_i sum_j kernel_ji b_j (x_i - y_j)``: ``[P, N, D]``; ``a [P, 1, N], b [P, 1, M], kernel [P, M, N]``."""
    moments = torch.cat([y.mT, torch.ones_like(b)], 1).mul_(b).bmm(kernel).mul_(a)
    return (moments[:, -1:] * x.mT).sub_(moments[:, :-1]).mT


def _anneal(cost: Tensor, a: Tensor, b: Tensor, eps: float, rho: float | None) -> tuple[Tensor, Tensor]:
    """Potentials after one iteration at each eps, which falls by halves from reach^2 (or 1) to blur^2."""
    stages = max(1, math.ceil(math.log2((1.0 if rho is None else rho) / eps)))
    now = eps * 2.0**stages
    row_b = b[:, None]
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    if rho is None:
        # Every point has to be reached, however far: from the size of the costs down in the log domain.
        size = cost.amax((1, 2)).clamp(min=now)[:, None]
        for between in (size, (size * now).sqrt()):
            f = _softmin(cost, b.log() + g / between, between)
            g = _softmin(cost.mT, a.log() + f / between, between)
        kernel = (f[:, :, None] + g[:, None]).sub_(cost).mul_(1 / now).clamp_(-_LARGEST / 2, _LARGEST / 2).exp_()
        # In units of eps, so that halving eps doubles them.
        f, g = f / now, g / now
    else:
        kernel = (cost * (-1 / now)).clamp_(min=-_LARGEST / 2).exp_()
    for stage in range(stages + 1):
        damping = _damping(now, rho)
        rows = (kernel * row_b).sum(-1).clamp_(_TINY).log_()
        change = torch.mul(f, damping - 1).sub_(rows, alpha=damping)
        f += change
        u = change.exp_()
        columns = (a * u)[:, None].bmm(kernel)[:, 0].clamp_(_TINY).log_()
        change = torch.mul(g, damping - 1).sub_(columns, alpha=damping)
        g += change
        if stage < stages:
            kernel.mul_(u[:, :, None]).mul_(change.exp_()[:, None]).clamp_(1 / _HUGE, _HUGE).square_()
            f, g, now = f * 2, g * 2, now / 2
    f, g = f * now, g * now
    shift = _shift(f, g, a, b, rho)
    return f + shift, g - shift


def _anneal_slowly(cost: Tensor, a: Tensor, b: Tensor, eps: float, rho: float | None) -> tuple[Tensor, Tensor]:
    """Potentials after 20 iterations to each halving of eps, from the size of the costs down, in the log domain."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    log_a, log_b, largest = a.log(), b.log(), max(cost.amax().item(), eps)
    for step in range(math.ceil(20 * math.log2(largest / eps)) + 1):
        now = max(eps, largest * 0.5 ** (step / 20))
        f = _damping(now, rho) * _softmin(cost, log_b + g / now, now)
        g = _damping(now, rho) * _softmin(cost.mT, log_a + f / now, now)
        shift = _shift(f, g, a, b, rho)
        f, g = f + shift, g - shift
    return f, g


def _shift(f: Tensor, g: Tensor, a: Tensor, b: Tensor, rho: float | None) -> Tensor:
    """``[..., 1]``: the t for which ``f + t, g - t`` is best for the dual objective; the plan stays as it is.

    This constant carries the masses, and iterations alone correct it by a factor of 1 / (1 + eps / rho) a step.
    """
    if rho is None:
        return torch.zeros_like(f[..., :1])
    kept = (f * (-1 / rho)).exp_().mul_(a), (g * (-1 / rho)).exp_().mul_(b)
    mass_f, mass_g = (part.sum(-1, keepdim=True).clamp_(_TINY, 1 / _TINY).log_() for part in kept)
    return mass_f.sub_(mass_g).mul_(rho / 2)


def _solve_self(x: Tensor, a: Tensor, eps: float, rho: float | None, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Potential ``[P, N]`` and force ``[P, N, D]`` of the problem (alpha, alpha).

    The kernel has ones on its diagonal, so its scalings never under- or overflow and no annealing is needed.
    """
    kernel = _cost(x, x).mul_(-1 / eps).clamp_(min=-_LARGEST).exp_()
    damping = _damping(eps, rho)
    row = a[:, None]
    u = row.bmm(kernel).clamp_(min=_TINY).log_().mul_(-damping / (1 + damping))
    for step in _SELF_STEPS:
        rows = u.exp().mul_(row).bmm(kernel).clamp_(min=_TINY).log_()
        u.mul_(1 - step).sub_(rows, alpha=step * damping)
    scaled = u.exp().mul_(row)
    return eps * u[:, 0], _force(x, scaled, x, scaled, kernel) if wanted else None


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
        kept = masses[own] if rho is None else masses[own] * torch.exp((-final[side] / rho).clamp(max=_LARGEST))
        return _force(points[own], kept[:, None], points[other], torch.ones_like(masses[other])[:, None], plan.mT)

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
    return Solution(Potentials(*final), force_x, force_y, None)
