"""The files of single-shot pose: what is read of them, and how damage is named."""

from pathlib import Path

import numpy as np
import pytest

from posedistill.data.faults import Fault
from posedistill.data.formats.labels.files import label_path, read_data_file, read_labels, read_list, read_poses
from posedistill.errors import DataError
from posedistill.files import is_there

LINE = "4 0.5 0.4 " + " ".join(f"{0.1 * k:.1f} {0.05 * k:.2f}" for k in range(1, 9)) + " 0.7 0.35"


@pytest.fixture
def write(tmp_path):
    def make(text: str | bytes, name: str = "000001.txt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def test_names_that_are_too_long_are_missing_files(write):
    data = write("train = train.txt\nmesh = " + "m" * 3000 + ".ply\n", "a.data")
    assert not is_there(read_data_file(data).objects[None].mesh)
    with pytest.raises(DataError, match=r"1 of 1 images that do not exist"):
        read_list(write("9" * 3000 + ".jpg\n", "train.txt"))


class TestLabels:
    def test_a_line(self, write):
        labels = read_labels(write(LINE + "\n"))
        assert labels.classes.tolist() == [4] and labels.points.shape == (1, 9, 2)
        np.testing.assert_allclose(labels.points[0, :2], [[0.5, 0.4], [0.1, 0.05]])
        assert labels.camera is None and labels.poses == [None]

    def test_several_lines_and_windows_ends(self, write):
        assert read_labels(write(f"{LINE}\r\n{LINE}\r\n")).classes.tolist() == [4, 4]

    def test_an_empty_file_is_a_picture_of_nothing(self, write):
        labels = read_labels(write(" \n"))
        assert len(labels.classes) == 0 and labels.points.shape == (0, 9, 2)

    def test_intrinsics_and_a_pose_in_the_line(self, write):
        more = " 700 710 36 24 400 300 800 600"
        assert read_labels(write(LINE + more)).camera[1] == (800, 600)
        labels = read_labels(write(LINE + more + " 0 0 1.5707963267948966 0.1 0.2 0.9"))
        np.testing.assert_allclose(labels.camera[0], [[700, 0, 400], [0, 710, 300], [0, 0, 1]])
        R, t = labels.poses[0]
        np.testing.assert_allclose(R, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
        np.testing.assert_allclose(t, [0.1, 0.2, 0.9])

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (LINE.rsplit(" ", 1)[0], "'line 2': found 20 numbers, expected 21"),
            (LINE + " 1", "'line 2': found 22 numbers, expected 21"),
            (LINE.replace("0.4 ", "nan ", 1), "'line 2': found nan, expected finite numbers"),
            (LINE.replace("0.4 ", "x ", 1), "'line 2': found .*, expected numbers"),
            (
                LINE.replace("0.4", "212.5"),
                r"found a coordinate of 212.5, expected coordinates relative to the picture",
            ),
            (LINE.replace("4", "-4", 1), "found class -4, expected a whole number, 0 or more"),
            (LINE.replace("4", "1.5", 1), "found class 1.5, expected a whole number"),
            (LINE + " 700 0 36 24 400 300 800 600", r"found focal lengths \[700.0, 0.0\]"),
        ],
    )
    def test_damage(self, write, line, message):
        with pytest.raises(DataError, match=message):
            read_labels(write(f"{LINE}\n{line}\n"))

    def test_the_other_lines_are_kept_where_faults_are_collected(self, write):
        faults: list[Fault] = []
        assert len(read_labels(write(f"{LINE} 1\n{LINE}\n"), faults.append).classes) == 1 and len(faults) == 1

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="found no such file, expected a label file"):
            read_labels(tmp_path / "000009.txt")


