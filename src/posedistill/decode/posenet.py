"""PoseNet: a position and the numbers of a rotation -> the pose of the camera. Numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import quaternion_to_matrix

ROTATION_SIZES = {"quaternion": 4, "log_quaternion": 3, "6d": 6}
"""The parametrisations of rotations, and how many numbers each has."""


@dataclass(frozen=True)
class PoseNetDecoding:
    """What the network's numbers mean.

    Attributes:
        rotation: one of ``ROTATION_SIZES``.
        reference: ``[3, 3]``, the middle of the training views: the network predicts ``R reference^T``.
    """

    rotation: str = "6d"
    reference: Sequence[Sequence[float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class CameraPose(NamedTuple):
    """From the world to the camera: ``R`` ``[..., 3, 3]``, ``t`` ``[..., 3]`` in the scene's unit (metres)."""

    R: Array
    t: Array


def decode(position: Array, rotation: Array, settings: PoseNetDecoding = PoseNetDecoding()) -> CameraPose:
    """Poses of the network's outputs.

    Args:
        position: ``[..., 3]`` where the camera stands, metres. rotation: ``[..., k]``.

    >>> decode(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0, 0.0]), PoseNetDecoding("quaternion")).t
    array([-1., -2., -3.])
    """
    R = rotation_matrix(np.asarray(rotation, dtype=np.float64), settings.rotation) @ np.asarray(settings.reference)
    return CameraPose(R, -np.einsum("...ij,...j->...i", R, np.asarray(position, dtype=np.float64)))


def rotation_matrix(parameters: Array, kind: str) -> Array:
    """``[..., 3, 3]`` of the parameters ``[..., k]`` of a rotation.

    ``quaternion``: (w, x, y, z) of any length. ``log_quaternion``: half the angle times the axis (MapNet, Brahmbhatt et
    al., CVPR 2018). ``6d``: two columns, made orthonormal by Gram-Schmidt (Zhou et al., CVPR 2019).

    >>> rotation_matrix(np.array([0.0, 0.0, np.pi / 4]), "log_quaternion").round(6) @ [1.0, 0.0, 0.0]
    array([0., 1., 0.])
    """
    if kind == "quaternion":
        return quaternion_to_matrix(parameters)
    if kind == "log_quaternion":
        half = np.linalg.norm(parameters, axis=-1, keepdims=True)
        return quaternion_to_matrix(np.concatenate([np.cos(half), np.sinc(half / np.pi) * parameters], axis=-1))
    first, second = parameters[..., :3], parameters[..., 3:]
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    y = second - (x * second).sum(axis=-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)
