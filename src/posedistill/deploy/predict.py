"""What ``posedistill predict`` does: photographs in, poses, overlays and a BOP csv out. Imports no torch."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.images import read_image
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.poses import PoseEstimates
from posedistill.runtime.draw import Image, color_of, draw_pose
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
) -> PoseEstimates:
    """Poses in photographs; with ``out`` also ``out/<name>.png`` overlays and ``out/results.csv``.

    Args:
        predictor: the loaded model.
        images: photographs. Ids are those of a BOP path (``000006/rgb/000123.png``), else scene 0 and the position.
        boxes: the same boxes for every image, or boxes by (scene_id, im_id), as ``read_detections`` gives them.
            None searches the whole image for every object of ``obj_ids`` (``Predictor.locate``).
        K: ``[3, 3]`` of all images. None takes the model's default camera, scaled to the image, and says so.
        obj_ids: what to search for without boxes; default: all objects of the model.
        out: folder for the results; made where absent.

    Raises:
        DataError: an image cannot be read, a box or camera is impossible, an object is unknown, or no camera is
            given and the model has none.
    """
    warned, tables = False, []
    names = unique_names(images)
    for position, path in enumerate(images):
        image = read_image(path)
        camera = K
        if camera is None:
            camera = assumed_camera(predictor.metadata, image, path)
            if not warned:
                print(f"posedistill: no camera given, assuming K = {camera.round(1).tolist()}", file=sys.stderr)
                warned = True
        scene_id, im_id = frame_ids(path, position)
        wanted = boxes.get((scene_id, im_id), []) if isinstance(boxes, Mapping) else boxes
        poses = find(predictor, image, camera, wanted, obj_ids)
        tables.append(to_table(poses, scene_id, im_id))
        if out is not None:
            write_image(out / f"{names[position]}.png", overlay(image, camera, poses, predictor.metadata))
    table = PoseEstimates.concatenate(tables)
    if out is not None:
        table.to_bop_csv(out / "results.csv")
    return table


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


def to_table(poses: Sequence[PredictedPose], scene_id: int, im_id: int) -> PoseEstimates:
    """The poses of one image as rows of a table."""
    count = len(poses)
    return PoseEstimates(
        scene_id=np.full(count, scene_id, dtype=np.int64),
        im_id=np.full(count, im_id, dtype=np.int64),
        obj_id=np.array([pose.obj_id for pose in poses], dtype=np.int64),
        score=np.array([pose.score for pose in poses], dtype=np.float64),
        R=np.array([pose.R for pose in poses], dtype=np.float64).reshape(count, 3, 3),
        t=np.array([pose.t for pose in poses], dtype=np.float64).reshape(count, 3),
        time=np.full(count, sum({pose.seconds for pose in poses})),
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


def write_image(path: Path, image: Image) -> None:
    """Write an RGB image as png, making its folder; ``DataError`` where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(describe(path, "image", f"{image.dtype} {image.shape}", "something a png can hold"))
    path.write_bytes(data.tobytes())
