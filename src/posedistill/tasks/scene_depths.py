"""How far things are in the photographs of a scene, by a network that knows the scene's points."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.scene import CameraFrame
from posedistill.data.packs.novel_views import Depths
from posedistill.decode.scene_coordinates import REFERENCE_SIDE, THRESHOLD, SceneCoordinatesDecoder
from posedistill.deploy.estimate import FrameQuery
from posedistill.errors import DataError, RecipeError, describe
from posedistill.geometry.cameras import Array, Calibration, cell_centers, scaled_camera
from posedistill.geometry.novel_view import smoothed
from posedistill.runtime.predictor import Predictor

LEAST_SHARE = 0.02
"""Of a photograph's cells, that must agree with its pose; of photographs of other places hardly any do."""
NEAREST = 5.0
"""How many times as near as the middle of what a photograph shows anything in it may be."""


class SceneDepths:
    """Inverse depths by the points of an exported network of scene coordinates, seen from a photograph's own pose.

    Cells whose point is not where its pixel looks (10 px of 640) count nothing; they take the depths of those about
    them.

    Raises:
        RecipeError: a file of another family, or whose points belong to another camera's poses.
    """

    def __init__(self, file: Path, calibration: Calibration) -> None:
        self.predictor = Predictor.from_onnx(file)
        decoder = self.predictor.decoder
        if not isinstance(decoder, SceneCoordinatesDecoder):
            expected = "a file of scene_coordinates, of the same scene"
            raise RecipeError(describe(file, "data.novel_views.points", f"a file of {decoder.family}", expected))
        if decoder.calibration != calibration:
            found = f"points for poses of calibration {decoder.calibration}, and data.calibration {calibration}"
            raise RecipeError(describe(file, "data.novel_views.points", found, f"calibration {decoder.calibration}"))
        self.decoder = decoder

    def __call__(self, frame: CameraFrame) -> Depths | None:
        """Of one photograph; None where hardly a point agrees with its pose, or the network does not take it."""
        query = FrameQuery(frame.image, K=frame.K, distortion=frame.distortion)
        try:
            prepared = self.decoder.prepare(query.request())
        except DataError:  # of another aspect than the network's
            return None
        outputs, K = self.predictor.outputs_of([prepared])[0], prepared.K[0]
        points = outputs["points"][0].reshape(3, -1).T.astype(np.float64) @ frame.R.T + frame.t
        weights = np.where(self._agree(points, K), outputs["confidence"][0].ravel(), 0.0)
        if (weights > 0).mean() < LEAST_SHARE:
            return None
        inverse = np.where(weights > 0, 1.0 / np.where(weights > 0, points[:, 2], 1.0), 0.0)
        inverse = np.minimum(inverse, NEAREST * np.median(inverse[weights > 0]))
        grid, stride = self.decoder.grid, self.decoder.stride
        cells = scaled_camera(K, (stride, stride), (1, 1))
        return Depths(smoothed(inverse.reshape(grid), weights.reshape(grid).astype(np.float64)), cells)

    def _agree(self, points: Array, K: Array) -> NDArray[np.bool_]:
        """``[h * w]`` whether points in the camera's frame lie where their cells look."""
        ahead = points[:, 2] > 0
        pixels = np.where(ahead[:, None], points, 1.0) @ K.T
        errors = np.linalg.norm(
            pixels[:, :2] / pixels[:, 2:] - cell_centers(*self.decoder.grid, self.decoder.stride), axis=1
        )
        return ahead & (errors < THRESHOLD * max(self.decoder.shape) / REFERENCE_SIDE)
