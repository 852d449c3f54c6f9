"""What all readers of scenes share: finite numbers, rotations, images of the stated size, lenses that unbend."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from posedistill.data.faults import FaultKind, fault
from posedistill.data.formats.scene import CameraFrame
from posedistill.data.images import IMAGE_SUFFIXES, exif_orientation, image_size
from posedistill.geometry.cameras import Array
from posedistill.geometry.photographs import black_share, lens_reach
from posedistill.geometry.rotations import is_rotation, mean_rotation, quaternion_to_matrix

Split = Literal["train", "test", "all"]

FARTHEST = 1e3
"""Metres from the origin beyond which a position is an outlier of the reconstruction (GreatCourt has one at 1e9)."""
_TOLERANCE = 1e-2
"""Largest entry of ``R R^T - I`` that passes for rounding; what passes is made a rotation exactly."""
_NORMS = (0.5, 2.0)
"""Norms of quaternions that pass for sloppy ones; the published lists go up to 1.107."""
_BLACK = 0.001
"""Share of a picture from which the black that taking out the lens leaves is told."""


def numbers(words: Sequence[object], file: Path, key: str, kind: FaultKind = FaultKind.POSE) -> Array:
    """Finite numbers of words; a ``Fault`` of a ``kind`` names the first that is none."""
    try:
        values = np.array([float(word) for word in words])  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise fault(kind, file, key, " ".join(map(str, words))[:80], "numbers") from None
    if not np.isfinite(values).all():
        found = f"{values[~np.isfinite(values)][0]} among {len(values)} numbers"
        raise fault(kind, file, key, found, "finite numbers")
    return values


def rotation_from_matrix(matrix: Array, file: Path, key: str) -> Array:
    """The rotation nearest to a finite ``[3, 3]`` that is one up to rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        determinant = float(np.linalg.det(matrix))
        residual = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
        if is_rotation(-matrix, _TOLERANCE):
            raise fault(FaultKind.ROTATION, file, key, f"a left-handed one (determinant {determinant:.3f})", "+1")
        if not is_rotation(matrix, _TOLERANCE):
            found = f"determinant {determinant:.3f}, R R^T off the identity by {residual:.3g}"
            raise fault(FaultKind.ROTATION, file, key, found, f"a rotation to {_TOLERANCE}")
    return mean_rotation(matrix[None])


def rotation_from_quaternion(quaternion: Array, file: Path, key: str) -> tuple[Array, bool]:
    """The rotation of finite (w, x, y, z), and whether its norm had to be mended."""
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(quaternion))
    if not _NORMS[0] <= norm <= _NORMS[1]:
        raise fault(FaultKind.ROTATION, file, key, f"norm {norm:.4g}", "a quaternion of norm 1")
    return quaternion_to_matrix(quaternion), abs(norm - 1) > 1e-3


def invert_pose(R: Array, t: Array) -> tuple[Array, Array]:
    """The pose the other way round: camera to world becomes world to camera, and back."""
    return R.T, -R.T @ t


def pose_from_camera_to_world(matrix: Array, file: Path, key: str) -> tuple[Array, Array]:
    """World-to-camera ``R, t`` of a finite ``[4, 4]`` camera-to-world matrix."""
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise fault(FaultKind.POSE, file, key, f"a last row {matrix[3].tolist()}", "[0, 0, 0, 1]")
    return invert_pose(rotation_from_matrix(matrix[:3, :3], file, key), matrix[:3, 3])


def posix(name: str) -> str:
    """A file's name with slashes, as programs on Windows do not always write it.

    >>> posix("images\\\\0001.jpg")
    'images/0001.jpg'
    """
    return name.replace("\\", "/")


def require_size(path: Path, expected: tuple[int, int], source: str) -> None:
    """Refuse an image of another size than a ``source`` says; one that viewers turn is told apart."""
    size = image_size(path)
    if size == expected:
        return
    found, wanted = (f"{width}x{height}" for width, height in (size, expected))
    if (orientation := exif_orientation(path)) > 1:
        found += f" (stored so; EXIF orientation {orientation} turns it in viewers)"
        source += ", for pixels are read as they are stored: turn them for good (mogrify -auto-orient)"
    raise fault(FaultKind.IMAGE_SIZE, path, "image size", found, f"{wanted}, {source}")


class OneSize:
    """Holds all images of a data set with one camera to the size of the first."""

    def __init__(self) -> None:
        self.first: tuple[tuple[int, int], str] | None = None

    def __call__(self, path: Path) -> tuple[int, int]:
        """Width and height of an image; a ``Fault`` where they differ from the first's."""
        if self.first is None:
            self.first = image_size(path), path.name
        size, name = self.first
        require_size(path, size, f"as {name} has (one camera took all)")
        return size


def require_lens(K: Array, distortion: tuple[float, ...], size: tuple[int, int], file: Path, key: str) -> None:
    """Refuse a lens whose distortion does not reach the corners of its pictures: it would fold them over."""
    if any(distortion) and (reach := _reach(tuple(K.ravel().tolist()), distortion, size)) < 1:
        found = f"a distortion {list(distortion)} that turns back at {reach:.0%} of the way to the farthest corner"
        expected = "one that grows up to there (undistort the images first, or calibrate with another lens model)"
        raise fault(FaultKind.CAMERA_MODEL, file, key, found, expected)


@lru_cache
def _reach(K: tuple[float, ...], distortion: tuple[float, ...], size: tuple[int, int]) -> float:
    return lens_reach(np.array(K).reshape(3, 3), distortion, size)


def lens_notes(frames: Sequence[CameraFrame]) -> list[str]:
    """Whether taking out the lens leaves a part of the photographs black."""
    lenses = {(tuple(frame.K.ravel()), frame.distortion, frame.width, frame.height): frame for frame in frames}
    shares = {frame: black_share(frame.K, frame.distortion, frame.size) for frame in lenses.values()}
    worst = max(shares, key=lambda frame: shares[frame], default=None)
    if worst is None or shares[worst] < _BLACK:
        return []
    return [f"taking out the lens leaves up to {shares[worst]:.1%} of a photograph black (first: {worst.image.name})"]


def unposed_notes(beside: Iterable[Path], posed: Iterable[Path]) -> list[str]:
    """How many of the images beside the posed ones have no pose: what a reconstruction could not place."""
    unposed = sorted(set(beside) - set(posed))
    return [f"{len(unposed)} images without a pose (first: {unposed[0].name})"] if unposed else []


def images_in(folders: Iterable[Path]) -> set[Path]:
    """The images that lie right in some folders; none in a folder that is not there."""
    found = set[Path]()
    for folder in folders:
        with suppress(OSError, ValueError):
            found |= {path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    return found
