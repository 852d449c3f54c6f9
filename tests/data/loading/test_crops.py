import threading
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.data.formats.bop import BopDataset
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.crops import CropLoader
from posedistill.data.loading.device_frames import DeviceFrames
from posedistill.data.loading.pack import FramePack, Instances, split_validation
from posedistill.errors import RecipeError
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import is_rotation, random_rotations

HEIGHT, WIDTH, SIZE = 120, 160, 64
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def objects():
    half = np.array([[30.0, 20.0, 40.0], [25.0, 25.0, 25.0]])
    keypoints = np.stack([box_corners(-h, h) for h in half])
    symmetries = (np.eye(4)[None], np.stack([np.eye(4), HALF_TURN]))
    return ObjectTable((7, 3), keypoints, 2 * np.linalg.norm(half, axis=1), symmetries)


def make_pack(objects, seed, frames=6):
    """Two convex objects a frame, the second before the first; each painted in a colour of its own."""
    rng = np.random.default_rng(seed)
    K = np.array([[220.0, 3.0, 81.0], [0.0, 200.0, 58.0], [0.0, 0.0, 1.0]])
    pixels = rng.integers(0, 40, (frames, HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    rows = []
    for frame in range(frames):
        for slot, depth in ((1, 520.0), (2, 400.0)):
            R, t = random_rotations(1, rng)[0], np.array([*rng.uniform(-45, 45, 2), depth])
            corners = project(objects.keypoints[slot - 1], R, t, K)
            hull = cv2.convexHull(np.rint(corners).astype(np.int32))
            region = cv2.fillConvexPoly(np.zeros((HEIGHT, WIDTH), np.uint8), hull, 1).view(bool)
            pixels[frame][region] = (255 if slot == 1 else 0, 255 if slot == 2 else 0, 128, slot)
            rows.append((frame, slot, objects.obj_ids[slot - 1], R, t))
    visible = [cv2.boundingRect((pixels[frame, ..., 3] == slot).view(np.uint8)) for frame, slot, *_ in rows]
    columns = list(zip(*rows, strict=True))
    count = len(rows)
    instances = Instances(
        frame=np.array(columns[0]),
        slot=np.array(columns[1], dtype=np.uint8),
        obj_id=np.array(columns[2]),
        scene_id=np.zeros(count, dtype=np.int64),
        im_id=np.array(columns[0]),
        K=np.tile(K, (count, 1, 1)),
        R=np.array(columns[3]),
        t=np.array(columns[4]),
        bbox_obj=np.array(visible, dtype=np.float64),
        bbox_visib=np.array(visible, dtype=np.float64),
        visib_fract=np.ones(count),
    )
    return FramePack(Path(f"pack-{seed}"), pixels, instances)


@pytest.fixture(scope="module")
def pack(objects):
    return make_pack(objects, 0)


def load(pack, objects, chosen=None, **changes):
    values = {"crop_size": SIZE, "batch_size": 5, "seed": 3, "device": "cpu", "threads": 2} | changes
    packs = pack if isinstance(pack, list) else [pack]
    return CropLoader(packs, objects, chosen or AugmentSettings(), **values)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def tensors(batch: Batch) -> list[torch.Tensor]:
    """All that a batch holds."""
    columns = [getattr(batch, field.name) for field in fields(Batch) if field.name != "targets"]
    return columns + [batch.targets[name] for name in sorted(batch.targets)]


def test_shapes_and_types(pack, objects):
    batch = load(pack, objects).batch(0)
    assert batch.images.shape == (5, 3, SIZE, SIZE) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets["masks"].shape == (5, SIZE, SIZE) and batch.targets["masks"].dtype == torch.bool
    assert batch.label.dtype == batch.ids.dtype == torch.int64
    assert batch.targets["keypoints"].shape == (5, 8, 2) and batch.targets["keypoints3d"].shape == (5, 8, 3)
    assert all(getattr(batch, name).dtype == torch.float32 for name in ("K", "R", "t", "score"))
    assert all(batch.targets[name].dtype == torch.float32 for name in ("keypoints3d", "keypoints", "diameters"))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), turn=st.sampled_from([0.0, 40.0, 180.0]))
def test_each_crop_is_an_exact_camera(pack, objects, seed, turn):
    loader = load(pack, objects, AugmentSettings(turn=turn), seed=seed)
    plan = loader.plan(seed % 7)
    points = np.random.default_rng(seed).uniform(-50, 50, (len(plan.rows), 9, 3))
    full = project(points, plan.rows.R, plan.rows.t, plan.rows.K)
    homogeneous = np.concatenate([full, np.ones((*full.shape[:2], 1))], axis=-1)
    forward = np.linalg.inv(np.concatenate([plan.inverse, np.tile([[[0.0, 0.0, 1.0]]], (len(full), 1, 1))], axis=1))
    expected = (homogeneous @ forward.swapaxes(1, 2))[..., :2]
    straight = project(points, plan.R, plan.t, plan.K)
    # The plan's pose of a symmetric object may be the equivalent one, which shows the turned points.
    half_turned = project(points @ HALF_TURN[:3, :3].T, plan.R, plan.t, plan.K)
    apart = [np.abs(seen - expected).max(axis=(1, 2)) for seen in (straight, half_turned)]
    symmetric = plan.rows.classes == 1
    assert np.where(symmetric, np.minimum(*apart), apart[0]).max() < 1e-6
    assert is_rotation(plan.R, 1e-9).all()
    np.testing.assert_allclose(plan.keypoints, project(plan.keypoints3d, plan.R, plan.t, plan.K))


