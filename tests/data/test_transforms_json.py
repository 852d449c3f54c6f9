import json

import numpy as np
import pytest

from posedistill.data.images import write_image
from posedistill.data.transforms_json import read_transforms
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
    assert frame.distortion == (0.1, 0, 0, -0.02, 0, 0, 0, 0)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": frames_with(file_path="images/0099.jpg")}, r"0099.jpg: 'image': found no such file"),
        ({"frames": frames_with(transform_matrix=[[1.0, float("nan")]])}, r"frames\[0\].transform_matrix': found nan"),
        ({"frames": frames_with(transform_matrix=np.eye(3).tolist())}, "found 9 numbers, expected 4x4"),
        ({"frames": frames_with(transform_matrix=np.diag([1.0, 1, -1, 1]).tolist())}, "found a left-handed one"),
        ({"frames": frames_with(transform_matrix="up")}, "found 0 numbers, expected 4x4"),
        ({"frames": [{"file_path": "images/0001.jpg"}]}, r"'frames\[0\]': found \['file_path'\]"),
        ({"frames": ["images/0001.jpg"]}, r"'frames\[0\]': found str"),
        ({"frames": None}, "'frames': found .*expected a list of frames"),
        ({"drop": ("fl_x",)}, "'fl_x': found neither fl_x nor camera_angle_x"),
        ({"fl_y": -3}, "'fl_x, fl_y': found 50.0, -3.0"),
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


def test_the_fox(real_data):
    dataset = read_transforms(real_data / "fox", "all")
    assert len(dataset) == 50
    assert len(dataset.frames[0].distortion) == 8
    # All photographs show the fox: the optical axes meet within reach of each other.
    axes, centers = dataset.R[:, 2], dataset.centers
    projections = np.eye(3) - axes[:, :, None] * axes[:, None]
    meeting = np.linalg.solve(projections.sum(0), np.einsum("nij,nj->i", projections, centers))
    depths = np.einsum("nj,nj->n", axes, meeting - centers)
    assert (depths > 0).all()
