"""CameraMetadata: all that turns a photograph and the numbers of an exported network into the pose of the camera."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

from posedistill import __version__
from posedistill.geometry.cameras import Camera
from posedistill.runtime.model_file import (
    FORMAT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Readers,
    camera_from_json,
    camera_to_json,
    floats,
    read_record,
    refuse_faults,
)

LENSES = (0, 1, 2, 3, 4, 5, 8, 12, 14)
"""How many numbers a lens may have; up to three, OpenCV is given zeros for the rest of four."""


@dataclass(frozen=True)
class CameraMetadata:
    """What the runtime must know of a network that tells where a camera stands.

    Attributes:
        decoder: module of ``posedistill.decode`` that reads the network's outputs.
        short_side: pixels to which a photograph's shorter side is scaled; None with ``frame_size``.
        frame_size: (width, height) to which every photograph is squeezed instead, as was published.
        shape: (height, width) of the network's input, cut out of the middle of the scaled photograph.
        mean, std: RGB normalisation of pixel values in 0..1.
        decode_settings: options of the decoder; what is not named keeps the decoder's default.
        camera: of the training frames as photographed. A network that sees no intrinsics knows this camera alone.
        distortion: of its lens, in OpenCV's order; it is taken out of every photograph.
        metric: whether positions are metres; else they are in the unit of a reconstruction without a scale.
        training: what the network was trained on, for whoever finds the file.
        parameters: of the network.
        version: of the posedistill that wrote the file.
    """

    decoder: str
    short_side: int | None
    frame_size: tuple[int, int] | None
    shape: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    decode_settings: dict[str, Any] = field(default_factory=dict)
    camera: Camera | None = None
    distortion: tuple[float, ...] = ()
    metric: bool = True
    training: str = ""
    parameters: int = 0
    version: str = __version__

    @property
    def size(self) -> int | tuple[int, int]:
        """The shorter side or the (width, height) of scaled photographs, whichever is given."""
        if self.short_side is not None:
            return self.short_side
        assert self.frame_size is not None
        return self.frame_size

    @property
    def unit(self) -> str:
        """Of positions, in words."""
        return "m" if self.metric else "units"

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` gives the same metadata back."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return json.dumps({"format": FORMAT, **values, "camera": camera_to_json(self.camera)})

    @classmethod
    def from_json(cls, text: str, file: str = "metadata") -> "CameraMetadata":
        """Read what ``to_json`` wrote; ``file`` is named in errors.

        Raises:
            CheckpointError: not JSON, a key is missing, unknown or of the wrong kind, a later format, a model of
                objects, or values that contradict each other.
        """
        metadata = cls(**read_record(text, file, cls, _READERS, "cameras"))
        metadata._check(file)
        return metadata

    def _check(self, file: str) -> None:
        """Refuse values that contradict each other."""
        one = (self.short_side is None) != (self.frame_size is None)
        refuse_faults(file, [("short_side, frame_size", (self.short_side, self.frame_size), "one of them", one)])
        width, height = (self.size,) * 2 if isinstance(self.size, int) else self.size
        fits = 0 < min(self.shape) <= min(width, height)
        if self.frame_size is not None:
            fits = fits and self.shape[0] <= height and self.shape[1] <= width
        lens = len(self.distortion) in LENSES and (self.camera is not None or not self.distortion)
        refuse_faults(
            file,
            [
                ("shape", self.shape, f"(height, width) within {width}x{height} photographs", fits),
                ("mean", self.mean, "3 numbers", len(self.mean) == 3),
                ("std", self.std, "3 positive numbers", len(self.std) == 3 and min(self.std) > 0),
                ("distortion", self.distortion, "OpenCV's numbers of a lens, with a camera", lens),
            ],
        )


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


_READERS: Readers = {
    "decoder": str,
    "short_side": lambda value: None if value is None else int(value),
    "frame_size": lambda value: None if value is None else _pair(value),
    "shape": _pair,
    "mean": floats,
    "std": floats,
    "decode_settings": dict,
    "camera": camera_from_json,
    "distortion": floats,
    "metric": _yes_or_no,
    "training": str,
    "parameters": int,
    "version": str,
}
