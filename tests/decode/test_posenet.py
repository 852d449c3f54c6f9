import cv2
import numpy as np
import pytest

from posedistill.decode import PoseNetDecoder, Prepared, Request
from posedistill.decode.posenet import ROTATION_SIZES, rotation_matrix
from posedistill.errors import DataError
from posedistill.geometry.cameras import Camera, project
from posedistill.geometry.rotations import axis_angle, is_rotation, quaternion_to_matrix, random_rotations

PLAIN = PoseNetDecoder(shape=(32, 48), short_side=40, mean=(0.0,) * 3, std=(1.0,) * 3)
TURN = axis_angle(np.array([0.3, -1.0, 0.5]), 0.7)


def test_published_numbers():
    """6D by Gram-Schmidt, and half-angle logarithms."""
    R = rotation_matrix(np.array([1, 0.2, -0.1, 0.1, 0.9, 0.3]), "6d")
    columns = [(0.975900, 0.195180, -0.097590), (-0.149743, 0.924278, 0.351122), (0.158732, -0.328047, 0.931230)]
    np.testing.assert_allclose(R.T, columns, atol=1e-6)
    half = rotation_matrix(np.array([0, 0.3926991, 0]), "log_quaternion")
    np.testing.assert_allclose(half, quaternion_to_matrix(np.array([0.9238795, 0, 0.3826834, 0])), atol=1e-7)


@pytest.mark.parametrize("kind", list(ROTATION_SIZES))
def test_any_numbers_are_a_rotation(kind):
    parameters = np.random.default_rng(0).normal(size=(4, 5, ROTATION_SIZES[kind]))
    R = rotation_matrix(parameters, kind)
    assert R.shape == (4, 5, 3, 3)
    assert is_rotation(R, 1e-9).all()


def test_no_turn_has_a_logarithm():
    np.testing.assert_array_equal(rotation_matrix(np.zeros(3), "log_quaternion"), np.eye(3))


def test_positions_are_camera_centres_and_rotations_count_from_the_reference():
    R = random_rotations(6, np.random.default_rng(1))
    relative = R @ TURN.T
    centers = np.arange(18.0).reshape(6, 3)
    outputs = {"position": centers, "rotation": np.concatenate([relative[..., 0], relative[..., 1]], axis=-1)}
    decoder = PoseNetDecoder(shape=(32, 32), short_side=32, rotation="6d", reference=TURN)
    poses = decoder.decode(
        outputs, Prepared.of_pictures({"images": np.zeros((6, 3, 32, 32))}, np.tile(np.eye(3), (6, 1, 1)))
    )
    assert [pose.row for pose in poses] == list(range(6))
    np.testing.assert_allclose([pose.R for pose in poses], R, atol=1e-12)
    np.testing.assert_allclose([pose.center for pose in poses], centers, atol=1e-12)


def plain(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def prepare(decoder: PoseNetDecoder, image: np.ndarray) -> np.ndarray:
    return decoder.prepare(Request(image)).inputs["images"][0]


def test_the_middle_of_the_scaled_photograph():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (80, 160, 3), dtype=np.uint8), (0, 0), 2)
    prepared = prepare(PLAIN, image)
    scaled = cv2.resize(image, (80, 40), interpolation=cv2.INTER_AREA)
    assert prepared.dtype == np.float32 and prepared.shape == (3, 32, 48)
    np.testing.assert_allclose(prepared, scaled[4:36, 16:64].transpose(2, 0, 1) / 255, atol=1e-6)


def test_squeezed_photographs_of_the_published_preprocessing():
    decoder = PoseNetDecoder(shape=(30, 40), frame_size=(50, 30), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    scaled = cv2.resize(image, (50, 30), interpolation=cv2.INTER_AREA)[:, 5:45]
    np.testing.assert_allclose(prepare(decoder, image), scaled.transpose(2, 0, 1), atol=1e-3)


def test_a_lens_is_taken_out_at_every_resolution():
    """A dot seen through the lens lies where the straight camera sees it, also at half and at twice the size."""
    lens, point = (-0.3, 0.1, 0.0, 0.0), np.array([[0.3, 0.1, 1.0]])
    K = np.array([[150.0, 0, 99.5], [0, 150.0, 74.5], [0, 0, 1]])
    decoder = PoseNetDecoder(
        shape=(75, 100), short_side=75, mean=(0.0,) * 3, std=(1.0,) * 3, camera=Camera(K, 200, 150), distortion=lens
    )
    straight, _ = cv2.getOptimalNewCameraMatrix(K, np.array(lens), (200, 150), alpha=0)
    expected = (project(point, np.eye(3), np.zeros(3), straight)[0] + 0.5) / 2 - 0.5
    for factor in (1, 0.5, 2):
        u, v = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(lens))[0].reshape(2)
        u, v = (u + 0.5) * factor - 0.5, (v + 0.5) * factor - 0.5
        rows, columns = np.mgrid[: int(150 * factor), : int(200 * factor)]
        dot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (16 * factor**2))
        seen = prepare(decoder, np.repeat(dot[:, :, None], 3, axis=2).astype(np.uint8))[0]
        rows, columns = np.mgrid[:75, :100]
        place = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
        np.testing.assert_allclose(place, expected, atol=0.3)
    with pytest.raises(DataError, match="'image': found 100x100, expected the aspect of 200x150"):
        prepare(decoder, plain(100, 100))


def test_images_that_cannot_be():
    for image in (plain(100, 60).astype(float), plain(100, 60)[..., 0], "photo.png"):
        with pytest.raises(DataError, match=r"'image': found .*, expected uint8 \[H, W, 3\], RGB"):
            prepare(PLAIN, image)
    with pytest.raises(DataError, match=r"found 50x50, scaled to 40x40, expected 48x32 at least"):
        prepare(PLAIN, plain(50, 50))
