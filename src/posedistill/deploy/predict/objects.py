"""``posedistill predict`` with a model of objects: boxes or a search, overlays and a BOP csv. Imports no torch."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from posedistill.data.formats.bop import read_detections
from posedistill.data.formats.bop_models import mesh_path
from posedistill.decode.base import Pose
from posedistill.decode.objects import of_objects
from posedistill.deploy.estimate import FrameQuery, table_of
from posedistill.deploy.predict.base import Found, Presenter, image_id_of, parse_camera
from posedistill.deploy.shapes import coarse_shape
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image, Shape, color_of, draw_pose
from posedistill.geometry.meshes import load_mesh
from posedistill.geometry.photographs import pinhole, straight_boxes, undistort
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.search import search
from posedistill.runtime.track import Tracker

LOCATE_THRESHOLD = 0.1
"""Score under which a search reports nothing, where the model's file states none."""


@dataclass(frozen=True)
class Box:
    """Where to look for an object: ``xywh`` pixels."""

    obj_id: int
    xywh: tuple[float, float, float, float]


Boxes = Mapping[tuple[int, int], Sequence[Box]] | Sequence[Box]
"""The same boxes for every image, or boxes by (scene_id, im_id)."""


class ObjectPresenter(Presenter):
    """Poses of objects in the given boxes, or wherever a search finds them.

    Args:
        predictor: the loaded model.
        boxes: as ``parse_boxes`` gives them; of those by image, objects that the model does not know are passed over.
            None searches the whole image for every object of ``obj_ids`` (``locate``); a network that looks at whole
            pictures finds them itself, and takes no boxes.
        K: ``[3, 3]`` of all images. None takes the model's default camera, scaled to the image, and says so.
        lens: of that camera, in OpenCV's order; it is taken out of the images, and of the boxes.
        obj_ids: what to search for without boxes; default: all objects of the model.
        threshold: score under which nothing is reported. By default a search asks the model's own, and poses in given
            boxes are all reported.
        models: folder of meshes whose contours are drawn; default: the surfaces in the file, where it has any.
    """

    of: ClassVar[str] = "objects"
    writes: ClassVar[str] = "overlays, results.csv and images.csv"

    def __init__(
        self,
        predictor: Predictor,
        boxes: Boxes | None = None,
        K: Array | None = None,
        obj_ids: Sequence[int] | None = None,
        threshold: float | None = None,
        models: Path | None = None,
        lens: Sequence[float] = (),
    ) -> None:
        super().__init__(predictor)
        self.decoder = of_objects(predictor.decoder)
        if self.decoder.whole_pictures and boxes is not None:
            expected = f"none: {self.decoder.family} finds objects in whole pictures by itself"
            raise DataError(describe("--box, --detections", "boxes", "some", expected))
        self.boxes, self.K, self.lens, self.obj_ids = boxes, K, tuple(lens), obj_ids
        self.threshold = self._threshold(threshold)
        self.shapes = {} if models is None else {i: read_shape(models, i) for i in self.decoder.objects.obj_ids}
        self.tracker: Tracker | None = None
        self._told: set[tuple[int, ...]] = set()

    @classmethod
    def from_options(cls, predictor: Predictor, options: Mapping[str, Any]) -> Self:
        """By ``--box``, ``--detections``, ``--camera``, ``--obj``, ``--threshold`` and ``--models``."""
        boxes, (K, lens) = parse_boxes(options["--box"], options["--detections"]), parse_camera(options["--camera"])
        return cls(predictor, boxes, K, options["--obj"] or None, options["--threshold"], options["--models"], lens)

    def check(self, images: Sequence[Path]) -> None:
        """``DataError`` where boxes by image are about none of these."""
        ids = [image_id_of(path, position) for position, path in enumerate(images)]
        if isinstance(self.boxes, Mapping) and not self.boxes.keys() & set(ids):
            raise DataError(describe("detections", "scene_id, image_id", "none of these images", f"some of {ids[:5]}"))

    def follow(self, frames: bool) -> None:
        """Follow objects from frame to frame, where they are searched for."""
        self.tracker = Tracker(self.predictor, self.threshold) if frames else None

    def straight(self, image: Image) -> Image:
        """The photograph as a pinhole camera would have taken it."""
        return image if self.K is None else undistort(image, self.K, self.lens)[0]

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """Poses in the boxes, or of every wanted object anywhere in the image, that score high enough."""
        return [pose for pose in self._all_poses(image, image_id) if not pose.score < self.threshold]

    def _all_poses(self, image: Image, image_id: tuple[int, int]) -> list[Pose]:
        K, known = self.camera(image), self.decoder.objects.obj_ids
        boxes = self.boxes
        if isinstance(boxes, Mapping):
            boxes = [box for box in boxes.get(image_id, []) if box.obj_id in known]
        if boxes is not None:
            rows = np.array([box.xywh for box in boxes]).reshape(-1, 4)
            if self.K is not None and any(self.lens):
                rows = straight_boxes(rows, self.K, self.lens, K)
            return self.predictor.predict(image, K, rows, [box.obj_id for box in boxes])
        searched = known if self.obj_ids is None else self.obj_ids
        if self.decoder.whole_pictures:
            self.decoder.classes_of(searched)
            return [pose for pose in self.predictor.predict(image, K) if pose.label in searched]
        find = partial(search, self.predictor) if self.tracker is None else self.tracker
        found = [find(image, K, obj_id) for obj_id in searched]
        return [pose for pose in found if pose is not None]

    def _threshold(self, given: float | None) -> float:
        """The score that poses must reach; of a search it is told where it comes from."""
        if given is not None or self.boxes is not None:
            return 0.0 if given is None else given
        own = self.predictor.record.threshold
        without = f"score threshold {LOCATE_THRESHOLD}: the file states none; --threshold takes another"
        print(f"posedistill: {own or without}", file=sys.stderr)
        return LOCATE_THRESHOLD if own is None else own.score

    def camera(self, image: Image) -> Array:
        """``K`` of an image without the lens: of the given camera, or the model's, which is told once a size of image.

        Raises:
            DataError: there is neither, or the given camera's middle lies beyond the image.
        """
        height, width = image.shape[:2]
        if self.K is not None:
            middle = self.K[:2, 2]
            if not ((middle >= 0) & (middle < [width, height])).all():
                found = f"a camera whose middle is at ({middle[0]:.0f}, {middle[1]:.0f}) for {width}x{height} pixels"
                raise DataError(describe("--camera", "cx, cy", found, "one of pictures of this size"))
            return pinhole(self.K, self.lens, (width, height))
        K = self.decoder.default_K(width, height)
        if K is None:
            found = "no camera, and the model has no default one"
            raise DataError(describe("request", "K", found, "--camera fx,fy,cx,cy"))
        if (width, height) not in self._told:
            self._told.add((width, height))
            about = f"images of {width}x{height}: no camera given, assuming K = {K.round(1).tolist()}"
            print(f"posedistill: {about}", file=sys.stderr)
        return K

    def picture(self, image: Image, poses: Sequence[Pose]) -> Image:
        """The image with contour, box, axes, name and score of every pose, the nearest drawn last."""
        K, decoder = self.camera(image), self.decoder
        for pose in sorted(poses, key=lambda pose: -pose.t[2]):
            index = decoder.objects.index(pose.label)
            label = f"{decoder.name(pose.label)} {pose.score:.2f}"
            corners, shape = decoder.objects.keypoints[index], self.shapes.get(pose.label, decoder.shape(pose.label))
            image = draw_pose(image, pose.R, pose.t, K, corners, color_of(index), label, shape)
        return image

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``results.csv`` as BOP has it; an image's time is that of all its searches."""
        rows = []
        for entry in found:
            total = sum({pose.seconds for pose in entry.poses})
            query = FrameQuery(entry.path, *entry.image_id)
            rows.append((query, [replace(pose, seconds=total) for pose in entry.poses]))
        table_of(rows).to_bop_csv(out / "results.csv")

    def in_words(self, found: Found) -> list[str]:
        """Object, score and position; of a score below the model's own threshold that it is unsure."""
        name = found.path.as_posix()
        if not found.poses:
            return [f"{name}: no object found"]
        return [
            f"{name}: {self.decoder.name(pose.label)}, score {pose.score:.2f}{' (unsure)' * self.unsure(pose)}, "
            f"at ({', '.join(f'{value:.0f}' for value in pose.t)}) mm"
            for pose in found.poses
        ]

    def unsure(self, pose: Pose) -> bool:
        """Whether a search with the model's own threshold would not have reported this pose."""
        own = self.predictor.record.threshold
        return own is not None and pose.score < own.score

    def pose_as_json(self, pose: Pose) -> dict[str, Any]:
        """With the object's name, and whether the model is unsure."""
        return super().pose_as_json(pose) | {"name": self.decoder.name(pose.label), "unsure": self.unsure(pose)}


