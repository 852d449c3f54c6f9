"""Whole pictures with all their instances: the camera, what is in them, what chance does, and how they are batched."""

import colorsys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.data.loading.made_packs import HEIGHT, WIDTH, make_pack, same, tensors

from posedistill.data.formats.bop import BopDataset
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.picture_view import PictureSettings, PictureView, shown_share
from posedistill.data.loading.pixels import MEAN, STD, Group, change_hsv, hsv_by_opencv, hsv_by_torch
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.errors import RecipeError
from posedistill.estimators.losses.region import answering
from posedistill.estimators.yolo6d import true_points
from posedistill.geometry.cameras import picture_cameras, project, scaled_camera
from posedistill.geometry.objects import ObjectTable

PHOTOS = np.full((2, 40, 50, 3), 200, dtype=np.uint8)
QUIET = {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}


def settings(**changes: Any) -> PictureSettings:
    """Whole pictures of 64 x 96 (height x width), unchanged but for what a test asks for."""
    return PictureSettings.faithful(**{"size": (64, 96), "background": 0.0, "jitter": 0.0, **QUIET} | changes)


def load(pack, objects, chosen: PictureSettings | None = None, **changes: Any) -> Loader:
    packs = pack if isinstance(pack, list) else [pack]
    policy = {name: changes.pop(name) for name in ("indices", "backgrounds", "others") if name in changes}
    view = PictureView(packs, objects, chosen or PictureSettings(size=(64, 96)), **policy)
    return Loader(view, **{"batch_size": 5, "seed": 3, "device": "cpu", "threads": 2} | changes)


def shown(batch) -> np.ndarray:
    """``[P, H, W, 3]`` pixels in 0..255."""
    images = batch.images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return (255 * images).permute(0, 2, 3, 1).numpy()


class TestCameras:
    def test_a_squeezed_image_has_the_scaled_camera(self):
        K = np.array([[572.4, 0, 325.3], [0, 573.6, 242.0], [0, 0, 1]])
        found = picture_cameras(K[None], np.array([[480, 640]]), (416, 608))
        np.testing.assert_allclose(found.K[0], scaled_camera(K, (640, 480), (608, 416)), atol=1e-12)
        np.testing.assert_allclose(found.homography[0] @ [-0.5, -0.5, 1], [-0.5, -0.5, 1], atol=1e-12)
        np.testing.assert_allclose(found.homography[0] @ [639.5, 479.5, 1], [607.5, 415.5, 1], atol=1e-12)

    def test_the_published_label_transform(self):
        """x' = x / sx - (pleft / W) / sx, of coordinates relative to the image: the golden value of 640 pixels."""
        edges = np.array([[64 / 640, -32 / 640, 0, 0]])
        found = picture_cameras(np.eye(3)[None], np.array([[480, 640]]), (416, 416), edges).homography[0]
        x = (found @ [0.5 * 640 - 0.5, 0, 1])[0]
        assert (x + 0.5) / 416 == pytest.approx((0.5 - 0.1) / 0.95, abs=1e-12)

    @pytest.mark.parametrize("seed", range(20))
    def test_labels_agree_with_an_independent_affine_computation(self, seed):
        """Crop, scale and turn as plain arithmetic on pixels, against the projection by the new camera: 1e-6 px."""
        rng = np.random.default_rng(seed)
        width, height, shape = *rng.integers(200, 900, 2), tuple(32 * rng.integers(3, 20, 2))
        K = np.array([[rng.uniform(300, 700), 0, width / 2 + 9], [0, rng.uniform(300, 700), height / 2 - 7], [0, 0, 1]])
        edges, turn = rng.uniform(-0.2, 0.2, (1, 4)), rng.uniform(-1, 1, 1)
        points, t = rng.uniform(-50, 50, (9, 3)), np.array([20.0, -30.0, 600.0])
        found = picture_cameras(K[None], np.array([[height, width]]), shape, edges, turn)
        R = found.rotation[0]
        u, v = project(points, np.eye(3), t, K).T
        x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        x, y = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
        left, right, top, bottom = edges[0]
        u, v = K[0, 0] * x + K[0, 2] + 0.5, K[1, 1] * y + K[1, 2] + 0.5
        u = (u / width - left) / (1 - left - right) * shape[1] - 0.5
        v = (v / height - top) / (1 - top - bottom) * shape[0] - 0.5
        by_camera = project(points, R, R @ t, found.K[0])
        np.testing.assert_allclose(by_camera, np.stack([u, v], axis=1), atol=1e-6)
        whole = np.concatenate([project(points, np.eye(3), t, K), np.ones((9, 1))], axis=1) @ found.homography[0].T
        np.testing.assert_allclose(whole[:, :2], by_camera, atol=1e-6)


