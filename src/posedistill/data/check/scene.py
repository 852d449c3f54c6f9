"""check_scene: reports every fault of a scene of photographs with camera poses, and what merely looks wrong."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from posedistill.data.check.poses import Concern, concerns, extent, recordings, steps_of
from posedistill.data.check.report import CheckReport, Faults, require_some, shown_sizes
from posedistill.data.check.scene_overlay import draw_scene
from posedistill.data.faults import Fault, FaultKind, OnFault
from posedistill.data.formats.open_scene import open_scene, scene_format
from posedistill.data.formats.scene import CameraDataset, CameraFrame, natural_order
from posedistill.data.formats.scene_parse import Split
from posedistill.data.formats.seven_scenes import split_folders
from posedistill.data.images import read_image
from posedistill.errors import DataError, describe
from posedistill.machine import cores

Progress = Callable[[int, int], None]


@dataclass
class CameraSummary:
    """What a split of a scene holds.

    Attributes:
        form: the format. metric: whether its unit is the metre. sequences, frames: counts.
        checked: photographs that were decoded.
        sizes: ``width x height`` -> photographs. extent: sides of the box around the cameras.
        step: median way from frame to frame. field_of_view: horizontal, of the middle frame, degrees.
    """

    form: str
    metric: bool
    sequences: int
    frames: int
    extent: tuple[float, ...]
    step: float
    field_of_view: float
    checked: int = 0
    sizes: Counter[str] = field(default_factory=Counter)

    def lines(self, name: str) -> list[str]:
        """Counts, and what the cameras do."""
        unit = "m" if self.metric else "(the file's own unit)"
        sides = " x ".join(f"{side:.3g}" for side in self.extent)
        counts = f"{self.sequences} sequence{'s' * (self.sequences != 1)}, {self.frames} frames"
        return [
            f"  {name}: {self.form}, {counts} ({self.checked} decoded; {shown_sizes(self.sizes)})",
            f"    cameras within {sides} {unit}, {self.step:.3g} from frame to frame, "
            f"{self.field_of_view:.0f} degrees of view",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain json types."""
        return asdict(self) | {"sizes": dict(self.sizes)}


