"""``posedistill predict`` with a model of categories: how the thing in each picture is turned. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from posedistill.decode.base import Pose
from posedistill.deploy.estimate import FrameQuery, table_of
from posedistill.deploy.predict import Found, Presenter
from posedistill.geometry.draw import Image
from posedistill.geometry.viewpoint import rotation_viewpoint
from posedistill.runtime.predictor import Predictor


class CategoryPresenter(Presenter):
    """The viewpoint of what fills each picture."""

    writes: ClassVar[str] = "poses.csv"

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def poses(self, image: Image, path: Path, image_id: tuple[int, int]) -> list[Pose]:
        """One pose, without a position."""
        return self.predictor.predict(image)

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``poses.csv``, which names pictures as given; positions are nan."""
        table_of((FrameQuery(entry.path, name=entry.path.as_posix()), entry.poses) for entry in found).to_csv(
            out / "poses.csv"
        )

    def in_words(self, found: Found) -> list[str]:
        """The three angles, and how sure the network is."""
        (pose,) = found.poses
        azimuth, elevation, inplane = rotation_viewpoint(pose.R).round(1) + 0.0
        angles = f"azimuth {azimuth:.1f}, elevation {elevation:.1f}, in-plane rotation {inplane:.1f} degrees"
        return [f"{found.path.as_posix()}: {angles}, score {pose.score:.2f}"]
