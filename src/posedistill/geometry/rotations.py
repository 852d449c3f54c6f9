"""Rotations on numpy arrays: tests, distances, sampling and the constructions the project needs."""

import numpy as np

from posedistill.geometry.cameras import Array


def is_rotation(R: Array, tol: float = 1e-3) -> np.ndarray:
    """Whether ``[..., 3, 3]`` matrices are rotations: no entry of ``R R^T - I`` above ``tol``, and det R > 0.

    Returns:
        ``[...]`` bool; False for NaN.

    >>> is_rotation(np.stack([np.eye(3), -np.eye(3), 1.1 * np.eye(3)]))
    array([ True, False, False])
    """
    R = np.asarray(R, dtype=np.float64)
    residual = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max(axis=(-1, -2))
    # The triple product instead of np.linalg.det, which warns on NaN.
    determinant = (np.cross(R[..., 0, :], R[..., 1, :]) * R[..., 2, :]).sum(axis=-1)
    return (residual <= tol) & (determinant > 0)


def angle_between(Ra: Array, Rb: Array) -> Array:
    """Geodesic distance of rotations in radians, in [0, pi]; accurate at both ends.

    Args:
        Ra, Rb: ``[..., 3, 3]``, broadcast against each other.

    >>> float(angle_between(np.eye(3), axis_angle(np.array([0.0, 0.0, 1.0]), 0.25)).round(12))
    0.25
    """
    relative = np.swapaxes(Ra, -1, -2) @ Rb
    double_sine = np.sqrt(
        (relative[..., 2, 1] - relative[..., 1, 2]) ** 2
        + (relative[..., 0, 2] - relative[..., 2, 0]) ** 2
        + (relative[..., 1, 0] - relative[..., 0, 1]) ** 2
    )
    return np.arctan2(double_sine, np.trace(relative, axis1=-2, axis2=-1) - 1.0)


def cross_matrix(vectors: Array) -> Array:
    """``[..., 3, 3]`` matrices ``[v]x`` with ``[v]x w = v x w`` for ``[..., 3]`` vectors."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=np.float64), -1, 0)
    zero = np.zeros_like(x)
    entries = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(entries, axis=-1).reshape(*x.shape, 3, 3)


def axis_angle(axis: Array, angle: Array | float) -> Array:
    """Rotations about axes (Rodrigues).

    Args:
        axis: ``[..., 3]``, any length but 0. angle: ``[...]`` radians.

    Returns:
        ``[..., 3, 3]``.

    >>> axis_angle(np.array([0.0, 0.0, 2.0]), np.pi / 2).round(6) @ [1.0, 0.0, 0.0]
    array([0., 1., 0.])
    """
    axis = np.asarray(axis, dtype=np.float64)
    cross = cross_matrix(axis / np.linalg.norm(axis, axis=-1, keepdims=True))
    angle = np.asarray(angle, dtype=np.float64)[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)


def quaternion_to_matrix(quaternion: Array) -> Array:
    """``[..., 3, 3]`` rotations from ``[..., 4]`` quaternions (w, x, y, z) of any length but 0.

    >>> quaternion_to_matrix(np.array([2.0, 0.0, 0.0, 0.0])).diagonal()
    array([1., 1., 1.])
    """
    quaternion = np.asarray(quaternion, dtype=np.float64)
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    cross = cross_matrix(quaternion[..., 1:])
    return np.eye(3) + 2.0 * quaternion[..., :1, None] * cross + 2.0 * (cross @ cross)


def matrix_to_quaternion(R: Array) -> Array:
    """``[..., 4]`` quaternions (w, x, y, z) of rotations ``[..., 3, 3]``, with w >= 0.

    The dominant eigenvector of a symmetric 4x4 matrix (Bar-Itzhack, 2000): exact at every angle, and the nearest
    rotation's where ``R`` is slightly off. NaN where ``R`` holds one.

    >>> np.abs(matrix_to_quaternion(np.diag([1.0, -1.0, -1.0]))).round(6).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    R = np.asarray(R, dtype=np.float64)
    known = np.asarray(np.isfinite(R).all(axis=(-2, -1), keepdims=True))
    R = np.where(known, R, np.eye(3))
    outer = np.empty((*R.shape[:-2], 4, 4))
    trace = np.trace(R, axis1=-2, axis2=-1)
    outer[..., 0, 0] = trace
    outer[..., 1:, 1:] = R + np.swapaxes(R, -1, -2) - trace[..., None, None] * np.eye(3)
    twist = np.stack([R[..., j, i] - R[..., i, j] for i, j in ((1, 2), (2, 0), (0, 1))], axis=-1)
    outer[..., 0, 1:] = outer[..., 1:, 0] = twist
    quaternion: Array = np.linalg.eigh(outer)[1][..., -1]
    return np.where(known[..., 0], np.where(quaternion[..., :1] < 0, -quaternion, quaternion), np.nan)


def mean_rotation(R: Array) -> Array:
    """The rotation nearest to all of ``[N, 3, 3]`` by the squared distance of matrices (the chordal mean).

    >>> turns = axis_angle(np.array([0.0, 0.0, 1.0]), np.array([0.1, 0.5]))
    >>> np.allclose(mean_rotation(turns), axis_angle(np.array([0.0, 0.0, 1.0]), 0.3))
    True
    """
    u, _, v = np.linalg.svd(np.asarray(R, dtype=np.float64).mean(axis=0))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v


def random_rotations(n: int, rng: np.random.Generator) -> Array:
    """``[n, 3, 3]`` rotations, uniform over SO(3) (normalised Gaussian quaternions)."""
    return quaternion_to_matrix(rng.normal(size=(n, 4)))


def even_directions(count: int) -> Array:
    """Unit vectors ``[count, 3]`` spread evenly over the sphere (a Fibonacci lattice).

    >>> bool(np.abs(even_directions(100).mean(axis=0)).max() < 0.01)
    True
    """
    step = np.arange(count) + 0.5
    z, angle = 1 - 2 * step / count, np.pi * (1 + 5**0.5) * step
    return np.column_stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z])


def rotation_onto(source: Array, target: Array) -> Array:
    """Smallest rotations that turn directions ``source`` onto ``target``.

    Args:
        source, target: ``[..., 3]``, any length but 0, broadcast against each other.

    Returns:
        ``[..., 3, 3]`` with ``R source || target``. Opposite directions are turned by pi about an axis normal to them.
    """
    a = np.asarray(source, dtype=np.float64) / np.linalg.norm(source, axis=-1, keepdims=True)
    b = np.asarray(target, dtype=np.float64) / np.linalg.norm(target, axis=-1, keepdims=True)
    a, b = np.broadcast_arrays(a, b)
    normal = np.cross(a, b)
    cross, dot = cross_matrix(normal), (a * b).sum(axis=-1)
    blunt = dot < -0.5  # beyond, 1 + dot loses digits
    R = np.eye(3) + cross + cross @ cross / np.where(blunt, 1.0, 1.0 + dot)[..., None, None]
    if blunt.any():
        sine = np.linalg.norm(normal, axis=-1)
        # Where the two are opposite any normal will do: across the coordinate axis a is furthest from.
        axis = np.where(sine[..., None] > 0, normal, np.cross(a, np.eye(3)[np.abs(a).argmin(axis=-1)]))
        axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
        axis = axis - (axis * a).sum(axis=-1, keepdims=True) * a
        R = np.where(blunt[..., None, None], axis_angle(axis, np.arctan2(sine, dot)), R)
    return R
