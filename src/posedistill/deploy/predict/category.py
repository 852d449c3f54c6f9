"""``posedistill predict`` with a model of categories: how the thing in each picture is turned. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

from posedistill.decode import ViewpointDecoder
from posedistill.deploy.predict.base import Found, Presenter, named_poses
from posedistill.errors import DataError, describe
from posedistill.geometry.viewpoint import rotation_viewpoint


class CategoryPresenter(Presenter):
    """The viewpoint of what fills each picture."""

    of: ClassVar[str] = "categories"
    writes: ClassVar[str] = "poses.csv"

    def check(self, images: Sequence[Path]) -> None:
        """``DataError`` for a teacher, which must be shown a shape beside each picture."""
        if cast(ViewpointDecoder, self.predictor.decoder).looks_at_shapes:
            expected = "one of pictures alone, as the model.onnx of its run is, the distilled student"
            raise DataError(describe("predict", "model", "a teacher that looks at shapes too", expected))

    def finish(self, found: Sequence[Found], out: Path) -> None:
        """``poses.csv``, which names pictures as given; positions are nan."""
        named_poses(found).to_csv(out / "poses.csv")

    def in_words(self, found: Found) -> list[str]:
        """The three angles, and how sure the network is."""
        (pose,) = found.poses
        azimuth, elevation, inplane = rotation_viewpoint(pose.R).round(1) + 0.0
        angles = f"azimuth {azimuth:.1f}, elevation {elevation:.1f}, in-plane rotation {inplane:.1f} degrees"
        return [f"{found.path.as_posix()}: {angles}, score {pose.score:.2f}"]
