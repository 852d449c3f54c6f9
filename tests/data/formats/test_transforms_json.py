import json
import math
import shutil

import numpy as np
import pytest

from posedistill.data.faults import FaultKind
from posedistill.data.formats.transforms_json import read_transforms
from posedistill.data.images import write_image
from posedistill.errors import DataError

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def capture(tmp_path, known_view):
    """``capture(**changes)``: ten frames as instant-ngp writes them; the third is the view known by hand."""
    for number in range(10):
        write_image(tmp_path / "images" / f"{number + 1:04d}.jpg", np.full((HEIGHT, WIDTH, 3), 100, np.uint8))

    def write(drop=(), file="transforms.json", **changes):
        matrix = known_view.camera_to_world(opengl=True).tolist()
        still = np.eye(4).tolist()
        frames = [
            {"file_path": f"images/{number + 1:04d}.jpg", "transform_matrix": matrix if number == 2 else still}
            for number in range(10)
        ]
        content = {"fl_x": 50.0, "fl_y": 52.0, "cx": 20.5, "cy": 15.25, "w": WIDTH, "h": HEIGHT, "frames": frames}
        content |= changes
        (tmp_path / file).write_text(json.dumps({key: value for key, value in content.items() if key not in drop}))
        return tmp_path

    return write


def frames_with(**changes):
    return [{"file_path": "images/0001.jpg", "transform_matrix": np.eye(4).tolist()} | changes]


def test_a_view_worked_out_by_hand(capture, known_view):
    dataset = read_transforms(capture(), "all")
    known_view.check(dataset.frames[2])
    assert len(dataset) == 10
    assert dataset.frames[0].distortion == ()
    assert dataset.sequences[0] == "images"


def test_pixel_centres_move_by_half(capture):
    K = read_transforms(capture(), "all").frames[0].K
    np.testing.assert_allclose(K, [[50, 0, 20], [0, 52, 14.75], [0, 0, 1]])


def test_field_of_view_and_lens(capture):
    angle = 2 * np.arctan(0.5)
    root = capture(drop=("fl_x", "fl_y", "cx", "cy", "w", "h"), camera_angle_x=angle, k1=0.1, p2=-0.02)
    frame = read_transforms(root / "transforms.json", "all").frames[0]
    np.testing.assert_allclose(frame.K[:2], [[40, 0, 19.5], [0, 40, 14.5]])
    assert frame.distortion == (0.1, 0, 0, -0.02, 0)


def test_the_vertical_field_of_view(capture):
    """Photographs squeezed to half their height: fx 50, fy 25."""
    angles = {"camera_angle_x": 2 * np.arctan(WIDTH / 100), "camera_angle_y": 2 * np.arctan(HEIGHT / 50)}
    K = read_transforms(capture(drop=("fl_x", "fl_y"), **angles), "all").frames[0].K
    np.testing.assert_allclose(K.diagonal(), [50, 25, 1])
    degrees = {"x_fov": np.degrees(angles["camera_angle_x"]), "y_fov": np.degrees(angles["camera_angle_y"])}
    K = read_transforms(capture(drop=("fl_x", "fl_y"), **degrees), "all").frames[0].K
    np.testing.assert_allclose(K.diagonal(), [50, 25, 1])
    K = read_transforms(capture(drop=("fl_x", "fl_y"), camera_angle_y=angles["camera_angle_y"]), "all").frames[0].K
    np.testing.assert_allclose(K.diagonal(), [25, 25, 1])


def test_what_a_frame_says_of_its_lens_comes_first(capture):
    root = capture(frames=frames_with(camera_angle_x=2 * np.arctan(WIDTH / 160)))
    np.testing.assert_allclose(read_transforms(root, "all").frames[0].K.diagonal(), [80, 52, 1])


def test_names_from_windows(capture):
    root = capture(frames=frames_with(file_path="images\\0001.jpg"), test_filenames=["images\\0001.jpg"])
    (frame,) = read_transforms(root, "test")
    assert frame.image == root / "images" / "0001.jpg" and frame.sequence == "images"


def test_keys_that_change_the_geometry_are_named(capture):
    root = capture(applied_scale=0.5, sharpness=3, frames=frames_with(intrinsic_matrix=[[1.0]], sharpness=2))
    assert read_transforms(root, "all").notes[1:] == (
        "applied_scale: the poses stand in this changed world, not in the reconstruction's own",
        "1 unknown keys, which are not read: intrinsic_matrix",
    )


def test_a_name_without_an_ending_that_two_images_have(capture):
    root = capture(frames=frames_with(file_path="images/0001"))
    shutil.copy(root / "images" / "0001.jpg", root / "images" / "0001.png")
    with pytest.raises(
        DataError, match=r"\[0\].file_path': found 0001.png and 0001.jpg, expected one image of this name"
    ):
        read_transforms(root, "all")


def test_a_frame_can_have_its_own_camera(capture):
    root = capture(frames=frames_with(fl_x=70.0))
    assert read_transforms(root, "all").frames[0].K[0, 0] == 70


