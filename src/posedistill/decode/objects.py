"""What decoders of objects have in common: the objects, how to name and draw them, and crops of them as inputs."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from posedistill.decode.base import Arrays, Decoder, Pose, Prepared, Readers, Request, check, floats
from posedistill.decode.crops import check_request, cut_boxes, scan_boxes
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image, Shape
from posedistill.geometry.objects import ObjectTable


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectDecoder(Decoder):
    """A decoder of the poses of objects.

    Attributes:
        objects: ids, box corners, diameters and symmetries in class order.
        camera: assumed where a request has none, scaled to the image's size.
        names: of the objects, in class order; empty where nobody named them.
        shapes: a coarse surface of each object for the contour in overlays, in class order; empty without meshes.
        distance: by class, what the distance of a pose is multiplied with along its line of sight, as calibrated on
            frames that the network did not learn from; empty for distances as they are.
    """

    task: ClassVar[str] = "objects"
    whole_pictures: ClassVar[bool] = False
    """Whether its network finds objects in whole pictures by itself, without boxes."""
    readers: ClassVar[Readers] = {**Decoder.readers, "names": lambda value: tuple(str(item) for item in value)}
    objects: ObjectTable
    names: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    distance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        count = len(self.objects)
        fits = len(self.distance) in (0, count) and all(0 < factor < np.inf for factor in self.distance)
        check(
            ("shapes", len(self.shapes), f"{count} shapes", len(self.shapes) in (0, count)),
            ("names", self.names, f"{count} names", len(self.names) in (0, count)),
            ("distance", self.distance, f"{count} positive factors", fits),
        )

    def at_distance(self, t: Array, index: int) -> Array:
        """The position of an object of a class, at its calibrated distance."""
        return t * self.distance[index] if self.distance else t

    def tables(self) -> dict[str, np.ndarray]:
        """The objects, their shapes, and the factors on their distances where there are any."""
        tables = self.objects.to_tables()
        for index, shape in enumerate(self.shapes):
            tables[f"vertices/{index}"] = shape.vertices.round(1).astype(np.float32)
            tables[f"faces/{index}"] = shape.faces.astype(np.int32)
        return tables | ({"distance": np.array(self.distance)} if self.distance else {})

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """What ``tables`` gave; files of before there were factors have none."""
        shapes = [
            Shape(tables[f"vertices/{index}"].astype(np.float64), tables[f"faces/{index}"].astype(np.int64))
            for index in range(sum(name.startswith("vertices/") for name in tables))
        ]
        distance = floats(tables.get("distance", ()))
        return {"objects": ObjectTable.from_tables(tables), "shapes": tuple(shapes), "distance": distance}

    def name(self, obj_id: int) -> str:
        """What to call an object in pictures and tables."""
        return self.names[self.objects.index(obj_id)] if self.names else f"object {obj_id}"

    def shape(self, obj_id: int) -> Shape | None:
        """The object's surface, or None where none is known."""
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

    def example(self, rows: int = 1, image: Image | None = None, seed: int = 0) -> list[Request]:
        """One request, of each object in turn in boxes about the image's middle."""
        if image is None:
            image = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        height, width = image.shape[:2]
        K = self.default_K(width, height)
        if K is None:
            K = np.array([[width, 0.0, (width - 1) / 2], [0.0, width, (height - 1) / 2], [0.0, 0.0, 1.0]])
        side = min(width, height) / 3
        boxes = np.tile([(width - side) / 2, (height - side) / 2, side, side], (rows, 1))
        return [Request(image, K, boxes, [self.objects.obj_ids[row % len(self.objects)] for row in range(rows)])]

    def camera_of(self, request: Request) -> Array:
        """``[3, 3]`` intrinsics of a request's image.

        Raises:
            DataError: neither it nor the model knows any, or it has a lens: objects are sought in straight pictures.
        """
        if request.distortion is not None and any(request.distortion):
            expected = "none: geometry.photographs.undistort takes it out of the image"
            raise DataError(describe("request", "distortion", list(request.distortion), expected))
        K = request.K if request.K is not None else self.default_K(*np.shape(request.image)[1::-1])
        if K is None:
            raise DataError(describe("request", "K", "no camera, and the model has no default one", "one"))
        return K

    def windows(self, width: int, height: int) -> Array:
        """``[n, 4]`` boxes in which to look for an object that may be anywhere in an image of this size."""
        return np.array([[0.0, 0.0, width, height]])

    def explain(self, image: Image, outputs: Arrays, prepared: Prepared) -> Image | None:
        """What the network says of an image, drawn over it; None where a family has no picture of it."""
        return None

    def boxes_seen(self, image: Image, outputs: Arrays, prepared: Prepared) -> list[tuple[int, Array]]:
        """What the network says itself of boxes, before PnP: ids and ``[9, 2]`` pixels, centre and corners.

        Of each object as many as are asked for, the surest. None in families that say nothing of the like.
        """
        return []

    def classes_of(self, labels: Sequence[int]) -> np.ndarray:
        """``[n]`` int64 class indices of object ids; ``DataError`` for one that is none of them."""
        try:
            return np.array([self.objects.index(int(label)) for label in labels], dtype=np.int64)
        except KeyError as error:
            raise DataError(str(error.args[0])) from None


