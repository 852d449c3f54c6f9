"""How far an estimated pose is from the true one: the errors of the field, each vectorised over N poses.

All functions take ``R_est [N, 3, 3], t_est [N, 3], R_gt [N, 3, 3], t_gt [N, 3]`` (mm) of one object and return ``[N]``.
Points are the model's vertices, all of them: no draw of lots, hence no noise from run to run.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array, project
from posedistill.geometry.rotations import even_directions
from posedistill.geometry.symmetries import equivalent_poses

Index = NDArray[np.signedinteger]

_CHUNK = 20_000
"""Elements of one temporary array: within the processor's cache, and products so small that BLAS keeps to one thread
(waking others for products this thin costs more than it saves, many times more on a busy machine)."""
_BOUND_POINTS = 32
_FEW_SYMMETRIES = 4


def add(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array) -> Array:
    """Average distance of model points, mm (Hinterstoisser et al., ACCV 2012).

    >>> eye = np.eye(3)[None]
    >>> add(eye, np.array([[3.0, 0.0, 0.0]]), eye, np.array([[0.0, 4.0, 0.0]]), np.zeros((7, 3)))
    array([5.])
    """
    errors = np.empty(len(R_est))
    for rows in _chunks(len(R_est), len(points)):
        errors[rows] = np.sqrt(_squared_distances((R_est - R_gt)[rows], (t_est - t_gt)[rows], points)).mean(axis=-1)
    return errors


def add_s(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array) -> Array:
    """ADD-S, mm: mean over *ground-truth* points of the distance to the nearest estimated point.

    As distances are kept by rigid motion, the true points are carried into the estimated object's frame, where one
    search tree of the model serves all poses.

    >>> eye, turned = np.eye(3)[None], np.diag([-1.0, -1.0, 1.0])[None]
    >>> points = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> add_s(turned, np.zeros((1, 3)), eye, np.zeros((1, 3)), points)
    array([0.])
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    rotation = np.swapaxes(R_est, -1, -2) @ R_gt
    offset = np.einsum("nji,nj->ni", R_est, t_gt - t_est)
    errors = np.empty(len(R_est))
    for rows in _chunks(len(R_est), len(points)):
        carried = points @ np.swapaxes(rotation[rows], -1, -2) + offset[rows, None]
        errors[rows] = np.asarray(tree.query(carried, workers=-1)[0]).mean(axis=-1)
    return errors


def reprojection(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, K: Array) -> Array:
    """Mean distance of the projected model points in pixels (Brachmann et al., CVPR 2016); ``K`` is ``[N, 3, 3]``.

    A pose with points behind the camera has the error inf.
    """
    errors = np.empty(len(R_est))
    for rows in _chunks(len(R_est), len(points)):
        with np.errstate(divide="ignore", invalid="ignore"):
            estimated = project(points, R_est[rows], t_est[rows], K[rows])
            true = project(points, R_gt[rows], t_gt[rows], K[rows])
            errors[rows] = np.linalg.norm(estimated - true, axis=-1).mean(axis=-1)
    errors[~_in_front(R_est, t_est, points)] = np.inf
    return errors


def translation_error(t_est: Array, t_gt: Array) -> Array:
    """Distance of the object's origins, mm."""
    return np.linalg.norm(t_est - t_gt, axis=-1)


def mssd(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array) -> Array:
    """Maximum symmetry-aware surface distance, mm (Drost et al., ICCVW 2017; BOP 2020).

    Args:
        points: ``[V, 3]``; the corners of the model's convex hull give the same result as all its vertices, because
            the distance is a convex function of the point.
        symmetries: ``[S, 4, 4]``, see ``symmetry_transforms``.
    """
    equivalents = equivalent_poses(R_gt, t_gt, symmetries)

    def largest(rows: Index, candidates: Index, chosen: Array) -> Array:
        R, t = (values[rows, candidates] for values in equivalents)
        return _largest_of(R_est[rows] - R, t_est[rows] - t, chosen)

    return _smallest(largest, len(R_est), len(symmetries), points)


def nearest_equivalent(
    R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array
) -> tuple[Array, Array, Array]:
    """The equivalent true poses nearest to the estimates: R ``[N, 3, 3]``, t ``[N, 3]``, and their MSSD ``[N]``."""
    distances = _largest_distances(R_est, t_est, R_gt, t_gt, points, symmetries)
    best = np.arange(len(distances)), distances.argmin(axis=1)
    rotations, translations = equivalent_poses(R_gt, t_gt, symmetries)
    return rotations[best], translations[best], distances[best]


def mspd(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array, K: Array) -> Array:
    """Maximum symmetry-aware projection distance, pixels (Hodan et al., BOP 2020).

    Args:
        points: ``[V, 3]``, all vertices. symmetries: ``[S, 4, 4]``. K: ``[N, 3, 3]``.

    Returns:
        ``[N]``; inf or nan never win, a pose with points behind the camera has the error inf.
    """
    rotations, translations = equivalent_poses(R_gt, t_gt, symmetries)
    P_est = K @ np.concatenate([R_est, t_est[..., None]], axis=-1)
    P_gt = K[:, None] @ np.concatenate([rotations, translations[..., None]], axis=-1)

    def largest(rows: Index, candidates: Index, chosen: Array) -> Array:
        homogeneous = np.concatenate([chosen.T, np.ones((1, len(chosen)))])
        found = np.empty(len(rows))
        for chunk in _chunks(len(rows), len(chosen)):
            offsets = _pixels(P_est[rows[chunk]], homogeneous)
            offsets -= _pixels(P_gt[rows[chunk], candidates[chunk]], homogeneous)
            found[chunk] = np.einsum("niv,niv->nv", offsets, offsets).max(axis=-1)
        return np.nan_to_num(np.sqrt(found), nan=np.inf, posinf=np.inf)

    errors = _smallest(largest, len(R_est), len(symmetries), points)
    errors[~_in_front(R_est, t_est, points)] = np.inf
    return errors


