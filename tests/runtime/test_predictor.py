from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.decode import PoseNetDecoder, WDRNetDecoder
from posedistill.errors import CheckpointError, DataError
from posedistill.geometry.cameras import crop_cameras, project
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import angle_between, quaternion_to_matrix
from posedistill.runtime import Predictor, Request


def replay(scene, decoder=None) -> Predictor:
    """A predictor whose network answers as the scene's does, without ONNX."""

    def run(inputs):
        rows = len(inputs["images"])
        return {"logits": np.repeat(scene.logits[None], rows, 0), "votes": np.repeat(scene.votes[None], rows, 0)}

    return Predictor(run, decoder or scene.decoder)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(angle_between(a, b)))


class TestPredict:
    def test_finds_the_pose_from_the_file_alone(self, scene, model_file):
        predictor = Predictor.from_onnx(model_file, threads=1)
        (pose,) = predictor.predict(scene.image, scene.K, scene.box[None], [6])
        assert degrees(pose.R, scene.R) < 0.02
        np.testing.assert_allclose(pose.t, scene.t, atol=0.2)
        assert pose.label == 6 and 0.9 < pose.score <= 1 and pose.seconds > 0
        np.testing.assert_allclose(pose.box, scene.box)

    def test_full_camera_with_turned_rows(self, scene):
        """A camera whose skew makes the crop's rotation count is not refused and gives the same pose."""
        K = scene.K.copy()
        K[0, 1] = 3.0
        predictor = replay(scene)
        (pose,) = predictor.predict(scene.image, K, scene.box[None], [6])
        assert degrees(pose.R, scene.R) < 2

    def test_many_boxes_span_batches_and_images(self, scene):
        predictor = replay(scene)
        predictor.batch = 4
        calls = []
        inner = predictor.run
        predictor.run = lambda inputs: calls.append(inputs["classes"].tolist()) or inner(inputs)
        requests = [
            Request(scene.image, scene.K, np.tile(scene.box, (n, 1)), [6, 9, 6, 9, 6][:n]) for n in (3, 0, 5, 1)
        ]
        results = list(predictor.predict_many(requests))
        assert [[pose.label for pose in poses] for poses in results] == [[6, 9, 6], [], [6, 9, 6, 9, 6], [6]]
        assert [len(call) for call in calls] == [4, 4, 1] and calls[0] == [0, 1, 0, 0]
        assert all(degrees(pose.R, scene.R) < 0.02 for poses in results for pose in poses)

    def test_no_box_no_pose(self, scene):
        assert replay(scene).predict(scene.image, scene.K, np.empty((0, 4)), []) == []

    def test_an_unrecognised_box_has_no_pose_and_the_others_keep_their_rows(self, scene):
        decoder = replace(scene.decoder, decoding=replace(scene.decoder.decoding, always_answer=False))
        predictor = replay(scene, decoder)
        request = Request(scene.image, scene.K, np.stack([scene.box, scene.box]), [6, 9], np.array([1.0, 0.5]))
        prepared = decoder.prepare(request)
        (outputs,) = predictor.outputs_of([prepared])
        sure = decoder.decode(outputs, prepared)[0].score
        outputs["logits"][0] = -9.0
        (pose,) = decoder.decode(outputs, prepared)
        assert (pose.row, pose.label) == (1, 9) and pose.score == pytest.approx(0.5 * sure)

    @given(x=st.floats(-15, 600), y=st.floats(-15, 440), w=st.floats(20, 400), h=st.floats(20, 400))
    @settings(max_examples=30)
    def test_pose_does_not_depend_on_the_box(self, x, y, w, h):
        """The same votes read through any crop camera come back as the pose that made them."""
        corners = box_corners(np.full(3, -40.0), np.array([40.0, 50.0, 60.0]))
        K = np.array([[600.0, 1.5, 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]])
        table = ObjectTable((1,), corners[None], np.array([150.0]), (np.eye(4)[None],))
        decoder = WDRNetDecoder(objects=table, crop_size=64, strides=(8,))
        center, side = np.array([[x + w / 2, y + h / 2]]), np.array([1.5 * max(w, h)])
        R, t = np.eye(3)[:, [1, 2, 0]], np.array([x + w / 2 - 320, y + h / 2 - 240, 600.0])
        camera = crop_cameras(K[None], center, side, 64)
        votes = project(corners, camera.rotation[0] @ R, camera.rotation[0] @ t, camera.K[0])
        votes = np.broadcast_to(votes.astype(np.float32), (1, 64, 8, 2))
        predictor = Predictor(lambda _: {"logits": np.full((1, 64), 4.0, np.float32), "votes": votes}, decoder)
        image = np.zeros((480, 640, 3), np.uint8)
        (pose,) = predictor.predict(image, K, np.array([[x, y, w, h]]), [1])
        assert degrees(pose.R, R) < 0.05 and np.linalg.norm(pose.t - t) < 1.0