def test_equivalent_poses_give_the_same_targets(pack, objects):
    turned = pack.instances.R.copy()
    symmetric = pack.instances.obj_id == 3
    turned[symmetric] = turned[symmetric] @ HALF_TURN[:3, :3]
    other = FramePack(pack.folder, pack.frames, Instances(**(vars(pack.instances) | {"R": turned})))
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


def test_a_step_is_a_pure_function(pack, objects):
    first, second = load(pack, objects), load(pack, objects, threads=1)
    batches = [first.batch(step) for step in range(6)]
    assert same(second.batch(4), batches[4]), "a resumed run, other threads"
    assert same(second.batch(1), batches[1]), "in any order"
    assert not torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(load(pack, objects, seed=4).batch(0).images, batches[0].images)


def test_every_instance_once_an_epoch(pack, objects):
    loader = load(pack, objects, batch_size=5)
    ids = torch.cat([loader.batch(step).ids for step in range(12)]).tolist()
    assert len(loader) == 12 and loader.steps == 3
    epochs = [ids[start : start + 12] for start in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_the_global_batch(pack, objects):
    whole = load(pack, objects, batch_size=6).batch(2)
    parts = [load(pack, objects, batch_size=6, rank=rank, world_size=2).batch(2) for rank in range(2)]
    for name in ("images", "K", "R", "t", "label", "score", "ids"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), atol=1e-5, rtol=0)
    for name, values in whole.targets.items():
        torch.testing.assert_close(torch.cat([part.targets[name] for part in parts]), values, atol=1e-5, rtol=0)
    with pytest.raises(RecipeError, match="batch_size"):
        load(pack, objects, batch_size=5, world_size=2)


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


def test_boxes_vary_as_they_should(objects):
    pack = make_pack(objects, 8, frames=300)
    alone = np.flatnonzero(pack.instances.slot == 2)
    loader = load(pack, objects, AugmentSettings(box="amodal"), indices=alone, batch_size=300)
    rows = loader.plan.table
    _, sides, angles = loader.plan.boxes(rows, np.random.default_rng(0))
    stretch = sides / (1.5 * rows.amodal[:, 2:].max(axis=1))
    assert stretch.min() < 0.77 and stretch.max() > 1.23 and stretch.min() >= 0.75 and stretch.max() <= 1.25
    assert abs(stretch.mean() - 1) < 0.02
    assert np.abs(angles).max() <= np.deg2rad(30) and np.abs(angles).max() > np.deg2rad(28)

    hidden = load(pack, objects, AugmentSettings(box="amodal", shift=0.5), batch_size=600)
    centers, sides, _ = hidden.plan.boxes(hidden.plan.table, np.random.default_rng(0))
    visible = hidden.plan.table.visible[:, :2] + hidden.plan.table.visible[:, 2:] / 2
    assert (np.abs(centers - visible).max(axis=1) <= 0.45 * sides + 1e-9).all(), "what can be seen is in the crop"


@pytest.mark.parametrize(("box", "share"), [("amodal", 0.0), ("visible", 1.0), ("mixed", 0.5)])
def test_the_box_is_the_one_asked_for(objects, box, share):
    pack = make_pack(objects, 8, frames=300)
    loader = load(pack, objects, AugmentSettings(box=box, shift=0.0, scale=0.0), batch_size=600)
    rows = loader.plan.table
    _, sides, _ = loader.plan.boxes(rows, np.random.default_rng(0))
    differ = np.abs(rows.visible[:, 2:].max(axis=1) - rows.amodal[:, 2:].max(axis=1)) > 2
    from_visible = np.isclose(sides, 1.5 * rows.visible[:, 2:].max(axis=1))[differ]
    assert differ.sum() > 50
    assert from_visible.mean() == pytest.approx(share, abs=0.12)


def test_backgrounds_change_what_is_behind(pack, objects):
    white = np.full((4, 50, 70, 3), 255, dtype=np.uint8)
    chosen = AugmentSettings.none().model_copy(update={"background": 1.0})
    plain, changed = (load(pack, objects, chosen, backgrounds=b).batch(0) for b in (None, white))
    loader = load(pack, objects, chosen)
    ids = loader._cut(loader.plan(0))[1] > 0
    assert torch.equal(changed.images.permute(0, 2, 3, 1)[ids], plain.images.permute(0, 2, 3, 1)[ids])
    assert (changed.images.permute(0, 2, 3, 1)[~ids] > 2).all()
    assert torch.equal(changed.targets["masks"], plain.targets["masks"])


