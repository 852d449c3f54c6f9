import cv2
import numpy as np
import pytest
from PIL import Image
from tests.data.boards import board_shots
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.camera import camera_of_board, camera_of_exif, parse_board
from posedistill.deploy.predict.base import parse_camera
from posedistill.errors import DataError

K = np.array([[820.0, 0.0, 330.0], [0.0, 815.0, 236.0], [0.0, 0.0, 1.0]])
BOARD = (7, 5)


def shot(path, focal=26, size=(400, 300), exif=True):
    image, tags = Image.new("RGB", size, (90, 120, 60)), Image.Exif()
    if exif:
        tags.get_ifd(0x8769)[0xA405] = focal
    image.save(path, exif=tags)
    return path


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """A board seen by a known camera from seven sides."""
    return board_shots(tmp_path_factory.mktemp("board"), BOARD, K)


def test_a_board_gives_the_lens_too(shots, tmp_path):
    lens, bent = np.array([-0.15, 0.04, 0.0, 0.0]), []
    points = np.stack(np.meshgrid(np.arange(640.0), np.arange(480.0)), axis=-1).reshape(-1, 1, 2)
    source = cv2.undistortPoints(points, K, lens, P=K).reshape(480, 640, 2).astype(np.float32)
    for path in shots:
        image = cv2.remap(cv2.imread(str(path)), source, None, cv2.INTER_LINEAR, borderValue=(200, 200, 200))
        bent.append(tmp_path / path.name)
        cv2.imwrite(str(bent[-1]), image)
    found = camera_of_board(bent, BOARD)
    K_told, lens_told = parse_camera(found.option())
    np.testing.assert_allclose(K_told[[0, 1], [0, 1]], K[[0, 1], [0, 1]], rtol=0.01)
    assert len(lens_told) == 4 and lens_told[0] == pytest.approx(-0.15, abs=0.04)
    straight = cv2.undistortPoints(np.array([[[60.0, 50.0]]]), K_told, np.array(lens_told), P=K)
    np.testing.assert_allclose(straight, cv2.undistortPoints(np.array([[[60.0, 50.0]]]), K, lens, P=K), atol=8)


def test_a_board_gives_the_camera(shots):
    found = camera_of_board(shots, BOARD)
    np.testing.assert_allclose(found.K[[0, 1], [0, 1]], K[[0, 1], [0, 1]], rtol=0.01)
    np.testing.assert_allclose(found.K[:2, 2], K[:2, 2], atol=6)
    assert found.size == (640, 480) and "in 7 photographs" in found.about


def test_another_board_or_too_few_photographs_are_refused(shots):
    with pytest.raises(DataError, match="found a board of 7x5 inner corners in 3 of 3"):
        camera_of_board(shots[:3], BOARD)
    with pytest.raises(DataError, match="found a board of 11x8 inner corners in 0 of 7"):
        camera_of_board(shots, (11, 8))


def test_exif_gives_the_focal_length_by_the_diagonal(tmp_path):
    found = camera_of_exif([shot(tmp_path / "a.jpg"), shot(tmp_path / "b.jpg"), shot(tmp_path / "c.jpg", exif=False)])
    assert found.K[0, 0] == found.K[1, 1] == pytest.approx(26 / 43.267 * 500)
    assert found.K[:2, 2].tolist() == [199.5, 149.5] and "EXIF of 2 photographs: 26 mm" in found.about
    assert found.option() == "300.5,300.5,199.5,149.5"


def test_photographs_without_exif_or_of_several_cameras_are_refused(tmp_path):
    plain = shot(tmp_path / "plain.jpg", exif=False)
    with pytest.raises(DataError, match=r"plain\.jpg: 'EXIF': found no focal length .*messengers"):
        camera_of_exif([plain])
    pair = [shot(tmp_path / "wide.jpg", 26), shot(tmp_path / "tele.jpg", 77)]
    with pytest.raises(DataError, match=r"26 mm at 400x300 in wide\.jpg, 77 mm at 400x300 in tele\.jpg"):
        camera_of_exif(pair)
    with pytest.raises(DataError, match="no such file"):
        camera_of_exif([tmp_path / "gone.jpg"])


@pytest.mark.parametrize("text", ["9", "9x", "2x6", "axb"])
def test_a_board_is_said_by_its_inner_corners(text):
    with pytest.raises(DataError, match="expected inner corners along and across, as 9x6"):
        parse_board(text)


def test_the_command_prints_what_the_others_take(tmp_path, shots):
    done = CliRunner().invoke(cli.app, ["data", "camera", str(shot(tmp_path / "a.jpg"))])
    assert done.exit_code == 0 and "--camera 300.5,300.5,199.5,149.5" in done.output
    assert CliRunner().invoke(cli.app, ["data", "camera", str(tmp_path)]).output == done.output
    done = CliRunner().invoke(cli.app, ["data", "camera", *map(str, shots), "--board", "7x5"])
    assert done.exit_code == 0 and "checkerboard in 7 photographs" in done.output
