"""Half-turn symmetries: an object that looks the same turned by 180 degrees, cut through the axis of the turn."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between

_HALF_TURN = 175.0
"""Degrees from which on a stated turn is taken for a half one: data sets state fitted ones."""


def half_turn(symmetries: Array) -> Array | None:
    """``[4, 4]`` the transform of an object's symmetries ``[S, 4, 4]`` that is a half turn; None where there is none.

    Objects with more than one other symmetry, such as round ones, have none to fold about.

    >>> turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    >>> half_turn(np.stack([np.eye(4), turn])) is not None, half_turn(np.eye(4)[None])
    (True, None)
    """
    if len(symmetries) != 2:
        return None
    transform: Array = symmetries[1]
    return transform if np.rad2deg(angle_between(np.eye(3), transform[:3, :3])) >= _HALF_TURN else None


def is_folded(radii: NDArray[np.floating]) -> bool:
    """Whether cells of these ``radii``, of all depths, are those of a folded tree: every cell is as large as its twin.

    So a file tells it by the tables that it has always had.

    >>> is_folded(np.array([3.0, 3.0, 2.0, 1.0, 2.0, 1.0])), is_folded(np.array([3.0, 3.0, 2.0, 1.0, 1.0, 2.0]))
    (True, False)
    """
    starts = [2**depth - 2 for depth in range(1, (len(radii) + 2).bit_length())]
    return all(np.array_equal(*radii[start:end].reshape(2, -1)) for start, end in pairwise(starts))


def cutting_plane(transform: Array, points: Array) -> Array:
    """``[4]`` (n, c) of a plane through a half turn's axis, across the widest direction of the points ``[N, 3]``."""
    R, t = transform[:3, :3], transform[:3, 3]
    values, vectors = np.linalg.eigh((R + R.T) / 2)
    axis = vectors[:, values.argmax()]
    center = np.linalg.lstsq(np.eye(3) - R, t, rcond=None)[0]
    flat = points - points.mean(axis=0)
    flat -= (flat @ axis)[:, None] * axis
    normal = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    normal *= np.sign(normal[np.abs(normal).argmax()])
    return np.append(normal, normal @ center)
