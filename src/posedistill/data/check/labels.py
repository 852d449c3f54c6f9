"""What folders of 21-number labels hold, and what is wrong with them."""

from functools import partial
from pathlib import Path

from posedistill.data.check.frame import check_frame
from posedistill.data.check.models import CheckedModel
from posedistill.data.check.objects import summarise
from posedistill.data.check.overlays import SHEET_TILES, draw_objects
from posedistill.data.check.report import CheckReport, Summary
from posedistill.data.check.walk import Contents, Picture
from posedistill.data.faults import FaultKind, fault, reported
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.formats.labels.files import read_data_file
from posedistill.geometry.meshes import hull_corners, model_info


def open_labels(path: Path, split: str | None, report: CheckReport) -> Contents:
    """Read a split of a .data file, or all; faults are reported, what was measured or assumed is told."""
    names = [split] if split is not None else list(read_data_file(path, report.add).lists)
    sets: dict[str, LabelDataset] = {}
    for name in names:
        with reported(report.add, FaultKind.DATA_FILE, path):
            sets[name] = LabelDataset(path, name, on_fault=report.add)
    report.warnings += list(dict.fromkeys(note for dataset in sets.values() for note in dataset.notes))
    owner = {obj_id: dataset for dataset in sets.values() for obj_id in dataset.models_info}
    models = {obj_id: _checked(dataset, obj_id) for obj_id, dataset in owner.items()}
    owners: dict[Path, list[str]] = {}
    for name, dataset in sets.items():
        for frame in dataset.frames:
            owners.setdefault(frame.rgb, []).append(name)
    for image, splits in owners.items():
        if "train" in splits and len(splits) > 1:
            report.add(fault(FaultKind.DUPLICATE_FRAME, image, "split", " and ".join(splits), "one of them"))
    frames = {frame.rgb: frame for dataset in sets.values() for frame in dataset.frames}
    pictures = [
        Picture(image, frame, tuple(owners[image]), frame.scene.folder, partial(check_frame, frame, models))
        for image, frame in frames.items()
    ]
    summaries: dict[str, Summary] = {name: summarise(dataset.scenes) for name, dataset in sets.items()}
    return Contents(summaries, pictures, lambda shown, _, out: draw_objects(shown, models, out), tiles=SHEET_TILES)


def _checked(dataset: LabelDataset, obj_id: int) -> CheckedModel:
    mesh = dataset.mesh(obj_id, looks=False)
    return CheckedModel(mesh, hull_corners(mesh.vertices), model_info(mesh)["diameter"])
