"""Points of a scene -> the pose of the camera that saw them."""

from dataclasses import replace

import numpy as np
import pytest
from tests.data.room import Room, pinhole, walk

from posedistill.decode import PoseNetDecoder, Prepared, Request, SceneCoordinatesDecoder
from posedistill.decode.base import RecordFault
from posedistill.decode.scene_coordinates import CELLS
from posedistill.errors import DataError
from posedistill.geometry.cameras import Camera, cell_centers, project
from posedistill.geometry.rotations import angle_between

CAMERA = pinhole(320, 240)
DECODER = SceneCoordinatesDecoder(shape=(240, 320), short_side=240, camera=CAMERA)
R, T = walk(8, seed=0)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """``[8, 3, 30, 40]``: what eight cameras see of the room, as a perfect network would say it."""
    room, pixels = Room(), cell_centers(30, 40, 8)
    seen = [room.points(pixels, CAMERA.K, *pose).T.reshape(3, 30, 40) for pose in zip(R, T, strict=True)]
    return np.stack(seen)


def prepared(count: int = 8, K: np.ndarray = CAMERA.K) -> Prepared:
    return Prepared.of_pictures({"images": np.zeros((count, 3, 240, 320), np.float32)}, np.tile(K, (count, 1, 1)))


def sure(count: int = 8) -> np.ndarray:
    return np.full((count, 1, 30, 40), 0.9)


def test_perfect_points_give_the_pose(points):
    poses = DECODER.decode({"points": points, "confidence": sure()}, prepared())
    assert [pose.row for pose in poses] == list(range(8))
    for pose, rotation, t in zip(poses, R, T, strict=True):
        assert np.abs(pose.t - t).max() < 1e-6 and angle_between(pose.R, rotation) < 1e-6
        assert pose.score > 0.999


def test_wrong_points_count_as_little_as_they_are_sure(points):
    """Half of all cells are metres off: the sure ones are taken, and RANSAC sorts out those that are wrongly sure."""
    rng, broken = np.random.default_rng(0), points.copy()
    wrong = rng.random((8, 30, 40)) < 0.5
    broken += np.where(wrong[:, None], rng.normal(size=broken.shape), 0.005 * rng.normal(size=broken.shape))
    confidence = np.where(wrong, rng.uniform(0.0, 0.6, wrong.shape), rng.uniform(0.4, 1.0, wrong.shape))[:, None]
    poses = DECODER.decode({"points": broken, "confidence": confidence}, prepared())
    assert len(poses) == 8
    errors = [np.linalg.norm(pose.center + rotation.T @ t) for pose, rotation, t in zip(poses, R, T, strict=True)]
    assert max(errors) < 0.02
    seen = DECODER.explain({"points": broken, "confidence": confidence}, prepared())
    assert CELLS < len(seen.points) <= 1200 and 0.4 < seen.inliers.mean() < 0.6


def test_too_few_sure_cells_are_no_pose(points):
    confidence = np.zeros((8, 1, 30, 40))
    confidence[0, 0, 0, :3] = 0.9
    confidence[1, 0, ::7, ::7] = 0.9
    outputs = {"points": points, "confidence": confidence}
    assert [pose.row for pose in DECODER.decode(outputs, prepared())] == [1]
    assert DECODER.explain(outputs, prepared()).pose is None
    nothing = np.full_like(points, np.nan)
    assert DECODER.decode({"points": nothing, "confidence": sure()}, prepared()) == []


def test_a_handful_of_sure_cells_agrees_with_some_pose_and_proves_nothing():
    """Six cells of 1,200 that show points at random: a pose fits them, and its share is of all cells."""
    rng, confidence = np.random.default_rng(0), np.zeros((1, 1, 30, 40))
    confidence[0, 0, 10:12, 5:8] = 0.9
    points = rng.uniform(-1.0, 1.0, (1, 3, 30, 40)) + np.array([0.0, 0.0, 3.0])[None, :, None, None]
    pose = DECODER.explain({"points": points, "confidence": confidence}, prepared()).pose
    assert pose is not None and pose.score <= 6 / 1200


def test_a_curve_makes_a_probability_of_the_share_of_inliers(points):
    outputs = {"points": points, "confidence": sure()}
    told = replace(DECODER, score_curve=(10.0, -5.0)).decode(outputs, prepared())[0].score
    assert told == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-3)


