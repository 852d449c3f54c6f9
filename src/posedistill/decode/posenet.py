"""PoseNet: a position and the numbers of a rotation -> the pose of the camera. Numpy and OpenCV only."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from posedistill.decode.base import Arrays, Pose, Prepared, Readers, Tolerance, check
from posedistill.decode.photograph import PhotographDecoder
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import quaternion_to_matrix

ROTATION_SIZES = {"quaternion": 4, "log_quaternion": 3, "6d": 6}
"""The parametrisations of rotations, and how many numbers each has."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PoseNetDecoder(PhotographDecoder):
    """Photographs in; camera centres ``[B, 3]`` and the numbers of rotations ``[B, k]`` out.

    The network sees no intrinsics: it knows the camera of its training frames alone.

    Attributes:
        rotation: one of ``ROTATION_SIZES``.
        reference: ``[3, 3]``, the middle of the training views: the network predicts ``R reference^T``.
    """

    family: ClassVar[str] = "posenet"
    tolerance: ClassVar[Tolerance] = Tolerance(degrees=0.02, shift=1e-3, rounding=1e-5)
    readers: ClassVar[Readers] = {**PhotographDecoder.readers, "rotation": str}
    rotation: str = "6d"
    reference: Array = field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        known = self.rotation in ROTATION_SIZES
        check(("rotation", self.rotation, f"one of {list(ROTATION_SIZES)}", known))

    def tables(self) -> dict[str, np.ndarray]:
        """The reference."""
        return {"reference": self.reference}

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """The reference."""
        return {"reference": np.asarray(tables["reference"], dtype=np.float64).reshape(3, 3)}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Camera centres, and the numbers of rotations."""
        return {"position": (3,), "rotation": (ROTATION_SIZES[self.rotation],)}

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """From the scene to each picture's camera, in the scene's unit."""
        R = rotation_matrix(np.asarray(outputs["rotation"], dtype=np.float64), self.rotation) @ self.reference
        t = -np.einsum("nij,nj->ni", R, np.asarray(outputs["position"], dtype=np.float64))
        return [Pose(R[row], t[row], row=row) for row in range(len(R))]


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
