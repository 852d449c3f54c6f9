"""Choosing a model's score threshold: searches in pictures that show its objects, and in photographs that do not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posedistill.data.check.frame import box_iou
from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import IMAGE_SUFFIXES, read_image
from posedistill.decode.objects import ObjectDecoder, of_objects
from posedistill.deploy.evaluate import open_bop
from posedistill.errors import CheckpointError, DataError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array, pixel_box, project
from posedistill.geometry.draw.poses import Image
from posedistill.log import progress_bar
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import PROPERTY, Record
from posedistill.runtime.search import search
from posedistill.runtime.threshold import Threshold, choose_threshold

SEARCHES = 64
"""Of each kind, at most: enough to tell 2 % from 5, few enough to take seconds."""
OVERLAP = 0.5
"""Of the boxes of a found and a true pose (intersection over union), for the place to be right."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture ``[H, W, 3]`` that shows an object, by camera ``K``: the poses ``R [n, 3, 3]``, ``t [n, 3]`` of it."""

    image: Image
    K: Array
    obj_id: int
    R: Array
    t: Array


def threshold_of(
    predictor: Predictor, shown: Iterable[Shown], photographs: Sequence[Path], source: str = ""
) -> Threshold:
    """Search every picture as ``predict`` does without boxes, and choose the score that tells both kinds apart.

    Of several objects each photograph is searched for one, in turn.

    Raises:
        DataError: no picture of either kind, or one that cannot be read.
    """
    decoder = of_objects(predictor.decoder)
    with progress_bar() as bar:
        task = bar.add_task("threshold", total=None, note="")
        true, false = [], []
        for picture in shown:
            true.append(_score_in_place(predictor, picture))
            bar.advance(task)
        for place, path in enumerate(photographs):
            image, obj_id = read_image(path), decoder.objects.obj_ids[place % len(decoder.objects)]
            pose = search(predictor, image, camera_of(decoder, image), obj_id)
            false.append(0.0 if pose is None else pose.score)
            bar.advance(task)
    for key, scores, expected in (("objects", true, "frames that show one"), ("photographs", false, "some without")):
        if not scores:
            raise DataError(describe("threshold", key, "none", expected))
    return choose_threshold(np.clip(true, 0.0, 1.0), np.clip(false, 0.0, 1.0), source)


def camera_of(decoder: ObjectDecoder, image: Image) -> Array:
    """``K`` of a photograph of which nothing is known: the model's, else a focal length of its longer side."""
    height, width = image.shape[:2]
    K = decoder.default_K(width, height)
    side = float(max(width, height))
    return np.array([[side, 0, (width - 1) / 2], [0, side, (height - 1) / 2], [0, 0, 1.0]]) if K is None else K


def photographs_in(folder: Path, count: int = SEARCHES) -> list[Path]:
    """At most ``count`` photographs of a folder and its subfolders, by a fixed seed; ``DataError`` without any."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        expected = f"photographs without the objects ({', '.join(IMAGE_SUFFIXES)})"
        raise DataError(describe(folder, "negatives", "none" if folder.is_dir() else "no such folder", expected))
    return [found[place] for place in sorted(np.random.default_rng(0).permutation(len(found))[:count].tolist())]


def shown_in(dataset: BopDataset, obj_ids: Sequence[int], count: int = SEARCHES) -> Iterable[Shown]:
    """At most ``count`` of a data set's pictures of objects with their true poses, drawn by a fixed seed.

    Raises:
        DataError: no picture shows one.
    """
    pairs = [
        (frame, obj_id)
        for frame in dataset.frames
        for obj_id in sorted({target.obj_id for target in frame.instances if target.visib_fract >= 0.1})
        if obj_id in obj_ids
    ]
    if not pairs:
        expected = f"frames that show one of {sorted(obj_ids)}"
        raise DataError(describe(dataset.root / dataset.split, "objects", "none", expected))
    for place in np.random.default_rng(0).permutation(len(pairs))[:count].tolist():
        frame, obj_id = pairs[place]
        own = [instance for instance in frame.instances if instance.obj_id == obj_id]
        R, t = np.stack([instance.R for instance in own]), np.stack([instance.t for instance in own])
        yield Shown(read_image(frame.rgb), frame.K, obj_id, R, t)


def threshold_of_file(
    model: Path,
    negatives: Path,
    dataset: Path,
    split: str,
    scenes: list[int] | None = None,
    frames: Path | None = None,
    threads: int | None = None,
) -> Threshold:
    """Choose the threshold of an exported file on a BOP folder and a folder of photographs, and store it in it."""
    import onnx  # noqa: F401 (without it nothing could be stored in the end)

    predictor = Predictor.from_onnx(model, threads=threads)
    obj_ids = of_objects(predictor.decoder, model).objects.obj_ids
    opened = open_bop(dataset, split, frames, obj_ids, scenes)
    source = f"{opened.root.resolve().name}/{split}, {negatives.resolve().name}"
    chosen = threshold_of(predictor, shown_in(opened, obj_ids), photographs_in(negatives), source)
    store_threshold(model, chosen)
    return chosen


def store_threshold(model: Path, threshold: Threshold) -> None:
    """Write a threshold into the record of an exported file; the graph and all else stay as they are.

    Raises:
        CheckpointError: no file of ours, or a disk that refuses.
    """
    import onnx

    try:
        content = onnx.load(str(model))
    except Exception as error:  # protobuf and the disk raise what they like
        raise CheckpointError(describe(model, "model", f"{error!s:.200}", "a readable ONNX model")) from error
    properties = {entry.key: entry.value for entry in content.metadata_props}
    changed = replace(Record.from_properties(properties, model), threshold=threshold)
    onnx.helper.set_model_props(content, properties | {PROPERTY: changed.to_properties()[PROPERTY]})
    write_file(model, content.SerializeToString(), CheckpointError)


def _score_in_place(predictor: Predictor, picture: Shown) -> float:
    """Score of what a search finds; 0 for nothing, or in a wrong place."""
    pose = search(predictor, picture.image, picture.K, picture.obj_id)
    if pose is None:
        return 0.0
    objects = of_objects(predictor.decoder).objects
    corners = objects.keypoints[objects.index(picture.obj_id)]
    found = pixel_box(project(corners, pose.R, pose.t, picture.K))
    true = [pixel_box(project(corners, R, t, picture.K)) for R, t in zip(picture.R, picture.t, strict=True)]
    return pose.score if max(box_iou(found, box) for box in true) >= OVERLAP else 0.0