def test_the_path_of_an_accelerator_makes_the_same_crops(objects):
    """Gathered instead of warped by OpenCV; noise of single pixels in the frames is smoothed, so that both agree."""
    pack = make_pack(objects, 3)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in pack.frames])
    smooth[..., 3] = pack.frames[..., 3]
    pack = FramePack(pack.folder, smooth, pack.instances)
    photos = np.full((4, 50, 70, 3), 200, dtype=np.uint8)
    chosen = AugmentSettings(turn=90.0, sharpen=0.0)
    expected = load(pack, objects, chosen, backgrounds=photos, batch_size=12)
    for where in (DeviceFrames([pack.frames], torch.device("cpu")), None):
        gathered = load(pack, objects, chosen, backgrounds=photos, batch_size=12)
        gathered._photos = DeviceFrames([gathered._backgrounds], torch.device("cpu"))
        if where is not None:
            gathered._frames = where
        one, other = expected.batch(0), gathered.batch(0)
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


def test_several_packs_in_given_shares(objects):
    packs = [make_pack(objects, 1, frames=2), make_pack(objects, 2, frames=20)]
    loader = load(packs, objects, pack_weights=[3.0, 1.0], batch_size=16)
    shares = [(loader.batch(step).ids < 4).sum().item() for step in range(10)]
    assert all(abs(count - 12) <= 1 for count in shares)
    assert same(loader.batch(3), load(packs, objects, pack_weights=[3.0, 1.0], batch_size=16).batch(3))
    ids = torch.cat([loader.batch(step).ids for step in range(20)])
    assert set(ids.tolist()) <= set(range(44)) and len(set(ids.tolist())) > 30
    for bad in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(RecipeError, match="shares"):
            load(packs, objects, pack_weights=bad)


def test_objects_outside_the_table_are_left_out(pack, objects):
    cube = ObjectTable((3,), objects.keypoints[1:], objects.diameters[1:], objects.symmetries[1:])
    loader = load(pack, cube)
    assert len(loader) == 6
    assert (loader.batch(0).label == 0).all() and (loader.batch(0).ids % 2 == 1).all()
    with pytest.raises(RecipeError, match="no instance"):
        load(pack, objects, indices=np.array([], dtype=np.int64))


def test_prefetch_makes_the_same_batches(pack, objects):
    loader = load(pack, objects)
    ahead = list(loader.prefetch(2, 6))
    assert len(ahead) == 4
    assert all(same(batch, loader.batch(step)) for batch, step in zip(ahead, range(2, 6), strict=True))
    assert list(loader.prefetch(3, 3)) == []


def crop_threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_a_fault_in_the_background_is_raised(pack, objects):
    loader = load(pack, objects, augment=False)
    batches = loader.prefetch(1, 9)
    next(batches), next(batches)
    with pytest.raises(IndexError, match="step 3"):
        next(batches)
    assert not crop_threads()


def test_closing_ends_the_thread(pack, objects):
    batches = load(pack, objects).prefetch(0, 1000)
    next(batches)
    time.sleep(0.05)
    assert crop_threads()
    batches.close()
    assert not crop_threads()


def test_torch_keeps_its_threads(pack, objects):
    before = torch.get_num_threads()
    loader = load(pack, objects)
    list(loader.prefetch(0, 2))
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before and counts == [before]


def test_split_holds_whole_frames_back(objects):
    packs = [make_pack(objects, 1, frames=20), make_pack(objects, 2, frames=3)]
    train, validation = split_validation(packs, 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(46))
    frames = np.concatenate([packs[0].instances.frame, 20 + packs[1].instances.frame])
    assert not set(frames[train]) & set(frames[validation])
    assert len(set(frames[validation])) == 5
    again, other = split_validation(packs, 0.2, seed=1)[1], split_validation(packs, 0.2, seed=2)[1]
    assert np.array_equal(validation, again) and not np.array_equal(validation, other)
    assert len(split_validation(packs, 0.0, seed=1)[1]) == 0


def test_real_frames(real_data, tmp_path):
    root = real_data / "lm"
    dataset = BopDataset(root, scenes=[6], frames=root / "cat_test.txt")
    pack = FramePack.build(dataset, tmp_path / "pack", [6])
    loader = load(pack, dataset.objects([6]), augment=False, crop_size=128, batch_size=32)
    assert len(loader) == 63
    batch = loader.batch(0)
    corners, masks = batch.targets["keypoints"].numpy(), batch.targets["masks"].numpy()
    for mask, points in zip(masks, corners, strict=True):
        hull = cv2.fillConvexPoly(np.zeros((128, 128), np.uint8), cv2.convexHull(points.round().astype(np.int32)), 1)
        assert mask[hull == 0].sum() < 0.01 * mask.sum() and 0.2 < mask.sum() / hull.sum() < 1
