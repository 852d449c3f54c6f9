import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.cameras import crop_cameras
from posedistill.geometry.warp import BORDER, affine_maps, source_windows, warp, warp_ids


def random_maps(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    centers, sides = rng.uniform(0, [140, 90], (count, 2)), rng.uniform(30, 250, count)
    K = np.tile(np.eye(3), (count, 1, 1))
    return affine_maps(crop_cameras(K, centers, sides, size, rng.uniform(-3, 3, count)).homography)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 23), np.cos(y / 17), np.sin((x + y) / 31)], axis=-1)
    return (127 + 100 * waves).round().astype(np.uint8)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_windows_hold_all_that_a_view_shows(seed: int) -> None:
    maps = random_maps(np.random.default_rng(seed), 4, 50)
    windows = source_windows(maps, (40, 50), np.array([[90, 140]] * 4))
    grid = np.stack([*np.meshgrid(np.arange(50), np.arange(40)), np.ones((40, 50))], axis=-1)
    for (top, bottom, left, right), one in zip(windows, maps, strict=True):
        x, y = (grid @ one.T).reshape(-1, 2).T
        inside = (x >= 0) & (x <= 139) & (y >= 0) & (y <= 89)
        if inside.any():
            assert left <= np.floor(x[inside].min()) and np.ceil(x[inside].max()) <= right - 1
            assert top <= np.floor(y[inside].min()) and np.ceil(y[inside].max()) <= bottom - 1


def test_affine_and_projective_views_show_the_same() -> None:
    """Views of other shapes than squares too; OpenCV rounds places to 1/32 pixel in either, in ways of its own."""
    maps = random_maps(np.random.default_rng(0), 6, 250)
    whole = np.concatenate([maps, np.tile([[[0.0, 0.0, 1.0]]], (6, 1, 1))], axis=1)
    images = [smooth(90, 140)] * 6
    affine, projective = (warp(images, each, np.empty((6, 80, 120, 3), dtype=np.uint8)) for each in (maps, whole))
    apart = np.abs(affine.astype(int) - projective)
    assert np.percentile(apart, 99) <= 1


def test_what_is_only_cut_out_is_copied_by_maps_of_either_kind() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    moved = np.array([[[1.0, 0, 13], [0, 1, 7], [0, 0, 1]]])
    for maps in (moved, moved[:, :2]):
        view = warp([image], maps, np.empty((1, 40, 30, 3), dtype=np.uint8))
        np.testing.assert_array_equal(view[0], image[7:47, 13:43])


def test_beyond_the_image_is_the_border_of_any_number_of_channels() -> None:
    away = np.array([[[1.0, 0, 500], [0, 1, 0], [0, 0, 1]]])
    for maps in (away, away[:, :2]):
        for dtype in (np.uint8, np.float32):
            image = np.full((60, 80, 3), 255, dtype=dtype)
            view = warp([image], maps, np.empty((1, 20, 30, 3), dtype=dtype))
            assert (view == np.array(BORDER)).all()
            assert (warp([image], maps, view, border=(1.0, 2.0, 3.0)) == [1, 2, 3]).all()
        labelled = np.full((60, 80, 4), 255, dtype=np.uint8)
        assert (warp([labelled], maps, np.empty((1, 20, 30, 4), dtype=np.uint8)) == [*BORDER, 0]).all()
    assert (warp_ids([labelled], away[:, :2], np.empty((1, 20, 30), dtype=np.uint8)) == 0).all()


def test_no_images_to_draw() -> None:
    assert warp([], np.empty((0, 2, 3)), np.empty((0, 16, 16, 4), dtype=np.uint8)).shape == (0, 16, 16, 4)
