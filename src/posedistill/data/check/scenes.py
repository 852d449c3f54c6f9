"""What a scene of photographs with camera poses holds, what its readers mended, and what merely looks wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from posedistill.data.check.overlays import SCENE_TILES, draw_scene
from posedistill.data.check.poses import Concern, concerns, extent, recordings, steps
from posedistill.data.check.report import CheckReport, Summary
from posedistill.data.check.walk import Contents, Picture
from posedistill.data.faults import FaultKind, fault, reported
from posedistill.data.formats.open_scene import open_scene, scene_format
from posedistill.data.formats.scene import CameraDataset, natural_order
from posedistill.data.formats.scene_parse import Split
from posedistill.data.formats.seven_scenes import split_folders
from posedistill.errors import DataError, describe


def open_scenes(root: Path, split: str | None, report: CheckReport) -> Contents:
    """Read a split, or train and test; what readers refuse is reported, what they mend or what looks wrong is told."""
    form = scene_format(root)
    splits = _read(root, split, report)
    if not splits or form is None:
        return Contents({}, [], lambda *_: None, tiles=0)
    owners: dict[Path, list[str]] = {}
    for name, dataset in splits.items():
        for frame in dataset:
            owners.setdefault(frame.image, []).append(name)
    frames = {frame.image: frame for dataset in splits.values() for frame in dataset}
    ordered = sorted(frames.values(), key=lambda frame: natural_order(frame.image.as_posix()))
    metric = all(dataset.metric for dataset in splits.values())
    whole = CameraDataset(root, "all", tuple(ordered), metric=metric)
    found = [*_noted(root, splits), *_unused(root, form, split), *concerns(whole, splits, form)]
    report.warnings += [concern.message for concern in found]
    shared = [image for image, names in owners.items() if len(names) > 1]
    for image in shared:
        report.add(fault(FaultKind.DUPLICATE_FRAME, image, "split", " and ".join(owners[image]), "one of them"))
    return Contents(
        {name: _summarise(dataset, form) for name, dataset in splits.items()},
        [Picture(frame.image, frame, tuple(owners[frame.image])) for frame in ordered],
        lambda shown, flagged, path: draw_scene(splits, shown, flagged, path, "m" if metric else ""),
        tiles=SCENE_TILES,
        flagged=[*shared, *(image for concern in found for image in concern.images)],
    )


def _read(root: Path, split: str | None, report: CheckReport) -> dict[str, CameraDataset]:
    """The splits that can be read."""
    if split is not None and split not in get_args(Split):
        raise DataError(describe(root, "split", repr(split), f"one of {', '.join(get_args(Split))}"))
    parts: tuple[Split, ...] = ("train", "test")
    found = {}
    for part in parts if split is None else [one for one in get_args(Split) if one == split]:
        with reported(report.add, FaultKind.SCENE_FILE, root):
            found[part] = open_scene(root, part, report.add)
    return found


def _summarise(dataset: CameraDataset, form: str) -> Summary:
    """Counts, and what the cameras do: the sides of the box around them, the median way from frame to frame."""
    step, sides = steps(dataset), extent(dataset.centers).tolist()
    middle, sequences = dataset.frames[len(dataset) // 2], len(recordings(dataset))
    field_of_view = float(np.degrees(2 * np.arctan(middle.width / 2 / middle.K[0, 0])))
    unit = "m" if dataset.metric else "(the file's own unit)"
    shown = f"cameras within {' x '.join(f'{side:.3g}' for side in sides)} {unit}, {step:.3g} from frame to frame"
    return Summary(
        f"{form}, {sequences} sequence{'s' * (sequences != 1)}",
        len(dataset),
        [f"{shown}, {field_of_view:.0f} degrees of view"],
    )


def _noted(root: Path, splits: dict[str, CameraDataset]) -> Iterator[Concern]:
    """What the readers mended or left out."""
    parts: dict[str, list[str]] = {}
    for name, dataset in splits.items():
        for note in dataset.notes:
            parts.setdefault(note, []).append(name)
    for note, names in parts.items():
        yield Concern(f"{root}: {' and '.join(names)}: {note}")


def _unused(root: Path, form: str, split: str | None) -> Iterator[Concern]:
    """Sequences of 7-Scenes that no split names."""
    if form != "7-Scenes" or split is not None:
        return
    silent = CheckReport(root)  # its faults were reported when the splits were read
    try:
        named = {folder for part in ("train", "test") for folder in split_folders(root, part, silent.add)}
    except DataError:
        return
    unused = [folder.name for folder in split_folders(root, "all", silent.add) if folder not in named]
    if unused:
        expected = "each sequence in TrainSplit.txt or TestSplit.txt"
        yield Concern(describe(root, "split", f"{', '.join(unused)} in neither split", expected))
