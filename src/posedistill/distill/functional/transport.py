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

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posedistill.distill.functional.solvers import Problem, solve_converged, solve_faithful
from posedistill.errors import RecipeError, describe

Solver = Literal["converged", "faithful"]
_LARGEST = 80.0
"""Exponents of single precision stay below: a mass of 0 times infinity would be NaN."""


class Divergence(NamedTuple):
    """``value [P]``, and on the host ``residual [P]``: about the relative error of its gradient; may be None."""

    value: Tensor
    residual: Tensor | None


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
    iterations: int = 16,
    scaling: float = 0.5,
    group: int = 1,
) -> Divergence:
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
        iterations: of the converged solver at the final blur, after its annealing, at least 2; problems that are not
            solved by then (residual above 0.002) go on, for up to 63 times as many.
        scaling: of the faithful solver, the factor from one blur of its schedule to the next.
        group: of the faithful solver, how many consecutive problems share one schedule (the keypoints of an image).

    Returns:
        The value, float32 (float64 for float64 inputs); 0, with zero gradients, where a side has no mass; NaN where a
        position or mass that is not padding is NaN. And the residual that is left.

    Two equal points differ by ``rho (sqrt(m_a) - sqrt(m_b))^2``:

    >>> x = torch.zeros(1, 1, 2)
    >>> s = sinkhorn_divergence(x, torch.tensor([[0.81]]), x, torch.tensor([[0.25]]), blur=0.01, reach=0.5)
    >>> round(s.value.item(), 3)
    0.04
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, a, y, b = (tensor.to(dtype) for tensor in (x, a, y, b))
    if 0 in (*a.shape, *b.shape):
        return Divergence(0 * (a.sum(1) + b.sum(1) + x.sum((1, 2)) + y.sum((1, 2))), None)
    if x_mask is not None:
        x, a = x.where(x_mask[..., None], 0), a.where(x_mask, 0)
    if y_mask is not None:
        y, b = y.where(y_mask[..., None], 0), b.where(y_mask, 0)
    settings = (blur**2, None if reach is None else reach**2, solver, iterations, scaling, group, x_mask, y_mask)
    with torch.autocast(x.device.type, enabled=False):
        return Divergence(*_Divergence.apply(x, a, y, b, *settings))


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
    ) -> tuple[Tensor, Tensor | None]:
        # Not "> 0": a NaN among the masses is an error to be told, not an empty side.
        alive = ~((a.sum(-1) <= 0) | (b.sum(-1) <= 0))
        # A problem without mass on a side becomes one that is solved at once, without NaN, and then counts as 0.
        x, y = (points.where(alive[:, None, None], 0) for points in (x, y))
        problem = Problem(x, a.where(alive[:, None], 1), y, b.where(alive[:, None], 1), eps, rho)
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        if solver == "faithful":
            diameter = _diameters(x, y, x_mask, y_mask, group)
            solution = solve_faithful(problem, diameter, scaling, wanted)
        else:
            solution = solve_converged(problem, iterations, wanted)
        if solution.residual is not None:
            ctx.mark_non_differentiable(solution.residual)
        f, g, p, q = solution.potentials
        lost_x, lost_y = _lost(f, p, rho), _lost(g, q, rho)
        value = (problem.a * lost_x).sum(-1) + (problem.b * lost_y).sum(-1)
        value_factor, mass_factor = (1.0, 1.0) if rho is None else (rho + eps / 2, rho + eps)
        ctx.save_for_backward(alive, solution.force_x, mass_factor * lost_x, solution.force_y, mass_factor * lost_y)
        return (value_factor * value).where(alive, 0), solution.residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        alive, *gradients = ctx.saved_tensors
        scale = grad.where(alive, 0)
        scaled = [None if g is None else g * scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        return (*scaled, *[None] * 8)


def _lost(cross: Tensor, own: Tensor, rho: float | None) -> Tensor:
    """``e^(-own/rho) - e^(-cross/rho)`` (or its limit ``(cross - own)``, without rho) free of cancellation."""
    if rho is None:
        return cross - own
    return -torch.exp(-own / rho) * torch.expm1(((own - cross) / rho).clamp(max=_LARGEST))


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
    # A group of one single position, of none, or of positions that are not finite, still needs a finite schedule.
    diagonal = extent.clamp(min=0).norm(dim=-1).nan_to_num(nan=0.0, posinf=0.0).clamp(min=1e-6)
    return diagonal.repeat_interleave(group)[:, None]
