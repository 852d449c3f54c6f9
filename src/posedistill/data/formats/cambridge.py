"""Reader of Cambridge Landmarks (Kendall et al., ICCV 2015): ``dataset_train.txt`` with camera centres and quaternions.

After three header lines, a line is the image's path, the centre of the camera in the world (m), and the quaternion
(w, x, y, z) of the rotation from the world to the camera.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.scene import CameraDataset, CameraFrame, natural_order
from posedistill.data.formats.scene_parse import (
    FARTHEST,
    OneSize,
    Split,
    images_in,
    numbers,
    posix,
    rotation_from_quaternion,
)
from posedistill.errors import DataError, describe
from posedistill.files import kept, read_text
from posedistill.geometry.cameras import Array

SPLIT_FILES = {"train": "dataset_train.txt", "test": "dataset_test.txt"}
RECONSTRUCTION = "reconstruction.nvm"
HEADER_LINES = 3
WIDTH = 1920
"""Of the images the reconstruction was made from; smaller copies have a smaller focal length."""
FOCAL = 744 / 854
"""Focal length over the width where no reconstruction tells it, the usual assumption."""


def read_cambridge(
    root: str | Path, split: Split = "train", K: Array | None = None, on_fault: OnFault = raise_fault
) -> CameraDataset:
    """Read one scene.

    Quaternions that are not of norm 1 are normalised. Positions farther than a kilometre from the origin are outliers
    of the reconstruction and left out. Both are counted in the data set's ``notes``, and so are images beside those
    of the lists that neither list names.

    Args:
        root: folder with ``dataset_train.txt``, ``dataset_test.txt`` and ``seqN/frameNNNNN.png``.
        K: ``[3, 3]`` for the images as they are. Default: the focal length of each image in ``reconstruction.nvm``
            where the folder has one, else 744 of 854 widths; the principal point in the middle.
        on_fault: called at a fault of a frame, which is then left out; raises by default.

    Raises:
        DataError: no such split file or header; an invalid pose; a pose without image; images of several sizes;
            most positions beyond a kilometre (millimetres).
    """
    root, size_of = Path(root), OneSize()
    cameras = _cameras(root / RECONSTRUCTION) if K is None else {}
    mended: Counter[str] = Counter()
    frames: list[CameraFrame] = []
    total = 0
    for part in ("train", "test") if split == "all" else (split,):
        file = root / SPLIT_FILES[part]
        for number, line in enumerate(_lines(file), HEADER_LINES + 1):
            total += 1
            key = f"line {number}"
            with reported(on_fault):
                name, *words = line.rsplit(maxsplit=7)
                if len(words) != 7:
                    found = f"{len(words)} numbers after {name!r}"
                    raise fault(FaultKind.POSE, file, key, found, "7 (X Y Z W P Q R)")
                center, quaternion = np.split(numbers(words, file, key), [3])
                if np.abs(center).max() > FARTHEST:
                    mended["positions beyond 1 km left out"] += 1
                    continue
                R, off = rotation_from_quaternion(quaternion, file, key)
                mended["quaternions normalised"] += off
                image = root / name
                width, height = size_of(image)
                camera = np.asarray(K) if K is not None else _camera(cameras.get(_stem(name)), width, height)
                frames.append(CameraFrame(image, Path(name).parent.as_posix(), camera, width, height, R, -R @ center))
    if 2 * (beyond := mended["positions beyond 1 km left out"]) > total:
        raise DataError(describe(root, f"split {split}", f"{beyond} of {total} positions beyond 1 km", "metres"))
    frames.sort(key=lambda frame: natural_order(frame.image.as_posix()))
    notes = [f"{count} {what}" for what, count in mended.items() if count]
    if bent := [radial for _, radial in cameras.values() if radial]:
        notes.append(f"{RECONSTRUCTION} states a radial distortion of {len(bent)} images, which is not taken out")
    if unlisted := _unlisted(root):
        first = unlisted[0]
        notes.append(f"{len(unlisted)} images that neither list names (first: {first.parent.name}/{first.name})")
    return CameraDataset(root, split, tuple(frames), tuple(notes))


def _unlisted(root: Path) -> list[Path]:
    """Images in the folders of sequences that neither list names; none is known where a list is missing or damaged.

    The splits share folders, so either list alone would make the other's images look forgotten.
    """
    try:
        lines = [line for name in SPLIT_FILES.values() for line in _lines(root / name)]
    except DataError:
        return []
    named = {root / line.rsplit(maxsplit=7)[0] for line in lines}
    return sorted(images_in({image.parent for image in named}) - named)


@kept
def _lines(file: Path) -> list[str]:
    """The lines of poses; a list without its header would lose three frames unseen."""
    lines = read_text(file, "a list of images and poses").split("\n")
    if len(lines) < HEADER_LINES or lines[2].strip():
        found = repr("\n".join(lines[:HEADER_LINES]))[:120]
        raise DataError(describe(file, "header", found, "two lines of header and an empty one"))
    return [posix(line) for line in lines[HEADER_LINES:] if line.strip()]


def _camera(stated: tuple[float, float] | None, width: int, height: int) -> Array:
    """The camera of an image, its focal length given for ``WIDTH`` pixels."""
    scaled = width * (FOCAL if stated is None else stated[0] / WIDTH)
    return np.array([[scaled, 0.0, (width - 1) / 2], [0.0, scaled, (height - 1) / 2], [0.0, 0.0, 1.0]])


def _stem(name: str) -> str:
    """The reconstruction names jpg files, the lists png."""
    return re.sub(r"\.\w+$", "", Path(posix(name)).as_posix())


@kept
def _cameras(path: Path) -> dict[str, tuple[float, float]]:
    """Focal length (pixels) and radial distortion of each image of a VisualSFM reconstruction; empty without one.

    The file begins with ``NVM_V3`` and the number of cameras; a line of each follows: name, focal length, quaternion,
    centre, radial distortion.
    """
    if not path.exists():
        return {}
    lines = [line for line in read_text(path, "a VisualSFM reconstruction").split("\n") if line.strip()]
    if not lines or not lines[0].startswith("NVM_V3"):
        raise DataError(describe(path, "header", repr(lines[0][:40]) if lines else "an empty file", "NVM_V3"))
    count = int(numbers(lines[1].split()[:1], path, "number of cameras")[0]) if len(lines) > 1 else 0
    entries = [line.split() for line in lines[2 : 2 + max(count, 0)]]
    if len(entries) < count or any(len(words) < 2 for words in entries):
        raise DataError(describe(path, "cameras", f"{len(entries)} whole lines", f"{count}"))
    cameras = {}
    for name, focal, *words in entries:
        values = numbers([focal, *words[7:8]], path, name).tolist()
        if values[0] <= 0:
            raise DataError(describe(path, name, values[0], "a focal length above 0 px"))
        cameras[_stem(name)] = (values[0], values[1] if len(values) > 1 else 0.0)
    return cameras
