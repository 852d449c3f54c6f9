"""What ``posedistill predict`` looks at: photographs, folders, patterns, videos, webcams and streams. No torch."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from posedistill.data.images import AS_JPG, PHONES_OWN, read_image
from posedistill.errors import DataError, describe
from posedistill.geometry.draw.poses import Image

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
PHOTOGRAPHS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
USUAL_RATE = 30.0
"""Frames a second of a camera that does not say."""


@dataclass(frozen=True)
class Source:
    """Pictures that belong together.

    Attributes:
        name: of the source, for files that are made of it.
        paths: of photographs; none of a video.
        rate: frames a second of a video or camera, whose pictures follow one another; 0 of photographs.
        frames: begins to read; every picture has a path, of a frame of a video ``VIDEO/NUMBER``.
    """

    name: str
    paths: Sequence[Path]
    rate: float
    frames: Callable[[], Iterator[tuple[Path, Image]]]


def open_sources(words: Sequence[str | Path], limit: int | None = None) -> list[Source]:
    """What words of the command line stand for, the photographs among them together as one source.

    A word is a photograph, a folder of them, a pattern (``shots/*.jpg``), a video, ``webcam`` or ``webcam:1``, or the
    address of a stream (``rtsp://...``, ``http://...``).

    Args:
        limit: frames of a video or camera at most.

    Raises:
        DataError: an empty folder, a pattern that nothing matches, a video or camera that cannot be opened.
    """
    sources: list[Source] = []
    paths: list[Path] = []
    for word in map(str, words):
        camera = re.fullmatch(r"webcam(?::(\d+))?", word)
        if camera and not Path(word).exists():
            sources.append(_film(int(camera[1] or 0), word.replace(":", ""), limit))
        elif "://" in word:
            sources.append(_film(word, "stream", limit))
        elif Path(word).suffix.lower() in VIDEOS:
            sources.append(_film(word, word, limit))
        else:
            paths += photographs_in(Path(word))
    if paths:
        sources.insert(0, Source("photographs", paths, 0.0, lambda: ((path, read_image(path)) for path in paths)))
    return sources


def photographs_in(path: Path) -> list[Path]:
    """A photograph, those of a folder, or what matches a pattern; a file that is missing is told when it is read."""
    if path.is_dir():
        entries = list(path.iterdir())
        found = [entry for entry in entries if entry.suffix.lower() in PHOTOGRAPHS]
        expected = f"a folder with photographs ({', '.join(sorted(PHOTOGRAPHS))})"
        if own := sum(entry.suffix.lower() in PHONES_OWN for entry in entries):
            print(f"posedistill: {path}: {own} .heic left out, expected {AS_JPG}", file=sys.stderr)
    elif not path.exists() and any(sign in str(path) for sign in "*?["):
        root = Path(path.anchor or ".")
        found = list(root.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        expected = "a pattern that matches photographs"
    else:
        return [path]
    if not found:
        raise DataError(describe(path, "images", "none", expected))
    return sorted(found, key=lambda entry: [int(part) if part.isdigit() else part for part in _parts(entry)])


def _parts(path: Path) -> list[str]:
    """Words and numbers in turn, so that ``shot10`` comes after ``shot9``."""
    return re.split(r"(\d+)", path.as_posix())


def _film(address: str | int, name: str, limit: int | None) -> Source:
    """A video, camera or stream."""
    if isinstance(address, str) and "://" not in address and not Path(address).is_file():
        raise DataError(describe(address, "video", "no such file", "a video, a folder or photographs"))
    film = cv2.VideoCapture(address)
    if not film.isOpened():
        raise DataError(describe(name, "video", "nothing that can be read", "a video, a camera or a stream"))
    rate = film.get(cv2.CAP_PROP_FPS)
    return Source(name, (), rate if 1 <= rate <= 1000 else USUAL_RATE, lambda: islice(_frames(film, name), limit))


def _frames(film: Any, name: str) -> Iterator[tuple[Path, Image]]:
    number = 0
    try:
        while True:
            there, image = film.read()
            if not there:
                break
            yield Path(name) / f"{number:06d}", image[..., ::-1].copy()
            number += 1
    finally:
        film.release()
    if not number:
        raise DataError(describe(name, "frames", "none", "a video of at least one"))


class Film:
    """A video that is written picture by picture, all of the size of the first."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: Any = None

    def add(self, image: Image) -> None:
        """Write the next picture, making the folder before the first."""
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = image.shape[1], image.shape[0]
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
            if not self.writer.isOpened():
                raise DataError(
                    describe(
                        self.path,
                        "video",
                        "a file that cannot be written",
                        "a writable disk, and an OpenCV that has the codec mp4v",
                    )
                )
        self.writer.write(image[..., ::-1])

    def close(self) -> None:
        """End the file, if there is one."""
        if self.writer is not None:
            self.writer.release()
