import cv2
import numpy as np
import pytest

from posedistill.decode import Prepared, Request, WDRNetDecoder
from posedistill.decode.crops import cut, scan_boxes
from posedistill.geometry.cameras import Camera, crop_cameras
from posedistill.geometry.objects import ObjectTable, box_corners

CORNERS = box_corners(np.array([-30.0, -40.0, -50.0]), np.array([30.0, 40.0, 50.0]))
OBJECTS = ObjectTable((6, 9), np.stack([CORNERS, CORNERS]), np.array([141.0, 141.0]), (np.eye(4)[None],) * 2)
DECODER = WDRNetDecoder(objects=OBJECTS, crop_size=64, strides=(8, 16))
K = np.array([[570.0, 0.0, 325.0], [0.0, 573.0, 242.0], [0.0, 0.0, 1.0]])


def prepare(image: np.ndarray, boxes: np.ndarray, labels: list[int]) -> Prepared:
    return DECODER.prepare(Request(image, K, boxes, labels))


def test_crop_is_normalised_rgb_and_centred():
    image = np.zeros((100, 200, 3), np.uint8)
    image[30:50, 60:90] = (255, 128, 0)
    prepared = prepare(image, np.array([[60.0, 30.0, 30.0, 20.0]]), [9])
    assert prepared.inputs["images"].shape == (1, 3, 64, 64) and prepared.inputs["images"].dtype == np.float32
    assert prepared.inputs["images"].flags.c_contiguous and prepared.inputs["classes"].tolist() == [1]
    mean, std = np.array(DECODER.mean), np.array(DECODER.std)
    expected = (np.array([1.0, 128 / 255, 0.0]) - mean) / std
    np.testing.assert_allclose(prepared.inputs["images"][0, :, 32, 32], expected, atol=1e-5)


def test_outside_the_image_is_the_mean_colour():
    image = np.full((50, 50, 3), 255, np.uint8)
    prepared = prepare(image, np.array([[-40.0, -40.0, 50.0, 50.0]]), [6])
    assert np.abs(prepared.inputs["images"][0, :, 0, 0]).max() < 0.01
    assert prepared.inputs["images"][0, :, 63, 63].min() > 1


def test_large_photographs_do_not_alias():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_cameras(np.eye(3)[None], np.array([[320.0, 320.0]]), np.array([512.0]), 64)
    assert np.ptp(cut(stripes, crop.homography[0], 64)) <= 1


@pytest.mark.parametrize("side", [1e4, 1e9])
def test_a_box_far_larger_than_the_image_is_cut(side):
    image = np.full((90, 120, 3), 255, np.uint8)
    prepared = prepare(image, np.array([[-side / 2, -side / 2, side, side]]), [6])
    assert np.isfinite(prepared.inputs["images"]).all() and np.abs(prepared.inputs["images"][0, :, 0, 0]).max() < 0.01


@pytest.mark.parametrize("side", [50.0, 128.0, 200.0, 350.0])
def test_cutting_reads_no_more_than_the_crop_shows(side):
    """The same picture in a larger one gives the same crop: the part that is read is chosen rightly."""
    image = np.random.default_rng(0).integers(0, 256, (480, 720, 3), dtype=np.uint8)
    crop = crop_cameras(np.eye(3)[None], np.array([[411.3, 205.8]]), np.array([side]), 64, 0.3).homography[0]
    factor = max(int(side / 64), 1)
    whole = cv2.resize(image, (720 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
    to_whole = np.diag([factor, factor, 1.0])
    to_whole[:2, 2] = (factor - 1) / 2
    expected = cv2.warpAffine(whole, (crop @ to_whole)[:2], (64, 64), flags=cv2.INTER_LINEAR)
    assert np.abs(cut(image, crop, 64).astype(int) - expected).max() <= 1


def test_shrinking_keeps_places():
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


def test_scan_covers_every_pixel():
    for width, height in ((640, 480), (480, 640), (300, 300), (1000, 200)):
        boxes = scan_boxes(width, height, pad=1.5)
        assert (boxes[:, 2] == boxes[:, 3]).all()
        for level in sorted(set(boxes[:, 2])):
            seen = np.zeros((height, width), bool)
            for x, y, w, h in boxes[boxes[:, 2] == level]:
                grow = 0.25 * w
                seen[round(y - grow) : round(y + h + grow), round(x - grow) : round(x + w + grow)] = True
            assert seen.mean() > 0.98


def test_default_camera_follows_the_image():
    decoder = WDRNetDecoder(objects=OBJECTS, crop_size=64, strides=(8, 16), camera=Camera(K, 640, 480))
    np.testing.assert_allclose(decoder.default_K(640, 480), K)
    doubled = decoder.default_K(1280, 960)
    # A point that the small camera sees at pixel (x, y) is seen by the large one at (2x + 0.5, 2y + 0.5).
    ray = np.array([0.1, -0.05, 1.0])
    small = (K @ ray)[:2]
    np.testing.assert_allclose((doubled @ ray)[:2], 2 * small + 0.5)
    portrait = decoder.default_K(480, 640)
    assert portrait[0, 0] == pytest.approx(570.0)
    assert 200 < portrait[0, 2] < 280 and 280 < portrait[1, 2] < 360