def bounded_mssd(
    R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array, limit: float
) -> Array:
    """``mssd``, and inf where one point inside the hull shows that it is ``limit`` mm or more: quick for far pairs."""
    near = np.flatnonzero(_largest_distances(R_est, t_est, R_gt, t_gt, _middle(points), symmetries).min(axis=1) < limit)
    errors = np.full(len(R_est), np.inf)
    errors[near] = mssd(R_est[near], t_est[near], R_gt[near], t_gt[near], points, symmetries)
    return errors


def bounded_mspd(
    R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array, K: Array, limit: Array
) -> Array:
    """``mspd``, and inf where one vertex shows that it is ``limit`` ``[N]`` pixels or more: quick for far pairs."""
    vertex = points[np.linalg.norm(points - _middle(points), axis=1).argmin()][None]
    near = np.flatnonzero(mspd(R_est, t_est, R_gt, t_gt, vertex, symmetries, K) < limit)
    errors = np.full(len(R_est), np.inf)
    errors[near] = mspd(R_est[near], t_est[near], R_gt[near], t_gt[near], points, symmetries, K[near])
    return errors


def _smallest(largest: Callable[[Index, Index, Array], Array], count: int, symmetries: int, points: Array) -> Array:
    """``[N]`` smallest over the symmetries of the largest error over the points, exactly.

    Where there are many symmetries, a few extreme points bound each from below first, and only those that may still
    win are measured on all points.

    Args:
        largest: of rows ``[M]``, symmetries ``[M]`` and some points, the largest error over these points ``[M]``.
    """
    rows, candidates = np.divmod(np.arange(count * symmetries), symmetries)
    errors = np.full(count, np.inf)
    if symmetries > _FEW_SYMMETRIES and count:
        bounds = largest(rows, candidates, _extreme_points(points)).reshape(count, -1)
        first = bounds.argmin(axis=1)
        errors = largest(np.arange(count), first, points)
        bounds[np.arange(count), first] = np.inf
        rows, candidates = np.nonzero(bounds < errors[:, None])
    np.minimum.at(errors, rows, largest(rows, candidates, points))
    return errors


def _middle(points: Array) -> Array:
    """``[1, 3]`` mean of the points."""
    return points.mean(axis=0, keepdims=True)


def _chunks(count: int, per_row: int) -> Iterator[slice]:
    """Slices of ``range(count)`` so that each holds about ``_CHUNK`` elements of ``per_row`` a row."""
    step = max(1, _CHUNK // max(1, per_row))
    return (slice(start, start + step) for start in range(0, count, step))


def _squared_distances(M: Array, offset: Array, points: Array) -> Array:
    """``|M x + offset|^2`` for ``M [n, 3, 3]``, ``offset [n, 3]`` and points ``[V, 3]``: ``[n, V]``."""
    moved = (M.reshape(-1, 3) @ points.T).reshape(len(M), 3, -1)
    moved += offset[..., None]
    return np.einsum("niv,niv->nv", moved, moved)


def _largest_distances(R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array) -> Array:
    """``[N, S]`` largest distance over the points to each equivalent true pose."""
    rotations, translations = equivalent_poses(R_gt, t_gt, symmetries)
    M = (R_est[:, None] - rotations).reshape(-1, 3, 3)
    offset = (t_est[:, None] - translations).reshape(-1, 3)
    return _largest_of(M, offset, points).reshape(len(R_est), len(symmetries))


def _largest_of(M: Array, offset: Array, points: Array) -> Array:
    """``[n]`` largest ``|M x + offset|`` over the points."""
    largest = np.empty(len(M))
    for rows in _chunks(len(M), len(points)):
        largest[rows] = _squared_distances(M[rows], offset[rows], points).max(axis=-1)
    return np.sqrt(largest)


def _pixels(P: Array, homogeneous: Array) -> Array:
    """``[n, 2, V]`` pixels of ``[4, V]`` points under projection matrices ``[n, 3, 4]``."""
    image = (P.reshape(-1, 4) @ homogeneous).reshape(len(P), 3, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        image[:, :2] /= image[:, 2:]
    return image[:, :2]


def _in_front(R: Array, t: Array, points: Array) -> np.ndarray:
    """``[N]`` whether the box of the points lies in front of the camera."""
    low, high = points.min(axis=0), points.max(axis=0)
    depth_row = R[:, 2]
    nearest = np.minimum(depth_row * low, depth_row * high).sum(axis=-1) + t[:, 2]
    suspects = np.flatnonzero(nearest <= 0)
    in_front = np.ones(len(R), dtype=bool)
    # The box may reach behind the camera where the object does not: then its points decide.
    in_front[suspects] = (depth_row[suspects] @ points.T + t[suspects, 2:]).min(axis=-1, initial=np.inf) > 0
    return in_front


def _extreme_points(points: Array) -> Array:
    """The points that lie furthest out in directions spread evenly over the sphere."""
    return points[np.unique((points @ even_directions(_BOUND_POINTS).T).argmax(axis=0))]
