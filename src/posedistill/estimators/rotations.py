"""Rotations as networks put them out: parameters to matrices, matrices to targets, distances; all differentiable."""

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12


def to_matrix(parameters: Tensor, kind: str) -> Tensor:
    """``[..., k] -> [..., 3, 3]``; see ``decode.posenet.rotation_matrix``, which this equals."""
    if kind == "quaternion":
        return quaternion_to_matrix(parameters)
    if kind == "log_quaternion":
        half = (parameters.square().sum(-1, keepdim=True) + _TINY).sqrt()
        return quaternion_to_matrix(torch.cat([half.cos(), torch.sinc(half / torch.pi) * parameters], -1))
    first, second = parameters[..., :3], parameters[..., 3:]
    x = functional.normalize(first, dim=-1)
    y = functional.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def from_matrix(R: Tensor, kind: str) -> Tensor:
    """``[..., 3, 3] -> [..., k]``: the parameters a network should give; quaternions have w >= 0.

    >>> from_matrix(torch.diag(torch.tensor([-1.0, -1.0, 1.0])), "quaternion")
    tensor([0., 0., 0., 1.])
    """
    if kind == "6d":
        return torch.cat([R[..., 0], R[..., 1]], -1)
    quaternion = matrix_to_quaternion(R)
    return quaternion if kind == "quaternion" else log_quaternion(quaternion)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """``[..., 4]`` (w, x, y, z) of any length but 0 to ``[..., 3, 3]``."""
    w, x, y, z = functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).reshape(*quaternion.shape[:-1], 3, 3)


def matrix_to_quaternion(R: Tensor) -> Tensor:
    """``[..., 3, 3] -> [..., 4]`` (w, x, y, z) with w >= 0, by the largest of four equal ways; for targets.

    Each way divides by one component of the quaternion, and one of them is 1/2 at least.
    """
    m = [[R[..., row, column] for column in range(3)] for row in range(3)]
    trace = m[0][0] + m[1][1] + m[2][2]
    squares = torch.stack([trace, *(2 * m[axis][axis] - trace for axis in range(3))], -1) + 1  # 4 w^2, 4 x^2, ...
    (wx, wy, wz) = (m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1])
    (xy, xz, yz) = (m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2])
    rows = [
        torch.stack([squares[..., 0], wx, wy, wz], -1),
        torch.stack([wx, squares[..., 1], xy, xz], -1),
        torch.stack([wy, xy, squares[..., 2], yz], -1),
        torch.stack([wz, xz, yz, squares[..., 3]], -1),
    ]
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = functional.normalize(torch.stack(rows, -2).gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def log_quaternion(quaternion: Tensor) -> Tensor:
    """``[..., 4]`` unit quaternions to ``[..., 3]``: half the angle times the axis, of the one with w >= 0.

    >>> log_quaternion(torch.tensor([0.9238795, 0.0, 0.3826834, 0.0]))
    tensor([0.0000, 0.3927, 0.0000])
    """
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    imaginary = quaternion[..., 1:]
    sine = (imaginary.square().sum(-1, keepdim=True) + _TINY).sqrt()
    return torch.atan2(sine, quaternion[..., :1]) / sine * imaginary


def geodesic_angle(first: Tensor, second: Tensor) -> Tensor:
    """``[..., 3, 3], [..., 3, 3] -> [...]`` radians in 0 .. pi; its gradient is finite everywhere.

    From sine and cosine together: an arc cosine alone has no gradient at equality, and rounds off small angles.
    """
    relative = first.transpose(-1, -2) @ second
    differences = torch.stack([relative[..., a, b] - relative[..., b, a] for a, b in ((2, 1), (0, 2), (1, 0))], -1)
    double_sine = (differences.square().sum(-1) + _TINY).sqrt()
    return torch.atan2(double_sine, relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)


def chordal_distance(first: Tensor, second: Tensor) -> Tensor:
    """``[..., 3, 3], [..., 3, 3] -> [...]``: the Frobenius norm over root 2, near the angle where it is small."""
    return ((first - second).square().sum((-1, -2)) / 2 + _TINY).sqrt()
