import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.data.loading.frame_reader import DeviceFrames, cut_on_device
from posedistill.geometry.cameras import crop_cameras
from posedistill.geometry.warp import BORDER, affine_maps, reductions, warp, warp_ids

CPU = torch.device("cpu")


def smooth_frame(height, width):
    """Slowly varying colours and a disc of id 3."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 23), np.cos(y / 17), np.sin((x + y) / 31)]
    frame = np.empty((height, width, 4), dtype=np.uint8)
    frame[..., :3] = (127 + 100 * np.stack(waves, axis=-1)).round()
    frame[..., 3] = np.where((x - 0.6 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.25 * height) ** 2, 3, 0)
    return frame


def cut(frames, maps, size):
    return warp(frames, maps, np.empty((len(frames), size, size, 4), dtype=np.uint8))


def cut_ids(frames, maps, size):
    return warp_ids(frames, maps, np.empty((len(frames), size, size), dtype=np.uint8))


def random_maps(rng, count, size, shape):
    K = np.tile(np.eye(3), (count, 1, 1))
    centers = rng.uniform(0, [shape[1], shape[0]], (count, 2))
    homography = crop_cameras(K, centers, rng.uniform(30, 250, count), size, rng.uniform(-3, 3, count)).homography
    return affine_maps(homography)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_gather_agrees_with_opencv(seed):
    rng = np.random.default_rng(seed)
    stack = np.stack([smooth_frame(90, 140), smooth_frame(90, 140)[::-1]])
    other = smooth_frame(120, 80)[None]
    frames = [stack[1], other[0], stack[0]]
    maps = random_maps(rng, 3, 64, (90, 140))

    images, ids = cut(frames, maps, 64), cut_ids(frames, maps, 64)
    store = DeviceFrames([stack, other], CPU)
    for got_images, got_ids in (
        store.cut(np.array([1, 2, 0]), maps, (64, 64)),
        cut_on_device(frames, maps, (64, 64), CPU),
    ):
        apart = np.abs(images[..., :3].astype(int) - got_images[..., :3].numpy().astype(int))
        # The frame's edge against the border is no smooth picture: OpenCV rounds the share of either differently.
        assert np.percentile(apart, 97) <= 1
        assert (ids == got_ids.numpy()).mean() > 0.99


def test_a_pixel_lands_where_the_homography_says():
    frame = np.zeros((60, 80, 4), dtype=np.uint8)
    frame[21, 33] = (200, 100, 50, 7)
    K = np.eye(3)[None]
    homography = crop_cameras(K, np.array([[35.0, 20.0]]), np.array([16.0]), 64, 0.5).homography
    u, v = (homography[0] @ [33, 21, 1])[:2]
    for images, ids in (
        (cut([frame], affine_maps(homography), 64), cut_ids([frame], affine_maps(homography), 64)),
        (x.numpy() for x in cut_on_device([frame], affine_maps(homography), (64, 64), CPU)),
    ):
        for weight in (images[0, ..., 0].astype(float), (ids[0] == 7).astype(float)):
            y, x = np.mgrid[:64, :64]
            centre = [(weight * axis).sum() / weight.sum() for axis in (x, y)]
            np.testing.assert_allclose(centre, [u, v], atol=0.15)


@pytest.mark.parametrize("centre", [(-500.0, 30.0), (40.0, 900.0), (79.0, 59.0)])
def test_beyond_the_frame_lies_the_border(centre):
    frame = np.full((60, 80, 4), 255, dtype=np.uint8)
    maps = affine_maps(crop_cameras(np.eye(3)[None], np.array([centre]), np.array([40.0]), 32).homography)
    images, ids = cut([frame], maps, 32), cut_ids([frame], maps, 32)
    on_device = [x.numpy() for x in cut_on_device([frame], maps, (32, 32), CPU)]
    in_store = [x.numpy() for x in DeviceFrames([frame[None]], CPU).cut(np.array([0]), maps, (32, 32))]
    for got_images, got_ids in ((images, ids), on_device, in_store):
        assert (got_images[0, -1, -1, :3] == BORDER).all()
        assert got_ids[0, -1, -1] == 0
    assert (images[0, 0, 0, :3] == (255 if centre == (79.0, 59.0) else BORDER)).all()


def test_small_crops_of_large_frames_are_averages():
    """A fine checkerboard far below its scale is grey, smooth pictures agree, and other crops stay as they are."""
    board = np.zeros((400, 400, 4), dtype=np.uint8)
    board[..., :3] = 255 * (np.add.outer(np.arange(400), np.arange(400)) % 2)[..., None]
    smooth = smooth_frame(400, 400)
    frames, K = [board, smooth, smooth], np.tile(np.eye(3), (3, 1, 1))
    centers, sides = np.array([[200.0, 190.0]] * 3), np.array([300.0, 300.0, 60.0])
    maps = affine_maps(crop_cameras(K, centers, sides, 64, 0.3).homography)
    assert reductions(maps).tolist() == [4, 4, 0]
    on_cpu = cut(frames, maps, 64).astype(int)
    on_device = cut_on_device(frames, maps, (64, 64), CPU)[0].numpy().astype(int)
    for images in (on_cpu, on_device):
        assert np.abs(images[0, ..., :3] - 127.5).max() < 20
    assert np.percentile(np.abs(on_cpu - on_device)[1:, ..., :3], 99) <= 2
    alone = cut_on_device(frames[2:], maps[2:], (64, 64), CPU)[0].numpy()
    assert np.array_equal(on_device[2], alone[0])
