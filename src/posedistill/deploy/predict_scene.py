"""``posedistill predict`` with a model of a scene: a table and a picture of where cameras stand. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from posedistill.data.images import write_image
from posedistill.deploy.predict import Found, Presenter, named_poses
from posedistill.deploy.trajectory import draw_trajectory
from posedistill.runtime.predictor import Predictor


class ScenePresenter(Presenter):
    """Where each photograph was taken."""

    of: ClassVar[str] = "a scene"
    writes: ClassVar[str] = "poses.csv and trajectory.png"

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self.unit = predictor.decoder.unit

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``poses.csv``, which names photographs as given, and ``trajectory.png``."""
        table = named_poses(found)
        table.to_csv(out / "poses.csv")
        write_image(out / "trajectory.png", draw_trajectory(table.R, table.centers, self.unit))

    def in_words(self, found: Found) -> list[str]:
        """Position and viewing direction in the scene."""
        (pose,) = found.poses
        place, ahead = (_numbers(values) for values in (pose.center, pose.direction))
        return [f"{found.path.as_posix()}: at ({place}) {self.unit}, looking along ({ahead})"]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value + 0.0:.2f}" for value in values.round(2))