def test_each_photograph_may_have_a_camera_of_its_own():
    """The camera that is handed on sees the pixels of the picture, whatever lens and size the photograph had."""
    K = np.array([[500.0, 0, 330], [0, 510.0, 250], [0, 0, 1]])
    image = np.zeros((480, 640, 3), np.uint8)
    image[100:104, 200:204] = 255
    seen = DECODER.prepare(Request(image, K, distortion=()))
    ray = np.linalg.inv(K) @ [201.5, 101.5, 1.0]
    place = project(ray[None], np.eye(3), np.zeros(3), seen.K[0])[0]
    bright = np.argwhere(seen.inputs["images"][0, 0] == seen.inputs["images"][0, 0].max())[:, ::-1]
    np.testing.assert_allclose(place, bright.mean(axis=0), atol=0.51)
    bent = DECODER.prepare(Request(image, K, distortion=(-0.1, 0.01, 0.0, 0.0)))
    assert not np.allclose(bent.K, seen.K)
    assert np.abs(DECODER.prepare(Request(image[::2, ::2].copy())).K[0] - CAMERA.K).max() < 1e-9


def test_photographs_without_a_known_camera_are_refused():
    with pytest.raises(DataError, match=r"'K': found no intrinsics.*the model knows no camera"):
        replace(DECODER, camera=None).prepare(Request(np.zeros((240, 320, 3), np.uint8)))
    with pytest.raises(DataError, match=r"found 240x320, expected the aspect of 320x240.*or K of the photograph"):
        DECODER.prepare(Request(np.zeros((320, 240, 3), np.uint8)))
    with pytest.raises(DataError, match=r"found 200x180, scaled to 267x240, expected 320x240 at least"):
        DECODER.prepare(Request(np.zeros((180, 200, 3), np.uint8), CAMERA.K))


@pytest.mark.parametrize("K", [np.full((3, 3), np.nan), np.zeros((3, 3)), np.eye(4)])
def test_cameras_that_cannot_be_are_refused(K):
    with pytest.raises(DataError, match=r"'K': found .*, expected a finite 3x3 matrix, focal lengths above 0"):
        DECODER.prepare(Request(np.zeros((240, 320, 3), np.uint8), K))


def test_records():
    known = replace(DECODER, calibration="colour", score_curve=(3.0, -1.0), metric=False)
    section, tables = known.record()
    again = SceneCoordinatesDecoder.from_record(section, tables)
    assert (again.stride, again.calibration, again.score_curve, again.unit) == (8, "colour", (3.0, -1.0), "units")
    np.testing.assert_array_equal(again.camera.K, CAMERA.K)
    for key, value in {"stride": 0, "calibration": "infrared", "score_curve": [1.0]}.items():
        with pytest.raises(RecordFault, match=f"'{key}'"):
            SceneCoordinatesDecoder.from_record(section | {key: value}, tables)


def test_files_written_before_there_was_a_calibration_hold_recorded_poses():
    section, tables = PoseNetDecoder(shape=(32, 32), short_side=32).record()
    del section["calibration"]
    assert PoseNetDecoder.from_record(section, tables).calibration == "depth"


def test_what_bench_decodes_has_a_pose():
    decoder = replace(DECODER, camera=Camera(CAMERA.K, 320, 240))
    entry = decoder.prepare(decoder.example()[0])
    (pose,) = decoder.decode(decoder.stand_in(entry), entry)
    assert np.linalg.norm(pose.center) < 0.01 and 0.4 < pose.score < 0.8


def test_a_pose_searched_with_some_cells_is_refined_on_all(points):
    rng = np.random.default_rng(1)
    noisy = points + 0.02 * rng.normal(size=points.shape)
    errors = {}
    for name, confidence in {"all": sure(), "some": np.where(rng.random((8, 1, 30, 40)) < 0.2, 0.9, 0.0)}.items():
        poses = DECODER.decode({"points": noisy, "confidence": confidence}, prepared())
        pairs = zip(poses, R, T, strict=True)
        errors[name] = np.mean([np.linalg.norm(pose.center + rotation.T @ t) for pose, rotation, t in pairs])
    assert errors["all"] < 0.75 * errors["some"]