class TestDataFiles:
    def test_the_original_s(self, write, tmp_path):
        """Paths start from the folder above, as from that of the repository."""
        write("", "LINEMOD/cat/train.txt")
        path = write(
            "train  = LINEMOD/cat/train.txt\r\nvalid = LINEMOD/cat/test.txt\nbackup = backup/cat\n# a word\n"
            "mesh = LINEMOD/cat/cat.ply\nname = cat\ndiam = 0.155\ngpus = 0\n"
            "width = 640\nheight = 480\nfx = 572.4114\nfy = 573.5704\nu0 = 325.2611\nv0 = 242.0489\n",
            "cfg/cat.data",
        )
        data = read_data_file(path)
        assert data.name == "cat" and data.size == (640, 480) and data.objects[None].diameter == 0.155
        assert data.lists["train"] == (tmp_path / "LINEMOD/cat/train.txt").resolve()
        np.testing.assert_allclose(data.K, [[572.4114, 0, 325.2611], [0, 573.5704, 242.0489], [0, 0, 1]])

    def test_several_objects(self, write):
        data = read_data_file(
            write("train=t\nvalid5 = a\nmesh5=c.ply\ndiam5=0.155\nmesh1=a.ply\nim_width=9\nim_height=8\n")
        )
        assert set(data.objects) == {4, 0} and set(data.lists) == {"train", "valid5"} and data.size == (9, 8)
        assert data.objects[0].diameter is None and data.K is None
        with pytest.raises(DataError, match=r"'valid': found \['train', 'valid5'\], expected a list"):
            data.list_of("valid")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train cat.txt\n", "'line 1': found 'train cat.txt', expected key = value"),
            ("train = a\n", "'mesh': found none, expected the object's mesh"),
            ("train = a\nmesh =\n", "'mesh': found none, expected the object's mesh"),
            ("mesh = a\ndiam = wide\n", "'diam': found 'wide', expected a number above 0"),
            ("mesh = a\ndiam = -1\n", "'diam': found '-1'"),
            ("mesh = a\nfx = 500\nfy = 500\n", "'u0': found fx, fy alone, expected fx, fy, u0, v0"),
        ],
    )
    def test_damage(self, write, text, message):
        with pytest.raises(DataError, match=message):
            read_data_file(write(text, "cat.data"))


class TestLists:
    def test_images_in_order_each_once(self, write, tmp_path):
        for name in ("JPEGImages/000001.jpg", "JPEGImages/000002.jpg"):
            write("", name)
        found = read_list(
            write("JPEGImages\\000002.jpg\r\n\r\nJPEGImages/000001.jpg\r\nJPEGImages/000001.jpg", "list.txt")
        )
        assert [path.name for path in found] == ["000002.jpg", "000001.jpg"]

    def test_missing_images_are_counted(self, write):
        write("", "a.jpg")
        with pytest.raises(
            DataError, match=r"'images': found 2 of 3 images that do not exist \(first: b.jpg, line 2\)"
        ):
            read_list(write("a.jpg\nb.jpg\nc.jpg\n", "list.txt"))

    def test_nothing_listed(self, write, tmp_path):
        with pytest.raises(DataError, match="'images': found none"):
            read_list(write("\n", "list.txt"))
        with pytest.raises(DataError, match="found no such file, expected a list of images"):
            read_list(tmp_path / "none.txt")

    def test_where_labels_lie(self):
        assert label_path(Path("a/images/b/JPEGImages/1.png"), Path("l.txt")) == Path("a/images/b/labels/1.txt")
        occluded = label_path(Path("benchvise/JPEGImages/000003.jpg"), Path("ape/test_occlusion.txt"))
        assert occluded == Path("ape/labels_occlusion/000003.txt")


class TestPoses:
    def test_read(self, write):
        ((R, t),) = read_poses(write("1 0 0 0 1 0 0 0 1 0.1 0.2 0.3\n"), 1)
        np.testing.assert_allclose(R, np.eye(3))
        np.testing.assert_allclose(t, [0.1, 0.2, 0.3])

    @pytest.mark.parametrize(
        "text", ["1 0 0 0 1 0 0 0 1 0 0\n", "1 0 0 0 1 0 0 0 -1 0 0 1\n", "a\n", "2 0 0 0 2 0 0 0 2 0 0 1\n"]
    )
    def test_damage(self, write, text):
        with pytest.raises(DataError, match=r"'line 1': found .*, expected 12 numbers: a rotation"):
            read_poses(write(text), 1)

    def test_another_count(self, write):
        with pytest.raises(DataError, match="'lines': found 0, expected 2, one for each label"):
            read_poses(write(""), 2)
