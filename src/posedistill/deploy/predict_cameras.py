"""What ``posedistill predict`` does with a model of cameras: photographs in, a table and a picture of poses out.

Imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posedistill.data.images import read_image, write_image
from posedistill.deploy.trajectory import draw_trajectory
from posedistill.errors import DataError
from posedistill.poses import Poses
from posedistill.runtime.camera_predictor import CameraPredictor, PredictedCamera


def predict_cameras(predictor: CameraPredictor, images: Sequence[Path], out: Path | None = None) -> Poses:
    """Where each photograph was taken; with ``out`` also ``out/poses.csv`` and ``out/trajectory.png``.

    Args:
        predictor: the loaded model. images: photographs; the table names them as given.
        out: folder for the results; made where absent.

    Raises:
        DataError: an image cannot be read, or is none that the model can look at. What was found before is written.
    """
    found: list[PredictedCamera] = []
    try:
        for path in images:
            image = read_image(path)
            try:
                found.append(predictor.predict(image))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
    finally:  # an unreadable image or an interrupt loses no pose found before
        table = _table(found, images[: len(found)])
        if out is not None and found:
            out.mkdir(parents=True, exist_ok=True)
            table.to_csv(out / "poses.csv")
            write_image(out / "trajectory.png", draw_trajectory(table.R, table.centers, predictor.metadata.unit))
    return table


def _table(found: Sequence[PredictedCamera], images: Sequence[Path]) -> Poses:
    return Poses.of_cameras(
        name=[path.as_posix() for path in images],
        R=np.array([pose.R for pose in found]).reshape(-1, 3, 3),
        t=np.array([pose.t for pose in found]).reshape(-1, 3),
        seconds=np.array([pose.seconds for pose in found]),
    )


def in_words(table: Poses, unit: str = "m") -> list[str]:
    """A line for each photograph: position and viewing direction in the world.

    >>> one = Poses.of_cameras(np.eye(3)[None], centers=np.array([[1.0, 2.0, 3.0]]), name=["a.jpg"])
    >>> in_words(one)
    ['a.jpg: at (1.00, 2.00, 3.00) m, looking along (0.00, 0.00, 1.00)']
    """
    lines = []
    for name, center, R in zip(table.name, table.centers, table.R, strict=True):
        place, ahead = (", ".join(f"{value + 0.0:.2f}" for value in row.round(2)) for row in (center, R[2]))
        lines.append(f"{name}: at ({place}) {unit}, looking along ({ahead})")
    return lines
