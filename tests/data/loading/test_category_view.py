from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.data.category_writer import write_categories

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.category_view import CategoryView
from posedistill.data.loading.loader import Loader
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.category_frames import ROOM, CategoryFrames
from posedistill.data.packs.splits import hold_out_pictures
from posedistill.errors import DataError, RecipeError
from posedistill.geometry.rotations import angle_between, axis_angle
from posedistill.geometry.viewpoint import canonical_viewpoint, flipped, rotation_viewpoint, viewpoint_rotation

SIZE, PAD = 48, 1.2
MOVES = AugmentSettings.none().model_copy(update={"shift": 0.1, "scale": 0.1, "turn": 40.0})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_categories(write_categories(tmp_path_factory.mktemp("made") / "set", count=8))


@pytest.fixture(scope="module")
def pack(dataset, tmp_path_factory):
    labels = [int(view.category == "tower") for view in dataset]
    return build_pack(
        CategoryFrames(dataset, labels, round(ROOM * SIZE), PAD), tmp_path_factory.mktemp("packs") / "pack"
    )


def view_of(pack, **changes):
    clouds = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30, 3))
    known = {
        "settings": MOVES,
        "flip": 0.5,
        "crop_size": SIZE,
        "pad": PAD,
        "orders": np.array([1, 1]),
        "clouds": clouds,
    }
    return CategoryView(pack, **(known | {"points": 10} | changes))


def batch_of(view, *, augment=True, count=16):
    return Loader(view, batch_size=count, seed=0, device="cpu", augment=augment, threads=1).batch(0)


def test_windows_hold_each_object_in_its_middle(dataset, pack):
    assert pack.frames.shape == (16, 72, 72, 4)
    view, window = dataset.views[0], pack.frames[0]
    x, y, w, h = pack.instances.bbox_obj[0]
    assert max(w, h) == pytest.approx(SIZE / PAD)
    assert (x + w / 2, y + h / 2) == pytest.approx((36, 36))
    background = (np.ptp(window[..., :3], axis=2) < 90).mean()
    assert 0.3 < background < 0.95
    np.testing.assert_allclose(pack.instances.R[0], viewpoint_rotation(view.viewpoint))
    assert not pack.instances.t.any()


def test_boxes_beyond_their_picture_are_named(dataset, tmp_path):
    views = (replace(dataset.views[0], box=(200.0, 10.0, 260.0, 60.0)),)
    source = CategoryFrames(replace(dataset, views=views), [0], 72, PAD)
    with pytest.raises(DataError, match=r"brick000\.png.*box.*left 200.*within the picture, 96x96"):
        build_pack(source, tmp_path / "pack")


def test_nothing_varies_without_augmentation(pack):
    batch = batch_of(view_of(pack, flip=1.0, turn_frames=40.0), augment=False)
    np.testing.assert_allclose(batch.R, pack.instances.R, atol=1e-6)
    assert not batch.targets["frames"].any() and not batch.t.any()
    clouds = torch.as_tensor(view_of(pack).clouds[:, :10], dtype=torch.float32)
    assert batch.targets["clouds"].equal(clouds[batch.label])


def test_mirrored_crops_have_the_mirrored_rotation_and_shape(pack):
    still = AugmentSettings.none()
    plain, mirrored = (batch_of(view_of(pack, settings=still, flip=share)) for share in (0.0, 1.0))
    assert plain.ids.equal(mirrored.ids)
    assert mirrored.images.flip(3).sub(plain.images).abs().mean() < 0.05
    np.testing.assert_allclose(mirrored.R, flipped(plain.R.double().numpy()), atol=1e-6)
    assert mirrored.targets["clouds"].equal(plain.targets["clouds"] * torch.tensor([-1.0, 1.0, 1.0]))


