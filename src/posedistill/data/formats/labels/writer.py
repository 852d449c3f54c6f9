"""Writing the frames of a BOP data set as folders of 21-number labels with a .data file, lists and masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posedistill.data.formats.bop import TARGET_VISIBILITY, BopDataset, Frame, Instance
from posedistill.data.formats.bop_writer import write_models
from posedistill.data.formats.labels.files import Size, names_list, read_data_file
from posedistill.data.formats.labels.poses import MILLIMETRES, labelled_points
from posedistill.data.images import image_size, read_mask, write_image
from posedistill.errors import DataError, describe
from posedistill.files import link_file, write_file
from posedistill.geometry.cameras import Array, pixel_box, project

MODELS = "models"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LabelCounts:
    """What was written.

    Attributes:
        frames: with labels, and ``empty`` ones without an instance. instances: lines of labels.
        hidden: frames left out, of whose instances too little is seen. data: the .data file.
    """

    frames: int
    empty: int
    instances: int
    hidden: int
    data: Path

    def __str__(self) -> str:
        shown = f"{self.instances} labels in {self.frames} frames, {self.empty} frames of nothing"
        return shown + f", {self.hidden} left out (hidden instances alone)" * bool(self.hidden)


def write_labels(
    dataset: BopDataset,
    out: Path,
    split: str = "train",
    obj_ids: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> LabelCounts:
    """Write frames as ``out/SPLIT/SCENE/JPEGImages``, ``labels``, ``mask`` and ``poses``; images are linked.

    The list ``out/SPLIT.txt`` goes into ``out/NAME.data``, named after the folder, beside the lists that it has
    already. Classes are object ids less 1. Of frames whose cameras differ from the first one's, the labels state them.
    Instances that show less than a tenth get no label, and frames with such instances alone are left out.

    Args:
        split: ``train`` or ``valid``. obj_ids: the objects to label; all of the data set by default.

    Raises:
        DataError: a split that a .data file cannot name, no frame to write, a camera with a skew, a missing image or
            mesh, a full disk.
    """
    if not names_list(split):
        raise DataError(describe(out, "split", repr(split), "train or valid: a .data file names no other lists"))
    objects = dataset.objects(obj_ids)
    meshes = {obj_id: dataset.mesh(obj_id) for obj_id in objects.obj_ids}
    points = {obj_id: labelled_points(mesh) for obj_id, mesh in meshes.items()}
    common: tuple[Array, Size] | None = None
    images: list[Path] = []
    counts = {"frames": 0, "empty": 0, "instances": 0, "hidden": 0}
    for done, frame in enumerate(dataset.frames, start=1):
        learned = [instance for instance in frame.instances if instance.obj_id in points]
        shown = [instance for instance in learned if instance.visib_fract >= TARGET_VISIBILITY]
        if not frame.is_annotated or len(learned) > 0 == len(shown):
            counts["hidden"] += 1
        else:
            camera = frame.K, image_size(frame.rgb)
            common = common or camera
            images.append(_write_frame(out / split / f"{frame.scene_id:06d}", frame, shown, points, camera, common))
            counts["empty" if not shown else "frames"] += 1
            counts["instances"] += len(shown)
        if progress is not None:
            progress(done, len(dataset))
    if common is None or not counts["instances"]:
        found = f"none among {len(dataset)} with an instance of {list(objects.obj_ids)}"
        raise DataError(describe(dataset.root, "frames", found, "annotated frames"))
    in_metres = {i: replace(mesh, vertices=mesh.vertices / MILLIMETRES) for i, mesh in meshes.items()}
    write_models(out, in_metres, MODELS, infos=dataset.models_info)  # which stay in mm
    write_file(out / f"{split}.txt", "".join(f"{image.relative_to(out).as_posix()}\n" for image in images))
    return LabelCounts(**counts, data=_write_data_file(out, split, dataset, objects.obj_ids, *common))


def _write_frame(
    folder: Path,
    frame: Frame,
    shown: Sequence[Instance],
    points: Mapping[int, Array],
    camera: tuple[Array, Size],
    common: tuple[Array, Size],
) -> Path:
    """Link an image and write its labels, poses and masks; the image's new path."""
    stem = f"{frame.im_id:06d}"
    image = folder / "JPEGImages" / f"{stem}{frame.rgb.suffix}"
    link_file(frame.rgb, image)
    (K, size), (usual, usual_size) = camera, common
    if abs(K[0, 1]) > 1e-9:
        raise DataError(describe(frame.rgb, "cam_K", f"a skew of {K[0, 1]:g}", "none: labels have no place for it"))
    own = "" if np.array_equal(K, usual) and size == usual_size else _camera_numbers(K, size)
    lines = [_line(instance, points[instance.obj_id], K, size) + own for instance in shown]
    write_file(folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
    poses = [np.concatenate([each.R.ravel(), each.t / MILLIMETRES]) for each in shown]
    write_file(folder / "poses" / f"{stem}.txt", "".join(" ".join(map(repr, pose.tolist())) + "\n" for pose in poses))
    masks = [each.mask_visib for each in shown if each.mask_visib is not None and each.mask_visib.exists()]
    if masks and len(masks) == len(shown):
        union = np.logical_or.reduce([read_mask(path) for path in masks])
        write_image(folder / "mask" / f"{stem.removeprefix('00')}.png", np.where(union, 255, 0).astype(np.uint8))
        for row, path in enumerate(masks if len(masks) > 1 else ()):
            link_file(path, folder / "mask" / f"{stem}_{row:06d}.png")
    return image


def _line(instance: Instance, points: Array, K: Array, size: Size) -> str:
    """The 21 numbers of an instance."""
    relative = project(points, instance.R, instance.t, K) / size
    values = [*relative.ravel(), *pixel_box(relative[1:])[2:]]
    return " ".join([str(instance.obj_id - 1), *(f"{value:.6f}" for value in values)])


def _camera_numbers(K: Array, size: Size) -> str:
    """The 8 further numbers of a picture with a camera of its own; the sensor's size is not known."""
    return "".join(f" {float(value)!r}" for value in (K[0, 0], K[1, 1], 0, 0, K[0, 2], K[1, 2], *size))


def _write_data_file(out: Path, split: str, dataset: BopDataset, obj_ids: Sequence[int], K: Array, size: Size) -> Path:
    """The .data file of a folder, with the lists that it has already."""
    path = out / f"{out.resolve().name}.data"
    lists = {split: f"{split}.txt"}
    if path.exists():
        lists = {name: file.name for name, file in read_data_file(path).lists.items()} | lists
    lines = [*lists.items(), ("name", path.stem)]
    for obj_id in obj_ids:
        number = obj_id if len(obj_ids) > 1 else ""  # as the original has it
        lines.append((f"mesh{number}", f"{MODELS}/obj_{obj_id:06d}.ply"))
        lines.append((f"diam{number}", repr(dataset.models_info[obj_id]["diameter"] / MILLIMETRES)))
    lines += zip(("width", "height"), map(str, size), strict=True)
    lines += [
        (key, repr(float(value)))
        for key, value in zip(("fx", "fy", "u0", "v0"), K[[0, 1, 0, 1], [0, 1, 2, 2]], strict=True)
    ]
    write_file(path, "".join(f"{key} = {value}\n" for key, value in lines))
    return path
