import shutil

import cv2
import numpy as np
import pytest

from posedistill.data.formats.cambridge import read_cambridge
from posedistill.data.images import read_image, write_image
from posedistill.errors import DataError
from posedistill.geometry.cameras import Camera


def edit(root, change, row=1, name="dataset_train.txt"):
    """Change the words of one line of poses; they are a name and 7 numbers."""
    path = root / name
    lines = path.read_text().splitlines()
    words = lines[3 + row].split()
    lines[3 + row] = " ".join(map(str, change(words)))
    path.write_text("\n".join(lines) + "\n")


def with_pose(*numbers):
    return lambda words: [words[0], *numbers]


def test_the_room_looks_the_same_from_the_poses_read(cambridge_root, made_room):
    for split, count in (("train", 12), ("test", 6), ("all", 18)):
        dataset = read_cambridge(cambridge_root, split)
        assert len(dataset) == count
        for frame in (dataset.frames[0], dataset.frames[-1]):
            again = made_room.picture(Camera(frame.K, frame.width, frame.height), frame.R, frame.t)
            assert np.abs(again.astype(int) - read_image(frame.image)).mean() < 0.5
    assert dataset.sequences[0] == "seq1"
    assert not dataset.notes


def test_a_view_worked_out_by_hand(cambridge_root, known_view):
    edit(cambridge_root, with_pose(*known_view.center, *known_view.quaternion))
    known_view.check(read_cambridge(cambridge_root).frames[1])


def test_either_sign_of_a_quaternion_is_the_same_rotation(cambridge_root, known_view):
    edit(cambridge_root, with_pose(*known_view.center, *(-value for value in known_view.quaternion)))
    known_view.check(read_cambridge(cambridge_root).frames[1])


def test_exactly_three_lines_are_header(cambridge_root):
    path = cambridge_root / "dataset_train.txt"
    path.write_text("\n".join(path.read_text().splitlines()[3:]))
    with pytest.raises(DataError, match=r"dataset_train.txt: 'header'.*expected two lines of header and an empty one"):
        read_cambridge(cambridge_root)


def test_frames_are_in_the_order_of_time(cambridge_root):
    path = cambridge_root / "dataset_train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3] + lines[:2:-1]))
    names = [frame.image.name for frame in read_cambridge(cambridge_root).frames[:6]]
    assert names == [f"frame{number:05d}.png" for number in range(1, 7)]


def test_the_outlier_of_great_court_is_left_out_and_counted(cambridge_root):
    edit(cambridge_root, lambda words: [words[0], 1e9, *words[2:]])
    dataset = read_cambridge(cambridge_root)
    assert len(dataset) == 11
    assert dataset.notes == ("1 positions beyond 1 km left out",)


def test_sloppy_quaternions_are_normalised_and_counted(cambridge_root, known_view):
    edit(cambridge_root, with_pose(*known_view.center, *(1.107 * value for value in known_view.quaternion)))
    dataset = read_cambridge(cambridge_root)
    known_view.check(dataset.frames[1])
    assert dataset.notes == ("1 quaternions normalised",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_pose(0, 0, 0, 0, 0, 0, 0), "found norm 0, expected a quaternion of norm 1"),
        (with_pose(0, 0, 0, "nan", 0, 0, 1), "found nan among 7 numbers, expected finite numbers"),
        (with_pose(0, 0, "inf", 1, 0, 0, 0), "found inf among 7 numbers"),
        (with_pose(0, 0, 0, 1, 0, 0), "found 6 numbers after"),
        (with_pose(0, 0, 0, 1, 0, 0, "x"), "found 0 0 0 1 0 0 x, expected numbers"),
    ],
)
def test_poses_that_are_none(cambridge_root, change, message):
    edit(cambridge_root, change)
    with pytest.raises(DataError, match=f"dataset_train.txt: 'line 5': {message}"):
        read_cambridge(cambridge_root)


def test_a_pose_without_an_image(cambridge_root):
    (cambridge_root / "seq1" / "frame00002.png").unlink()
    with pytest.raises(DataError, match=r"frame00002.png: 'image': found no such file, expected an image file"):
        read_cambridge(cambridge_root)


def test_mixed_image_sizes(cambridge_root):
    path = cambridge_root / "seq1" / "frame00002.png"
    write_image(path, cv2.resize(read_image(path), (57, 32)))
    with pytest.raises(DataError, match=r"'image size': found 57x32, expected 114x64, as frame00001.png has"):
        read_cambridge(cambridge_root)


