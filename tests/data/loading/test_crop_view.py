from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.loading.made_packs import HALF_TURN, SIZE, load, make_pack

from posedistill.data.formats.bop import BopDataset
from posedistill.data.loading import frame_reader
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.frame_reader import FrameReader
from posedistill.data.loading.loader import Loader
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.errors import RecipeError
from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import box_mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.rotations import is_rotation
from posedistill.geometry.surfaces import Surfaces

CPU = torch.device("cpu")


def test_shapes_and_types(pack, objects):
    batch = load(pack, objects).batch(0)
    assert batch.images.shape == (5, 3, SIZE, SIZE) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets["masks"].shape == (5, SIZE, SIZE) and batch.targets["masks"].dtype == torch.bool
    assert batch.label.dtype == batch.ids.dtype == torch.int64
    assert batch.targets["keypoints"].shape == (5, 8, 2) and batch.targets["keypoints3d"].shape == (5, 8, 3)
    assert all(getattr(batch, name).dtype == torch.float32 for name in ("K", "R", "t", "score"))
    assert all(batch.targets[name].dtype == torch.float32 for name in ("keypoints3d", "keypoints", "diameters"))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), turn=st.sampled_from([0.0, 40.0, 180.0]))
def test_each_crop_is_an_exact_camera(pack, objects, seed, turn):
    loader = load(pack, objects, AugmentSettings(turn=turn), seed=seed)
    plan = loader.plan(seed % 7)
    points = np.random.default_rng(seed).uniform(-50, 50, (len(plan.ids), 9, 3))
    full = project(points, pack.instances.R[plan.ids], pack.instances.t[plan.ids], pack.K[plan.frames])
    homogeneous = np.concatenate([full, np.ones((*full.shape[:2], 1))], axis=-1)
    forward = np.linalg.inv(np.concatenate([plan.maps, np.tile([[[0.0, 0.0, 1.0]]], (len(full), 1, 1))], axis=1))
    expected = (homogeneous @ forward.swapaxes(1, 2))[..., :2]
    straight = project(points, plan.R, plan.t, plan.K)
    # The plan's pose of a symmetric object may be the equivalent one, which shows the turned points.
    half_turned = project(points @ HALF_TURN[:3, :3].T, plan.R, plan.t, plan.K)
    apart = [np.abs(seen - expected).max(axis=(1, 2)) for seen in (straight, half_turned)]
    symmetric = plan.label == 1
    assert np.where(symmetric, np.minimum(*apart), apart[0]).max() < 1e-6
    assert is_rotation(plan.R, 1e-9).all()
    keypoints = project(plan.targets["keypoints3d"], plan.R, plan.t, plan.K)
    np.testing.assert_allclose(plan.targets["keypoints"], keypoints)


def test_equivalent_poses_give_the_same_targets(pack, objects):
    turned = pack.instances.R.copy()
    symmetric = pack.instances.obj_id == 3
    turned[symmetric] = turned[symmetric] @ HALF_TURN[:3, :3]
    other = replace(pack, instances=replace(pack.instances, R=turned))
    for step in range(3):
        a, b = (load(p, objects, batch_size=12).batch(step) for p in (pack, other))
        assert (a.label == 1).any()
        torch.testing.assert_close(a.targets["keypoints"], b.targets["keypoints"], atol=1e-3, rtol=0)
        torch.testing.assert_close(a.R, b.R, atol=1e-5, rtol=0)


def test_masks_are_the_objects_own(pack, objects):
    chosen = AugmentSettings.none().model_copy(update={"shift": 0.2, "scale": 0.2, "turn": 90.0})
    batch = load(pack, objects, chosen, batch_size=12).batch(0)
    colour = batch.images * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    colour += torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    for image, mask, cls, corners in zip(
        colour, batch.targets["masks"], batch.label, batch.targets["keypoints"], strict=True
    ):
        own = image[int(cls)] > 0.6
        assert (own == mask).float().mean() > 0.97
        hull = cv2.convexHull(corners.numpy().round().astype(np.int32))
        region = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), hull, 1)
        region = torch.from_numpy(cv2.dilate(region, np.ones((5, 5), np.uint8))).bool()
        assert not (mask & ~region).any(), "the visible mask lies within the projected box"


def test_keypoints_follow_the_picture(objects):
    """The box of a lone, fully visible object in the crop is that of its projected corners."""
    pack = make_pack(objects, 5)
    front = np.flatnonzero(pack.instances.slot == 2)
    batch = load(pack, objects, AugmentSettings.none(), augment=False, indices=front, batch_size=6).batch(0)
    for mask, corners in zip(batch.targets["masks"].numpy(), batch.targets["keypoints"].numpy(), strict=True):
        y, x = np.nonzero(mask)
        low, high = corners.min(axis=0), corners.max(axis=0)
        inside = (low > 1).all() and (high < SIZE - 2).all()
        if inside and min(x.min(), y.min()) > 0 and max(x.max(), y.max()) < SIZE - 1:
            np.testing.assert_allclose([x.min(), y.min(), x.max(), y.max()], [*low, *high], atol=2.0)