def read_shape(models: Path, obj_id: int) -> Shape:
    """The coarse surface of an object's mesh in a folder; ``DataError`` where it is missing or damaged."""
    mesh = load_mesh(mesh_path(models, obj_id), looks=False)
    return coarse_shape(mesh.vertices, mesh.faces)


def parse_boxes(texts: Sequence[str] | None, detections: Path | None) -> Boxes | None:
    """Boxes from the command line (``obj_id:x,y,w,h``) or from a BOP json of detections; None where neither is given.

    Of a json, each image keeps the detections of an object that score at least half as well as its best one.

    Raises:
        DataError: both are given, a text does not parse, or the json is damaged.

    >>> parse_boxes(["6:10,20,30.5,40"], None)
    [Box(obj_id=6, xywh=(10.0, 20.0, 30.5, 40.0))]
    """
    if texts and detections is not None:
        raise DataError(describe("--box, --detections", "boxes", "both", "one of them"))
    if detections is None:
        return [_parse_box(text) for text in texts] if texts else None
    read, left_out = read_detections(detections)
    if left_out:
        print(f"posedistill: {detections}: {left_out}", file=sys.stderr)
    best: dict[tuple[int, int, int], float] = {}
    for found in read:
        key = (found.scene_id, found.im_id, found.obj_id)
        best[key] = max(best.get(key, 0.0), found.score)
    boxes: dict[tuple[int, int], list[Box]] = {}
    for found in read:
        if found.score >= best[found.scene_id, found.im_id, found.obj_id] / 2:
            x, y, w, h = (float(value) for value in found.bbox)
            boxes.setdefault((found.scene_id, found.im_id), []).append(Box(found.obj_id, (x, y, w, h)))
    return boxes


def _parse_box(text: str) -> Box:
    try:
        obj_id, _, numbers = text.partition(":")
        x, y, w, h = (float(number) for number in numbers.split(","))
        return Box(int(obj_id), (x, y, w, h))
    except ValueError:
        raise DataError(describe("--box", "box", repr(text), "obj_id:x,y,w,h, e.g. 6:310,180,90,120")) from None