class TestPictures:
    def test_every_instance_is_a_row(self, pack, objects):
        batch = load(pack, objects, settings(), augment=False, batch_size=6).batch(0)
        assert batch.images.shape == (6, 3, 64, 96) and len(batch) == 12
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.picture.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert batch.label.tolist() == [0, 1] * 6 and batch.ids.tolist() == list(range(12))
        assert set(batch.targets) == PictureView.targets

    def test_targets_are_projections_by_the_batch_s_own_camera(self, pack, objects):
        batch = load(pack, objects).batch(1)
        seen = batch.targets["keypoints3d"] @ batch.R.transpose(1, 2) + batch.t[:, None]
        pixels = seen @ batch.cameras().transpose(1, 2)
        torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], batch.targets["keypoints"], atol=1e-3, rtol=0)

    @pytest.mark.parametrize("seed", range(4))
    def test_objects_are_where_the_rows_say(self, pack, objects, seed):
        """Both objects are painted: the front one green. The mean of its pixels lies in its projected box, about there
        where the mean of its own mask does, under every jitter and turn."""
        chosen = settings(jitter=0.2, turn=40.0)
        loader = load(pack, objects, chosen, seed=seed, batch_size=6)
        batch, plan, checked = loader.batch(0), loader.plan(0), 0
        for picture, pixels in enumerate(shown(batch)):
            rows, columns = np.nonzero((pixels[..., 1] > 200) & (pixels[..., 0] < 60))
            row = [i for i in range(len(batch)) if batch.picture[i] == picture and batch.label[i] == 1]
            if not row or len(rows) < 30:
                continue
            places = np.stack([columns, rows, np.ones_like(rows)], axis=1) @ plan.maps[picture].T
            source = pack.frames[plan.frames[picture]]
            inside = [source[round(y), round(x), 3] == 2 for x, y in places.tolist()]
            assert np.mean(inside) > 0.97
            corners, seen = batch.targets["keypoints"][row[0]].numpy(), np.stack([columns, rows])
            assert (seen.min(1) >= corners.min(0) - 2).all() and (seen.max(1) <= corners.max(0) + 2).all()
            checked += 1
        assert checked >= 4

    def test_frames_of_several_sizes(self, pack, objects):
        """Each is squeezed from its own size, the padding is never seen."""
        sizes = pack.sizes.copy()
        sizes[:3] = [HEIGHT // 2, WIDTH // 2]
        batch = load(replace(pack, sizes=sizes), objects, settings(), augment=False, batch_size=6).batch(0)
        np.testing.assert_allclose(batch.K[0, 0, 0] / batch.K[5, 0, 0], 2, rtol=1e-6)

    def test_instances_that_leave_the_picture_are_dropped(self):
        identity = np.tile(np.eye(3), (3, 1, 1))
        boxes = np.array([[-50.0, 0, 40, 40], [85.5, 10.0, 20, 20], [10.0, 10.0, 20, 20]])
        np.testing.assert_allclose(shown_share(identity, boxes, (64, 96)), [0, 0.5, 1])

    def test_a_chosen_instance_brings_the_others_of_its_frame(self, pack, objects):
        loader = load(pack, objects, settings(), indices=np.array([3, 8]), augment=False)
        assert len(loader) == 2 and loader.batch(0).ids.tolist() == [2, 3, 8, 9]

    def test_several_packs(self, pack, objects):
        loader = load([pack, make_pack(objects, 1, 3)], objects, settings(), augment=False, batch_size=9)
        assert loader.batch(0).ids.tolist() == list(range(18))
        shared = load([pack, make_pack(objects, 1, 3)], objects, settings(), shares=[0, 1], batch_size=4)
        assert (shared.batch(0).ids >= 12).all()

    def test_no_instance(self, pack, objects):
        with pytest.raises(RecipeError, match="'data': found no instance, expected instances of"):
            load(pack, objects, indices=np.array([99]))

    def test_symmetric_objects_come_in_canonical_form(self, pack, objects):
        batch = load(pack, objects, settings(), augment=False, batch_size=6).batch(0)
        R, t = pack.instances.R[1::2], pack.instances.t[1::2]
        R, t = objects.canonical(np.ones(6, np.int64), R, t)
        np.testing.assert_allclose(batch.R[1::2], R, atol=1e-6)


class TestWindows:
    CHOSEN = settings(jitter=0.2, turn=20.0, window=(32, 64))

    def test_a_window_is_a_part_of_the_whole_picture(self, pack, objects):
        """The same chances with and without a window: the same pixels, moved, and so are camera and targets."""
        whole, part = (load(pack, objects, replace_window(self.CHOSEN, window)) for window in (None, (32, 64)))
        plans, batches = [loader.plan(0) for loader in (whole, part)], [loader.batch(0) for loader in (whole, part)]
        assert batches[1].images.shape == (5, 3, 32, 64) and batches[0].images.shape == (5, 3, 64, 96)
        corner = (plans[0].K - plans[1].K)[:, :2, 2]
        assert (corner > -1e-9).all() and (corner < [32 + 1e-9, 32 + 1e-9]).all() and np.ptp(corner) > 3
        np.testing.assert_allclose(plans[0].K[:, :2, :2], plans[1].K[:, :2, :2], atol=1e-12)
        rows = [plan.ids.tolist() for plan in plans]
        for place, row in enumerate(rows[1]):
            before = rows[0].index(row)
            moved = batches[0].targets["keypoints"][before] - batches[1].targets["keypoints"][place]
            np.testing.assert_allclose(moved.numpy(), corner[[plans[1].picture[place]]].repeat(8, 0), atol=1e-3)

    def test_every_window_shows_an_object(self, pack, objects):
        """And each of the two objects of a frame is the one that it is about in some windows."""
        shown_labels = set()
        for step in range(10):
            batch = load(pack, objects, replace_window(self.CHOSEN, 32)).batch(step)
            assert batch.images.shape[2:] == (32, 32) and set(batch.picture.tolist()) == set(range(5))
            alone = [p for p in range(5) if (batch.picture == p).sum() == 1]
            shown_labels |= {int(batch.label[batch.picture == p]) for p in alone}
        assert shown_labels == {0, 1}

    def test_pictures_of_nothing_have_windows_too(self, pack, objects):
        batch = load(pack, objects, settings(window=32, negatives=0.99), backgrounds=PHOTOS).batch(0)
        assert batch.images.shape[2:] == (32, 32)
        assert len(batch) < 5 and (shown(batch)[:, :, :, 0] > 150).mean() > 0.5

    def test_whole_pictures_are_validated(self, pack, objects):
        loader = load(pack, objects, settings(window=32), augment=False)
        assert loader.batch(0).images.shape[2:] == loader.shape == (64, 96)


def replace_window(chosen: PictureSettings, window: int | tuple[int, int] | None) -> PictureSettings:
    return chosen.model_copy(update={"window": window})


class TestChance:
    def test_a_batch_is_a_function_of_seed_and_step(self, pack, objects):
        def make(**changes: Any) -> Loader:
            return load(pack, objects, PictureSettings(size=64, resolutions=(32, 96)), backgrounds=PHOTOS, **changes)

        first = make()
        assert same(first.batch(7), make(threads=1).batch(7))
        assert not same(first.batch(7), make(seed=4).batch(7))
        assert {first.batch(step).images.shape[-1] for step in range(20)} == {32, 64, 96}

    def test_ranks_share_a_batch(self, pack, objects):
        whole = load(pack, objects, batch_size=4, backgrounds=PHOTOS)
        parts = [load(pack, objects, batch_size=4, backgrounds=PHOTOS, rank=r, world_size=2).batch(2) for r in (0, 1)]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.batch(2).images)
        assert torch.equal(torch.cat([part.ids for part in parts]), whole.batch(2).ids)

    def test_pictures_without_instances(self, pack, objects):
        """A photograph fills the picture; the batch's other rows keep their places."""
        loader = load(pack, objects, settings(negatives=0.5), backgrounds=PHOTOS, batch_size=6)
        empty = 0
        for step in range(4):
            batch, pixels = loader.batch(step), shown(loader.batch(step))
            for picture in range(6):
                alone = np.abs(pixels[picture] - 200).max() < 1
                assert alone == (picture not in batch.picture.tolist())
                empty += alone
        assert 4 <= empty <= 20

    def test_a_batch_of_nothing(self, pack, objects):
        loader = load(pack, objects, settings(negatives=0.999), backgrounds=PHOTOS, batch_size=2)
        batch = loader.batch(0)
        assert len(batch) == 0 and batch.images.shape == (2, 3, 64, 96)
        assert batch.targets["keypoints"].shape == (0, 8, 2) and batch.K.shape == (2, 3, 3)

    def test_frames_that_show_none_of_the_objects(self, pack, objects):
        loader = load(pack, objects, settings(), indices=np.array([0]), others=np.array([4, 5]), batch_size=3)
        batch = loader.batch(0)
        assert len(loader) == 3 and len(batch) == 2 and len(set(batch.picture.tolist())) == 1

    def test_another_background_leaves_the_objects(self, pack, objects):
        plain = shown(load(pack, objects, settings(), batch_size=6).batch(0))
        changed = shown(load(pack, objects, settings(background=1.0), backgrounds=PHOTOS, batch_size=6).batch(0))
        moved = np.abs(plain - changed).max(axis=-1) > 1
        np.testing.assert_allclose(changed[moved], 200, atol=1)
        kept = changed[~moved]
        assert 0.02 < len(kept) / moved.size < 0.8 and (kept[:, 2] > 100).mean() > 0.8

    def test_published_ladder_of_resolutions(self, pack, objects):
        """It widens with the epochs, twice as slowly and less far where there are several objects."""
        one, several = (
            PictureView([pack], table, PictureSettings.faithful(resolutions="published"))
            for table in (ObjectTable.of_cubes([7]), objects)
        )
        assert {view.shape_of(3, c) for c in (0.0, 0.999) for view in (one, several)} == {(416, 416)}
        assert [one.shape_of(70, c)[0] for c in (0.0, 0.999)] == [224, 832]
        assert [several.shape_of(70, c)[0] for c in (0.0, 0.999)] == [352, 576]
        sides = {several.shape_of(99, c)[0] for c in np.linspace(0, 0.999, 40)}
        assert sides == set(range(320, 609, 32))
        flat = PictureView([pack], objects, settings(resolutions=(96, 192)))
        assert [flat.shape_of(0, c) for c in (0.0, 0.999)] == [(64, 96), (128, 192)]

    def test_validation_is_not_varied(self, pack, objects):
        loader = load(pack, objects, PictureSettings(size=64, resolutions=(32, 96)), backgrounds=PHOTOS, augment=False)
        assert loader.batch(0).images.shape[-2:] == (64, 64)
        again = load(pack, objects, PictureSettings(size=64), seed=9, augment=False)
        assert all(torch.equal(x, y) for x, y in zip(tensors(loader.batch(0)), tensors(again.batch(0)), strict=True))

    @pytest.mark.parametrize("change", [hsv_by_torch, hsv_by_opencv])
    def test_hue_saturation_and_value(self, change):
        """Against the standard library, pixel by pixel, each picture by its own amounts."""
        rng = np.random.default_rng(0)
        plain = [np.eye(3), np.zeros((1, 3)), np.ones((1, 3)), rng.random((20, 1)).repeat(3, 1)]
        colours = np.concatenate([rng.random((200, 3)), *plain])
        x = torch.tensor(colours, dtype=torch.float32).T.reshape(1, 3, 1, -1).repeat(2, 1, 1, 1)
        amounts = [(-0.15, 1.4, 0.8), (0.3, 0.5, 1.3)]
        columns = torch.tensor(amounts).T
        values = dict(zip(("hue", "saturation", "value"), columns, strict=True))
        changed = change(x, values)
        for row, (hue, saturation, value) in enumerate(amounts):
            hsv = (colorsys.rgb_to_hsv(*colour) for colour in colours)
            moved = [((h + hue) % 1, min(saturation * s, 1), min(value * v, 1)) for h, s, v in hsv]
            np.testing.assert_allclose(changed[row, :, 0].T, [colorsys.hsv_to_rgb(*each) for each in moved], atol=1e-5)

    def test_colours_of_chosen_pictures_change(self):
        x = torch.rand(2, 3, 4, 5)
        before = x.clone()
        change_hsv(
            x,
            Group(torch.tensor([1]), {"hue": torch.tensor([0.2]), "saturation": torch.ones(1), "value": torch.ones(1)}),
        )
        assert torch.equal(x[0], before[0]) and not torch.allclose(x[1], before[1], atol=0.05)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"size": 400}, "multiple of 32"),
            ({"size": (416, 0)}, "greater than or equal to 32"),
            ({"resolutions": (416, 320)}, "expected the smaller one first"),
            ({"blur": 0.6, "motion": 0.6}, "expected at most 1"),
            ({"flip": 0.5}, "Extra inputs"),
            ({"window": (32, 448)}, r"expected one within pictures of \[416, 416\]"),
            ({"window": 96, "resolutions": (320, 416)}, "expected one of them"),
        ],
    )
    def test_impossible_ones_are_refused(self, changes, message):
        with pytest.raises(ValidationError, match=message):
            PictureSettings(**changes)