def test_evaluation_crops_are_plain(pack, objects):
    loader = load(pack, objects, augment=False)
    batches = [loader.batch(step) for step in range(loader.steps)]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(12))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    for batch in batches:
        low, high = batch.targets["keypoints"].amin(1), batch.targets["keypoints"].amax(1)
        torch.testing.assert_close((high - low).amax(1), torch.full((len(batch),), SIZE / 1.5), atol=1e-2, rtol=0)
        torch.testing.assert_close((low + high) / 2, torch.full((len(batch), 2), SIZE / 2), atol=1e-2, rtol=0)
    with pytest.raises(IndexError):
        loader.batch(3)


def test_evaluation_crops_lie_about_what_is_visible_where_training_crops_all_do(pack, objects):
    """Detectors that box what is visible are met by such crops in validation and calibration too."""
    batch = load(pack, objects, AugmentSettings(box="visible"), augment=False, batch_size=12).batch(0)
    for mask in batch.targets["masks"].numpy():
        y, x = np.nonzero(mask)
        extent = np.array([np.ptp(x), np.ptp(y)]) + 1
        assert extent.max() == pytest.approx(SIZE / 1.5, abs=2)
        assert np.abs([x.min() + x.max() + 1 - SIZE, y.min() + y.max() + 1 - SIZE]).max() <= 3
    hidden = load(pack, objects, augment=False, batch_size=12).batch(0)
    assert (hidden.targets["masks"].sum((1, 2)) < batch.targets["masks"].sum((1, 2))).any()


def test_boxes_vary_as_they_should(objects):
    pack = make_pack(objects, 8, frames=300)
    alone = np.flatnonzero(pack.instances.slot == 2)
    loader = load(pack, objects, AugmentSettings(box="amodal"), indices=alone, batch_size=300)
    view, chance = loader.view, np.random.default_rng(0).random((300, 5))
    _, sides, angles = view.boxes(np.arange(300), chance)
    stretch = sides / (1.5 * view.amodal[:, 2:].max(axis=1))
    assert stretch.min() < 0.77 and stretch.max() > 1.23 and stretch.min() >= 0.75 and stretch.max() <= 1.25
    assert abs(stretch.mean() - 1) < 0.02
    assert np.abs(angles).max() <= np.deg2rad(30) and np.abs(angles).max() > np.deg2rad(28)

    hidden = load(pack, objects, AugmentSettings(box="amodal", shift=0.5), batch_size=600)
    centers, sides, _ = hidden.view.boxes(np.arange(600), np.random.default_rng(0).random((600, 5)))
    visible = hidden.view.visible[:, :2] + hidden.view.visible[:, 2:] / 2
    assert (np.abs(centers - visible).max(axis=1) <= 0.45 * sides + 1e-9).all(), "what can be seen is in the crop"


@pytest.mark.parametrize(("box", "share"), [("amodal", 0.0), ("visible", 1.0), ("mixed", 0.5)])
def test_the_box_is_the_one_asked_for(objects, box, share):
    pack = make_pack(objects, 8, frames=300)
    loader = load(pack, objects, AugmentSettings(box=box, shift=0.0, scale=0.0), batch_size=600)
    rows = loader.view
    _, sides, _ = rows.boxes(np.arange(600), np.random.default_rng(0).random((600, 5)))
    differ = np.abs(rows.visible[:, 2:].max(axis=1) - rows.amodal[:, 2:].max(axis=1)) > 2
    from_visible = np.isclose(sides, 1.5 * rows.visible[:, 2:].max(axis=1))[differ]
    assert differ.sum() > 50
    assert from_visible.mean() == pytest.approx(share, abs=0.12)


def test_backgrounds_change_what_is_behind(pack, objects):
    white = np.full((4, 50, 70, 3), 255, dtype=np.uint8)
    chosen = AugmentSettings.none().model_copy(update={"background": 1.0})
    plain, changed = (load(pack, objects, chosen, backgrounds=b).batch(0) for b in (None, white))
    loader = load(pack, objects, chosen)
    plan = loader.plan(0)
    ids = FrameReader([pack.frames], CPU).cut(plan.frames, plan.maps, loader.shape)[1] > 0
    assert torch.equal(changed.images.permute(0, 2, 3, 1)[ids], plain.images.permute(0, 2, 3, 1)[ids])
    assert (changed.images.permute(0, 2, 3, 1)[~ids] > 2).all()
    assert torch.equal(changed.targets["masks"], plain.targets["masks"])


