import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.runtime import Predictor, locate


def test_finds_a_bright_square_without_a_box(scene):
    """A network that is sure where the crop is bright and votes for the bright region's place and size."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:280, 400:480] = 255
    corners = scene.decoder.objects.keypoints[0]
    flat = corners[:, :2] / np.ptp(corners[:, 1])

    def run(inputs):
        crops, cells = inputs["images"], len(scene.decoder.cells)
        logits = np.full((len(crops), cells), -8.0, np.float32)
        votes = np.zeros((len(crops), cells, 8, 2), np.float32)
        for row, crop in enumerate(crops[:, 0] > 0.5):
            ys, xs = np.nonzero(crop)
            if len(ys) < 20 or min(ys.min(), xs.min()) == 0 or max(ys.max(), xs.max()) == 63:
                continue
            fill = (np.ptp(ys) + 1) / 64
            logits[row] = 4 - 8 * abs(fill - 0.6)
            depth = 1 + 0.1 * corners[:, 2:] / np.ptp(corners[:, 1])
            votes[row] = np.array([xs.mean(), ys.mean()]) + flat * 64 * fill / depth
        return {"logits": logits, "votes": votes}

    pose = locate(Predictor(run, scene.decoder), image, scene.K, 6)
    assert pose is not None and pose.seconds > 0
    x, y, w, h = pose.box
    assert abs(x + w / 2 - 440) < 12 and abs(y + h / 2 - 240) < 12 and 60 < max(w, h) < 140


def test_nothing_above_the_threshold(scene):
    unsure = {"logits": np.full_like(scene.logits, -7), "votes": scene.votes}

    def run(inputs):
        return {name: np.repeat(value[None], len(inputs["images"]), axis=0) for name, value in unsure.items()}

    assert locate(Predictor(run, scene.decoder), scene.image, scene.K, 6, threshold=0.1) is None


def test_a_scene_holds_no_objects(camera_model_file, scene):
    with pytest.raises(DataError, match="'family': found posenet, a model of a scene, expected a model of objects"):
        locate(Predictor.from_onnx(camera_model_file, threads=1), scene.image, scene.K, 6)
