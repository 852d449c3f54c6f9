"""PoseNet: a position and the numbers of a rotation -> the pose of the camera. Numpy and OpenCV only."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from posedistill.decode.base import Arrays, Decoder, Pose, Prepared, Readers, Request, Tolerance, check, floats
from posedistill.decode.crops import check_image
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, scaled_camera
from posedistill.geometry.draw import Image
from posedistill.geometry.photographs import middle_crop, scale, scaled_size, undistort
from posedistill.geometry.rotations import quaternion_to_matrix

ROTATION_SIZES = {"quaternion": 4, "log_quaternion": 3, "6d": 6}
"""The parametrisations of rotations, and how many numbers each has."""
LENSES = (0, 1, 2, 3, 4, 5, 8, 12, 14)
"""How many numbers a lens may have; up to three, OpenCV is given zeros for the rest of four."""
ASPECT_TOLERANCE = 0.01
"""Share by which a photograph's aspect may differ from that of the camera whose lens is taken out."""


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class PoseNetDecoder(Decoder):
    """Photographs in; camera centres ``[B, 3]`` and the numbers of rotations ``[B, k]`` out.

    Attributes:
        shape: (height, width) of the network's input, cut out of the middle of the scaled photograph.
        short_side: pixels to which a photograph's shorter side is scaled; None with ``frame_size``.
        frame_size: (width, height) to which every photograph is squeezed instead, as was published.
        rotation: one of ``ROTATION_SIZES``.
        reference: ``[3, 3]``, the middle of the training views: the network predicts ``R reference^T``.
        camera: of the training frames as photographed. A network that sees no intrinsics knows this camera alone.
        distortion: of its lens, in OpenCV's order; it is taken out of every photograph.
        metric: whether positions are metres; else they are in the unit of a reconstruction without a scale.
    """

    family: ClassVar[str] = "posenet"
    task: ClassVar[str] = "scene"
    tolerance: ClassVar[Tolerance] = Tolerance(degrees=0.02, shift=1e-3, rounding=1e-5)
    readers: ClassVar[Readers] = {
        **Decoder.readers,
        "shape": _pair,
        "short_side": lambda value: None if value is None else int(value),
        "frame_size": lambda value: None if value is None else _pair(value),
        "rotation": str,
        "distortion": floats,
        "metric": _yes_or_no,
    }
    shape: tuple[int, int]
    short_side: int | None = None
    frame_size: tuple[int, int] | None = None
    rotation: str = "6d"
    reference: Array = field(default_factory=lambda: np.eye(3))
    distortion: tuple[float, ...] = ()
    metric: bool = True

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        sizes = (self.short_side, self.frame_size)
        check(("short_side, frame_size", sizes, "one of them", (self.short_side is None) != (self.frame_size is None)))
        width, height = self.frame_size or (self.short_side or 0,) * 2
        fits = 0 < min(self.shape) <= min(width, height)
        if self.frame_size is not None:
            fits = fits and self.shape[0] <= height and self.shape[1] <= width
        lens = len(self.distortion) in LENSES and (self.camera is not None or not self.distortion)
        check(
            ("shape", self.shape, f"(height, width) within {width}x{height} photographs", fits),
            ("rotation", self.rotation, f"one of {list(ROTATION_SIZES)}", self.rotation in ROTATION_SIZES),
            ("distortion", self.distortion, "OpenCV's numbers of a lens, with a camera", lens),
        )

    def tables(self) -> dict[str, np.ndarray]:
        """The reference."""
        return {"reference": self.reference}

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """The reference."""
        return {"reference": np.asarray(tables["reference"], dtype=np.float64).reshape(3, 3)}

    @property
    def unit(self) -> str:
        """Of positions."""
        return "m" if self.metric else "units"

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Photographs, normalised RGB."""
        return {"images": (3, *self.shape)}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Camera centres, and the numbers of rotations."""
        return {"position": (3,), "rotation": (ROTATION_SIZES[self.rotation],)}

    def prepare(self, request: Request) -> Prepared:
        """A photograph without the lens, scaled, cut out of its middle and normalised: the pixels of training.

        A photograph of another resolution is taken for one by the same camera.

        Raises:
            DataError: no such image, one of another aspect than the lens was measured for, or smaller than the
                network's input once it is scaled.
        """
        check_image(request.image)
        image = self._without_lens(request.image)
        size = scaled_size(image.shape[1], image.shape[0], self.frame_size or self.short_side or 0)
        height, width = self.shape
        if size[0] < width or size[1] < height:
            found = f"{image.shape[1]}x{image.shape[0]}, scaled to {size[0]}x{size[1]}"
            raise DataError(describe("request", "image", found, f"{width}x{height} at least (width x height)"))
        picture = np.empty((1, 3, height, width), dtype=np.float32)
        self.normalise(middle_crop(scale(image, size), self.shape), out=picture[0])
        return Prepared.of_pictures({"images": picture}, np.eye(3)[None])

    def _without_lens(self, image: Image) -> Image:
        if self.camera is None or not self.distortion:
            return image
        taken, size = (self.camera.width, self.camera.height), (image.shape[1], image.shape[0])
        if abs(size[0] * taken[1] / (size[1] * taken[0]) - 1) > ASPECT_TOLERANCE:
            expected = f"the aspect of {taken[0]}x{taken[1]}, the camera whose lens the model knows"
            raise DataError(describe("request", "image", f"{size[0]}x{size[1]}", expected))
        return undistort(image, scaled_camera(self.camera.K, taken, size), self.distortion)[0]

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """From the scene to each picture's camera, in the scene's unit."""
        R = rotation_matrix(np.asarray(outputs["rotation"], dtype=np.float64), self.rotation) @ self.reference
        t = -np.einsum("nij,nj->ni", R, np.asarray(outputs["position"], dtype=np.float64))
        return [Pose(R[row], t[row], row=row) for row in range(len(R))]

    def shift(self, ours: Pose, theirs: Pose) -> float:
        """Between camera centres."""
        return float(np.linalg.norm(ours.center - theirs.center))

    def example(self, rows: int = 1, image: Image | None = None, seed: int = 0) -> list[Request]:
        """One image over and over; noise has the size that the camera takes, or that photographs are scaled to."""
        if image is None:
            width, height = self.frame_size or (self.short_side or 0,) * 2
            width, height = max(width, self.shape[1]), max(height, self.shape[0])
            if self.camera is not None:
                width, height = self.camera.width, self.camera.height
            image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return [Request(image)] * rows


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
