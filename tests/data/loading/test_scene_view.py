import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.data.room import pinhole

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.pixels import MEAN, STD
from posedistill.data.loading.scene_view import SceneView, ViewSettings, place_views
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.pack import mean_image
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.errors import DataError, RecipeError
from posedistill.geometry.cameras import Camera, project
from posedistill.geometry.rotations import angle_between, is_rotation
from posedistill.geometry.warp import warp

SHAPE = (40, 48)


@pytest.fixture(scope="module")
def pack(_scene_templates, tmp_path_factory):
    dataset = open_scene(_scene_templates / "seven_scenes")
    return build_pack(SceneFrames(dataset, 60), tmp_path_factory.mktemp("pack") / "pack")


VARIED = ViewSettings()


def loader(pack, settings=VARIED, size=48, batch_size=5, seed=3, indices=None, mean_image=None, **options):
    view = SceneView(pack, settings, size, indices, mean_image)
    return Loader(view, batch_size, seed, **{"device": "cpu", "threads": 1} | options)


def pictures(batch):
    """Uint8 ``[B, H, W, 3]`` of normalised images."""
    x = batch.images.permute(0, 2, 3, 1).numpy() * np.array(STD) + np.array(MEAN)
    return np.rint(255 * x).clip(0, 255).astype(np.uint8)


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "K", "R", "t", "ids"))


def test_a_batch(pack):
    batch = loader(pack).batch(0)
    assert batch.images.shape == (5, 3, 48, 48)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert [getattr(batch, name).shape for name in "KRt"] == [(5, 3, 3), (5, 3, 3), (5, 3)]
    assert {getattr(batch, name).dtype for name in ("images", "K", "R", "t")} == {torch.float32}
    assert batch.ids.dtype == torch.int64
    centers = -np.einsum("nji,nj->ni", pack.instances.R, pack.instances.t)
    np.testing.assert_allclose(batch.camera_centers(), centers[batch.ids], atol=1e-5)


def test_pictures_are_what_their_cameras_see(pack, made_room):
    """Rendered from the batch's own K, R and t, the room looks as in the batch."""
    unchanged = dict.fromkeys(("colour", "gamma", "blur", "motion", "noise"), 0.0)
    batch = loader(pack, ViewSettings(roll=8.0, **unchanged)).batch(1)
    for row, picture in enumerate(pictures(batch)):
        K, R, t = (getattr(batch, name)[row].double().numpy() for name in "KRt")
        seen = made_room.picture(Camera(K, 48, 48), R, t)
        inside = np.abs(picture.astype(int) - (124, 116, 104)).max(axis=2) > 2
        difference = np.abs(picture.astype(int) - seen).mean(axis=2)[inside]
        assert inside.mean() > 0.8
        assert np.median(difference) < 6
        stray = np.abs(np.roll(picture, 4, axis=1).astype(int) - seen).mean(axis=2)[inside]
        assert difference.mean() < 0.6 * stray.mean()


def test_a_batch_follows_from_seed_and_step_alone(pack):
    first = loader(pack)
    expected = [first.batch(step) for step in range(4)]
    again = loader(pack)
    assert same(again.batch(3), expected[3])
    assert all(same(ours, theirs) for ours, theirs in zip(again.prefetch(1, 4), expected[1:], strict=True))
    assert not same(loader(pack, seed=4).batch(0), expected[0])
    assert not torch.equal(expected[0].images, expected[1].images)


def test_every_frame_once_an_epoch(pack):
    batches = [loader(pack, batch_size=4).batch(step) for step in range(3)]
    assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == list(range(12))


def test_processes_share_the_global_batch(pack):
    whole = loader(pack, batch_size=6).batch(2)
    parts = [loader(pack, batch_size=6, rank=rank, world_size=3).batch(2) for rank in range(3)]
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
    torch.testing.assert_close(torch.cat([part.images for part in parts]), whole.images, atol=1e-5, rtol=0)
    with pytest.raises(RecipeError, match="'batch_size': found 5, expected a multiple of 2"):
        loader(pack, world_size=2)


