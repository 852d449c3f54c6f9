import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.errors import CheckpointError, DataError
from posedistill.geometry.cameras import crop_cameras
from posedistill.geometry.rotations import angle_between
from posedistill.runtime.crops import cut, scan_boxes
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.model_file import PROPERTY
from posedistill.runtime.predictor import Predictor, Request


def replay(scene, metadata=None) -> Predictor:
    """A predictor whose network answers as the scene's does, without ONNX."""

    def run(crops, classes):
        rows = len(crops)
        return np.repeat(scene.logits[None], rows, axis=0), np.repeat(scene.votes[None], rows, axis=0)

    return Predictor(run, metadata or scene.metadata)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(angle_between(a, b)))


class TestPredict:
    def test_finds_the_pose_from_the_file_alone(self, scene, model_file):
        predictor = Predictor.from_onnx(model_file, threads=1)
        (pose,) = predictor.predict(scene.image, scene.K, scene.box[None], [6])
        assert degrees(pose.R, scene.R) < 0.02
        np.testing.assert_allclose(pose.t, scene.t, atol=0.2)
        assert pose.obj_id == 6 and 0.9 < pose.score <= 1 and pose.seconds > 0
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
        predictor.run = lambda crops, classes: calls.append(classes.tolist()) or inner(crops, classes)
        requests = [
            Request(scene.image, scene.K, np.tile(scene.box, (n, 1)), [6, 9, 6, 9, 6][:n]) for n in (3, 0, 5, 1)
        ]
        results = list(predictor.predict_many(requests))
        assert [[pose.obj_id for pose in poses] for poses in results] == [[6, 9, 6], [], [6, 9, 6, 9, 6], [6]]
        assert [len(call) for call in calls] == [4, 4, 1] and calls[0] == [0, 1, 0, 0]
        assert all(degrees(pose.R, scene.R) < 0.02 for poses in results for pose in poses)

    def test_no_box_no_pose(self, scene):
        assert replay(scene).predict(scene.image, scene.K, np.empty((0, 4)), []) == []

    def test_unrecognised_box_is_none_in_place(self, scene):
        silent = ModelMetadata(**{**vars(scene.metadata), "decode_settings": {"always_answer": False}})
        predictor = replay(scene, silent)
        prepared = predictor.prepare(scene.image, scene.K, np.stack([scene.box, scene.box]), [6, 9])
        logits, votes = predictor.run_network(prepared.crops, prepared.classes)
        logits[0] = -9.0
        first, second = predictor.decode_outputs((logits, votes), prepared)
        assert first is None and second is not None and second.obj_id == 9

    @given(x=st.floats(-15, 600), y=st.floats(-15, 440), w=st.floats(20, 400), h=st.floats(20, 400))
    @settings(max_examples=30, deadline=None)
    def test_pose_does_not_depend_on_the_box(self, x, y, w, h):
        """The same votes read through any crop camera come back as the pose that made them."""
        from posedistill.geometry.cameras import project
        from posedistill.geometry.objects import ObjectTable, box_corners

        corners = box_corners(np.full(3, -40.0), np.array([40.0, 50.0, 60.0]))
        K = np.array([[600.0, 1.5, 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]])
        table = ObjectTable((1,), corners[None], np.array([150.0]), (np.eye(4)[None],))
        metadata = ModelMetadata("wdrnet", table, 64, (8,))
        center, side = np.array([[x + w / 2, y + h / 2]]), np.array([1.5 * max(w, h)])
        R, t = np.eye(3)[:, [1, 2, 0]], np.array([x + w / 2 - 320, y + h / 2 - 240, 600.0])
        camera = crop_cameras(K[None], center, side, 64)
        votes = project(corners, camera.rotation[0] @ R, camera.rotation[0] @ t, camera.K[0])
        answer = np.full((1, 64), 4.0, np.float32), np.broadcast_to(votes.astype(np.float32), (1, 64, 8, 2))
        predictor = Predictor(lambda crops, classes: answer, metadata)
        image = np.zeros((480, 640, 3), np.uint8)
        (pose,) = predictor.predict(image, K, np.array([[x, y, w, h]]), [1])
        assert degrees(pose.R, R) < 0.05 and np.linalg.norm(pose.t - t) < 1.0


