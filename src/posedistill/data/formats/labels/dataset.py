"""LabelDataset: folders of 21-number labels (YOLO6D) read as they are, with the interface of a BOP data set."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_models import load_models_info
from posedistill.data.formats.bop_scene import Annotations, Instance, Scene
from posedistill.data.formats.labels.files import (
    LINEMOD,
    LINEMOD_SIZE,
    DataFile,
    LabelledObject,
    Labels,
    Size,
    label_path,
    read_data_file,
    read_labels,
    read_list,
)
from posedistill.data.formats.labels.poses import (
    MILLIMETRES,
    LabelledPicture,
    PosedLabel,
    labelled_points,
    pose_labels,
)
from posedistill.data.images import image_size
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, load_mesh, model_info
from posedistill.geometry.objects import INFO_KEYS

LARGEST, SMALLEST = 10.0, 0.003
"""Diameters in metres beyond which a mesh is in another unit."""
DIAMETER_TOLERANCE = 0.1
"""Share by which a stated diameter may differ from the mesh's."""
MIDDLE = 0.2
"""Share of width and height by which a principal point may lie aside of a picture's middle."""


@dataclass(frozen=True, eq=False)
class LabelScene(Scene):
    """A folder of images whose masks have names of their own: by image id and line of its labels."""

    masks: Mapping[tuple[int, int], Path]

    def instance(self, row: int) -> Instance:
        """The instance in a row of the annotations."""
        assert self.annotations is not None
        place = int(self.annotations.im_ids[row]), int(self.annotations.gt_ids[row])
        return replace(super().instance(row), mask_visib=self.masks.get(place))