def check_scene(
    root: str | Path,
    split: str | None = None,
    overlay: str | Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a scene in any of the formats of ``cameras.FORMATS``; faults are collected, and frames with one left out.

    Args:
        split: train, test or all (whatever is there, whether a split names it or not); default: train and test.
        overlay: draw where the cameras stand and look, and some photographs, those with a fault first (png or jpg).
        limit: decode so many photographs alone, spread evenly; all where None.
        progress: called with the number of photographs done and their total.

    Raises:
        DataError: a folder of no known format, another split, a limit below 1, or the overlay cannot be written.
    """
    root, form = Path(root), scene_format(root)
    require_some(root, limit)
    faults, told = Faults(), set[str]()

    def add(found: Fault) -> None:
        if str(found) not in told:  # splits of one file share its faults
            told.add(str(found))
            faults.add(found)

    splits = _read(root, split, add)
    report = CheckReport(root, {}, faults.messages, {})
    if splits:
        assert form is not None  # else there was nothing to read
        whole = _together(root, splits)
        summaries = {name: _summary(dataset, form) for name, dataset in splits.items()}
        found = [*_noted(root, splits), *_unused(root, form, split), *concerns(whole, splits, form)]
        report.splits, report.warnings = summaries, [concern.message for concern in found]
        flagged = _check_photographs(whole, splits, summaries, add, limit, progress)
        if overlay is not None:
            flagged += [image for concern in found for image in concern.images]
            report.overlay = Path(overlay)
            draw_scene(splits, flagged, report.overlay, "m" if whole.metric else "")
    report.counts = dict(faults.counts)
    return report


def _read(root: Path, split: str | None, on_fault: OnFault) -> dict[str, CameraDataset]:
    """The splits that can be read."""
    if split is not None and split not in get_args(Split):
        raise DataError(describe(root, "split", repr(split), f"one of {', '.join(get_args(Split))}"))
    parts: tuple[Split, ...] = ("train", "test")
    found = {}
    for part in parts if split is None else [one for one in get_args(Split) if one == split]:
        try:
            found[part] = open_scene(root, part, on_fault)
        except DataError as error:
            on_fault(Fault(FaultKind.SCENE_FILE, root, str(error)))
    return found


def _together(root: Path, splits: dict[str, CameraDataset]) -> CameraDataset:
    """All frames, each once, in the order of their names."""
    frames = {frame.image: frame for dataset in splits.values() for frame in dataset}
    ordered = sorted(frames.values(), key=lambda frame: natural_order(frame.image.as_posix()))
    return CameraDataset(root, "all", tuple(ordered), metric=all(dataset.metric for dataset in splits.values()))


def _summary(dataset: CameraDataset, form: str) -> CameraSummary:
    steps = [steps_of(frames).moved for frames in recordings(dataset)]
    moved = np.concatenate(steps)
    middle = dataset.frames[len(dataset) // 2]
    return CameraSummary(
        form,
        dataset.metric,
        sequences=len(steps),
        frames=len(dataset),
        extent=tuple(extent(dataset.centers).tolist()),
        step=float(np.median(moved)) if len(moved) else 0.0,
        field_of_view=float(np.degrees(2 * np.arctan(middle.width / 2 / middle.K[0, 0]))),
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

    def passed(found: Fault) -> None:
        """Told already, when the splits were read."""

    try:
        named = {folder for part in ("train", "test") for folder in split_folders(root, part, passed)}
        unused = [folder.name for folder in split_folders(root, "all", passed) if folder not in named]
    except DataError:  # no split file, which is a fault already
        return
    if unused:
        expected = "each sequence in TrainSplit.txt or TestSplit.txt"
        yield Concern(describe(root, "split", f"{', '.join(unused)} in neither split", expected))


def _check_photographs(
    whole: CameraDataset,
    splits: dict[str, CameraDataset],
    summaries: dict[str, CameraSummary],
    on_fault: OnFault,
    limit: int | None,
    progress: Progress | None,
) -> list[Path]:
    """Decode photographs and compare them with one another; those that have a fault."""
    count = len(whole)
    rows = range(count) if limit is None else np.unique(np.linspace(0, count - 1, limit).astype(int)).tolist()
    frames = [whole.frames[row] for row in rows]
    owners: dict[Path, list[str]] = {}
    for name, dataset in splits.items():
        for frame in dataset:
            owners.setdefault(frame.image, []).append(name)
    flagged = []

    def blame(kind: FaultKind, image: Path, message: str) -> None:
        flagged.append(image)
        on_fault(Fault(kind, image, message))

    for image, names in owners.items():
        if len(names) > 1:
            blame(FaultKind.DUPLICATE_FRAME, image, describe(image, "split", " and ".join(names), "one of them"))
    first_seen: dict[bytes, Path] = {}
    for done, (frame, (digest, damage)) in enumerate(zip(frames, _digests(frames), strict=True), 1):
        for name in owners[frame.image]:
            summaries[name].checked += 1
            summaries[name].sizes[f"{frame.width}x{frame.height}"] += digest is not None
        if digest is None:
            blame(FaultKind.DAMAGED_IMAGE, frame.image, damage)
        elif (first := first_seen.setdefault(digest, frame.image)) is not frame.image:
            found = f"the pixels of {first} ({' and '.join(owners[first])})"
            blame(FaultKind.DUPLICATE_FRAME, frame.image, describe(frame.image, "image", found, "a view of its own"))
        if progress is not None:
            progress(done, len(frames))
    return flagged


def _digests(frames: Iterable[CameraFrame]) -> Iterator[tuple[bytes | None, str]]:
    """What tells the pixels of each photograph, in order, or what is wrong with it; on all cores, some ahead."""
    jobs, workers = iter(frames), cores()
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(jobs, 16 * workers)):
            yield from pool.map(_digest, batch)


def _digest(frame: CameraFrame) -> tuple[bytes | None, str]:
    try:
        pixels = read_image(frame.image)
    except DataError as error:
        return None, str(error)
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest(), ""
