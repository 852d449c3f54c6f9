"""What ``posedistill predict`` does: photographs in, poses, pictures and a table of them out. Imports no torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from posedistill.data.images import read_image, write_image
from posedistill.decode.base import Pose
from posedistill.deploy.estimate import FrameQuery, table_of
from posedistill.errors import DataError, PoseDistillError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import Image
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

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """The poses in a photograph: by default that of the whole."""
        return self.predictor.predict(image)

    def picture(self, image: Image, poses: Sequence[Pose]) -> Image | None:
        """The photograph with its poses drawn in, if they can be."""
        return None

    @abstractmethod
    def finish(self, found: Sequence[Found], out: Path) -> None:
        """Write the table of all poses."""

    @abstractmethod
    def in_words(self, found: Found) -> list[str]:
        """A line for each pose."""


def named_poses(found: Sequence[Found]) -> Poses:
    """One table, which names photographs as given."""
    return table_of((FrameQuery(entry.path, name=entry.path.as_posix()), entry.poses) for entry in found)


def predict_images(presenter: Presenter, images: Sequence[Path], out: Path | None = None) -> list[Found]:
    """Poses in photographs; with ``out``, a folder made where absent, also pictures and a table of them.

    Raises:
        DataError: a photograph cannot be read or looked at. What was found before is written.
    """
    presenter.check(images)
    found: list[Found] = []
    try:
        for position, (path, name) in enumerate(zip(images, unique_names(images), strict=True)):
            image, image_id = read_image(path), image_id_of(path, position)
            try:
                poses = presenter.poses(image, path, image_id)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            found.append(Found(path, image_id, poses))
            picture = None if out is None else presenter.picture(image, poses)
            if picture is not None and out is not None:
                write_image(out / f"{name}.png", picture)
    finally:  # an unreadable image or an interrupt loses no pose found before
        if out is not None and found:
            presenter.finish(found, out)
    return found


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


def parse_camera(text: str) -> Array | None:
    """``fx,fy,cx,cy`` -> ``[3, 3]`` intrinsics; None for an empty text.

    >>> parse_camera("570,573,325,242")[0].tolist()
    [570.0, 0.0, 325.0]
    """
    if not text:
        return None
    try:
        fx, fy, cx, cy = (float(number) for number in text.split(","))
    except ValueError:
        raise DataError(describe("--camera", "camera", repr(text), "fx,fy,cx,cy in pixels")) from None
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
