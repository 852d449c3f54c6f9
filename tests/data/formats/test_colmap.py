import re
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from posedistill.data.formats.colmap import read_colmap
from posedistill.data.images import write_image
from posedistill.errors import DataError

WIDTH, HEIGHT = 40, 30
MODELS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "OPENCV_FISHEYE": 5}
CAMERAS = {1: ("PINHOLE", [50.0, 52.0, 20.5, 15.25]), 7: ("SIMPLE_RADIAL", [45.0, 20.0, 15.0, -0.1])}


def text_model(folder, images, cameras, size=(WIDTH, HEIGHT)):
    lines = [
        f"{number} {model} {size[0]} {size[1]} {' '.join(map(str, values))}"
        for number, (model, values) in cameras.items()
    ]
    (folder / "cameras.txt").write_text("# Camera list\n" + "\n".join(lines) + "\n")
    lines = []
    for number, (name, camera, quaternion, t) in enumerate(images, 1):
        pose = " ".join(map(str, (*quaternion, *t)))
        lines += [f"{number} {pose} {camera} {name}", "1.5 2.5 -1" if number % 2 else ""]
    (folder / "images.txt").write_text("# Image list\n# two lines each\n" + "\n".join(lines) + "\n")


def binary_model(folder, images, cameras, size=(WIDTH, HEIGHT)):
    data = struct.pack("<Q", len(cameras))
    for number, (model, values) in cameras.items():
        data += struct.pack(f"<iiQQ{len(values)}d", number, MODELS[model], *size, *values)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for number, (name, camera, quaternion, t) in enumerate(images, 1):
        data += struct.pack("<i7di", number, *quaternion, *t, camera) + name.encode() + b"\0"
        data += struct.pack("<Q", number) + struct.pack("<ddq", 1.0, 2.0, -1) * number
    (folder / "images.bin").write_bytes(data)


WRITERS = {"text": text_model, "binary": binary_model}


@pytest.fixture(params=list(WRITERS))
def capture(request, tmp_path, known_view):
    """``capture(images=..., cameras=..., size=...)``: a capture of ten photographs with its model in ``sparse/0``."""
    for number in range(10):
        write_image(tmp_path / "images" / f"img{number}.jpg", np.full((HEIGHT, WIDTH, 3), 100, np.uint8))
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    still = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    all_images = [(f"img{n}.jpg", 7 if n == 4 else 1, *still) for n in range(10)]
    all_images[2] = ("img2.jpg", 1, known_view.quaternion, known_view.t)

    def write(images=all_images, cameras=CAMERAS, **options):
        WRITERS[request.param](model, images[::-1], cameras, **options)
        return tmp_path

    write.binary = request.param == "binary"
    return write


def test_a_view_worked_out_by_hand(capture, known_view):
    dataset = read_colmap(capture(), "all")
    assert [frame.image.name for frame in dataset.frames] == [f"img{n}.jpg" for n in range(10)]
    known_view.check(dataset.frames[2])


def test_cameras(capture):
    frames = read_colmap(capture(), "all").frames
    np.testing.assert_allclose(frames[0].K, [[50, 0, 20], [0, 52, 14.75], [0, 0, 1]])
    np.testing.assert_allclose(frames[4].K, [[45, 0, 19.5], [0, 45, 14.5], [0, 0, 1]])
    assert (frames[0].distortion, frames[4].distortion) == ((), (-0.1,))


def test_splits_and_places(capture):
    root = capture()
    assert [frame.image.name for frame in read_colmap(root, "test").frames] == ["img0.jpg", "img8.jpg"]
    assert len(read_colmap(root / "sparse" / "0", "train")) == 8
    shutil.move(root / "images", root / "photos")
    with pytest.raises(DataError, match="'images': found no folder images near the model"):
        read_colmap(root)
    assert len(read_colmap(root, images=root / "photos")) == 8