class TestPrepare:
    def test_crop_is_normalised_rgb_and_centred(self, scene):
        image = np.zeros((100, 200, 3), np.uint8)
        image[30:50, 60:90] = (255, 128, 0)
        predictor = replay(scene)
        prepared = predictor.prepare(image, scene.K, np.array([[60.0, 30.0, 30.0, 20.0]]), [9])
        assert prepared.crops.shape == (1, 3, 64, 64) and prepared.crops.dtype == np.float32
        assert prepared.crops.flags.c_contiguous and prepared.classes.tolist() == [1]
        mean, std = np.array(scene.metadata.mean), np.array(scene.metadata.std)
        expected = (np.array([1.0, 128 / 255, 0.0]) - mean) / std
        np.testing.assert_allclose(prepared.crops[0, :, 32, 32], expected, atol=1e-5)

    def test_outside_the_image_is_the_mean_colour(self, scene):
        image = np.full((50, 50, 3), 255, np.uint8)
        prepared = replay(scene).prepare(image, scene.K, np.array([[-40.0, -40.0, 50.0, 50.0]]), [6])
        assert np.abs(prepared.crops[0, :, 0, 0]).max() < 0.01
        assert prepared.crops[0, :, 63, 63].min() > 1

    def test_large_photographs_do_not_alias(self):
        stripes = np.zeros((640, 640, 3), np.uint8)
        stripes[:, ::2] = 255
        crop = crop_cameras(np.eye(3)[None], np.array([[320.0, 320.0]]), np.array([512.0]), 64)
        assert np.ptp(cut(stripes, crop.homography[0], 64)) <= 1

    @pytest.mark.parametrize("side", [1e4, 1e9])
    def test_a_box_far_larger_than_the_image_is_cut(self, scene, side):
        image = np.full((90, 120, 3), 255, np.uint8)
        prepared = replay(scene).prepare(image, scene.K, np.array([[-side / 2, -side / 2, side, side]]), [6])
        assert np.isfinite(prepared.crops).all() and np.abs(prepared.crops[0, :, 0, 0]).max() < 0.01

    @pytest.mark.parametrize("side", [50.0, 128.0, 200.0, 350.0])
    def test_cutting_reads_no_more_than_the_crop_shows(self, side):
        """The same picture in a larger one gives the same crop: the part that is read is chosen rightly."""
        image = np.random.default_rng(0).integers(0, 256, (480, 720, 3), dtype=np.uint8)
        crop = crop_cameras(np.eye(3)[None], np.array([[411.3, 205.8]]), np.array([side]), 64, 0.3).homography[0]
        factor = max(int(side / 64), 1)
        whole = cv2.resize(image, (720 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
        to_whole = np.diag([factor, factor, 1.0])
        to_whole[:2, 2] = (factor - 1) / 2
        expected = cv2.warpAffine(whole, (crop @ to_whole)[:2], (64, 64), flags=cv2.INTER_LINEAR)
        assert np.abs(cut(image, crop, 64).astype(int) - expected).max() <= 1

    def test_shrinking_keeps_places(self):
        """A blob lands where the homography sends its centre, averaged down first or not."""
        image = np.zeros((600, 800, 3), np.uint8)
        image[280:321, 380:421] = 200
        for side in (96.0, 300.0, 590.0):
            crop = crop_cameras(np.eye(3)[None], np.array([[410.0, 290.0]]), np.array([side]), 64)
            seen = cut(image, crop.homography[0], 64)[..., 0].astype(float)
            rows, columns = np.indices(seen.shape)
            place = np.array([(columns * seen).sum(), (rows * seen).sum()]) / seen.sum()
            expected = (crop.homography[0] @ [400.0, 300.0, 1.0])[:2]
            np.testing.assert_allclose(place, expected, atol=0.15)


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

    def test_unknown_decoder_or_option(self, scene):
        for change in ({"decoder": "zebra"}, {"decode_settings": {"no_such_option": 1}}):
            with pytest.raises(CheckpointError, match="'decoder': found"):
                replay(scene, ModelMetadata(**{**vars(scene.metadata), **change}))


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.onnx: 'file': found nothing"):
            Predictor.from_onnx(tmp_path / "none.onnx")

    def test_damaged(self, model_file: Path):
        model_file.write_bytes(model_file.read_bytes()[:-200])
        with pytest.raises(CheckpointError, match=r"model\.onnx: 'model'"):
            Predictor.from_onnx(model_file)

    def test_no_onnx_at_all(self, tmp_path):
        (tmp_path / "x.onnx").write_text("hello")
        with pytest.raises(CheckpointError, match="expected a readable ONNX model"):
            Predictor.from_onnx(tmp_path / "x.onnx")

    def test_foreign(self, scene, tmp_path, writer):
        writer(tmp_path / "foreign.onnx", scene, {"author": "somebody"})
        with pytest.raises(CheckpointError, match="expected a model written by posedistill export"):
            Predictor.from_onnx(tmp_path / "foreign.onnx")

    def test_metadata_of_another_graph(self, scene, tmp_path, writer):
        writer(tmp_path / "mixed.onnx", scene, {PROPERTY: scene.metadata.to_json()}, size=96)
        with pytest.raises(CheckpointError, match=r"an input 'images' \[batch, 3, 64, 64\]"):
            Predictor.from_onnx(tmp_path / "mixed.onnx")
        values = json.loads(scene.metadata.to_json())
        writer(tmp_path / "cells.onnx", scene, {PROPERTY: json.dumps({**values, "strides": [8]})})
        predictor = Predictor.from_onnx(tmp_path / "cells.onnx")
        with pytest.raises(CheckpointError, match="network output: 'logits': found shape"):
            predictor.predict(scene.image, scene.K, scene.box[None], [6])


class TestLocate:
    def test_scan_covers_every_pixel(self):
        for width, height in ((640, 480), (480, 640), (300, 300), (1000, 200)):
            boxes = scan_boxes(width, height, pad=1.5)
            assert (boxes[:, 2] == boxes[:, 3]).all()
            for level in sorted(set(boxes[:, 2])):
                seen = np.zeros((height, width), bool)
                for x, y, w, h in boxes[boxes[:, 2] == level]:
                    grow = 0.25 * w
                    seen[round(y - grow) : round(y + h + grow), round(x - grow) : round(x + w + grow)] = True
                assert seen.mean() > 0.98

    def test_finds_a_bright_square_without_a_box(self, scene):
        """A network that is sure where the crop is bright and votes for the bright region's place and size."""
        image = np.zeros((480, 640, 3), np.uint8)
        image[200:280, 400:480] = 255
        predictor = replay(scene)
        corners = scene.metadata.objects.keypoints[0]
        flat = corners[:, :2] / np.ptp(corners[:, 1])

        def run(crops, classes):
            logits = np.full((len(crops), len(predictor.cells)), -8.0, np.float32)
            votes = np.zeros((len(crops), len(predictor.cells), 8, 2), np.float32)
            for row, crop in enumerate(crops[:, 0] > 0.5):
                ys, xs = np.nonzero(crop)
                if len(ys) < 20 or min(ys.min(), xs.min()) == 0 or max(ys.max(), xs.max()) == 63:
                    continue
                fill = (np.ptp(ys) + 1) / 64
                logits[row] = 4 - 8 * abs(fill - 0.6)
                depth = 1 + 0.1 * corners[:, 2:] / np.ptp(corners[:, 1])
                votes[row] = np.array([xs.mean(), ys.mean()]) + flat * 64 * fill / depth
            return logits, votes

        predictor.run = run
        pose = predictor.locate(image, scene.K, 6)
        assert pose is not None and pose.seconds > 0
        x, y, w, h = pose.box
        assert abs(x + w / 2 - 440) < 12 and abs(y + h / 2 - 240) < 12 and 60 < max(w, h) < 140

    def test_nothing_above_the_threshold(self, scene):
        scene.logits[:] = -7
        assert replay(scene).locate(scene.image, scene.K, 6, threshold=0.1) is None
