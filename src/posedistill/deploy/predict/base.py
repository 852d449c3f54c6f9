"""What ``posedistill predict`` does: pictures in, poses, overlays and a table of them out. Imports no torch."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from posedistill.data.images import write_image
from posedistill.decode.base import Pose
from posedistill.decode.photograph import LENSES
from posedistill.deploy.estimate import FrameQuery, table_of
from posedistill.deploy.predict.pictures import Film, Source, open_sources
from posedistill.errors import DataError, PoseDistillError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor


@dataclass(frozen=True)
class Found:
    """The poses in one photograph; ``image_id`` is its (scene, image) of a BOP path, else (0, position)."""

    path: Path
    image_id: tuple[int, int]
    poses: list[Pose]


class Presenter(ABC):
    """How photographs are looked at, and what is made of their poses, by the task of the model."""

    of: ClassVar[str]
    """What its models know, in words."""
    writes: ClassVar[str]
    """The files that ``finish`` and ``picture`` leave, in words."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @classmethod
    def from_options(cls, predictor: Predictor, options: Mapping[str, Any]) -> Self:
        """For a loaded model, by the options of the command line, which are about objects.

        Raises:
            PoseDistillError: some are given for a model of something else, or cannot be read.
        """
        if given := [option for option, value in options.items() if value]:
            raise PoseDistillError(f"{', '.join(given)}: found a model of {cls.of}, expected one of objects")
        return cls(predictor)

    def check(self, images: Sequence[Path]) -> None:  # noqa: B027 - most have nothing to check
        """``DataError`` where these photographs cannot be meant."""

    def straight(self, image: Image) -> Image:
        """The photograph without the lens, where that is known: what poses are found in and drawn over."""
        return image

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """The poses in a photograph: by default that of the whole."""
        return self.predictor.predict(image)

    def follow(self, frames: bool) -> None:  # noqa: B027 - most look at each picture by itself
        """Whether the next pictures follow one another, as the frames of a video."""

    def picture(self, image: Image, poses: Sequence[Pose]) -> Image | None:
        """The photograph with its poses drawn in, if they can be."""
        return None

    @abstractmethod
    def finish(self, found: Sequence[Found], out: Path) -> None:
        """Write the table of all poses."""

    @abstractmethod
    def in_words(self, found: Found) -> list[str]:
        """A line for each pose, or one that says that there is none."""

    def as_json(self, found: Found) -> dict[str, Any]:
        """The same in plain values: lengths in the model's unit, null for what it does not tell."""
        return {"image": found.path.as_posix(), "poses": [self.pose_as_json(pose) for pose in found.poses]}

    def pose_as_json(self, pose: Pose) -> dict[str, Any]:
        """One pose in plain values."""
        score, t = (None if np.isnan(np.sum(value)) else np.asarray(value).tolist() for value in (pose.score, pose.t))
        return {"label": pose.label, "score": score, "R": pose.R.tolist(), "t": t, "seconds": pose.seconds}


def named_poses(found: Sequence[Found]) -> Poses:
    """One table, which names photographs as given."""
    return table_of((FrameQuery(entry.path, name=entry.path.as_posix()), entry.poses) for entry in found)


def predict_images(
    presenter: Presenter,
    images: Sequence[str | Path],
    out: Path | None = None,
    limit: int | None = None,
    tell: Callable[[Found], None] = lambda _: None,
    track: bool | None = None,
) -> list[Found]:
    """Poses in pictures; with ``out``, a folder made where absent, also overlays and a table of them.

    Args:
        images: see ``open_sources``; overlays of photographs are pictures, those of a video are a video.
        limit: frames of a video or camera at most. tell: called with what was found in each picture, as it is found.
        track: whether pictures follow one another; None: those of videos and cameras do.

    Raises:
        DataError: a picture cannot be read or looked at. What was found before is written.
    """
    sources = open_sources(images, limit)
    presenter.check([path for source in sources for path in source.paths])
    found: list[Found] = []
    try:
        for source in sources:
            presenter.follow(source.rate > 0 if track is None else track)
            _look_at(presenter, source, out, found, tell)
    finally:  # an unreadable image or an interrupt loses no pose found before
        if out is not None and found:
            presenter.finish(found, out)
            write_file(out / "images.csv", _names(found))
    return found


def _look_at(
    presenter: Presenter, source: Source, out: Path | None, found: list[Found], tell: Callable[[Found], None]
) -> None:
    """Add what is in the pictures of a source, and write its overlays."""
    names = iter(unique_names(source.paths))
    film = Film(out / f"{Path(source.name).stem}.mp4", source.rate) if out is not None and source.rate else None
    with nullcontext() if film is None else closing(film):
        for path, image in source.frames():
            position = len(found)
            image_id = image_id_of(path, position)
            try:
                image = presenter.straight(image)
                poses = presenter.poses(image, path, image_id)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            found.append(Found(path, image_id, poses))
            picture = None if out is None else presenter.picture(image, poses)
            if picture is not None and out is not None:
                write_image(out / f"{next(names)}.png", picture) if film is None else film.add(picture)
            tell(found[-1])


def _names(found: Sequence[Found]) -> str:
    """Which picture has which ids in a BOP csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("scene_id", "im_id", "image"), *((*entry.image_id, entry.path.as_posix()) for entry in found)])
    return text.getvalue()


def image_id_of(path: Path, position: int) -> tuple[int, int]:
    """(scene_id, im_id) of a BOP image path, else (0, position).

    >>> image_id_of(Path("lm/test/000006/rgb/000123.png"), 0), image_id_of(Path("holiday.jpg"), 7)
    ((6, 123), (0, 7))
    """
    scene = path.parent.parent.name
    if path.parent.name in ("rgb", "gray") and scene.isdigit() and path.stem.isdigit():
        return int(scene), int(path.stem)
    return 0, position


def unique_names(images: Sequence[Path]) -> list[str]:
    """A file name for each image's picture; images of the same name in several folders get a number.

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


def parse_camera(text: str) -> tuple[Array | None, tuple[float, ...]]:
    """``fx,fy,cx,cy`` and, behind them, the lens in OpenCV's order, if any; None for the ``[3, 3]`` of an empty text.

    >>> K, lens = parse_camera("570,573,325,242,-0.1,0.02")
    >>> K[0].tolist(), lens
    ([570.0, 0.0, 325.0], (-0.1, 0.02))
    """
    if not text:
        return None, ()
    try:
        fx, fy, cx, cy, *lens = (float(number) for number in text.split(","))
        if len(lens) not in LENSES or not np.isfinite([fx, fy, cx, cy, *lens]).all() or min(fx, fy) <= 0:
            raise ValueError
    except ValueError:
        expected = "fx,fy,cx,cy in pixels, and the lens behind them if known: k1,k2,p1,p2,k3"
        raise DataError(describe("--camera", "camera", repr(text), expected)) from None
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), tuple(lens)