def test_without_augmentation_middle_crops_come_in_order(pack):
    plain = loader(pack, augment=False, indices=np.array([7, 2, 9]), batch_size=2)
    assert (len(plain), plain.steps) == (3, 2)
    batches = [plain.batch(0), plain.batch(1)]
    assert [batch.ids.tolist() for batch in batches] == [[7, 2], [9]]
    height, width = pack.sizes[7]
    top, left = (height - 48) // 2, int(np.floor((width - 48) / 2 + 0.5))
    np.testing.assert_array_equal(pictures(batches[0])[0], pack.frames[7, top : top + 48, left : left + 48, :3])
    np.testing.assert_allclose(batches[0].R, pack.instances.R[[7, 2]], atol=1e-6)
    np.testing.assert_allclose(batches[0].K[0, :2, 2], pack.K[7, :2, 2] - [left, top], rtol=1e-6)
    with pytest.raises(IndexError):
        plain.batch(2)


def test_whole_frames_and_oblong_crops(pack):
    height, width = pack.sizes[0]
    whole = loader(pack, size=None, augment=False).batch(0)
    assert whole.images.shape[2:] == (height, width)
    np.testing.assert_array_equal(pictures(whole)[1], pack.frames[1, ..., :3])
    assert loader(pack, size=(40, 64)).batch(0).images.shape == (5, 3, 40, 64)


def test_changes_of_pixels_leave_the_geometry(pack):
    strong = ViewSettings(colour=1.0, gamma=1.0, blur=0.5, motion=0.5, noise=1.0)
    weak = ViewSettings(**dict.fromkeys(("colour", "gamma", "blur", "motion", "noise"), 0.0))
    first, second = loader(pack, strong).batch(0), loader(pack, weak).batch(0)
    assert torch.equal(first.R, second.R)
    assert torch.equal(first.ids, second.ids)
    assert (first.images - second.images).abs().mean() > 0.05
    assert torch.isfinite(first.images).all()


def test_the_published_preprocessing(pack):
    mean = mean_image(pack, np.arange(12))
    batch = loader(pack, ViewSettings.published(), mean_image=mean).batch(0)
    for row, number in enumerate(batch.ids.tolist()):
        left, top = (pack.K[number, :2, 2] - batch.K[row, :2, 2].double().numpy()).round().astype(int)
        area = slice(top, top + 48), slice(left, left + 48)
        expected = pack.frames[number][area][..., :3].astype(np.float32) - mean[area]
        np.testing.assert_allclose(batch.images[row].permute(1, 2, 0), expected, atol=1e-3)
    with pytest.raises(DataError, match=r"'shape': found \[8, 8, 3\], expected \[60, 107, 3\]"):
        loader(pack, mean_image=np.zeros((8, 8, 3), np.float32))


def test_what_cannot_be_cut_is_refused(pack):
    with pytest.raises(DataError, match=r"frame-000000.color.png: 'scaled size': found 60x107, expected 64x64"):
        loader(pack, size=64)
    with pytest.raises(RecipeError, match="'data': found no frame"):
        loader(pack, indices=np.array([], dtype=np.int64))


def test_faults_of_the_background_thread_are_raised(pack):
    plain = loader(pack, augment=False, batch_size=12)
    batches = plain.prefetch(0, 2)
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_pictures_on_an_accelerator(pack):
    host = loader(pack).batch(2)
    device = loader(pack, device="cuda").batch(2)
    torch.testing.assert_close(device.images.cpu(), host.images, atol=1e-3, rtol=0)
    assert torch.equal(device.R.cpu(), host.R)


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
    return place_views(np.tile(camera.K, (count, 1, 1)), sizes, shape, settings, np.asarray(chance, dtype=float))


@pytest.mark.parametrize("crops", ["turned", "shifted"])
@pytest.mark.parametrize("chance", [(0.1, 0.2, 0.5), (0.9, 0.5, 0.1), (0.4, 0.8, 0.9)])
def test_a_view_is_what_its_camera_sees(frame, made_room, crops, chance):
    """The warped photograph equals the picture that the room gives to the view's camera at the view's pose."""
    _, R, t, picture = frame
    view = views(frame, ViewSettings(crops=crops, roll=12.0), [chance])
    warped = warp([picture], np.linalg.inv(view.homography), np.empty((1, *SHAPE, 3), np.uint8))[0]
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
    moved = np.einsum("bij,nj->bni", view.homography, old)
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
    out = warp([picture], np.linalg.inv(view.homography), np.empty((1, *SHAPE, 3), np.uint8))[0]
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