def test_splits(capture):
    root = capture()
    names = [[frame.image.stem for frame in read_transforms(root, split).frames] for split in ("train", "test")]
    assert names == [["0002", "0003", "0004", "0005", "0006", "0007", "0008", "0010"], ["0001", "0009"]]
    capture(train_filenames=["images/0001.jpg"], test_filenames=["images/0003.jpg", "images/0002.jpg"])
    assert [frame.image.stem for frame in read_transforms(root, "test").frames] == ["0003", "0002"]
    capture(train_filenames=["images/0011.jpg"], test_filenames=[])
    with pytest.raises(DataError, match=r"'train_filenames': found .*0011.jpg, which has no pose"):
        read_transforms(root, "train")


def test_one_file_a_split(capture):
    root = capture(file="transforms_train.json")
    capture(file="transforms_test.json", frames=frames_with(file_path="./images/0001"))
    assert len(read_transforms(root, "train")) == 10
    assert read_transforms(root, "test").frames[0].image.name == "0001.jpg"
    (root / "transforms_test.json").unlink()
    with pytest.raises(DataError, match=r"no such file, expected transforms.json, or transforms_test.json"):
        read_transforms(root, "test")


def test_images_without_a_pose_are_counted(capture):
    dataset = read_transforms(capture(frames=frames_with()), "all")
    assert dataset.notes == ("9 images without a pose (first: 0002.jpg)",)


def test_frames_with_a_fault_are_not_counted_again_as_images_without_a_pose(capture):
    root = capture()
    content = json.loads((root / "transforms.json").read_text())
    del content["frames"][9], content["frames"][4]["transform_matrix"]
    content["frames"][5]["transform_matrix"] = None
    content["frames"][6]["file_path"] = "nowhere/0099.jpg"
    (root / "transforms.json").write_text(json.dumps(content))
    dataset, faults = collected(root)
    assert len(dataset) == 6
    assert [kind for kind, _ in faults] == [FaultKind.MISSING_KEY, FaultKind.POSE, FaultKind.MISSING_IMAGE]
    assert dataset.notes == ("2 images without a pose (first: 0007.jpg)",)


def test_one_damaged_image_of_a_list_leaves_the_others(capture):
    root = capture(train_filenames=["images/0001.jpg", "images/0002.jpg", "images/0011.jpg", "images/0003.jpg"])
    (root / "images" / "0002.jpg").write_bytes(b"x")
    dataset, faults = collected(root, "train")
    assert [frame.image.stem for frame in dataset] == ["0001", "0003"]
    assert [kind for kind, _ in faults] == [FaultKind.DAMAGED_IMAGE, FaultKind.SPLIT]
    with pytest.raises(DataError, match="cannot identify image file"):
        read_transforms(root)


def test_a_matrix_may_lack_its_last_row(capture, known_view):
    rows = known_view.camera_to_world(opengl=True).tolist()
    known_view.check(read_transforms(capture(frames=frames_with(transform_matrix=rows[:3])), "all").frames[0])


@pytest.mark.parametrize("ending", [".PNG", ".JPG", ".jpeg"])
def test_names_without_an_ending(capture, ending):
    root = capture(frames=frames_with(file_path="photos/first"))
    (root / "photos").mkdir()
    shutil.copy(root / "images" / "0001.jpg", root / "photos" / f"first{ending}")
    dataset = read_transforms(root, "all")
    assert dataset.frames[0].image.name == f"first{ending}"
    assert not dataset.notes


def test_both_splits_open_each_file_once(capture, opened):
    root = capture()
    assert opened(read_transforms, root) == {"transforms.json": 1}
    for split in ("train", "test"):
        shutil.copy(root / "transforms.json", root / f"transforms_{split}.json")
    (root / "transforms.json").unlink()
    assert opened(read_transforms, root) == {"transforms_train.json": 1, "transforms_test.json": 1}


def test_a_byte_order_mark_is_no_fault(capture):
    path = capture() / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_transforms(path, "all")) == 10


