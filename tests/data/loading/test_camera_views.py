import numpy as np
import pytest
from pydantic import ValidationError
from tests.data.room import pinhole

from posedistill.data.loading.camera_views import ViewSettings, plan_views
from posedistill.geometry.cameras import Camera, project
from posedistill.geometry.rotations import angle_between, is_rotation
from posedistill.geometry.warp import warp

SHAPE = (40, 48)


@pytest.fixture
def frame(made_room):
    """A camera with an odd principal point and unequal focal lengths, its pose and its picture."""
    K = np.array([[70.0, 0.0, 50.0], [0.0, 66.0, 36.5], [0.0, 0.0, 1.0]])
    camera, walk = Camera(K, 114, 76), made_room.record(pinhole(4, 4), 5, 0)
    R, t = walk.R[3], walk.t[3]
    return camera, R, t, made_room.picture(camera, R, t)


def views(frame, settings, chance, shape=SHAPE):
    camera = frame[0]
    count = len(chance)
    sizes = np.tile([camera.height, camera.width], (count, 1))
    return plan_views(np.tile(camera.K, (count, 1, 1)), sizes, shape, settings, np.asarray(chance, dtype=float))


@pytest.mark.parametrize("crops", ["turned", "shifted"])
@pytest.mark.parametrize("chance", [(0.1, 0.2, 0.5), (0.9, 0.5, 0.1), (0.4, 0.8, 0.9)])
def test_a_view_is_what_its_camera_sees(frame, made_room, crops, chance):
    """The warped photograph equals the picture that the room gives to the view's camera at the view's pose."""
    _, R, t, picture = frame
    view = views(frame, ViewSettings(crops=crops, roll=12.0), [chance])
    warped = warp([picture], view.maps, np.empty((1, *SHAPE, 3), np.uint8))[0]
    turn = view.rotation[0]
    seen = made_room.picture(Camera(view.K[0], SHAPE[1], SHAPE[0]), turn @ R, turn @ t)
    inside = (warped != (124, 116, 104)).any(axis=2)
    difference = np.abs(warped.astype(int) - seen).mean(axis=2)[inside]
    assert inside.mean() > 0.85
    assert np.median(difference) < 3
    stray = np.abs(np.roll(warped, 3, axis=1).astype(int) - seen).mean(axis=2)[inside]
    assert difference.mean() < 0.6 * stray.mean()


@pytest.mark.parametrize("crops", ["turned", "shifted"])
def test_points_project_to_where_the_homography_moves_them(frame, crops):
    camera, R, t, _ = frame
    points = -R.T @ t + np.random.default_rng(0).uniform(-1, 1, (50, 3)) + 3 * R[2]
    view = views(frame, ViewSettings(crops=crops, roll=30.0), np.random.default_rng(1).random((8, 3)))
    old = np.concatenate([project(points, R, t, camera.K), np.ones((50, 1))], axis=1)
    moved = np.einsum("bij,nj->bni", np.linalg.inv(view.maps), old)
    new = project(points, view.rotation @ R, view.rotation @ t, view.K)
    np.testing.assert_allclose(moved[..., :2] / moved[..., 2:], new, atol=1e-8)


def test_turned_views_are_of_one_camera_at_one_place(frame):
    camera, R, t, _ = frame
    view = views(frame, ViewSettings(), np.random.default_rng(0).random((20, 3)))
    np.testing.assert_array_equal(view.K, np.broadcast_to(view.K[0], view.K.shape))
    assert is_rotation(view.rotation, 1e-9).all()
    centers = -np.einsum("bji,bj->bi", view.rotation @ R, view.rotation @ t)
    np.testing.assert_allclose(centers, np.tile(-R.T @ t, (20, 1)), atol=1e-9)
    room = np.rad2deg(np.arctan((camera.width - SHAPE[1]) / 2 / camera.K[0, 0]))
    turned = np.rad2deg(angle_between(view.rotation, np.eye(3)))
    assert 5 < turned.max() < room + 15


def test_shifted_views_move_the_principal_point_by_whole_pixels(frame):
    camera = frame[0]
    view = views(frame, ViewSettings.published(), np.random.default_rng(0).random((200, 3)))
    np.testing.assert_array_equal(view.rotation, np.broadcast_to(np.eye(3), view.rotation.shape))
    corners = camera.K[:2, 2] - view.K[:, :2, 2]
    np.testing.assert_array_equal(corners, np.rint(corners))
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [114 - 48, 76 - 40]


def test_reach_keeps_crops_to_the_middle(frame):
    view = views(frame, ViewSettings.published().model_copy(update={"reach": 0.25}), [(0, 0, 0), (0.999, 0.999, 0)])
    corners = frame[0].K[:2, 2] - view.K[:, :2, 2]
    np.testing.assert_allclose(corners, [[25, 14], [41, 23]], atol=1)


def test_the_plain_view_is_the_rounded_middle_crop_pixel_by_pixel(frame):
    picture = frame[3]
    view = views(frame, ViewSettings.none(), [(0.1, 0.9, 0.3)])
    out = warp([picture], view.maps, np.empty((1, *SHAPE, 3), np.uint8))[0]
    np.testing.assert_array_equal(out, picture[18 : 18 + 40, 33 : 33 + 48])


def test_beyond_the_frame_is_the_border_colour(frame):
    moved = np.eye(3)
    moved[0, 2] = -10.5
    out = warp([frame[3]], moved[None], np.empty((1, *SHAPE, 3), np.uint8))[0]
    assert (out[:, :10] == (124, 116, 104)).all()
    assert (out[:, 11:] != (124, 116, 104)).any()


def test_settings():
    with pytest.raises(ValidationError, match=r"found blur \+ motion 1.1, expected at most 1"):
        ViewSettings(blur=0.6, motion=0.5)
    with pytest.raises(ValidationError, match="flip"):
        ViewSettings(flip=0.5)
    assert ViewSettings.published().pixels().colour == 0
    pixels = ViewSettings(brightness=0.11, noise_strength=0.02).pixels()
    assert (pixels.brightness, pixels.noise_strength, pixels.occlusion) == (0.11, 0.02, 0)