@pytest.mark.parametrize("stored", [True, False])
def test_the_path_of_an_accelerator_makes_the_same_crops(objects, monkeypatch, stored):
    """Gathered instead of warped by OpenCV; noise of single pixels in the frames is smoothed, so that both agree."""
    pack = make_pack(objects, 3)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in pack.frames])
    smooth[..., 3] = pack.frames[..., 3]
    pack = replace(pack, frames=smooth)
    photos = np.full((4, 50, 70, 3), 200, dtype=np.uint8)
    chosen = AugmentSettings(turn=90.0, sharpen=0.0)
    one = load(pack, objects, chosen, backgrounds=photos, batch_size=12).batch(0)
    monkeypatch.setattr(FrameReader, "gathers", lambda reader, maps: True)
    monkeypatch.setattr(frame_reader, "_fits", lambda size, device: stored)
    gathering = load(pack, objects, chosen, backgrounds=photos, batch_size=12)
    other = gathering.batch(0)
    assert (gathering._frames._stored is not None) == stored
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    assert (one.targets["masks"] == other.targets["masks"]).float().mean() > 0.99
    assert (one.images - other.images).abs().median() < 0.03
    assert torch.equal(one.targets["keypoints"], other.targets["keypoints"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_makes_the_same_crops(pack, objects):
    photos = np.full((4, 50, 70, 3), 200, dtype=np.uint8)
    one, other = (load(pack, objects, device=device, backgrounds=photos).batch(1) for device in ("cpu", "cuda"))
    assert other.images.is_cuda and other.images.is_contiguous(memory_format=torch.channels_last)
    other = other.to("cpu")
    assert (one.targets["masks"] == other.targets["masks"]).float().mean() > 0.99
    assert (one.images - other.images).abs().median() < 0.05
    torch.testing.assert_close(one.targets["keypoints"], other.targets["keypoints"])
    ahead = [batch.to("cpu") for batch in load(pack, objects, device="cuda", backgrounds=photos).prefetch(0, 3)]
    torch.testing.assert_close(ahead[1].images, other.images)


def test_objects_outside_the_table_are_left_out(pack, objects):
    cube = ObjectTable((3,), objects.keypoints[1:], objects.diameters[1:], objects.symmetries[1:])
    loader = load(pack, cube)
    assert len(loader) == 6
    assert (loader.batch(0).label == 0).all() and (loader.batch(0).ids % 2 == 1).all()
    with pytest.raises(RecipeError, match="no instance"):
        load(pack, objects, indices=np.array([], dtype=np.int64))


def test_real_frames(real_data, tmp_path):
    root = real_data / "lm"
    dataset = BopDataset(root, scenes=[6], frames=root / "cat_test.txt")
    pack = build_pack(ObjectFrames(dataset, [6]), tmp_path / "pack")
    loader = load(pack, dataset.objects([6]), augment=False, crop_size=128, batch_size=32)
    assert len(loader) == 63
    batch = loader.batch(0)
    corners, masks = batch.targets["keypoints"].numpy(), batch.targets["masks"].numpy()
    for mask, points in zip(masks, corners, strict=True):
        hull = cv2.fillConvexPoly(np.zeros((128, 128), np.uint8), cv2.convexHull(points.round().astype(np.int32)), 1)
        assert mask[hull == 0].sum() < 0.01 * mask.sum() and 0.2 < mask.sum() / hull.sum() < 1


def test_surfaces_are_cast_on_request_where_the_crop_shows_them(pack, objects):
    meshes = {obj_id: box_mesh(corners) for obj_id, corners in zip(objects.obj_ids, objects.keypoints, strict=True)}
    surfaces = Surfaces(objects.obj_ids, meshes.__getitem__)
    view = CropView([pack], objects, AugmentSettings(turn=40.0), SIZE, surfaces=surfaces)
    assert Loader(view, 5, 0, CPU).targets == view.targets
    loader = Loader(view, 5, 0, CPU, targets=frozenset({"masks", "surface/4"}))
    assert loader.targets == view.targets | {"surface/4"}
    batch, again = loader.batch(3), loader.batch(3)
    points = batch.targets["surface/4"]
    torch.testing.assert_close(points, again.targets["surface/4"], equal_nan=True)
    line = (np.arange(SIZE // 4) + 0.5) * 4 - 0.5
    for row in range(len(batch)):
        rows, columns = np.nonzero(np.isfinite(points[row, ..., 0].numpy()))
        assert len(rows) > 5
        arrays = [value[row].double().numpy() for value in (batch.R, batch.t, batch.cameras())]
        pixels = project(points[row, rows, columns].double().numpy(), *arrays)
        np.testing.assert_allclose(pixels, np.stack([line[columns], line[rows]], axis=1), atol=0.02)
