"""What decoders of a scene share: a photograph without its lens, scaled and cut out of its middle. Numpy and OpenCV."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from posedistill.decode.base import Arrays, Decoder, Pose, Prepared, Readers, Request, check, floats, pair
from posedistill.decode.crops import check_image
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, Calibration, scaled_camera
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.photographs import middle_crop, scale, scaled_size, undistort

LENSES = (0, 1, 2, 3, 4, 5, 8, 12, 14)
"""How many numbers a lens may have; up to three, OpenCV is given zeros for the rest of four."""
ASPECT_TOLERANCE = 0.01
"""Share by which a photograph's aspect may differ from that of the camera that stands in for its own."""


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class PhotographDecoder(Decoder):
    """Photographs in, poses of their cameras out.

    Attributes:
        shape: (height, width) of the network's input, cut out of the middle of the scaled photograph.
        short_side: pixels to which a photograph's shorter side is scaled; None with ``frame_size``.
        frame_size: (width, height) to which every photograph is squeezed instead, as was published.
        camera: of the training frames as photographed, and ``distortion`` of its lens in OpenCV's order: taken for that
            of every photograph that comes without a camera of its own. The lens is taken out of the pixels.
        metric: whether positions are metres; else they are in the unit of a reconstruction without a scale.
        calibration: of 7-Scenes, whose cameras the poses are of: the recorded ones of its depth sensor, or those of the
            ``colour`` camera.
    """

    task: ClassVar[str] = "scene"
    needs_camera: ClassVar[bool] = False
    """Whether poses depend on the intrinsics of the photograph."""
    readers: ClassVar[Readers] = {
        **Decoder.readers,
        "shape": pair,
        "short_side": lambda value: None if value is None else int(value),
        "frame_size": lambda value: None if value is None else pair(value),
        "distortion": floats,
        "metric": _yes_or_no,
        "calibration": str,
    }
    shape: tuple[int, int]
    short_side: int | None = None
    frame_size: tuple[int, int] | None = None
    distortion: tuple[float, ...] = ()
    metric: bool = True
    calibration: Calibration = "depth"

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
            ("distortion", self.distortion, "OpenCV's numbers of a lens, with a camera", lens),
            ("calibration", self.calibration, "colour or depth", self.calibration in ("colour", "depth")),
        )

    @classmethod
    def from_record(cls, section: Mapping[str, Any], tables: Arrays) -> Self:
        """What ``record`` gave; files that were written before there was a calibration hold recorded poses."""
        return super().from_record({"calibration": "depth"} | dict(section), tables)

    @property
    def unit(self) -> str:
        """Of positions."""
        return "m" if self.metric else "units"

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Photographs, normalised RGB."""
        return {"images": (3, *self.shape)}

    def prepare(self, request: Request) -> Prepared:
        """A photograph without the lens, scaled, cut out of its middle and normalised: the pixels of training.

        Raises:
            DataError: no such image, one smaller than the network's input once it is scaled, without a camera where
                one is needed, or of another aspect than the camera that stands in for its own.
        """
        check_image(request.image)
        image, K = self._straight(request)
        taken = (image.shape[1], image.shape[0])
        size = scaled_size(*taken, self.frame_size or self.short_side or 0)
        height, width = self.shape
        if size[0] < width or size[1] < height:
            found = f"{taken[0]}x{taken[1]}, scaled to {size[0]}x{size[1]}"
            raise DataError(describe("request", "image", found, f"{width}x{height} at least (width x height)"))
        picture = np.empty((1, 3, height, width), dtype=np.float32)
        self.normalise(middle_crop(scale(image, size), self.shape), out=picture[0])
        if K is None:
            return Prepared.of_pictures({"images": picture}, np.eye(3)[None])
        K = scaled_camera(K, taken, size)
        K[:2, 2] -= [(size[0] - width + 1) // 2, (size[1] - height + 1) // 2]
        return Prepared.of_pictures({"images": picture}, K[None])

    def _straight(self, request: Request) -> tuple[Image, Array | None]:
        """The photograph as a pinhole camera would have taken it, and that camera where it is known."""
        image = request.image
        size = (image.shape[1], image.shape[0])
        lens = self.distortion if request.distortion is None else tuple(request.distortion)
        if request.K is not None:
            K = np.asarray(request.K, dtype=np.float64)
            if K.shape != (3, 3) or not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
                raise DataError(describe("request", "K", K.tolist(), "a finite 3x3 matrix, focal lengths above 0"))
            return undistort(image, K, lens)
        if self.camera is None:
            if self.needs_camera:
                expected = "the photograph's: the model knows no camera that could stand in for it"
                raise DataError(describe("request", "K", "no intrinsics", expected))
            return image, None
        taken = (self.camera.width, self.camera.height)
        if (any(lens) or self.needs_camera) and abs(size[0] * taken[1] / (size[1] * taken[0]) - 1) > ASPECT_TOLERANCE:
            expected = f"the aspect of {taken[0]}x{taken[1]}, the camera that the model knows, or K of the photograph"
            raise DataError(describe("request", "image", f"{size[0]}x{size[1]}", expected))
        return undistort(image, scaled_camera(self.camera.K, taken, size), lens)

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
