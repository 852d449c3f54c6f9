"""What ``posedistill predict`` does: photographs in, poses, overlays and a BOP csv out. Imports no torch."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedistill.data.formats.bop import read_detections
from posedistill.data.images import read_image, write_image
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import Image, color_of, draw_pose
from posedistill.poses import Poses
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import PredictedPose, Predictor

LOCATE_THRESHOLD = 0.1
"""Score under which a search of the whole image reports nothing."""


@dataclass(frozen=True)
class Box:
    """Where to look for an object: ``xywh`` pixels."""

    obj_id: int
    xywh: tuple[float, float, float, float]


def predict_images(
    predictor: Predictor,
    images: Sequence[Path],
    boxes: Mapping[tuple[int, int], Sequence[Box]] | Sequence[Box] | None = None,
    K: Array | None = None,
    obj_ids: Sequence[int] | None = None,
    out: Path | None = None,
) -> Poses:
    """Poses in photographs; with ``out`` also ``out/<name>.png`` overlays and ``out/results.csv``.

    Args:
        predictor: the loaded model.
        images: photographs. Ids are those of a BOP path (``000006/rgb/000123.png``), else scene 0 and the position.
        boxes: the same boxes for every image, or boxes by (scene_id, im_id), as ``parse_boxes`` gives them; there,
            objects that the model does not know are passed over. None searches the whole image for every object of
            ``obj_ids`` (``Predictor.locate``).
        K: ``[3, 3]`` of all images. None takes the model's default camera, scaled to the image, and says so.
        obj_ids: what to search for without boxes; default: all objects of the model.
        out: folder for the results; made where absent.

    Raises:
        DataError: an image cannot be read, a box or camera is impossible, an object is unknown, or no camera is
            given and the model has none.
    """
    names, known = unique_names(images), predictor.metadata.objects.obj_ids
    ids = [frame_ids(path, position) for position, path in enumerate(images)]
    if isinstance(boxes, Mapping) and not boxes.keys() & set(ids):
        raise DataError(describe("detections", "scene_id, image_id", "none of these images", f"some of {ids[:5]}"))
    tables: list[Poses] = []
    try:
        for path, name, frame in zip(images, names, ids, strict=True):
            image = read_image(path)
            camera = assumed_camera(predictor.metadata, image, path) if K is None else K
            if K is None and not tables:
                print(f"posedistill: no camera given, assuming K = {camera.round(1).tolist()}", file=sys.stderr)
            listed = [b for b in boxes.get(frame, []) if b.obj_id in known] if isinstance(boxes, Mapping) else boxes
            poses = find(predictor, image, camera, listed, obj_ids)
            tables.append(to_table(poses, *frame))
            if out is not None:
                write_image(out / f"{name}.png", overlay(image, camera, poses, predictor.metadata))
    finally:  # an unreadable image or an interrupt loses no pose found before
        if out is not None and tables:
            Poses.concatenate(tables).to_bop_csv(out / "results.csv")
    return Poses.concatenate(tables)


def parse_boxes(
    texts: Sequence[str] | None, detections: Path | None
) -> Mapping[tuple[int, int], Sequence[Box]] | Sequence[Box] | None:
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


def parse_camera(text: str) -> Array | None:
    """``fx,fy,cx,cy`` -> ``[3, 3]`` intrinsics; None for an empty text.

    >>> parse_camera("570,573,325,242")[0].tolist()
    [570.0, 0.0, 325.0]
    """
    if not text:
        return None
    try:
        fx, fy, cx, cy = (float(number) for number in text.split(","))
    except ValueError:
        raise DataError(describe("--camera", "camera", repr(text), "fx,fy,cx,cy in pixels")) from None
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def find(
    predictor: Predictor, image: Image, K: Array, boxes: Sequence[Box] | None, obj_ids: Sequence[int] | None
) -> list[PredictedPose]:
    """Poses in the given boxes, or of every wanted object anywhere in the image."""
    if boxes is not None:
        return predictor.predict(image, K, np.array([box.xywh for box in boxes]), [box.obj_id for box in boxes])
    searched = predictor.metadata.objects.obj_ids if obj_ids is None else obj_ids
    found = [predictor.locate(image, K, obj_id, threshold=LOCATE_THRESHOLD) for obj_id in searched]
    return [pose for pose in found if pose is not None]


def overlay(image: Image, K: Array, poses: Sequence[PredictedPose], metadata: ModelMetadata) -> Image:
    """The image with contour, box, axes, name and score of every pose, the nearest drawn last."""
    for pose in sorted(poses, key=lambda pose: -pose.t[2]):
        index = metadata.objects.index(pose.obj_id)
        label = f"{metadata.name(pose.obj_id)} {pose.score:.2f}"
        corners, shape = metadata.objects.keypoints[index], metadata.shape(pose.obj_id)
        image = draw_pose(image, pose.R, pose.t, K, corners, color_of(index), label, shape)
    return image


def to_table(poses: Sequence[PredictedPose], scene_id: int, im_id: int) -> Poses:
    """The poses of one image as rows of a table."""
    count = len(poses)
    return Poses(
        scene_id=np.full(count, scene_id, dtype=np.int64),
        im_id=np.full(count, im_id, dtype=np.int64),
        obj_id=np.array([pose.obj_id for pose in poses], dtype=np.int64),
        score=np.array([pose.score for pose in poses], dtype=np.float64),
        R=np.array([pose.R for pose in poses], dtype=np.float64).reshape(count, 3, 3),
        t=np.array([pose.t for pose in poses], dtype=np.float64).reshape(count, 3),
        seconds=np.full(count, sum({pose.seconds for pose in poses})),
    )


def assumed_camera(metadata: ModelMetadata, image: Image, path: Path) -> Array:
    """The model's default camera for this image; ``DataError`` where it has none."""
    K = metadata.default_K(image.shape[1], image.shape[0])
    if K is None:
        raise DataError(describe(path, "K", "no camera, and the model has no default one", "--camera fx,fy,cx,cy"))
    return K


def frame_ids(path: Path, position: int) -> tuple[int, int]:
    """(scene_id, im_id) of a BOP image path, else (0, position).

    >>> frame_ids(Path("lm/test/000006/rgb/000123.png"), 0), frame_ids(Path("holiday.jpg"), 7)
    ((6, 123), (0, 7))
    """
    scene = path.parent.parent.name
    if path.parent.name in ("rgb", "gray") and scene.isdigit() and path.stem.isdigit():
        return int(scene), int(path.stem)
    return 0, position


def unique_names(images: Sequence[Path]) -> list[str]:
    """A file name for each image's overlay; images of the same name in several folders get a number.

    >>> unique_names([Path("a/1.png"), Path("b/1.png"), Path("c.jpg")])
    ['1', '1-1', 'c']
    """
    names: list[str] = []
    for path in images:
        name, number = path.stem, 0
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    return names
