"""Label folders with the interface of BOP data sets, written from the drawn boxes; and there and back."""

import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.data.faults import Fault
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.formats.labels.files import OTHER_ORDER
from posedistill.data.formats.labels.writer import write_labels
from posedistill.data.images import read_mask, write_image
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.render.from_labels import write_bop
from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh, save_ply
from posedistill.geometry.rotations import angle_between


@pytest.fixture
def one(bop, tmp_path) -> Path:
    """The .data file of the first box alone."""
    return write_labels(BopDataset(bop, "train"), tmp_path / "one", obj_ids=[1]).data


@pytest.fixture
def both(bop, tmp_path) -> Path:
    """The .data file of both boxes."""
    return write_labels(BopDataset(bop, "train"), tmp_path / "both").data


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def without(path: Path, *keys: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if line.split(" = ")[0] not in keys))


def rewrite(data: Path, edit) -> None:
    """Change the lines of every label file."""
    for path in (data.parent / "train/000001/labels").iterdir():
        path.write_text("".join(f"{edit(line.split())}\n" for line in path.read_text().splitlines()))


def largest_errors(found: BopDataset, truth: BopDataset, obj_ids=(1, 2)) -> tuple[float, float]:
    """mm and degrees between the poses of two data sets of the same frames."""
    pairs = [
        (a, b)
        for frame in found.frames
        for a, b in zip(
            frame.instances,
            [i for i in truth.frame(frame.scene_id, frame.im_id).instances if i.obj_id in obj_ids],
            strict=True,
        )
    ]
    assert all(a.obj_id == b.obj_id for a, b in pairs)
    apart = max(float(np.linalg.norm(a.t - b.t)) for a, b in pairs)
    return apart, max(float(np.rad2deg(angle_between(a.R, b.R))) for a, b in pairs)


