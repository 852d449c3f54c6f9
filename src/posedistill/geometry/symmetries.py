"""Object symmetries after the BOP definition: the sampled transforms, and one pose to stand for all equivalent ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between, axis_angle, is_rotation, rotation_onto


def symmetry_transforms(model_info: Mapping[str, Any], max_sym_disc_step: float = 0.01) -> Array:
    """The transforms that leave an object's look unchanged.

    Hodan et al., BOP Challenge 2020: discrete symmetries are taken as they are; a continuous symmetry is sampled so
    finely that no vertex moves by more than ``max_sym_disc_step`` diameters between samples. Every product of a
    continuous and a discrete one is included, and the identity is always there (the reference implementation drops it
    for objects with a continuous symmetry, which costs them up to one sampling step).

    Args:
        model_info: an entry of ``models_info.json``; ``symmetries_discrete`` (lists of 16 numbers, row by row) and
            ``symmetries_continuous`` (``{"axis": [3], "offset": [3]}``) may be absent.
        max_sym_disc_step: fraction of the diameter.

    Returns:
        ``[S, 4, 4]``, mm, identity first.

    Raises:
        DataError: a matrix of another size, or one that is no rigid transform, or an axis of length 0.

    >>> symmetry_transforms({"symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}).shape
    (315, 4, 4)
    """
    discrete = [np.eye(4), *map(_discrete_transform, model_info.get("symmetries_discrete", ()))]
    continuous = [np.eye(4)[None]]
    for symmetry in model_info.get("symmetries_continuous", ()):
        continuous.append(_continuous_transforms(symmetry, max_sym_disc_step))
    return np.einsum("dij,cjk->cdik", np.concatenate(continuous), np.stack(discrete)).swapaxes(0, 1).reshape(-1, 4, 4)


def _discrete_transform(entries: object) -> Array:
    """One ``[4, 4]`` transform from its 16 numbers."""
    transform = np.asarray(entries, dtype=np.float64)
    if transform.size != 16:
        raise DataError(describe("models_info.json", "symmetries_discrete", f"{transform.size} numbers", "16 numbers"))
    transform = transform.reshape(4, 4)
    if not is_rotation(transform[:3, :3]):
        raise DataError(describe("models_info.json", "symmetries_discrete", transform[:3, :3].tolist(), "a rotation"))
    return transform


def _continuous_transforms(symmetry: Mapping[str, Any], max_sym_disc_step: float) -> Array:
    """``[S - 1, 4, 4]`` samples of one continuous symmetry, the identity left out."""
    axis = np.asarray(symmetry.get("axis", ()), dtype=np.float64)
    offset = np.asarray(symmetry.get("offset", (0, 0, 0)), dtype=np.float64)
    if axis.shape != (3,) or offset.shape != (3,) or not np.linalg.norm(axis) > 0:
        expected = "an axis of 3 numbers, not all 0, and an offset of 3 numbers"
        raise DataError(describe("models_info.json", "symmetries_continuous", dict(symmetry), expected))
    steps = int(np.ceil(np.pi / max_sym_disc_step))
    transforms = np.tile(np.eye(4), (steps - 1, 1, 1))
    angles: Array = np.arange(1.0, steps) * (2.0 * np.pi / steps)
    transforms[:, :3, :3] = axis_angle(axis, angles)
    transforms[:, :3, 3] = offset - transforms[:, :3, :3] @ offset
    return transforms


def equivalent_poses(R: Array, t: Array, symmetries: Array) -> tuple[Array, Array]:
    """All poses in which a symmetric object looks the same.

    Args:
        R: ``[..., 3, 3]``, t: ``[..., 3]`` mm, symmetries: ``[S, 4, 4]``.

    Returns:
        R ``[..., S, 3, 3]`` and t ``[..., S, 3]``.
    """
    rotations = R[..., None, :, :] @ symmetries[:, :3, :3]
    translations = np.einsum("...ij,sj->...si", R, symmetries[:, :3, 3]) + t[..., None, :]
    return rotations, translations


def canonical_pose(R: Array, t: Array, symmetries: Array) -> tuple[Array, Array]:
    """The one pose that stands for all equivalent ones, so that equal images get equal labels.

    Of the equivalent poses the one is taken whose *allocentric* rotation (the rotation that turns the optical axis
    onto the viewing ray to ``t`` removed) is closest to the identity. The allocentric rotation is what the crop
    shows, so the choice does not jump while an object slides through the image.

    Args:
        R: ``[B, 3, 3]``, t: ``[B, 3]`` mm with t_z > 0, symmetries: ``[S, 4, 4]``, identity first.

    Returns:
        R ``[B, 3, 3]`` and t ``[B, 3]``; equivalent poses give the same result (to rounding, and but for exact ties; to
        a step of the sampling where a symmetry is continuous).
    """
    axis_z = np.array([0.0, 0.0, 1.0])
    center = _center_of_sphere(symmetries)
    if center is not None:
        middle = R @ center + t
        R = rotation_onto(axis_z, middle)
        return R, middle - R @ center
    rotations, translations = equivalent_poses(R, t, symmetries)
    ray = rotation_onto(axis_z, translations)
    # trace(ray^T R), which grows as the allocentric angle falls.
    closeness = np.einsum("bsij,bsij->bs", ray, rotations)
    best = closeness.argmax(axis=1)
    rows = np.arange(len(best))
    return rotations[rows, best], translations[rows, best]


def _center_of_sphere(symmetries: Array) -> Array | None:
    """``[3]`` the point about which the object may turn in every way; None where not all turns are symmetries.

    A turn by less than 72 degrees, with an axis that some symmetry moves, belongs to no finite group (those of the
    Platonic solids have none smaller), and all turns are products of two continuous ones about different axes.
    """
    turns, shifts = symmetries[:, :3, :3], symmetries[:, :3, 3]
    angles = angle_between(np.eye(3), turns)
    angles = np.where(angles > 1e-6, angles, np.inf)
    smallest = angles.argmin()
    if not angles[smallest] < np.deg2rad(71.0):
        return None
    skew = turns[smallest] - turns[smallest].T
    axis = np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / (2 * np.sin(angles[smallest]))
    if np.abs(turns @ axis @ axis).min() > 0.9:
        return None
    return np.asarray(np.linalg.lstsq((np.eye(3) - turns).reshape(-1, 3), shifts.reshape(-1), rcond=None)[0])