def test_focal_lengths(cambridge_root):
    focal = 0.8 * 114
    assert read_cambridge(cambridge_root).frames[0].K[0, 0] == pytest.approx(focal)
    (cambridge_root / "reconstruction.nvm").unlink()
    K = read_cambridge(cambridge_root).frames[0].K
    assert K[0, 0] == pytest.approx(114 * 744 / 854)
    assert K[:2, 2].tolist() == [56.5, 31.5]
    given = np.diag([90.0, 90.0, 1.0])
    np.testing.assert_array_equal(read_cambridge(cambridge_root, K=given).frames[0].K, given)


def test_damaged_reconstructions(cambridge_root):
    path = cambridge_root / "reconstruction.nvm"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:6]))
    with pytest.raises(DataError, match=r"reconstruction.nvm: 'cameras': found 3 whole lines, expected 18"):
        read_cambridge(cambridge_root)
    path.write_text("NVM_V3\n1\n/ 90 1 0 0 0 0 0 0\n")
    assert len(read_cambridge(cambridge_root)) == 12, "no image is called so"
    path.write_text("ply\n")
    with pytest.raises(DataError, match=r"'header': found 'ply', expected NVM_V3"):
        read_cambridge(cambridge_root)


def test_faults_can_be_collected(cambridge_root):
    edit(cambridge_root, with_pose(0, 0, 0, 0, 0, 0, 0))
    messages = []
    assert len(read_cambridge(cambridge_root, on_fault=lambda fault: messages.append(str(fault)))) == 11
    assert len(messages) == 1


def test_images_that_neither_list_names_are_counted(cambridge_root):
    """The folders hold the frames of both splits, so both lists are needed to tell."""
    for name in ("seq1/frame00099.png", "seq3/frame00099.JPG"):
        shutil.copy(cambridge_root / "seq1/frame00001.png", cambridge_root / name)
    (cambridge_root / "seq1" / "notes.txt").touch()
    (cambridge_root / "dataset_train.txt").write_text(
        (cambridge_root / "dataset_train.txt").read_text() + "seq9/frame00001.png 0 0 0 1 0 0 0\n"
    )
    told = "2 images that neither list names (first: seq1/frame00099.png)"
    assert read_cambridge(cambridge_root, "train", on_fault=lambda *_: None).notes == (told,)
    assert read_cambridge(cambridge_root, "test").notes == (told,)
    (cambridge_root / "dataset_train.txt").write_text("damaged")
    assert read_cambridge(cambridge_root, "test").notes == ()


@pytest.mark.parametrize("focal", ["0", "-90", "nan", "inf", "x"])
def test_focal_lengths_that_are_none(cambridge_root, focal):
    path = cambridge_root / "reconstruction.nvm"
    lines = path.read_text().split("\n")
    name, _, *rest = lines[4].split()
    path.write_text("\n".join([*lines[:4], " ".join([name, focal, *rest]), *lines[5:]]))
    with pytest.raises(DataError, match=r"reconstruction.nvm: 'seq1/frame00002.*': found .*, expected .*"):
        read_cambridge(cambridge_root)


def test_byte_order_marks_are_no_fault(cambridge_root):
    for name in ("dataset_train.txt", "reconstruction.nvm"):
        (cambridge_root / name).write_bytes(b"\xef\xbb\xbf" + (cambridge_root / name).read_bytes())
    assert read_cambridge(cambridge_root).frames[0].K[0, 0] == pytest.approx(0.8 * 114)


def test_names_from_windows(cambridge_root):
    path = cambridge_root / "dataset_train.txt"
    path.write_bytes(path.read_bytes().replace(b"/", b"\\").replace(b"\n", b"\r\n"))
    dataset = read_cambridge(cambridge_root)
    assert len(dataset) == 12 and set(dataset.sequences) == {"seq1", "seq2"}


def test_a_radial_distortion_that_is_not_read_is_told(cambridge_root):
    path = cambridge_root / "reconstruction.nvm"
    lines = path.read_text().split("\n")
    lines[3] = " ".join([*lines[3].split()[:9], "-0.1", "0"])
    path.write_text("\n".join(lines))
    told = "reconstruction.nvm states a radial distortion of 1 images, which is not taken out"
    assert read_cambridge(cambridge_root).notes == (told,)


def test_both_splits_open_each_file_once(cambridge_root, opened):
    (cambridge_root / "reconstruction.nvm").write_text("NVM_V3\n\n0\n")
    counts = opened(read_cambridge, cambridge_root)
    assert counts == {"dataset_train.txt": 1, "dataset_test.txt": 1, "reconstruction.nvm": 1}
