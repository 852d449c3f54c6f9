"""One walk over the pictures of a data set of any format: decoded on all cores, compared with one another."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from posedistill.data.check.report import CheckReport, Summary
from posedistill.data.faults import Fault, FaultKind, fault, reported
from posedistill.data.formats.bop import Frame
from posedistill.data.formats.scene import CameraFrame
from posedistill.data.formats.viewpoint.categories import AnnotatedView
from posedistill.data.images import as_rgb, decode, exif_orientation, significant_bits
from posedistill.errors import describe
from posedistill.machine import cores

Progress = Callable[[int, int], None]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a data set.

    Attributes:
        splits: those that name it. folder: its images have one size; None where each has a camera of its own.
        inspect: what is wrong beside its pixels, given its size (width, height; None where it is not known) and
            whether further files are to be decoded; nothing by default.
    """

    path: Path
    frame: Frame | CameraFrame | AnnotatedView
    splits: tuple[str, ...]
    folder: Path | None = None
    inspect: Callable[[Size | None, bool], list[Fault]] = lambda _size, _decoded: []


@dataclass(frozen=True)
class Contents:
    """What a data set holds: a summary for each split, the pictures, and how to draw some of them into a file.

    ``draw`` is given pictures with the flag of a fault, all paths with a fault, and the file to write.
    """

    summaries: dict[str, Summary]
    pictures: Sequence[Picture]
    draw: Callable[[Sequence[tuple[Picture, bool]], Sequence[Path], Path], None]
    tiles: int
    flagged: Sequence[Path] = ()


@dataclass
class _Look:
    """What was seen of a picture; ``brightest`` is the largest value of a 16-bit image."""

    picture: Picture
    faults: list[Fault] = field(default_factory=list)
    size: Size | None = None
    digest: bytes = b""
    bits: int = 8
    brightest: int = 0
    turned: bool = False


def walk(contents: Contents, report: CheckReport, limit: int | None, progress: Progress | None) -> list[Path]:
    """Look at all pictures, decode all or ``limit`` of them, evenly spread; those with a fault."""
    count, first_seen = len(contents.pictures), dict[bytes, Picture]()
    chosen = set(range(count) if limit is None else np.linspace(0, count - 1, limit).astype(int).tolist())
    looks: list[_Look] = []
    for row, look in enumerate(_looks(contents.pictures, chosen)):
        picture = look.picture
        if look.digest and (first := first_seen.setdefault(look.digest, picture)) is not picture:
            found = f"the pixels of {first.path} ({' and '.join(first.splits)})"
            twin = fault(FaultKind.DUPLICATE_FRAME, picture.path, "image", found, "a picture of its own")
            look.faults.append(twin)
        for found_fault in look.faults:
            report.add(found_fault)
        for name in picture.splits:
            contents.summaries[name].checked += row in chosen
            if look.size is not None:
                contents.summaries[name].sizes["{}x{}".format(*look.size)] += 1
        looks.append(look)
        if progress is not None:
            progress(row + 1, count)
    _check_sizes(looks, report)
    report.warnings += _pixel_warnings(report.root, looks)
    return [look.picture.path for look in looks if look.faults]


def choose(pictures: Sequence[Picture], flagged: Sequence[Path], count: int) -> list[tuple[Picture, bool]]:
    """Up to ``count`` pictures: faulty ones (at most half, if others exist), then others spread over the data set."""
    doubtful = set(flagged)
    faulty = [picture for picture in pictures if picture.path in doubtful]
    clean = [picture for picture in pictures if picture.path not in doubtful]
    faulty = faulty[: max(count // 2, count - len(clean))]
    rows = np.linspace(0, max(len(clean) - 1, 0), min(count - len(faulty), len(clean))).astype(int)
    return [(picture, True) for picture in faulty] + [(clean[row], False) for row in rows]


def _looks(pictures: Sequence[Picture], chosen: set[int]) -> Iterator[_Look]:
    """In order, a bounded number ahead (OpenCV decodes outside of Python's lock)."""
    jobs, workers = iter(enumerate(pictures)), cores()
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(jobs, 16 * workers)):
            yield from pool.map(lambda job: _look(job[1], job[0] in chosen), batch)


def _look(picture: Picture, decoded: bool) -> _Look:
    look, path = _Look(picture), picture.path
    if not path.exists():
        look.faults.append(fault(FaultKind.MISSING_IMAGE, path, "image", "no such file", "the image of a frame"))
    elif decoded:
        with reported(look.faults.append, FaultKind.DAMAGED_IMAGE, path):
            raw = decode(path)
            image = as_rgb(raw, path)
            look.size = (image.shape[1], image.shape[0])
            look.digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            look.turned = exif_orientation(path) > 1
            if raw.dtype == np.uint16:
                look.bits, look.brightest = significant_bits(raw), int(raw.max())
    look.faults += picture.inspect(look.size, decoded)
    return look


def _check_sizes(looks: Sequence[_Look], report: CheckReport) -> None:
    """Report images of another size than most of their folder."""
    sizes: dict[Path, Counter[Size]] = {}
    for look in looks:
        if look.picture.folder is not None and look.size is not None:
            sizes.setdefault(look.picture.folder, Counter())[look.size] += 1
    usual = {folder: counts.most_common(1)[0][0] for folder, counts in sizes.items()}
    for look in looks:
        folder, path = look.picture.folder, look.picture.path
        if folder is not None and look.size is not None and look.size != usual[folder]:
            found, expected = ("{}x{}".format(*size) for size in (look.size, usual[folder]))
            report.add(fault(FaultKind.IMAGE_SIZE, path, "size", found, f"{expected} as the scene's other images"))


def _pixel_warnings(root: Path, looks: Sequence[_Look]) -> Iterator[str]:
    """Pixels that are read, yet perhaps not as they are meant."""
    if turned := [look.picture.path.name for look in looks if look.turned]:
        found = f"{len(turned)} images that viewers turn (first: {turned[0]})"
        yield describe(root, "EXIF orientation", found, "none, for pixels are read as they are stored")
    for bits in (12, 16):
        if wide := [look for look in looks if look.bits == bits]:
            brightest = max(look.brightest for look in wide)
            dark = f", of which none passes {brightest}: they come out dark" * (brightest < 1 << (bits - 1))
            if bits == 12 or dark:
                found = f"{len(wide)} that hold {bits} bits (first: {wide[0].picture.path.name}){dark}"
                yield describe(root, "16-bit images", found, "values up to 65535; those of 12 bits are read as such")
