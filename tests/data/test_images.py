from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posedistill.data.images import exif_orientation, read_depth_image, read_image, read_mask
from posedistill.errors import DataError

RNG = np.random.default_rng(0)
PHOTO = cv2.GaussianBlur(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 2.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_photographs_come_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    cv2.imwrite(str(path), PHOTO[..., ::-1])
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == PHOTO.shape and image.flags.c_contiguous
    assert np.abs(image.astype(int) - PHOTO).max() <= (12 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_gray_is_repeated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gray{suffix}"
    cv2.imwrite(str(path), PHOTO[..., 0])
    image = read_image(path)
    assert image.shape == PHOTO.shape
    assert (image[..., 0] == image[..., 2]).all()
    assert np.abs(image[..., 1].astype(int) - PHOTO[..., 0]).max() <= (6 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_and_alpha(tmp_path: Path, suffix: str) -> None:
    wide, alpha = tmp_path / f"wide{suffix}", tmp_path / f"alpha{suffix}"
    cv2.imwrite(str(wide), PHOTO[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(alpha), np.dstack([PHOTO[..., ::-1], np.zeros((60, 80), np.uint8)]))
    assert (read_image(wide) == PHOTO).all()
    assert (read_image(alpha) == PHOTO).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_12_bits_in_a_16_bit_file_are_no_black_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"camera{suffix}"
    cv2.imwrite(str(path), PHOTO[..., ::-1].astype(np.uint16) * 16 + 15)
    assert (read_image(path) == PHOTO).all()
    cv2.imwrite(str(path), np.full((4, 4), 4096, np.uint16))
    assert (read_image(path) == 16).all(), "one value beyond 12 bits, and the file has 16"


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(PHOTO).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == PHOTO.shape
    assert exif_orientation(tmp_path / "turned.jpg") == 6
    Image.fromarray(PHOTO).save(tmp_path / "upright.jpg")
    assert [exif_orientation(tmp_path / name) for name in ("upright.jpg", "none.jpg")] == [1, 1]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_cut_file_is_an_error_wherever_it_is_cut(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), PHOTO)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=f"cut{suffix}"):
        read_image(path)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photograph(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    _, plain = cv2.imencode(".jpg", PHOTO)
    data = plain.tobytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data  # an APP1 segment that holds a whole jpg
    whole = data[:2] + thumbnail + data[2:]
    path.write_bytes(whole + b"appended by a phone")
    assert read_image(path).shape == PHOTO.shape
    path.write_bytes(whole[: -len(data) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_image(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.png.*no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image at all")
    with pytest.raises(DataError, match="undecodable"):
        read_image(tmp_path / "text.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder.png: 'image': found a directory, expected a photograph"):
        read_image(tmp_path / "folder.png")
    cv2.imwrite(str(tmp_path / "float.tif"), PHOTO.astype(np.float32))
    with pytest.raises(DataError, match="float32"):
        read_image(tmp_path / "float.tif")


def test_depth_is_scaled_to_mm(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.array([[0, 10_000]], dtype=np.uint16))
    depth = read_depth_image(path, 0.1)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0.0, 1000.0]])
    cv2.imwrite(str(path), PHOTO)
    with pytest.raises(DataError, match="one channel"):
        read_depth_image(path, 0.1)


def test_masks(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.eye(4, dtype=np.uint8))
    assert (read_mask(path) == np.eye(4, dtype=bool)).all()
    cv2.imwrite(str(path), np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match=r"mask.png: 'mask': found no pixel set, expected at least one"):
        read_mask(path)
    assert not read_mask(path, allow_empty=True).any()


def test_masks_with_soft_edges_are_cut_in_the_middle(tmp_path: Path) -> None:
    """What a jpg makes of two values, and anti-aliased edges, are no fault; nor are masks of 0 and 1."""
    disc = cv2.circle(np.zeros((60, 80), np.uint8), (40, 30), 20, 255, -1)
    for name, image in (("a.jpg", disc), ("b.png", cv2.GaussianBlur(disc, (0, 0), 0.8)), ("c.png", disc // 255)):
        cv2.imwrite(str(tmp_path / name), image)
        assert np.mean(read_mask(tmp_path / name) != (disc > 0)) < 0.01


def test_masks_that_are_not_binary(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.tile(np.arange(80, dtype=np.uint8) * 3, (60, 1)))
    with pytest.raises(
        DataError, match=r"'mask': found 80 values up to 237, \d+ pixels of which are neither low nor high"
    ):
        read_mask(path)
