"""``posedistill predict`` with a model of a scene: a table and a picture of where cameras stand. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from posedistill.data.images import write_image
from posedistill.decode.base import Pose, Request
from posedistill.deploy.predict.base import Found, Presenter, named_poses, parse_camera
from posedistill.deploy.predict.trajectory import draw_trajectory
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.runtime.predictor import Predictor

UNLIKELY = 0.1
"""Of poses whose score is a probability, those below it are not reported unless asked for."""


class ScenePresenter(Presenter):
    """Where each photograph was taken.

    Args:
        K: ``[3, 3]`` of the camera that took all photographs, and ``lens`` in OpenCV's order; None takes the one that
            the model knows.
        threshold: poses of a lower score are not reported; None takes ``UNLIKELY`` where scores are probabilities.
    """

    of: ClassVar[str] = "a scene"
    writes: ClassVar[str] = "poses.csv and trajectory.png"

    def __init__(
        self,
        predictor: Predictor,
        K: Array | None = None,
        threshold: float | None = None,
        lens: tuple[float, ...] = (),
    ) -> None:
        super().__init__(predictor)
        self.unit, self.K, self.lens = predictor.decoder.unit, K, lens
        likely = UNLIKELY if getattr(predictor.decoder, "score_curve", ()) else 0.0
        self.threshold = likely if threshold is None else threshold

    @classmethod
    def from_options(cls, predictor: Predictor, options: Mapping[str, Any]) -> Self:
        """By ``--camera`` and ``--threshold``, where the model makes something of them."""
        own: Mapping[str, Any] = {}
        if getattr(predictor.decoder, "needs_camera", False):
            own = {name: options[name] for name in ("--camera", "--threshold")}
        super().from_options(predictor, {name: value for name, value in options.items() if name not in own})
        K, lens = parse_camera(own.get("--camera", ""))
        return cls(predictor, K, own.get("--threshold"), lens)

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """The pose of the camera, if the place is recognised."""
        lens = None if self.K is None else self.lens
        (found,) = self.predictor.predict_many([Request(image, self.K, distortion=lens)])
        return [pose for pose in found if not pose.score < self.threshold]

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``poses.csv``, which names photographs as given, and ``trajectory.png``."""
        table = named_poses(found)
        table.to_csv(out / "poses.csv")
        write_image(
            out / "trajectory.png", draw_trajectory(table.R, table.centers, self.unit, self.predictor.record.places)
        )

    def in_words(self, found: Found) -> list[str]:
        """Position and viewing direction in the scene, and how likely they are where the model tells."""
        if not found.poses:
            return [f"{found.path.as_posix()}: not recognised: too little of the picture looks like the scene"]
        (pose,) = found.poses
        place, ahead = (_numbers(values) for values in (pose.center, pose.direction))
        sure = "" if np.isnan(pose.score) else f", score {pose.score:.2f}"
        return [f"{found.path.as_posix()}: at ({place}) {self.unit}, looking along ({ahead}){sure}"]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value + 0.0:.2f}" for value in values.round(2))
