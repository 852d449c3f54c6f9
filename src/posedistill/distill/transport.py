"""The debiased, entropic, unbalanced optimal-transport divergence of weighted point clouds, for many problems at once.

For measures ``alpha = sum a_i delta(x_i)`` and ``beta = sum b_j delta(y_j)`` of total masses ``m``, with the cost
``c = |x - y|^2 / 2``, ``eps = blur^2`` and ``rho = reach^2``::

    OT(alpha, beta) = min_pi <pi, c> + eps KL(pi | alpha x beta) + rho KL(pi 1 | alpha) + rho KL(pi^T 1 | beta)
    S(alpha, beta)  = OT(alpha, beta) - OT(alpha, alpha) / 2 - OT(beta, beta) / 2 + eps / 2 (m_alpha - m_beta)^2

With dual potentials ``f, g`` of (alpha, beta), ``p`` of (alpha, alpha) and ``q`` of (beta, beta)::

    S = (rho + eps / 2) (<alpha, e^(-p/rho) - e^(-f/rho)> + <beta, e^(-q/rho) - e^(-g/rho)>)

and, by the envelope theorem, ::

    dS/da_i = (rho + eps) (e^(-p_i/rho) - e^(-f_i/rho))
    dS/dx_i = sum_j pi_ij (x_i - y_j) - sum_j pi^xx_ij (x_i - x_j)

Both are computed along with the value, so nothing is recorded while the solver iterates.

Sources: Feydy et al. 2019 (Sinkhorn divergences); Sejourne, Feydy, Vialard, Trouve, Peyre 2019 (unbalanced);
Sejourne, Vialard, Peyre 2022 (translation invariance); Thibault et al. 2021 (over-relaxation).
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posedistill.errors import RecipeError, describe

Solver = Literal["converged", "faithful"]

_RELAXATION = 1.7
"""Over-relaxation: where plain Sinkhorn's error shrinks by 0.93 a step, this one's shrinks by 0.7; it must stay < 2."""
_SELF_STEP = 2 / 3
"""A symmetric problem's update has slopes in [-1, 0]; this step contracts every one of them by 3 or more."""
_SELF_ITERATIONS = 10
_TINY = 1e-37
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


