from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from posedistill.data.render.backgrounds import Backgrounds, clutter, lay_table
from posedistill.data.render.layout import Table, view_rotation
from posedistill.errors import DataError
from posedistill.geometry.cameras import project

K = np.array([[200.0, 0, 79.5], [0, 200.0, 59.5], [0, 0, 1]])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "more/b.png")):
        image = np.full((90, 130, 3), 60 + 90 * index, np.uint8)
        cv2.imwrite(str(folder / name), image)
    return folder


@pytest.mark.parametrize("with_folder", [False, True])
def test_pictures_have_the_size_asked_for_and_repeat_with_the_seed(photographs: Path, with_folder: bool) -> None:
    backgrounds = Backgrounds(photographs if with_folder else None)
    for seed in range(8):
        first, again = (backgrounds.picture(160, 120, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == (120, 160, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        assert backgrounds.table_top(96, np.random.default_rng(seed)).shape == (96, 96, 3)


def test_photographs_of_the_subfolders_are_found_and_used(photographs: Path) -> None:
    backgrounds = Backgrounds(photographs)
    assert [path.name for path in backgrounds.paths] == ["a.jpg", "b.png"]
    flat = [backgrounds.picture(64, 48, np.random.default_rng(seed)).std(axis=(0, 1)).max() < 4 for seed in range(30)]
    assert 0.6 < np.mean(flat) < 1.0


def test_clutter_differs_from_seed_to_seed() -> None:
    a, b = (clutter(160, 120, np.random.default_rng(seed)) for seed in (0, 1))
    assert a.std() > 5
    assert np.abs(a.astype(int) - b).mean() > 5


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        Backgrounds(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.*no such folder"):
        Backgrounds(tmp_path / "nowhere")


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 half a picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        Backgrounds(tmp_path)


def test_small_pictures_are_left_out(tmp_path: Path) -> None:
    """One pixel, a banner, and one that is too low only once it is made smaller."""
    for name, size in {"pixel.png": (1, 1), "banner.jpg": (2000, 12), "long.png": (8000, 100)}.items():
        Pillow.new("RGB", size, (90, 120, 30)).save(tmp_path / name)
    with pytest.raises(
        DataError, match=r"'backgrounds': found no image, and 3 too small, expected files .* of 16 pixels"
    ):
        Backgrounds(tmp_path)
    Pillow.new("RGB", (40, 16), (90, 120, 30)).save(tmp_path / "photo.jpg")
    backgrounds = Backgrounds(tmp_path)
    assert [path.name for path in backgrounds.paths] == ["photo.jpg"] and len(backgrounds.too_small) == 3
    for seed in range(20):
        assert backgrounds.picture(64, 48, np.random.default_rng(seed)).shape == (48, 64, 3)


def test_a_table_covers_what_its_corners_enclose() -> None:
    R = view_rotation(0.4, 1.0, 0.1)
    table = Table(R, np.array([0.0, 0.0, 500.0]), (200.0, 120.0))
    picture = np.zeros((120, 160, 3), np.uint8)
    lay_table(picture, np.full((64, 64, 3), 200, np.uint8), np.ones((16, 16, 3), np.float32), table, K)
    half = np.array(table.size) / 2
    corners = np.array([[-half[0], -half[1], 0], [half[0], -half[1], 0], [half[0], half[1], 0], [-half[0], half[1], 0]])
    expected = cv2.fillConvexPoly(np.zeros((120, 160), np.uint8), project(corners, R, table.t, K).astype(np.int32), 1)
    found = picture[..., 0] > 0
    assert (found == (expected > 0)).mean() > 0.98
    assert picture[60, 80, 0] == pytest.approx(200, abs=2)


def test_a_table_ends_at_its_horizon() -> None:
    R = view_rotation(0.0, np.radians(10), 0.0)
    table = Table(R, np.array([0.0, 60.0, 300.0]), (1e5, 1e5))
    picture = np.zeros((120, 160, 3), np.uint8)
    lay_table(picture, np.full((64, 64, 3), 200, np.uint8), np.ones((16, 16, 3), np.float32), table, K)
    horizon = 59.5 - 200 * np.tan(np.radians(10))
    assert (picture[: int(horizon) - 1] == 0).all()
    assert (picture[int(horizon) + 4 :] > 0).mean() > 0.95