def test_images_without_a_pose_are_counted(capture):
    dataset = read_colmap(capture(images=[("img3.jpg", 1, (1.0, 0, 0, 0), (0, 0, 0))]), "all")
    assert dataset.notes == ("9 images without a pose (first: img0.jpg)",)


def image(name="img0.jpg", camera=1, quaternion=(1.0, 0.0, 0.0, 0.0), t=(0.0, 0.0, 0.0)):
    return [(name, camera, quaternion, t)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": image(quaternion=(0.0, 0.0, 0.0, 0.0))}, "found norm 0, expected a quaternion of norm 1"),
        ({"images": image(t=(0.0, float("nan"), 0.0))}, "found a pose with nan or inf"),
        ({"images": image(name="img99.jpg")}, r"img99.jpg: 'image': found no such file"),
        ({"images": image(camera=3)}, r"found camera 3, expected one of \[1, 7\]"),
        ({"size": (80, 60)}, r"'image size': found 40x30, expected 80x60, as camera 1 has"),
        ({"cameras": {1: ("OPENCV_FISHEYE", [50.0] * 8)}}, "found camera model OPENCV_FISHEYE.*undistort"),
        ({"cameras": {1: ("PINHOLE", [50.0, -1.0, 20.0, 15.0])}}, "expected finite parameters"),
    ],
)
def test_damaged_captures(capture, changes, message):
    with pytest.raises(DataError, match=message):
        read_colmap(capture(**changes), "all")


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_truncated_binaries(tmp_path, name):
    write_image(tmp_path / "images" / "img0.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    binary_model(tmp_path, image(), CAMERAS)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{name}: '.*': found the file's end, {length} bytes in"):
            read_colmap(tmp_path)
    (tmp_path / name).write_bytes(whole + b"\0\0")
    with pytest.raises(DataError, match=r"'end': found 2 bytes after the last"):
        read_colmap(tmp_path)
    (tmp_path / name).write_bytes(struct.pack("<Q", 2**62) + whole[8:])
    with pytest.raises(DataError, match=f"of {2**62}': found the file's end"):
        read_colmap(tmp_path)


def test_unknown_camera_models(tmp_path):
    (tmp_path / "images").mkdir()
    binary_model(tmp_path, image(), CAMERAS)
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QiiQQ", 1, 1, 99, 40, 30))
    with pytest.raises(DataError, match="found camera model 99, expected 0 to 10"):
        read_colmap(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cameras.txt", "1 PINHOLE 40", "'line 1': found 3 words"),
        ("cameras.txt", "1 PINHOLE 40 30 50 50", "'line 1': found 2 parameters, expected 4 of PINHOLE"),
        ("images.txt", "1 1 0 0 0 0 0 0\n", "'line 1': found 8 words, expected IMAGE_ID"),
        ("images.txt", "1 1 0 0 x 0 0 0 1 img0.jpg\n\n", "'line 1': found could not convert"),
    ],
)
def test_damaged_text(tmp_path, name, text, message):
    (tmp_path / "images").mkdir()
    text_model(tmp_path, image(), CAMERAS)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        read_colmap(tmp_path)


def test_no_model(tmp_path):
    with pytest.raises(DataError, match=r"'model': found no images.bin or images.txt"):
        read_colmap(tmp_path)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n\n\n", "\n \n\n\n", "\n\n\n# end\n\n"])