class LabelDataset(BopDataset):
    """A split of the label folders that a .data file names; each folder of images is a scene.

    Poses come from ``poses/NAME.txt`` beside the folder of labels, from lines that state them, or else by PnP from the
    nine points. Meshes and diameters are in metres in the files, and in mm here as everywhere.

    Args:
        path: the .data file. split: ``train``, ``valid``, or of several objects ``valid5``.
        obj_ids: keep the instances of these objects alone, and the frames that hold one.
        ids: object id of each class of the labels; by default class + 1.
        on_fault: called with what is wrong; reading goes on without it where it returns.

    Attributes:
        notes: what no file states and was measured or assumed, one sentence each.

    Raises:
        DataError: a missing file, labels that cannot be read, a class of no object, a mesh in mm, intrinsics of
            pictures of another size, or labels that no pose explains.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        obj_ids: Collection[int] | None = None,
        ids: Mapping[int, int] | None = None,
        on_fault: OnFault = raise_fault,
    ) -> None:
        path, self.notes = Path(path), list[str]()
        data = self._data = read_data_file(path, on_fault)
        pictures = self._pictures(data.list_of(split), on_fault)
        classes = _classes(data, pictures, on_fault)
        objects = {label: (ids or {}).get(label, label + 1) for label in classes}
        self._entries = {objects[label]: entry for label, entry in classes.items()}
        self._meshes = {obj_id: self._measured(entry, on_fault) for obj_id, entry in self._entries.items()}
        points = {obj_id: labelled_points(mesh) for obj_id, mesh in self._meshes.items()}
        posed, notes = pose_labels(pictures, objects, points, on_fault)
        self.notes += [f"{path}: {split}: {note}" for note in notes]
        self._hold(path, split, _scenes(pictures, posed), obj_ids)

    def mesh_path(self, obj_id: int, eval: bool = False) -> Path:
        """The mesh file, which is in metres; ``mesh`` gives mm."""
        return self._entry(obj_id).mesh

    def mesh(self, obj_id: int, eval: bool = False, looks: bool = True) -> Mesh:
        """The mesh of an object in mm."""
        path = self._entry(obj_id).mesh
        return in_millimetres(load_mesh(path)) if looks else self._meshes[obj_id]

    @cached_property
    def models_info(self) -> dict[int, dict[str, Any]]:
        """Object id -> diameter and box, mm, with the symmetries of a ``models_info.json`` beside the mesh."""
        infos: dict[int, dict[str, Any]] = {}
        for obj_id, entry in self._entries.items():
            beside = entry.mesh.parent / "models_info.json"
            stated = load_models_info(beside).get(obj_id, {}) if beside.exists() else {}
            infos[obj_id] = model_info(self._meshes[obj_id])
            infos[obj_id] |= {key: value for key, value in stated.items() if key not in INFO_KEYS}
            if entry.diameter is not None:
                infos[obj_id]["diameter"] = MILLIMETRES * entry.diameter
        return infos

    @cached_property
    def _models_info_path(self) -> Path:
        return self._data.path

    def _entry(self, obj_id: int) -> LabelledObject:
        if obj_id not in self._entries:
            key = f"object {obj_id}"
            raise fault(FaultKind.UNKNOWN_OBJECT, self._data.path, key, "no labels of it", sorted(self._entries))
        return self._entries[obj_id]

    def _pictures(self, listed_in: Path, on_fault: OnFault) -> list[LabelledPicture]:
        """The listed images with their labels; those that cannot be used are reported."""
        found: list[LabelledPicture] = []
        for image in read_list(listed_in, on_fault):
            with reported(on_fault, FaultKind.LABEL, image):
                file = label_path(image, listed_in)
                labels, size = read_labels(file, on_fault), image_size(image)
                K, labelled = self._camera(labels, size)
                if len(labels.classes):  # the camera of a picture of nothing is never asked for
                    _require_camera(self._data.path if labels.camera is None else file, image, K, labelled, size)
                found.append(LabelledPicture(image, file, labels, K, labelled, size))
        if scaled := [picture for picture in found if picture.size != picture.labelled]:
            stated = "{}x{}".format(*scaled[0].labelled)
            self._note(f"the intrinsics of {stated} were scaled to {len(scaled)} images of another size")
        return found

    def _camera(self, labels: Labels, size: Size) -> tuple[Array, Size]:
        """Intrinsics of a picture, and the size of picture they are for."""
        if labels.camera is not None:
            return labels.camera
        if self._data.K is not None:
            return self._data.K, self._data.size or size
        if (self._data.size or size) != LINEMOD_SIZE:
            found = "no intrinsics, for pictures of {}x{}".format(*size)
            raise fault(FaultKind.DATA_FILE, self._data.path, "fx", found, "fx, fy, u0, v0 in pixels, width and height")
        self._note("no intrinsics are stated; those of LINEMOD, which the original's code holds, stand in")
        return LINEMOD, LINEMOD_SIZE

    def _measured(self, entry: LabelledObject, on_fault: OnFault) -> Mesh:
        """The mesh in mm; that it and the stated diameter are in metres is seen to."""
        mesh = in_millimetres(load_mesh(entry.mesh, looks=False))
        measured, stated = model_info(mesh)["diameter"] / MILLIMETRES, entry.diameter
        if not SMALLEST <= measured <= LARGEST:
            guess = "millimetres" if measured > LARGEST else "kilometres"
            expected = f"{SMALLEST:g} to {LARGEST:g} metres (is the mesh in {guess}?)"
            on_fault(fault(FaultKind.MODEL_UNITS, entry.mesh, "diameter", f"{measured:.4g}", expected))
        elif stated is None:
            self._note(f"no diameter of {entry.mesh.name} is stated; the mesh measures {measured:.4f} m")
        elif abs(stated / measured - 1) > DIAMETER_TOLERANCE:
            hint = " (millimetres?)" if stated > LARGEST else ""
            expected = f"{measured:.4g} metres, as {entry.mesh.name} measures"
            on_fault(fault(FaultKind.MODEL_UNITS, self._data.path, "diam", f"{stated:g}{hint}", expected))
        return mesh

    def _note(self, text: str) -> None:
        if (note := f"{self._data.path}: {text}") not in self.notes:
            self.notes.append(note)


def in_millimetres(mesh: Mesh) -> Mesh:
    """A mesh of metres in mm."""
    return replace(mesh, vertices=MILLIMETRES * mesh.vertices)


def _require_camera(file: Path, image: Path, K: Array, labelled: Size, size: Size) -> None:
    """That intrinsics can be those of an image: the proportions agree, and its middle is about the principal point."""
    expected = f"those of pictures like {image.name}, {size[0]}x{size[1]}"
    if abs(labelled[0] * size[1] - labelled[1] * size[0]) > max(labelled[0], labelled[1]):
        raise fault(FaultKind.CAMERA, file, "width, height", "{}x{}".format(*labelled), expected)
    aside = np.abs(K[:2, 2] / labelled - 0.5)
    if aside.max() > MIDDLE:
        found = f"{K[0, 2]:g}, {K[1, 2]:g}"
        raise fault(
            FaultKind.CAMERA, file, "u0, v0", found, f"about the middle of {labelled[0]}x{labelled[1]}: {expected}"
        )


def _classes(data: DataFile, pictures: Sequence[LabelledPicture], on_fault: OnFault) -> dict[int, LabelledObject]:
    """What the .data file says of each class in the labels."""
    counts = Counter(label for picture in pictures for label in picture.labels.classes.tolist())
    known = {label: entry for label, entry in data.objects.items() if label is not None}
    if not known and data.objects:
        label = counts.most_common(1)[0][0] if counts else 0
        known = {label: data.objects[None]}
    if unknown := {label: count for label, count in sorted(counts.items()) if label not in known}:
        found = ", ".join(f"{label} ({count} labels)" for label, count in unknown.items())
        on_fault(
            fault(FaultKind.UNKNOWN_OBJECT, data.path, "class", found, f"{sorted(known)}, of which it names a mesh")
        )
    return known


def _scenes(pictures: Sequence[LabelledPicture], posed: Sequence[PosedLabel]) -> list[Scene]:
    """The pictures of each folder as a scene, numbered by the folder's name or by their order."""
    labels: dict[Path, list[PosedLabel]] = {}
    for label in posed:
        labels.setdefault(label.picture.path, []).append(label)
    folders: dict[Path, list[LabelledPicture]] = {}
    for picture in pictures:
        folders.setdefault(picture.path.parent, []).append(picture)
    numbers = _numbers([folder.parent.name for folder in folders])
    return [_scene(n, folder, folders[folder], labels) for n, folder in zip(numbers, folders, strict=True)]