def collected(root, split="all"):
    """The data set, and the kinds and messages of its faults."""
    faults = []
    return read_transforms(root, split, on_fault=lambda fault: faults.append((fault.kind, str(fault)))), faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": frames_with(file_path="images/0099.jpg")}, r"0099.jpg: 'image': found no such file"),
        ({"frames": frames_with(file_path="/")}, "Is a directory"),
        ({"frames": frames_with(file_path="images/" + 5000 * "x")}, "File name too long"),
        ({"frames": frames_with(file_path="images/1\0.jpg")}, "embedded null byte"),
        ({"frames": frames_with(file_path="1\0/2")}, "embedded null byte"),
        ({"frames": frames_with(transform_matrix=[[float("nan")] * 4] * 4)}, r"\[0\].transform_matrix': found nan"),
        ({"frames": frames_with(transform_matrix=[[10**400] * 4] * 4)}, r"found 10000.*, expected numbers"),
        ({"frames": frames_with(transform_matrix=[["1"] * 4] * 4)}, "found '1', expected numbers"),
        ({"frames": frames_with(transform_matrix=[[1.0] * 8] * 2)}, r"found \[\[1.0, .*, expected 4x4 or 3x4"),
        ({"frames": frames_with(transform_matrix=np.eye(3).tolist())}, "expected 4x4 or 3x4 numbers"),
        ({"frames": frames_with(transform_matrix=np.diag([1.0, 1, -1, 1]).tolist())}, "found a left-handed one"),
        ({"frames": frames_with(transform_matrix="up")}, "found 'up', expected 4x4 or 3x4"),
        ({"frames": [{"file_path": "images/0001.jpg"}]}, r"'frames\[0\]': found \['file_path'\]"),
        ({"frames": ["images/0001.jpg"]}, r"'frames\[0\]': found str"),
        ({"frames": None}, "'frames': found .*expected a list of frames"),
        ({"drop": ("fl_x", "fl_y")}, "'fl_x': found neither fl_x nor camera_angle_x"),
        ({"fl_y": -3}, "'fl_x, fl_y': found 50.0, -3.0"),
        ({"fl_x": True}, "'fl_x': found True, expected numbers"),
        *(
            ({"drop": ("fl_x",), "camera_angle_x": angle}, r"'camera_angle_x': found .*, expected radians between 0 an")
            for angle in (0, -1, 5e-324, math.pi, 40)
        ),
        ({"drop": ("fl_x",), "camera_angle_x": 1e-320}, "'fl_x, fl_y': found inf, 52.0"),
        *(
            ({"w": width}, rf"'w': found {width!r:.3}.*, expected a whole number of pixels")
            for width in ("abc", "40", 40.9, float("nan"), float("inf"), True, None)
        ),
        ({"h": [30]}, r"'h': found \[30\], expected a whole number of pixels"),
        *(
            ({"train_filenames": names}, "'train_filenames': found .*, expected a list of file names")
            for names in (7, 0, "images/0001.jpg", [7])
        ),
        *(({name: -0.01}, f"'{name}': found -0.01, expected 0, .*undistort") for name in ("k4", "k5", "k6")),
        ({"s2": 0.1}, "'s2': found 0.1, expected 0, for it is not read"),
        ({"rolling_shutter": [0.0, 0.0, 0.01, 0.0]}, "'rolling_shutter': found .*, expected 0"),
        ({"latlong": True}, "'camera_model': found latlong"),
        ({"drop": ("fl_x", "fl_y"), "y_fov": 180}, "'y_fov': found 180.0, expected degrees between 0 and 180"),
        ({"k1": -2.0}, r"'k1, k2, p1, p2, k3': found a distortion .* that turns back at 5\d% of the way"),
        ({"w": 80}, r"0001.jpg: 'image size': found 40x30, expected 80x30, as transforms.json states"),
        ({"camera_model": "OPENCV_FISHEYE"}, "'camera_model': found OPENCV_FISHEYE"),
        ({"is_fisheye": True}, "'camera_model': found is_fisheye"),
    ],
)
def test_damaged_captures(capture, changes, message):
    with pytest.raises(DataError, match=message):
        read_transforms(capture(**changes), "all")


def test_broken_json(capture):
    root = capture()
    (root / "transforms.json").write_text('{"frames": [')
    with pytest.raises(DataError, match=r"transforms.json: 'json'"):
        read_transforms(root)


@pytest.mark.parametrize("text", [100_000 * "[", '{"w": ' + 100_000 * '{"a": ', '{"w": ' + 5000 * "1" + "}"])
def test_json_that_is_too_much(capture, text):
    root = capture()
    (root / "transforms.json").write_text(text)
    with pytest.raises(DataError, match=r"transforms.json: 'json': found .*, expected json"):
        read_transforms(root)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"fl_x": "wide"}, FaultKind.CAMERA),
        ({"drop": ("fl_x",), "camera_angle_x": None}, FaultKind.CAMERA),
        ({"cx": float("nan")}, FaultKind.CAMERA),
        ({"k1": [0.1]}, FaultKind.CAMERA_MODEL),
        ({"k4": 0.1}, FaultKind.CAMERA_MODEL),
        ({"w": "abc"}, FaultKind.CAMERA_MODEL),
    ],
)
def test_a_bad_camera_is_no_bad_pose(capture, changes, kind):
    faults = []
    with pytest.raises(DataError, match="no usable frame"):
        read_transforms(capture(**changes), "all", on_fault=lambda found: faults.append(found.kind))
    assert faults == [kind] * 10


def test_the_fox(real_data):
    dataset = read_transforms(real_data / "fox", "all")
    assert len(dataset) == 50
    assert len(dataset.frames[0].distortion) == 5
    assert dataset.notes == ()
    # All photographs show the fox: the optical axes meet within reach of each other.
    axes, centers = dataset.R[:, 2], dataset.centers
    projections = np.eye(3) - axes[:, :, None] * axes[:, None]
    meeting = np.linalg.solve(projections.sum(0), np.einsum("nij,nj->i", projections, centers))
    depths = np.einsum("nj,nj->n", axes, meeting - centers)
    assert (depths > 0).all()