def test_real_pictures_with_several_instances_of_an_object(real_data, tmp_path):
    """SyGRID: each instance is a row of the batch, told by its picture, and answered for by a predictor of its own."""
    (tmp_path / "frames.txt").write_text("0\n3\n7\n")
    dataset = BopDataset(real_data / "sygrid", "test", frames=tmp_path / "frames.txt")
    objects = dataset.objects(range(1, 7))
    pack = build_pack(ObjectFrames(dataset, list(objects.obj_ids)), tmp_path / "pack")
    batch = load(pack, objects, PictureSettings(size=(480, 640)), augment=False, batch_size=3).batch(0)
    assert batch.images.shape == (3, 3, 480, 640) and np.bincount(batch.picture).tolist() == [12, 12, 10]
    frames = [(frame, instance) for frame in dataset.frames for instance in frame.instances]
    for row, (frame, instance) in enumerate(frames):
        label = objects.index(instance.obj_id)
        assert batch.label[row] == label and dataset.frames[batch.picture[row]] is frame
        corners = project(objects.keypoints[label], instance.R, instance.t, frame.K)
        np.testing.assert_allclose(batch.targets["keypoints"][row], corners, atol=0.02)
    points = true_points(batch) / 16
    answers = answering(points, batch.picture, 3, (30, 40, 1), neighbours=False)
    cells = answers.rows(batch.picture, 30 * 40)[answers.mask]
    assert len(set(cells.tolist())) == len(cells) > 30