class TestReading:
    def test_poses_that_a_file_states(self, both, bop):
        found, truth = LabelDataset(both), BopDataset(bop, "train")
        assert len(found) == 8 and not found.notes
        assert max(largest_errors(found, truth)) < 1e-5
        np.testing.assert_allclose(found.frames[3].K, truth.frames[3].K)
        np.testing.assert_allclose(found.objects().keypoints, truth.objects().keypoints, atol=1e-4)
        np.testing.assert_allclose(found.objects().diameters, truth.objects().diameters, rtol=1e-9)

    def test_poses_from_the_points(self, both, bop):
        shutil.rmtree(both.parent / "train/000001/poses")
        found = LabelDataset(both)
        mm, degrees = largest_errors(found, BopDataset(bop, "train"))
        assert mm < 0.1 and degrees < 0.05
        assert "16 of 16 poses come from the labels by PnP (no file states them)" in found.notes[0]

    def test_poses_that_lines_state(self, one, bop):
        """Rotation vector and metres after the intrinsics of the picture."""
        truth = {frame.im_id: frame for frame in BopDataset(bop, "train").frames}
        shutil.rmtree(one.parent / "train/000001/poses")
        for path in (one.parent / "train/000001/labels").iterdir():
            frame = truth[int(path.stem)]
            K, each = frame.K, frame.instances[0]
            more = [
                K[0, 0],
                K[1, 1],
                0,
                0,
                K[0, 2],
                K[1, 2],
                160,
                120,
                *cv2.Rodrigues(each.R)[0].ravel(),
                *(each.t / 1000),
            ]
            path.write_text(path.read_text().strip() + "".join(f" {value!r}" for value in map(float, more)))
        without(one, "fx", "fy", "u0", "v0", "width", "height")
        size = tuple(reversed(cv2.imread(str(truth[0].rgb)).shape[:2]))
        rewrite(one, lambda words: " ".join([*words[:27], *map(str, size), *words[29:]]))
        found = LabelDataset(one)
        assert not found.notes and max(largest_errors(found, BopDataset(bop, "train"), (1,))) < 1e-5

    def test_it_trains_as_a_bop_folder_does(self, one, bop):
        """Masks, boxes and visible pixels in a pack's terms are the same."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours, theirs = ObjectFrames(LabelDataset(one), [1]), ObjectFrames(BopDataset(bop, "train"), [1])
        for index in range(3):
            height, width = ours.size(index)
            drawn = [np.zeros((height, width, 4), np.uint8) for _ in range(2)]
            for source, target in zip((ours, theirs), drawn, strict=True):
                source.draw(index, target)
            np.testing.assert_array_equal(drawn[0][..., :3], drawn[1][..., :3])
            np.testing.assert_array_equal(drawn[0][..., 3] == 1, drawn[1][..., 3] == 1)

    def test_masks_of_several_instances_are_told_apart(self, both, bop):
        found, truth = LabelDataset(both).frames[0], BopDataset(bop, "train").frames[0]
        for ours, theirs in zip(found.instances, truth.instances, strict=True):
            np.testing.assert_array_equal(read_mask(ours.mask_visib), read_mask(theirs.mask_visib))
        for path in (both.parent / "train/000001/mask").glob("*_*.png"):
            path.unlink()
        assert all(instance.mask_visib is None for instance in LabelDataset(both).frames[0].instances)

    def test_classes_have_object_ids(self, both):
        found = LabelDataset(both, ids={0: 21, 1: 22}, obj_ids=[22])
        assert found.objects().obj_ids == (22,) and {i.obj_id for f in found.frames for i in f.instances} == {22}
        assert LabelDataset(both).targets()[0].inst_count == 1

    def test_empty_files_are_annotated_frames_of_nothing(self, one):
        (one.parent / "train/000001/labels/000003.txt").write_text("")
        frame = LabelDataset(one).frame(1, 3)
        assert frame.is_annotated and not frame.instances

    def test_symmetries_of_models_info(self, both):
        path = both.parent / "models/models_info.json"
        infos = json.loads(path.read_text())
        infos["2"]["symmetries_discrete"] = [[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]
        path.write_text(json.dumps(infos))
        assert [len(each) for each in LabelDataset(both).objects().symmetries] == [1, 2]

    def test_corners_in_the_order_of_occlusion(self, one, bop):
        def turned(words):
            points = np.array(words[1:19]).reshape(9, 2)
            other = np.empty_like(points)
            other[list(OTHER_ORDER)] = points
            return " ".join([words[0], *other.ravel(), *words[19:]])

        rewrite(one, turned)
        shutil.rmtree(one.parent / "train/000001/poses")
        found = LabelDataset(one)
        assert "in the order of OCCLUSION" in found.notes[0]
        assert largest_errors(found, BopDataset(bop, "train"), (1,))[0] < 0.1


class TestWhatIsNotStated:
    def test_the_diameter(self, one):
        without(one, "diam")
        found = LabelDataset(one)
        assert "no diameter of obj_000001.ply is stated; the mesh measures 0.1" in found.notes[0]
        assert found.objects().diameters[0] == pytest.approx(found.models_info[1]["diameter"])

    def test_intrinsics_of_other_pictures_than_linemod_s(self, one):
        without(one, "fx", "fy", "u0", "v0")
        with pytest.raises(DataError, match=r"'fx': found no intrinsics, for pictures of .*, expected fx, fy, u0, v0"):
            LabelDataset(one)

    def test_intrinsics_of_linemod(self, one):
        """The original's constants, where pictures have LINEMOD's size; the labels tell that they do not fit."""
        without(one, "fx", "fy", "u0", "v0", "width", "height")
        for path in (one.parent / "train/000001/JPEGImages").iterdir():
            path.unlink()
            write_image(path, np.zeros((480, 640, 3), np.uint8))
        faults: list[Fault] = []
        found = LabelDataset(one, on_fault=faults.append)
        assert "no intrinsics are stated; those of LINEMOD" in found.notes[0]

    def test_images_of_another_size(self, one, bop):
        """Intrinsics are scaled with them: the labels are relative, and poses stay as they are."""
        for path in (one.parent / "train/000001/JPEGImages").iterdir():
            image = cv2.imread(str(path))
            path.unlink()
            write_image(path, cv2.resize(image, None, fx=2, fy=2)[..., ::-1])
        found, truth = LabelDataset(one), BopDataset(bop, "train")
        assert "were scaled to 8 images of another size" in found.notes[0]
        np.testing.assert_allclose(found.frames[0].K[0, 0], 2 * truth.frames[0].K[0, 0])
        assert max(largest_errors(found, truth, (1,))) < 1e-5


class TestDamage:
    def test_a_mesh_in_millimetres(self, one, bop):
        mesh = load_mesh(bop / "models/obj_000001.ply")
        save_ply(mesh, one.parent / "models/obj_000001.ply")
        with pytest.raises(
            DataError, match=r"'diameter': found 1\d\d.*, expected 0.003 to 10 metres \(is the mesh in millim"
        ):
            LabelDataset(one)

    def test_a_mesh_that_was_scaled_twice(self, one):
        path = one.parent / "models/obj_000001.ply"
        mesh = load_mesh(path)
        save_ply(
            type(mesh)(
                mesh.vertices / 1000, *[getattr(mesh, n) for n in ("faces", "colors", "uv", "texture", "normals")]
            ),
            path,
        )
        with pytest.raises(DataError, match=r"'diameter': found 0.000.*expected 0.003 to 10 metres"):
            LabelDataset(one)

    def test_a_diameter_in_millimetres(self, one):
        found = LabelDataset(one).models_info[1]["diameter"]
        without(one, "diam")
        one.write_text(one.read_text() + f"diam = {found}\n")
        with pytest.raises(
            DataError, match=r"'diam': found 1.*\(millimetres\?\), expected 0.1.* metres, as obj_000001.ply"
        ):
            LabelDataset(one)

    def test_intrinsics_of_pictures_of_another_size(self, one):
        K = LabelDataset(one).frames[0].K
        without(one, "fx", "fy", "u0", "v0", "width", "height")
        values = {"fx": 2 * K[0, 0], "fy": 2 * K[1, 1], "u0": 2 * K[0, 2], "v0": 2 * K[1, 2]}
        one.write_text(one.read_text() + "".join(f"{key} = {value}\n" for key, value in values.items()))
        with pytest.raises(DataError, match=r"'u0, v0': found .*, expected about the middle of"):
            LabelDataset(one)

    def test_proportions_of_other_pictures(self, one):
        without(one, "width")
        one.write_text(one.read_text() + "width = 4000\n")
        with pytest.raises(DataError, match=r"'width, height': found 4000x.*, expected those of pictures like 0000"):
            LabelDataset(one)

    def test_labels_that_no_pose_explains(self, one):
        """Here the focal length in y is wrong; no mesh, camera or order of corners would do."""
        shutil.rmtree(one.parent / "train/000001/poses")
        rewrite(one, lambda words: " ".join([*words[:2], str(0.6 * float(words[2])), *words[3:]]))
        with pytest.raises(DataError, match=r"'points': found labels that miss the best poses by \d+.* px"):
            LabelDataset(one)

    def test_one_label_that_no_pose_explains(self, one):
        path = one.parent / "train/000001/labels/000002.txt"
        words = path.read_text().split()
        path.write_text(" ".join([*words[:3], "0.9", "0.1", *words[5:]]))
        with pytest.raises(DataError, match=r"000002.txt: 'line 1': found points that no pose explains, \d+"):
            LabelDataset(one)

    def test_a_class_without_a_mesh(self, both, one):
        path = both.parent / "train/000001/labels/000002.txt"
        path.write_text("7" + path.read_text()[1:])
        with pytest.raises(
            DataError, match=r"'class': found \d+ \(1 labels\), expected \[0, 1\], of which it names a mesh"
        ):
            LabelDataset(both)
        path = one.parent / "train/000001/labels/000002.txt"
        path.write_text("3" + path.read_text()[1:])
        with pytest.raises(DataError, match=r"'class': found 3 \(1 labels\), expected \[0\]"):
            LabelDataset(one)

    def test_objects_that_are_not_labelled(self, one):
        with pytest.raises(DataError, match="one"):
            LabelDataset(one).objects([9])
        with pytest.raises(DataError, match=r"'object 9': found no labels of it, expected \[1\]"):
            LabelDataset(one).mesh_path(9)

    def test_reading_goes_on_where_faults_are_collected(self, one):
        (one.parent / "train/000001/labels/000001.txt").write_text("1 2 3\n")
        (one.parent / "train/000001/labels/000004.txt").unlink()
        faults: list[Fault] = []
        found = LabelDataset(one, on_fault=faults.append)
        assert sorted(fault.file.name for fault in faults) == ["000001.txt", "000004.txt"]
        assert sum(len(frame.instances) for frame in found.frames) == 6


class TestWriting:
    def test_what_is_written(self, one):
        folder = one.parent / "train/000001"
        assert (one.parent / "train.txt").read_text().splitlines()[0] == "train/000001/JPEGImages/000000.png"
        words = (folder / "labels/000000.txt").read_text().split()
        assert len(words) == 21 and words[0] == "0" and (folder / "mask/0000.png").exists()

    def test_a_second_split_joins_the_first(self, one, bop):
        write_labels(BopDataset(bop, "test"), one.parent, split="valid", obj_ids=[1])
        assert len(LabelDataset(one)) == 8 and len(LabelDataset(one, "valid")) == 3

    def test_cameras_that_differ_are_stated_in_the_labels(self, bop, tmp_path):
        root = tmp_path / "cameras"
        shutil.copytree(bop, root)
        path = root / "train/000001/scene_camera.json"
        cameras = json.loads(path.read_text())
        cameras["5"]["cam_K"][0] *= 1.2
        path.write_text(json.dumps(cameras))
        found, truth = (
            LabelDataset(write_labels(BopDataset(root, "train"), tmp_path / "out").data),
            BopDataset(root, "train"),
        )
        np.testing.assert_allclose(found.frame(1, 5).K, truth.frame(1, 5).K)
        assert max(largest_errors(found, truth)) < 1e-5

    def test_hidden_instances_get_no_label(self, bop, tmp_path):
        root = tmp_path / "hidden"
        shutil.copytree(bop, root)
        path = root / "train/000001/scene_gt_info.json"
        infos = json.loads(path.read_text())
        infos["2"][0]["visib_fract"] = 0.02
        path.write_text(json.dumps(infos))
        counts = write_labels(BopDataset(root, "train"), tmp_path / "out", obj_ids=[1])
        assert (counts.frames, counts.hidden, counts.instances) == (7, 1, 7)
        assert "1 left out (hidden instances alone)" in str(counts)

    @pytest.mark.parametrize("stated", [True, False])
    def test_there_and_back(self, both, bop, tmp_path, stated):
        """BOP -> labels -> BOP, with and without the files of poses."""
        if not stated:
            shutil.rmtree(both.parent / "train/000001/poses")
        write_bop(LabelDataset(both), tmp_path / "back", "train")
        found, truth = BopDataset(tmp_path / "back", "train"), BopDataset(bop, "train")
        mm, degrees = largest_errors(found, truth)
        assert mm < (1e-5 if stated else 0.1) and degrees < (1e-5 if stated else 0.05)
        np.testing.assert_allclose(found.objects().keypoints, truth.objects().keypoints, atol=1e-3)
        for ours, theirs in zip(found.frames, truth.frames, strict=True):
            np.testing.assert_allclose(ours.K, theirs.K)
            for a, b in zip(ours.instances, theirs.instances, strict=True):
                np.testing.assert_array_equal(read_mask(a.mask_visib), read_mask(b.mask_visib))


def test_the_published_labels_of_the_cat(real_data, tmp_path):
    """The original's files as they are: Windows ends, masks without two zeros, poses by PnP, beside BOP's."""
    root, cat = real_data, tmp_path / "LINEMOD/cat"
    frames = root / "lm/test/000006"
    for folder in ("JPEGImages", "labels", "mask"):
        (cat / folder).mkdir(parents=True)
    names = (root / "singleshotpose_cat/train.txt").read_text().split()[:40]
    (cat / "train.txt").write_bytes("\r\n".join(names).encode())
    for stem in (Path(name).stem for name in names):
        (cat / f"JPEGImages/{stem}.jpg").symlink_to(frames / f"rgb/{stem}.jpg")
        (cat / f"mask/{stem[2:]}.png").symlink_to(frames / f"mask_visib/{stem}_000000.png")
        (cat / f"labels/{stem}.txt").symlink_to(root / f"singleshotpose_cat/labels/{stem}.txt")
    mesh, center = load_mesh(root / "lm/models_eval/obj_000006.ply", looks=False), np.array([0.2313, -2.0157, -13.2826])
    save_ply(type(mesh)((mesh.vertices - center) / 1000, mesh.faces, None, None, None, mesh.normals), cat / "cat.ply")
    data = tmp_path / "cfg/cat.data"
    data.parent.mkdir()
    data.write_text("train = LINEMOD/cat/train.txt\nmesh = LINEMOD/cat/cat.ply\nname = cat\ndiam = 0.155\n")
    found, truth = LabelDataset(data, ids={4: 6}), BopDataset(root / "lm", "test", scenes=[6])
    assert len(found) == 40 and any("those of LINEMOD" in note for note in found.notes)
    for frame in found.frames:
        ours, theirs = frame.instances[0], truth.frame(6, frame.im_id).instances[0]
        assert ours.mask_visib is not None and ours.obj_id == 6
        assert np.linalg.norm(ours.t - (theirs.t + theirs.R @ center)) < 1.0
        assert np.rad2deg(angle_between(ours.R, theirs.R)) < 0.2


@pytest.mark.parametrize("stated", [True, False])
def test_several_instances_of_one_object_there_and_back(real_data, tmp_path, stated):
    """SyGRID's pictures show each of six objects twice; the poses are the files', or those of PnP of nine points."""
    (tmp_path / "frames.txt").write_text("0\n3\n7\n")
    truth = BopDataset(real_data / "sygrid", "test", frames=tmp_path / "frames.txt")
    data = write_labels(truth, tmp_path / "grid", obj_ids=range(1, 7)).data
    if not stated:
        shutil.rmtree(data.parent / "train/000000/poses")
    found = LabelDataset(data)
    assert [len(frame.instances) for frame in found.frames] == [12, 12, 10]
    assert [i.obj_id for i in found.frames[2].instances].count(1) == 2
    mm, degrees = largest_errors(found, truth, obj_ids=range(1, 7))
    assert mm < (1e-5 if stated else 1.0) and degrees < (1e-5 if stated else 0.5)
    masks = [read_mask(instance.mask_visib) for instance in found.frames[0].instances]
    assert len(masks) == 12 and not np.logical_and(masks[0], masks[1]).any()