def of_objects(decoder: Decoder, file: str | Path = "model") -> ObjectDecoder:
    """A decoder, read from this file, as one of objects; ``DataError`` where it is of another task."""
    if not isinstance(decoder, ObjectDecoder):
        kind = "a scene" if decoder.task == "scene" else decoder.task
        raise DataError(describe(file, "family", f"{decoder.family}, a model of {kind}", "a model of objects"))
    return decoder


class CropPose(NamedTuple):
    """A pose in the camera of a crop: object to camera, mm; ``score`` in 0..1."""

    R: Array
    t: Array
    score: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CropDecoder(ObjectDecoder):
    """A decoder whose network looks at one square crop for each box.

    Attributes:
        crop_size: side of the crop, pixels. pad: side of the crop over the longer side of the object's box.
    """

    readers: ClassVar[Readers] = {**ObjectDecoder.readers, "crop_size": int, "pad": float}
    crop_size: int
    pad: float = 1.5

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        check(
            ("crop_size", self.crop_size, "a positive number of pixels", self.crop_size > 0),
            ("pad", self.pad, "a positive factor", self.pad > 0),
        )

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Crops, normalised RGB, and the class index of each."""
        return {"images": (3, self.crop_size, self.crop_size), "classes": ()}

    @property
    def surface_stride(self) -> int | None:
        """Pixels along a cell of what ``explain_crop`` compares with the true surface; None where it draws nothing."""
        return None

    def explain_crop(self, outputs: Arrays, prepared: Prepared, row: int, surface: np.ndarray) -> Image | None:
        """What the network says of one crop, drawn beside the truth; None where a family has no picture of it.

        Args:
            surface: ``[G, G, 3]`` mm, the point of the true surface at each cell, NaN beside the object.
        """
        return None

    @abstractmethod
    def decode_crop(self, outputs: Arrays, K: Array, index: int) -> CropPose | None:
        """The pose of one crop by its own outputs, without the batch; ``K`` ``[3, 3]`` and class ``index`` of it."""

    def prepare(self, request: Request) -> Prepared:
        """Cut and normalise one square crop for each box.

        Raises:
            DataError: the image, camera or a box is impossible, there is no camera, or an id is none of the network's.
        """
        boxes = np.asarray(request.boxes, dtype=np.float64).reshape(-1, 4)
        K = np.asarray(self.camera_of(request), dtype=np.float64)
        check_request(request.image, K, boxes, request.labels)
        classes = self.classes_of(request.labels)
        crops, cameras = cut_boxes(self, request.image, K, boxes, self.pad, self.crop_size)
        scores = np.ones(len(boxes)) if request.scores is None else np.asarray(request.scores, dtype=np.float64)
        labels = np.asarray(request.labels, dtype=np.int64)
        return Prepared({"images": crops, "classes": classes}, cameras.K, cameras.rotation, labels, boxes, scores)

    def windows(self, width: int, height: int) -> Array:
        """Boxes whose crops cover the image at several scales."""
        return scan_boxes(width, height, self.pad)

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """Poses in the image's camera; none for a box in which nothing is recognised."""
        poses = []
        for row, index in enumerate(prepared.inputs["classes"].tolist()):
            own = {name: value[row] for name, value in outputs.items()}
            found = self.decode_crop(own, prepared.K[row], index)
            if found is None:
                continue
            back, (x, y, w, h) = prepared.rotation[row].T, prepared.boxes[row].tolist()
            t = self.at_distance(found.t, index)
            score = found.score * float(prepared.scores[row])
            label = self.objects.obj_ids[index]
            poses.append(Pose(back @ found.R, back @ t, label, score, (x, y, w, h), row))
        return poses
