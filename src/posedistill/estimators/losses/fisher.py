"""The matrix Fisher distribution on rotations: ``p(R) = exp(tr(F^T R)) / c(F)``, F any ``[3, 3]``.

With the proper singular values ``s1 >= s2 >= |s3|`` of F (of which the last has the sign of its determinant), the
constant is one integral (Lee, "Bayesian Attitude Estimation with the Matrix Fisher Distribution on SO(3)", TAC 2018):
``c = 1/2 int I0((s1 - s2)(1 - u) / 2) I0((s1 + s2)(1 + u) / 2) exp(s3 u) du`` over -1..1.
"""

import numpy as np
import torch
from torch import Tensor

_NODES = 64


def fisher_likelihood(F: Tensor, R: Tensor) -> Tensor:
    """``[B, 3, 3], [B, 3, 3] -> [B]``: the logarithm of the density at R, which is 0 everywhere where F is 0.

    >>> fisher_likelihood(torch.zeros(1, 3, 3), torch.eye(3)[None]).abs().item() < 1e-6
    True
    """
    F = F.double()
    return ((F * R).sum((1, 2)) - log_constant(proper_singular_values(F))).float()


def proper_singular_values(F: Tensor) -> Tensor:
    """``[B, 3, 3] -> [B, 3]``, the last with the sign of the determinant; differentiable."""
    s = torch.linalg.svdvals(F)
    sign = torch.where(torch.linalg.det(F.detach()) < 0, -1.0, 1.0).to(s)
    return torch.stack([s[:, 0], s[:, 1], s[:, 2] * sign], 1)


def log_constant(s: Tensor) -> Tensor:
    """``[B, 3] -> [B]`` log c of proper singular values, by Gauss-Legendre quadrature.

    The integrand falls from u = 1 on as ``exp(-(s2 + s3)(1 - u))``; ``u = 1 - 2 t^4`` brings the nodes there.

    >>> log_constant(torch.zeros(1, 3)).abs().item() < 1e-6
    True
    """
    places, shares = np.polynomial.legendre.leggauss(_NODES)  # over -1..1, and here over 0..1
    nodes, weights = (torch.as_tensor(x, dtype=s.dtype, device=s.device) for x in ((places + 1) / 2, shares / 2))
    u = 1 - 2 * nodes**4
    first, second, third = s[:, :1], s[:, 1:2], s[:, 2:]
    below, above = (first - second) * (1 - u) / 2, (first + second) * (1 + u) / 2
    # I0 overflows; exp(-x) I0(x) does not.
    logs = torch.special.i0e(below).log() + below + torch.special.i0e(above).log() + above + third * u
    return (logs + (weights * 4 * nodes**3).log()).logsumexp(1)


def fisher_mode(F: Tensor) -> Tensor:
    """``[B, 3, 3] -> [B, 3, 3]``: the rotation of the largest density; differentiable where s2 + s3 > 0."""
    U, _, Vt = torch.linalg.svd(F.double())
    sign = torch.linalg.det(U @ Vt)
    turned = torch.cat([U[..., :2], U[..., 2:] * sign[:, None, None]], -1)
    return (turned @ Vt).float()