@pytest.mark.parametrize("points", ["", "1.5 2.5 -1"])
def test_blank_lines_at_the_end_do_not_matter(tmp_path, points, end):
    """The last image may have no points, which is a blank line, too; so may one before it."""
    for name in ("img0.jpg", "img1.jpg"):
        write_image(tmp_path / "images" / name, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text_model(tmp_path, image(), CAMERAS)
    (tmp_path / "images.txt").write_text(f"1 1 0 0 0 0 0 0 1 img0.jpg\n\n2 1 0 0 0 0 0 0 1 img1.jpg\n{points}{end}")
    assert len(read_colmap(tmp_path, "all")) == 2


@pytest.mark.parametrize(
    "points", ["", "\n", "1.5 2.5 -1\n", "1.5 2.5 -1 7 8.5 12 1 2 3 4 5 6\n", "\n\n1.5 2.5 -1\n\n"]
)
def test_files_written_by_hand_need_no_lines_of_points(tmp_path, points):
    """Every second line would lose half of the images, or take points for poses."""
    names = [f"img{number}.jpg" for number in range(5)]
    for name in names:
        write_image(tmp_path / "images" / name, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text_model(tmp_path, image(), CAMERAS)
    text = "".join(f"{number} 1 0 0 0 0 0 0 1 {name}\n{points}" for number, name in enumerate(names))
    (tmp_path / "images.txt").write_text("# by hand\n" + text)
    assert [frame.image.name for frame in read_colmap(tmp_path, "all")] == names


def test_the_largest_of_several_models_is_read_and_the_others_told(capture):
    root = capture(images=image())
    other = root / "sparse" / "1"
    other.mkdir()
    text_model(other, [(f"img{n}.jpg", 1, (1.0, 0, 0, 0), (0, 0, 0)) for n in range(3)], CAMERAS)
    dataset = read_colmap(root, "all")
    assert len(dataset) == 3
    assert dataset.notes[0] == "2 COLMAP models: sparse/1 is read (3 images), left out: sparse/0 (1 images)"
    assert len(read_colmap(root / "sparse" / "0", "all")) == len(read_colmap(root / "sparse", "all")) - 2 == 1
    text_model(other, image(), CAMERAS)
    with pytest.raises(DataError, match=r"'model': found several models of the same size: sparse/0 \(1 images\), spa"):
        read_colmap(root)


def test_names_from_windows(tmp_path):
    write_image(tmp_path / "images" / "left" / "0.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text_model(tmp_path, image(name="left\\0.jpg"), CAMERAS)
    (frame,) = read_colmap(tmp_path, "all")
    assert frame.sequence == "left"


def test_a_turned_photograph_is_told_by_its_exif_orientation(capture):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = capture(images=image())
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "images" / "img0.jpg", exif=exif)
    expected = (
        r"found 30x40 \(stored so; EXIF orientation 6 turns it in viewers\), expected 40x30, as camera 1 has, for"
    )
    with pytest.raises(DataError, match=expected):
        read_colmap(root, "all")


def test_a_lens_that_folds_the_picture(capture):
    cameras = {1: ("SIMPLE_RADIAL", [20.0, 20.0, 15.0, -0.4])}
    with pytest.raises(DataError, match=r"'camera 1': found a distortion \[-0.4\] that turns back at 50% of the way"):
        read_colmap(capture(images=image(), cameras=cameras), "all")


def test_black_edges_are_told(capture):
    cameras = {1: ("OPENCV", [15.6, 15.6, 20.0, 15.0, -0.25, 0.06, 0.0, 0.0])}
    notes = read_colmap(capture(images=image(), cameras=cameras), "all").notes
    (note,) = [note for note in notes if "black" in note]
    assert re.fullmatch(r"taking out the lens leaves up to \d+.\d% of a photograph black \(first: img0.jpg\)", note)


def test_byte_order_marks_are_no_fault(tmp_path):
    write_image(tmp_path / "images" / "img0.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text_model(tmp_path, image(), CAMERAS)
    for name in ("cameras.txt", "images.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert len(read_colmap(tmp_path, "all")) == 1


def test_both_splits_open_each_file_once(capture, opened):
    ending = "bin" if capture.binary else "txt"
    counts = opened(read_colmap, capture())
    assert counts == {f"sparse/0/cameras.{ending}": 1, f"sparse/0/images.{ending}": 1}


def test_of_several_models_each_file_is_opened_once(capture, opened):
    root = capture()
    (root / "sparse" / "1").mkdir()
    text_model(root / "sparse" / "1", image(), CAMERAS)
    counts = opened(read_colmap, root)
    assert len(counts) == 3 and set(counts.values()) == {1}