class TestRefusals:
    @pytest.mark.parametrize(
        ("box", "words"),
        [
            ([10, 10, 0, 20], "area"),
            ([10, 10, 20, -5], "area"),
            ([700, 10, 20, 20], "640 x 480"),
            ([-50, -50, 20, 20], "touching"),
            ([np.nan, 0, 20, 20], r"boxes\[0\]"),
        ],
    )
    def test_box(self, scene, box, words):
        with pytest.raises(DataError, match=words):
            replay(scene).predict(scene.image, scene.K, np.array([box], dtype=float), [6])

    @pytest.mark.parametrize(
        "image",
        [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), "a.png"],
    )
    def test_image(self, scene, image):
        with pytest.raises(DataError, match=r"'image': found .* expected uint8"):
            replay(scene).predict(image, scene.K, scene.box[None], [6])

    @pytest.mark.parametrize(
        "K",
        [np.eye(4), -np.eye(3), np.zeros((3, 3)), np.full((3, 3), np.nan), [[500, 0, 0], [0, 500, 0], [320, 240, 1]]],
    )
    def test_camera(self, scene, K):
        with pytest.raises(DataError, match="'K': found"):
            replay(scene).predict(scene.image, np.asarray(K, dtype=float), scene.box[None], [6])

    def test_unknown_object(self, scene):
        with pytest.raises(DataError, match=r"object 5 is not one of \[6, 9\]"):
            replay(scene).predict(scene.image, scene.K, scene.box[None], [5])

    def test_box_and_id_counts(self, scene):
        with pytest.raises(DataError, match="1 boxes, expected 2"):
            replay(scene).predict(scene.image, scene.K, scene.box[None], [6, 9])

    def test_no_camera(self, scene):
        predictor = replay(scene, replace(scene.decoder, camera=None))
        with pytest.raises(DataError, match="'K': found no camera, and the model has no default one"):
            predictor.predict(scene.image, None, scene.box[None], [6])
        (given,) = replay(scene).predict(scene.image, scene.K, scene.box[None], [6])
        (assumed,) = replay(scene).predict(scene.image, None, scene.box[None], [6])
        np.testing.assert_array_equal(given.t, assumed.t)


class TestScenes:
    Q = np.array([1, 2, 2, 4]) / 5

    @staticmethod
    def plain(colour: tuple[int, int, int], width: int = 100, height: int = 60) -> np.ndarray:
        return np.full((height, width, 3), colour, np.uint8)

    def run(self, inputs):
        """The mean colour is the place."""
        images = inputs["images"]
        return {"position": images.mean(axis=(2, 3)), "rotation": np.repeat(self.Q[None], len(images), axis=0)}

    def test_a_pose(self, posenet_decoder):
        (found,) = Predictor(self.run, posenet_decoder).predict(self.plain((51, 102, 204)))
        np.testing.assert_allclose(found.center, [0.2, 0.4, 0.8], atol=1e-6)
        np.testing.assert_allclose(found.R, quaternion_to_matrix(self.Q), atol=1e-7)
        np.testing.assert_allclose(found.R @ found.center + found.t, 0, atol=1e-6)
        ahead = project(found.center[None] + found.direction, found.R, found.t, np.eye(3))
        np.testing.assert_allclose(ahead, 0, atol=1e-6)
        assert found.seconds > 0 and (found.label, found.row) == (-1, 0) and np.isnan(found.score)

    @pytest.mark.parametrize("batch", [1, 2, 5, 16])
    def test_a_stream_of_photographs(self, posenet_decoder, batch):
        calls = []

        def run(inputs):
            calls.append(len(inputs["images"]))
            return self.run(inputs)

        predictor = Predictor(run, posenet_decoder, batch)
        requests = (Request(self.plain((5 * number, 0, 0), 100 + number)) for number in range(5))
        found = [pose.center[0] for (pose,) in predictor.predict_many(requests)]
        np.testing.assert_allclose(found, np.arange(5) * 5 / 255, atol=1e-6)
        assert calls == [len(range(first, min(first + batch, 5))) for first in range(0, 5, batch)]
        assert list(predictor.predict_many([])) == []

    def test_a_file(self, camera_model_file):
        predictor = Predictor.from_onnx(camera_model_file, threads=1)
        assert isinstance(predictor.decoder, PoseNetDecoder) and predictor.decoder.task == "scene"
        (found,) = predictor.predict(self.plain((51, 102, 204)))
        np.testing.assert_allclose(found.center, [0.2, 0.4, 0.8], atol=1e-5)

    def test_networks_that_do_not_fit(self, posenet_decoder):
        def flat(inputs):
            count = len(inputs["images"])
            return {"position": np.zeros((count, 2)), "rotation": np.zeros((count, 4))}

        with pytest.raises(CheckpointError, match=r"'position': found shape \(1, 2\), expected \(1, 3\)"):
            Predictor(flat, posenet_decoder).predict(self.plain((0, 0, 0)))