def test_turned_crops_have_the_turned_rotation(pack):
    batch = batch_of(view_of(pack, flip=0.0))
    turn = batch.R.double().numpy() @ pack.instances.R[batch.ids].swapaxes(1, 2)
    angles = np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert np.abs(angles).max() > 10 and np.abs(angles).max() <= 40
    np.testing.assert_allclose(turn, axis_angle(np.array([0.0, 0.0, 1.0]), np.deg2rad(angles)), atol=1e-6)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_front_is_seen_where_the_label_says(pack, flip):
    """The red side of a brick: where the label says that it points to the camera, the crop is redder."""
    batch = batch_of(view_of(pack, flip=flip))
    facing = (batch.R @ torch.tensor([0.0, -1.0, 0.0]))[:, 2] < -0.5
    image = batch.images * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    red = (image[:, 0] - image[:, 2]).flatten(1).mean(1)
    assert red[facing].mean() > red[~facing].mean() + 0.02
    left = (batch.R @ torch.tensor([0.0, -1.0, 0.0]))[:, 0]
    columns = torch.arange(SIZE) - SIZE / 2
    reds = ((image[:, 0] - image[:, 2]) > 0.25).float()
    middle = (reds.sum(1) * columns).sum(1) / reds.sum((1, 2)).clamp(min=1)
    seen = reds.sum((1, 2)) > 40
    assert (middle[seen] * left[seen]).mean() > 0  # to the right in the crop where it points to the right


def test_each_crop_sees_other_points_of_its_cloud(pack):
    batch = batch_of(view_of(pack, flip=0.0, points=30))
    clouds = torch.as_tensor(view_of(pack).clouds, dtype=torch.float32)[batch.label]
    assert not batch.targets["clouds"].equal(clouds)
    assert batch.targets["clouds"].sort(1).values.allclose(clouds.sort(1).values)  # all of them, in another order
    first, second = (batch_of(view_of(pack, points=10)).targets["clouds"] for _ in range(2))
    assert first.equal(second) and len(first[0].unique(dim=0)) == 10
    assert len(batch_of(view_of(pack, points=50)).targets["clouds"][0]) == 50


def test_frames_turn_within_their_range_but_for_round_things(pack):
    batch = batch_of(view_of(pack, turn_frames=40.0, frozen=np.array([True, False])))
    turns = batch.targets["frames"]
    assert not turns[batch.label == 0].any()
    assert turns.abs().max() <= 40 and len(turns[batch.label == 1].unique()) > 4


def test_symmetric_things_have_one_label(pack):
    batch = batch_of(view_of(pack, orders=np.array([1, 0])))
    tower, viewpoints = batch.label.numpy() == 1, rotation_viewpoint(batch.R.double().numpy())
    azimuth = viewpoints[:, 0]
    assert (np.minimum(azimuth, 360 - azimuth)[tower] < 0.01).all() and (azimuth[~tower] > 1).any()
    plain = rotation_viewpoint(batch_of(view_of(pack)).R.double().numpy())
    turns = batch_of(view_of(pack, orders=np.array([2, 0]))).targets["turns"]
    assert turns.equal(torch.where(torch.from_numpy(tower), 0.0, 180.0)) and "turns" not in view_of(pack).targets
    expected = viewpoint_rotation(canonical_viewpoint(plain, np.where(tower, 0, 1)))
    assert angle_between(viewpoint_rotation(viewpoints), expected).max() < 1e-3


def test_without_shapes_there_are_no_clouds(pack):
    view = view_of(pack, clouds=None)
    assert view.targets == frozenset() and batch_of(view).targets == {}


def test_no_object_is_refused(pack):
    with pytest.raises(RecipeError, match="no object"):
        view_of(pack, indices=np.empty(0, np.int64))


def test_objects_of_one_picture_stay_together():
    images = [f"{number // 3}.jpg" for number in range(60)]
    held = hold_out_pictures(images, 0.2, seed=1)
    assert len(held.validation) == 12
    assert not {images[row] for row in held.train} & {images[row] for row in held.validation}


def test_mirrored_crops_see_the_views_of_the_mirrored_shape(pack):
    """View k of a mirrored shape is view -k of the shape, mirrored."""
    renderings = np.random.default_rng(1).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    order = np.array([0, 3, 2, 1])
    kept = renderings.copy()
    batches = {
        flip: batch_of(view_of(pack, renderings=renderings, mirrored_views=order, flip=flip)) for flip in (0.0, 1.0)
    }
    plain, mirrored = (batch.targets["views"].numpy() for batch in batches.values())
    expected = renderings[batches[0.0].label.numpy()].transpose(0, 1, 4, 2, 3) / np.float32(255)
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    np.testing.assert_allclose(mirrored, plain[:, order][..., ::-1], atol=1e-6)
    np.testing.assert_array_equal(renderings, kept)
    assert "views" in view_of(pack, renderings=renderings).targets and "views" not in view_of(pack).targets
