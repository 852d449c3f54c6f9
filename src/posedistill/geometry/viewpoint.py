"""Viewpoints: how a category is turned before the camera, in the angles of the data sets, and as rotations.

A viewpoint is azimuth, elevation and in-plane rotation in degrees, ``[..., 3]``, as PASCAL3D+ has them (Xiang et al.,
WACV 2014): in the category's frame z is up and the front looks towards -y; the camera stands in the direction
``(cos e sin a, -cos e cos a, sin e)`` and looks at the origin; a positive in-plane rotation turns the object
counter-clockwise on the picture. ObjectNet3D (Xiang et al., ECCV 2016) means the same; the others are brought to it.

Rotations are from the category's frame to a camera with OpenCV's axes. They belong to the *crop*: whoever annotated
looked along the ray to the object, so cutting the object out of its photograph changes nothing.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import axis_angle

Symmetry = Literal["none", "half", "quarter", "full"]
"""About the upright axis: turns by 180, by 90, or by any angle look the same."""
ORDERS: dict[Symmetry, int] = {"none": 1, "half": 2, "quarter": 4, "full": 0}
"""How many turns look the same; 0 stands for all."""
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
_MIRROR = np.diag([-1.0, 1.0, 1.0])
_SHAPENET = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
_PIX3D = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def viewpoint_rotation(viewpoint: Array) -> Array:
    """``[..., 3]`` viewpoints to rotations ``[..., 3, 3]``: ``Rz(t) Rx(e - 90) Rz(-a)``, then OpenCV's axes.

    >>> viewpoint_rotation(np.zeros(3)).round(9) + 0.0
    array([[ 1.,  0.,  0.],
           [ 0.,  0., -1.],
           [ 0.,  1.,  0.]])
    """
    azimuth, elevation, inplane = np.moveaxis(np.deg2rad(np.asarray(viewpoint, dtype=np.float64)), -1, 0)
    return _TO_OPENCV @ axis_angle(_Z, inplane) @ axis_angle(_X, elevation - np.pi / 2) @ axis_angle(_Z, -azimuth)


def rotation_viewpoint(R: Array) -> Array:
    """``[..., 3, 3]`` rotations to viewpoints ``[..., 3]``, each angle in its range: 0..360, -90..90, -180..180.

    Seen from straight above or below, azimuth and in-plane rotation are one; then the in-plane rotation is 0.

    >>> rotation_viewpoint(viewpoint_rotation(np.array([350.0, 20.0, -5.0]))).round(6).tolist()
    [350.0, 20.0, -5.0]
    """
    M = _TO_OPENCV @ np.asarray(R, dtype=np.float64)
    x, y, z = M[..., 2, 0], M[..., 2, 1], M[..., 2, 2]
    level = np.hypot(x, y)
    is_pole = level < 1e-9
    azimuth = np.where(is_pole, np.arctan2(M[..., 0, 1], M[..., 0, 0]), np.arctan2(x, -y))
    inplane = np.where(is_pole, 0.0, np.arctan2(-M[..., 0, 2], M[..., 1, 2]))
    return np.stack([np.rad2deg(azimuth) % 360.0, np.rad2deg(np.arctan2(z, level)), np.rad2deg(inplane)], axis=-1)


def in_range(viewpoint: Array) -> Array:
    """The same viewpoints ``[..., 3]`` with each angle in its range; elevations beyond a pole are cut off there.

    >>> in_range(np.array([-10.0, 95.0, 185.0])).tolist()
    [350.0, 90.0, -175.0]
    """
    azimuth, elevation, inplane = np.moveaxis(np.asarray(viewpoint, dtype=np.float64), -1, 0)
    return np.stack([azimuth % 360, np.clip(elevation, -90, 90), (inplane + 180) % 360 - 180], axis=-1)


def label_angles(viewpoint: Array) -> Array:
    """The angles that networks of this field are trained on: ``360 - a``, ``e + 90``, ``t + 180``, ``[..., 3]``.

    In 0..360, 0..180 and 0..360; :func:`labelled_viewpoint` leads back.

    >>> label_angles(np.array([-30.0, 10.0, -20.0])).tolist()
    [30.0, 100.0, 160.0]
    """
    azimuth, elevation, inplane = np.moveaxis(np.asarray(viewpoint, dtype=np.float64), -1, 0)
    return np.stack([(360.0 - azimuth) % 360.0, elevation + 90.0, (inplane + 180.0) % 360.0], axis=-1)


def labelled_viewpoint(labels: Array) -> Array:
    """The viewpoints ``[..., 3]`` of label angles.

    >>> labelled_viewpoint(np.array([30.0, 100.0, 160.0])).tolist()
    [330.0, 10.0, -20.0]
    """
    first, second, third = np.moveaxis(np.asarray(labels, dtype=np.float64), -1, 0)
    return np.stack([(360.0 - first) % 360.0, second - 90.0, third - 180.0], axis=-1)


def cars_viewpoint(angles: Array) -> Array:
    """Viewpoints ``[..., 3]`` of azimuth, elevation, theta ``[..., 3]``, radians, of Wang et al., ECCV Workshops 2018.

    There ``R = Rz(theta) Rx(elevation) Ry(azimuth)`` with ``Ry`` turning the other way about, in OpenCV's axes; from
    azimuth 90 degrees a car is seen from the front, from 270 from the rear.

    >>> cars_viewpoint(np.deg2rad([90.0, 5.0, 3.0])).round(6).tolist()
    [0.0, 5.0, -3.0]
    """
    azimuth, elevation, theta = np.moveaxis(np.rad2deg(np.asarray(angles, dtype=np.float64)), -1, 0)
    return np.stack([(90.0 - azimuth) % 360.0, elevation, -theta], axis=-1)


def pix3d_viewpoint(camera: Array, inplane: Array | float) -> Array:
    """Viewpoints ``[..., 3]`` of Pix3D's annotations (Sun et al., CVPR 2018).

    Args:
        camera: ``[..., 3]`` its position in the model's axes: x left, y up, z inward.
        inplane: ``[...]`` radians, of the camera, clockwise.

    >>> pix3d_viewpoint(np.array([0.0, 0.0, -2.0]), 0.0).tolist()
    [0.0, 0.0, 0.0]
    """
    x, y, z = np.moveaxis(np.asarray(camera, dtype=np.float64), -1, 0)
    azimuth = -np.rad2deg(np.arctan2(x, -z)) % 360.0
    elevation = np.rad2deg(np.arctan2(y, np.hypot(x, z)))
    return np.stack(np.broadcast_arrays(azimuth, elevation, 0.0 - np.rad2deg(inplane)), axis=-1)


def from_shapenet(points: Array) -> Array:
    """Points ``[..., 3]`` of a ShapeNet model (y up, front towards -x) in the frame of viewpoints."""
    turned: Array = points @ _SHAPENET.T
    return turned


def from_pix3d(points: Array) -> Array:
    """Points ``[..., 3]`` of a Pix3D model (x left, y up, z inward) in the frame of viewpoints."""
    turned: Array = points @ _PIX3D.T
    return turned


def flipped(R: Array) -> Array:
    """The rotations ``[..., 3, 3]`` of mirrored pictures; the shapes are mirrored too (:func:`mirrored_shape`).

    In angles: ``(360 - a, e, -t)``.
    """
    return np.asarray(_MIRROR @ R @ _MIRROR)


def mirrored_shape(points: Array) -> Array:
    """Points ``[..., 3]`` mirrored from left to right."""
    return np.asarray(points @ _MIRROR)


def nearest_equivalent(R: Array, reference: Array, orders: NDArray[np.int64]) -> Array:
    """Of the rotations in which a symmetric shape looks as under ``R``, those nearest to ``reference``.

    Args:
        R, reference: ``[N, 3, 3]``. orders: ``[N]`` how many turns about the upright axis look the same, 0 for all.

    Returns:
        ``[N, 3, 3]``.
    """
    product = np.swapaxes(reference, -1, -2) @ R
    turn = np.arctan2(product[..., 0, 1] - product[..., 1, 0], product[..., 0, 0] + product[..., 1, 1])
    step = 2 * np.pi / np.maximum(orders, 1)
    turn = np.where(orders == 0, turn, np.round(turn / step) * step)
    return np.asarray(R @ axis_angle(_Z, turn))


def canonical_viewpoint(viewpoint: Array, orders: NDArray[np.int64]) -> Array:
    """The one viewpoint ``[N, 3]`` that stands for all that look the same: the azimuth nearest to the front, or 0.

    Labels jump half a step from the front, where photographs are rarest, and run on through the front itself.

    >>> canonical_viewpoint(np.array([[200.0, 5.0, 0.0], [170.0, 5.0, 0.0]]), np.array([2, 2])).tolist()
    [[20.0, 5.0, 0.0], [350.0, 5.0, 0.0]]
    """
    viewpoint = np.array(viewpoint, dtype=np.float64)
    step = 360.0 / np.maximum(orders, 1)
    viewpoint[..., 0] = np.where(orders == 0, 0.0, ((viewpoint[..., 0] + step / 2) % step - step / 2) % 360.0)
    return viewpoint
