"""``posedistill predict`` with a model of a scene: a table and a picture of where cameras stand. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from posedistill.data.images import write_image
from posedistill.decode.base import Pose
from posedistill.deploy.estimate import FrameQuery, table_of
from posedistill.deploy.predict import Found, Presenter
from posedistill.deploy.trajectory import draw_trajectory
from posedistill.geometry.draw import Image
from posedistill.runtime.predictor import Predictor


class ScenePresenter(Presenter):
    """Where each photograph was taken."""

    writes: ClassVar[str] = "poses.csv and trajectory.png"

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.unit = predictor, predictor.decoder.unit

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """One pose."""
        return self.predictor.predict(image)

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``poses.csv``, which names photographs as given, and ``trajectory.png``."""
        table = table_of((FrameQuery(entry.path, name=entry.path.as_posix()), entry.poses) for entry in found)
        table.to_csv(out / "poses.csv")
        write_image(out / "trajectory.png", draw_trajectory(table.R, table.centers, self.unit))

    def in_words(self, found: Found) -> list[str]:
        """Position and viewing direction in the scene."""
        (pose,) = found.poses
        place, ahead = (_numbers(values) for values in (pose.center, pose.direction))
        return [f"{found.path.as_posix()}: at ({place}) {self.unit}, looking along ({ahead})"]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value + 0.0:.2f}" for value in values.round(2))
