import numpy as np
import pytest

from posedistill.decode import Pose
from posedistill.runtime import Predictor, Tracker, track

K = np.array([[570.0, 0.0, 160.0], [0.0, 570.0, 120.0], [0.0, 0.0, 1.0]])
IMAGE = np.zeros((240, 320, 3), np.uint8)


class Scripted(Predictor):
    """Answers in a box with scores in turn, and remembers the boxes."""

    def __init__(self, model_file, scores: list[float]) -> None:
        loaded = Predictor.from_onnx(model_file, threads=1)
        super().__init__(loaded.run, loaded.decoder, record=loaded.record)
        self.scores, self.boxes = scores, []

    def predict(self, image, K=None, boxes=None, labels=()):
        self.boxes.append(boxes)
        return [Pose(np.eye(3), np.array([20.0, 0.0, 900.0]), 6, self.scores.pop(0))]


@pytest.fixture
def searches(monkeypatch):
    made: list[int] = []

    def found(predictor, image, K, obj_id):
        made.append(obj_id)
        return Pose(np.eye(3), np.array([0.0, 0.0, 800.0]), obj_id, 0.9)

    monkeypatch.setattr(track, "search", found)
    return made


def test_the_last_pose_is_the_next_box_until_the_object_is_lost(model_file, searches):
    predictor = Scripted(model_file, [0.8, 0.1, 0.7])
    follow = Tracker(predictor, 0.5)
    poses = [follow(IMAGE, K, 6) for _ in range(4)]
    assert [pose.score for pose in poses] == [0.9, 0.8, 0.9, 0.7]  # searched, followed, lost and searched, followed
    assert searches == [6, 6] and all(len(box) == 1 for box in predictor.boxes)
    centre = predictor.boxes[0][0, :2] + predictor.boxes[0][0, 2:] / 2
    np.testing.assert_allclose(centre, [160, 120], atol=8)
    assert all(pose.seconds > 0 for pose in poses)


def test_nothing_is_followed_that_was_unsure(model_file, searches):
    follow = Tracker(Scripted(model_file, []), 0.95)
    assert [follow(IMAGE, K, 6).score for _ in range(2)] == [0.9, 0.9]
    assert searches == [6, 6]