def sinkhorn_divergence(
    x: Tensor,
    a: Tensor,
    y: Tensor,
    b: Tensor,
    *,
    blur: float,
    reach: float | None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    solver: Solver = "converged",
    iterations: int = 24,
    scaling: float = 0.5,
    group: int = 1,
) -> Tensor:
    """The divergence ``S`` of ``P`` problems, differentiable once in positions and masses.

    Args:
        x: ``[P, N, D]`` positions, ``a``: ``[P, N]`` their masses >= 0. Half precision is computed in float32.
        y: ``[P, M, D]`` positions, ``b``: ``[P, M]`` their masses >= 0.
        blur: the entropic scale, in the units of the positions.
        reach: beyond this distance mass is rather destroyed than moved; None for balanced transport, which expects
            equal total masses.
        x_mask: ``[P, N]`` bool, False where the slot is padding; what stands there never matters.
        y_mask: ``[P, M]`` bool, likewise.
        solver: ``converged`` reaches the fixed point; ``faithful`` stops where the published system stops, far from it
            in the mass direction (its value depends on the spread of all points of a group).
        iterations: of the converged solver at the final blur, after its annealing.
        scaling: of the faithful solver, the factor from one blur of its schedule to the next.
        group: of the faithful solver, how many consecutive problems share one schedule (the keypoints of an image).

    Returns:
        ``[P]`` float32 (float64 for float64 inputs); 0, with zero gradients, where a side has no mass.

    Two equal points differ by ``rho (sqrt(m_a) - sqrt(m_b))^2``:

    >>> x = torch.zeros(1, 1, 2)
    >>> s = sinkhorn_divergence(x, torch.tensor([[0.81]]), x, torch.tensor([[0.25]]), blur=0.01, reach=0.5)
    >>> round(s.item(), 3)
    0.04
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, a, y, b = (tensor.to(dtype) for tensor in (x, a, y, b))
    if x_mask is not None:
        x, a = x.where(x_mask[..., None], 0), a.where(x_mask, 0)
    if y_mask is not None:
        y, b = y.where(y_mask[..., None], 0), b.where(y_mask, 0)
    settings = (blur**2, None if reach is None else reach**2, solver, iterations, scaling, group, x_mask, y_mask)
    with torch.autocast(x.device.type, enabled=False):
        return _Divergence.apply(x, a, y, b, *settings)


class _Divergence(torch.autograd.Function):
    """Value and gradients in one go; backward only scales what forward found."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        y: Tensor,
        b: Tensor,
        eps: float,
        rho: float | None,
        solver: Solver,
        iterations: int,
        scaling: float,
        group: int,
        x_mask: Tensor | None,
        y_mask: Tensor | None,
    ) -> Tensor:
        alive = (a.sum(-1) > 0) & (b.sum(-1) > 0)
        # A problem without mass on a side is solved with unit masses, so that no NaN arises, and then counts as 0.
        problem = Problem(x, a.where(alive[:, None], 1), y, b.where(alive[:, None], 1), eps, rho)
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        if solver == "faithful":
            diameter = _diameters(x, y, x_mask, y_mask, group)
            solution = _solve_faithful(problem, diameter, scaling, wanted)
        else:
            solution = _solve_converged(problem, iterations, wanted)
        f, g, p, q = solution.potentials
        lost_x, lost_y = _lost(f, p, rho), _lost(g, q, rho)
        value = (problem.a * lost_x).sum(-1) + (problem.b * lost_y).sum(-1)
        value_factor, mass_factor = (1.0, 1.0) if rho is None else (rho + eps / 2, rho + eps)
        ctx.save_for_backward(alive, solution.force_x, mass_factor * lost_x, solution.force_y, mass_factor * lost_y)
        return (value_factor * value).where(alive, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        alive, *gradients = ctx.saved_tensors
        scale = grad.where(alive, 0)
        scaled = [None if g is None else g * scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        return (*scaled, *[None] * 8)


def _lost(cross: Tensor, own: Tensor, rho: float | None) -> Tensor:
    """``e^(-own/rho) - e^(-cross/rho)`` (or its limit ``(cross - own)``, without rho) free of cancellation."""
    if rho is None:
        return cross - own
    return -torch.exp(-own / rho) * torch.expm1((own - cross) / rho)


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


# -- the converged solver ---------------------------------------------------------------------------------------------


def _solve_converged(problem: Problem, iterations: int, wanted: tuple[bool, bool]) -> Solution:
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
        rows = (kernel_b * v.exp()[:, None]).sum(-1).clamp_(min=_TINY)
        u = u.lerp(torch.sub(pull_f, rows.log_(), alpha=damping), relaxation).clamp_(-_LARGEST, _LARGEST)
        columns = (kernel_a * u.exp()[:, :, None]).sum(-2).clamp_(min=_TINY)
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


# -- the faithful solver ----------------------------------------------------------------------------------------------


def _solve_faithful(problem: Problem, diameter: Tensor, scaling: float, wanted: tuple[bool, bool]) -> Solution:
    """The published solver: averaged Jacobi updates along a schedule of eps that starts at ``diameter [P, 1]`` squared,
    then one plain update at blur^2. Problems whose schedule is shorter keep their potentials while others go on."""
    x, a, y, b, eps, rho = problem
    costs = [_cost(x, y), _cost(y, x), _cost(x, x), _cost(y, y)]
    log_a, log_b = a.log(), b.log()

    def update(now: Tensor | float, potentials: Potentials | None) -> Potentials:
        f, g, p, q = (0.0, 0.0, 0.0, 0.0) if potentials is None else (h / now for h in potentials)
        targets = (log_b + g, log_a + f, log_a + p, log_b + q)
        return Potentials(*(_damping(now, rho) * _softmin(c, h, now) for c, h in zip(costs, targets, strict=True)))

    steps = 2 + _entries(diameter, eps, scaling)
    potentials = update(diameter.square(), None)
    for step in range(int(steps.max())):
        now = diameter.square() * scaling ** (2 * max(step - 1, 0))
        now = now.where(step < steps - 1, eps)
        updated = update(now, potentials)
        pairs = zip(potentials, updated, strict=True)
        potentials = Potentials(*(((old + new) / 2).where(step < steps, old) for old, new in pairs))
    final = update(eps, potentials)

    def pull(points: Tensor, mass: Tensor, own: Tensor, cost: Tensor, others: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        positions, masses, before = others
        logits = (masses.log() + before / eps)[:, None] - cost / eps
        kept = mass if rho is None else mass * torch.exp(-own / rho)
        return _force(kept[:, :, None] * logits.softmax(-1), points, positions)

    force_x = force_y = None
    if wanted[0]:
        force_x = pull(x, a, final.f, costs[0], (y, b, potentials.g)) - pull(
            x, a, final.p, costs[2], (x, a, potentials.p)
        )
    if wanted[1]:
        force_y = pull(y, b, final.g, costs[1], (x, a, potentials.f)) - pull(
            y, b, final.q, costs[3], (y, b, potentials.q)
        )
    return Solution(final, force_x, force_y)


def _entries(diameter: Tensor, eps: float, scaling: float) -> Tensor:
    """How many eps of the geometric schedule lie in [blur^2, diameter^2): ``[P, 1]``."""
    return torch.ceil((2 * diameter.log() - math.log(eps)) / (-2 * math.log(scaling))).clamp(min=0)


def _diameters(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, group: int) -> Tensor:
    """``[P, 1]`` diagonal of the bounding box of all points of a group of consecutive problems."""
    if len(x) % group:
        raise RecipeError(describe("sinkhorn_divergence", "group", f"{len(x)} problems", f"a multiple of {group}"))
    low, high = [], []
    for points, mask in ((x, x_mask), (y, y_mask)):
        present = torch.ones_like(points[..., :1], dtype=torch.bool) if mask is None else mask[..., None]
        together = (-1, group * points.shape[1], points.shape[2])
        low.append(points.where(present, torch.inf).reshape(together).amin(1))
        high.append(points.where(present, -torch.inf).reshape(together).amax(1))
    extent = torch.maximum(*high) - torch.minimum(*low)
    # A group of one single position, or of none, still needs a schedule that is finite.
    diagonal = extent.clamp(min=0).norm(dim=-1).clamp(min=1e-6)
    return diagonal.repeat_interleave(group)[:, None]
