"""ModelMetadata: all that turns the bare numbers of an exported network into poses, carried inside the file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from posedistill import __version__
from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.draw import Shape
from posedistill.geometry.objects import ObjectTable
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


@dataclass(frozen=True)
class ModelMetadata:
    """What the runtime must know of a network.

    Attributes:
        decoder: module of ``posedistill.decode`` that reads the network's outputs.
        objects: ids, box corners, diameters and symmetries in class order.
        crop_size: side of the network's square input, pixels.
        strides: of the output levels, pixels; with the crop size they give the grid of cells.
        pad: side of the crop over the longer side of the object's box.
        mean, std: RGB normalisation of pixel values in 0..1.
        camera: assumed where the caller has none, scaled to the image's size.
        decode_settings: options of the decoder; what is not named keeps the decoder's default.
        names: of the objects, in class order; empty where nobody named them.
        shapes: a coarse surface of each object for the contour in overlays, in class order; empty without meshes.
        training: what the network was trained on, for whoever finds the file.
        parameters: of the network.
        version: of the posedistill that wrote the file.
    """

    decoder: str
    objects: ObjectTable
    crop_size: int
    strides: tuple[int, ...]
    pad: float = 1.5
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    camera: Camera | None = None
    decode_settings: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    training: str = ""
    parameters: int = 0
    version: str = __version__

    def name(self, obj_id: int) -> str:
        """What to call an object in pictures and tables."""
        return self.names[self.objects.index(obj_id)] if self.names else f"object {obj_id}"

    def shape(self, obj_id: int) -> Shape | None:
        """The object's surface, or None where the file carries none."""
        return self.shapes[self.objects.index(obj_id)] if self.shapes else None

    def default_K(self, width: int, height: int) -> Array | None:
        """``[3, 3]`` intrinsics of the default camera for an image of another size, or None without one.

        The focal length follows the longer side, the principal point keeps its place relative to the image; pixel
        centres sit on whole numbers, so points scale about (-0.5, -0.5).
        """
        if self.camera is None:
            return None
        scale = np.array([width / self.camera.width, height / self.camera.height])
        focal = max(width, height) / max(self.camera.width, self.camera.height)
        K = self.camera.K.copy()
        K[:2, :2] *= focal
        K[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
        return K

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` gives the same metadata back."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["objects"] = self.objects.to_json()
        values["camera"] = camera_to_json(self.camera)
        values["shapes"] = [
            {"vertices": shape.vertices.round(1).tolist(), "faces": shape.faces.tolist()} for shape in self.shapes
        ]
        return json.dumps({"format": FORMAT, **values})

    @classmethod
    def from_json(cls, text: str, file: str = "metadata") -> "ModelMetadata":
        """Read what ``to_json`` wrote; ``file`` is named in errors.

        Raises:
            CheckpointError: not JSON, a key is missing, unknown or of the wrong kind, a later format, a model of
                cameras, or values that contradict each other.
        """
        metadata = cls(**read_record(text, file, cls, _READERS, "objects"))
        metadata._check(file)
        return metadata

    def _check(self, file: str) -> None:
        """Refuse values that contradict each other."""
        faults = [
            ("crop_size", self.crop_size, "a positive number of pixels", self.crop_size > 0),
            ("pad", self.pad, "a positive factor", self.pad > 0),
            ("strides", self.strides, "positive numbers of pixels", min(self.strides, default=0) > 0),
            ("mean", self.mean, "3 numbers", len(self.mean) == 3),
            ("std", self.std, "3 positive numbers", len(self.std) == 3 and min(self.std) > 0),
            ("shapes", len(self.shapes), f"{len(self.objects)} shapes", len(self.shapes) in (0, len(self.objects))),
            ("names", self.names, f"{len(self.objects)} names", len(self.names) in (0, len(self.objects))),
        ]
        refuse_faults(file, faults)


def _shapes(value: Sequence[Mapping[str, Any]]) -> tuple[Shape, ...]:
    return tuple(
        Shape(
            np.asarray(item["vertices"], dtype=np.float64).reshape(-1, 3),
            np.asarray(item["faces"], dtype=np.int64).reshape(-1, 3),
        )
        for item in value
    )


_READERS: Readers = {
    "decoder": str,
    "objects": ObjectTable.from_json,
    "crop_size": int,
    "strides": lambda value: tuple(int(item) for item in value),
    "pad": float,
    "mean": floats,
    "std": floats,
    "camera": camera_from_json,
    "decode_settings": dict,
    "names": lambda value: tuple(str(item) for item in value),
    "shapes": _shapes,
    "training": str,
    "parameters": int,
    "version": str,
}