def _scene(
    number: int, folder: Path, pictures: Sequence[LabelledPicture], labels: Mapping[Path, Sequence[PosedLabel]]
) -> LabelScene:
    numbers = _numbers([picture.path.stem for picture in pictures])
    numbered = dict(sorted(zip(numbers, pictures, strict=True), key=lambda pair: pair[0]))
    rows = [(im_id, label) for im_id, picture in numbered.items() for label in labels.get(picture.path, ())]
    files = {path.name: path for path in sorted((folder.parent / "mask").glob("*"))}
    masks = {(im_id, label.row): _mask(files, label) for im_id, label in rows}
    return LabelScene(
        scene_id=number,
        folder=folder.parent,
        image_folder=folder.name,
        image_names={im_id: picture.path.name for im_id, picture in numbered.items()},
        depth_names={},
        has_mask=False,
        has_mask_visib=False,
        listed=frozenset(numbered),
        camera_rows={im_id: row for row, im_id in enumerate(numbered)},
        K=np.array([picture.camera for picture in numbered.values()]).reshape(-1, 3, 3),
        depth_scales=np.ones(len(numbered)),
        annotations=_annotations(rows),
        annotated=frozenset(numbered),
        masks={place: path for place, path in masks.items() if path is not None},
    )


def _annotations(rows: Sequence[tuple[int, PosedLabel]]) -> Annotations:
    """A row an instance, ordered by image."""
    count = len(rows)
    ids = np.array([(im_id, label.row, label.obj_id) for im_id, label in rows], dtype=np.int64).reshape(-1, 3)
    R, t = (np.array([getattr(label, name) for _, label in rows]) for name in ("R", "t"))
    unknown = np.full((count, 4), np.nan)
    return Annotations(
        *(ids[:, 0], ids[:, 1], ids[:, 2], R.reshape(-1, 3, 3), t.reshape(-1, 3)),
        *(unknown, unknown, np.full(count, np.nan), np.ones(count)),
    )


def _mask(files: Mapping[str, Path], label: PosedLabel) -> Path | None:
    """The mask of one line of labels, or that of the whole picture where it has no other line.

    The original's names lack the first two zeros: ``mask/0024.png`` is that of ``000024.jpg``.
    """
    stem = label.picture.path.stem
    names = [f"{stem}_{label.row:06d}.png"]
    if len(label.picture.labels.classes) == 1:
        names += [f"{stem.removeprefix('00')}.png", f"{stem}.png"]
    return next((files[name] for name in names if name in files), None)


def _numbers(names: Iterable[str]) -> list[int]:
    """The numbers that names are, or else their places from 1 on."""
    names = list(names)
    if all(name.isdecimal() and len(name) < 10 for name in names) and len({int(name) for name in names}) == len(names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))
