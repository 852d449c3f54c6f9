"""What all readers of camera poses share: numbers that are numbers, rotations that are rotations, sizes of images."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np

from posedistill.data.faults import FaultKind, OnFault
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import is_rotation, quaternion_to_matrix

Split = Literal["train", "test", "all"]

FARTHEST = 1e3
"""Metres from the origin beyond which a position is an outlier of the reconstruction (GreatCourt has one at 1e9)."""
_TOLERANCE = 1e-2
"""Largest entry of ``R R^T - I`` that passes for rounding; what passes is made a rotation exactly."""
_NORMS = (0.5, 2.0)
"""Norms of quaternions that pass for sloppy ones; the published lists go up to 1.107."""


class FrameFault(DataError):
    """A fault of one frame, which a reader raises or hands to its ``on_fault``."""

    def __init__(self, kind: FaultKind, file: Path, key: str, found: object, expected: object) -> None:
        super().__init__(describe(file, key, found, expected))
        self.kind, self.file = kind, file


@contextmanager
def reported(on_fault: OnFault) -> Iterator[None]:
    """Hand a frame's fault to ``on_fault``; where that returns, the frame is left out."""
    try:
        yield
    except FrameFault as fault:
        on_fault(fault.kind, fault.file, str(fault))


def read_text(path: Path, expected: str, kind: FaultKind = FaultKind.SCENE_FILE) -> str:
    """A text file in UTF-8, with or without a byte-order mark; a ``FrameFault`` where it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise FrameFault(kind, path, "file", found, expected) from None


def numbers(words: Sequence[object], file: Path, key: str, kind: FaultKind = FaultKind.POSE) -> Array:
    """Finite numbers of words; a ``FrameFault`` of a ``kind`` names the first that is none."""
    try:
        values = np.array([float(word) for word in words])  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise FrameFault(kind, file, key, " ".join(map(str, words))[:80], "numbers") from None
    if not np.isfinite(values).all():
        found = f"{values[~np.isfinite(values)][0]} among {len(values)} numbers"
        raise FrameFault(kind, file, key, found, "finite numbers")
    return values


def rotation_from_matrix(matrix: Array, file: Path, key: str) -> Array:
    """The rotation nearest to a finite ``[3, 3]`` that is one up to rounding."""
    determinant = float(np.linalg.det(matrix))
    if is_rotation(-matrix, _TOLERANCE):
        raise FrameFault(FaultKind.ROTATION, file, key, f"a left-handed one (determinant {determinant:.3f})", "+1")
    if not is_rotation(matrix, _TOLERANCE):
        residual = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
        found = f"determinant {determinant:.3f}, R R^T off the identity by {residual:.3g}"
        raise FrameFault(FaultKind.ROTATION, file, key, found, f"a rotation to {_TOLERANCE}")
    u, _, v = np.linalg.svd(matrix)
    return u @ v


def rotation_from_quaternion(quaternion: Array, file: Path, key: str) -> tuple[Array, bool]:
    """The rotation of finite (w, x, y, z), and whether its norm had to be mended."""
    norm = float(np.linalg.norm(quaternion))
    if not _NORMS[0] <= norm <= _NORMS[1]:
        raise FrameFault(FaultKind.ROTATION, file, key, f"norm {norm:.4g}", "a quaternion of norm 1")
    return quaternion_to_matrix(quaternion), abs(norm - 1) > 1e-3


def invert_pose(R: Array, t: Array) -> tuple[Array, Array]:
    """The pose the other way round: camera to world becomes world to camera, and back."""
    return R.T, -R.T @ t


def pose_from_camera_to_world(matrix: Array, file: Path, key: str) -> tuple[Array, Array]:
    """World-to-camera ``R, t`` of a finite ``[4, 4]`` camera-to-world matrix."""
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise FrameFault(FaultKind.POSE, file, key, f"a last row {matrix[3].tolist()}", "[0, 0, 0, 1]")
    return invert_pose(rotation_from_matrix(matrix[:3, :3], file, key), matrix[:3, 3])


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    from PIL import Image  # here, so that evaluating objects needs none

    try:
        with Image.open(path) as image:
            return image.width, image.height
    except FileNotFoundError:
        raise FrameFault(FaultKind.MISSING_IMAGE, path, "image", "no such file", "the image of a pose") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:  # a name may hold a zero byte
        found = getattr(error, "strerror", None) or error
        raise FrameFault(FaultKind.DAMAGED_IMAGE, path, "image", found, "a readable image") from None


def images_in(folders: Iterable[Path]) -> set[Path]:
    """The images that lie right in some folders; none in a folder that is not there."""
    found = set[Path]()
    for folder in folders:
        with suppress(OSError, ValueError):
            found |= {path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    return found


class OneSize:
    """Holds all images of a data set with one camera to one size."""

    def __init__(self) -> None:
        self.first: tuple[tuple[int, int], Path] | None = None

    def __call__(self, path: Path) -> tuple[int, int]:
        """Width and height of an image; a ``FrameFault`` where they differ from the first's."""
        size = image_size(path)
        if self.first is None:
            self.first = size, path
        (width, height), first = self.first
        if size != (width, height):
            found, expected = f"{size[0]}x{size[1]}", f"{width}x{height} as {first.name} has (one camera took all)"
            raise FrameFault(FaultKind.IMAGE_SIZE, path, "image size", found, expected)
        return size
