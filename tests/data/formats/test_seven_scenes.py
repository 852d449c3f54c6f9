import shutil

import cv2
import numpy as np
import pytest

from posedistill.data.faults import FaultKind
from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraFrame
from posedistill.data.formats.seven_scenes import COLOUR_FROM_DEPTH, K_STATED, read_seven_scenes
from posedistill.data.images import read_image, write_image
from posedistill.errors import DataError
from posedistill.geometry.cameras import Camera


def pose_file(root, sequence=1, frame=2):
    return root / f"seq-{sequence:02d}" / f"frame-{frame:06d}.pose.txt"


def write_pose(path, matrix):
    np.savetxt(path, matrix)


def test_the_room_looks_the_same_from_the_poses_read(seven_scenes_root, made_room):
    for split, sequences in (("train", {"seq-01", "seq-02"}), ("test", {"seq-03"})):
        dataset = read_seven_scenes(seven_scenes_root, split)
        assert set(dataset.sequences) == sequences
        for frame in (dataset.frames[0], dataset.frames[-1]):
            again = made_room.picture(Camera(frame.K, frame.width, frame.height), frame.R, frame.t)
            assert np.abs(again.astype(int) - read_image(frame.image)).mean() < 0.5


def test_a_view_worked_out_by_hand(seven_scenes_root, known_view):
    write_pose(pose_file(seven_scenes_root), known_view.camera_to_world())
    known_view.check(read_seven_scenes(seven_scenes_root).frames[2])


def test_all_needs_no_split_file(seven_scenes_root):
    for name in ("TrainSplit.txt", "TestSplit.txt"):
        (seven_scenes_root / name).unlink()
    assert len(read_seven_scenes(seven_scenes_root, "all")) == 18
    with pytest.raises(DataError, match=r"TrainSplit.txt.*no such file"):
        read_seven_scenes(seven_scenes_root, "train")


def test_split_files_know_comments_and_blank_lines(seven_scenes_root):
    (seven_scenes_root / "TrainSplit.txt").write_text("# all but two\n\nsequence3  # the last\nsequence1\n")
    assert list(dict.fromkeys(read_seven_scenes(seven_scenes_root).sequences)) == ["seq-03", "seq-01"]


def test_jpg_frames_and_the_stated_camera(seven_scenes_root):
    (seven_scenes_root / "camera-intrinsics.txt").unlink()
    for path in seven_scenes_root.glob("seq-*/*.png"):
        write_image(path.with_suffix(".jpg"), cv2.resize(read_image(path), (320, 240)))
        path.unlink()
    frame = read_seven_scenes(seven_scenes_root).frames[0]
    assert frame.image.name == "frame-000000.color.jpg"
    np.testing.assert_allclose(frame.K[:2], [[292.5, 0, 159.75], [0, 292.5, 119.75]])
    np.testing.assert_array_equal(read_seven_scenes(seven_scenes_root, K=K_STATED).frames[0].K, K_STATED)


def test_a_split_that_names_a_missing_sequence(seven_scenes_root):
    shutil.rmtree(seven_scenes_root / "seq-02")
    with pytest.raises(DataError, match=r"TrainSplit.txt: 'sequence2': found no folder seq-02, expected one in"):
        read_seven_scenes(seven_scenes_root)
    (seven_scenes_root / "seq-02.zip").touch()
    with pytest.raises(DataError, match=r"unpack seq-02.zip"):
        read_seven_scenes(seven_scenes_root)
    (seven_scenes_root / "TrainSplit.txt").write_text("everything\n")
    with pytest.raises(DataError, match=r"'everything', expected a line such as sequence1"):
        read_seven_scenes(seven_scenes_root)


def test_an_image_without_a_pose_and_a_pose_without_an_image(seven_scenes_root):
    path = pose_file(seven_scenes_root)
    content = path.read_text()
    path.unlink()
    with pytest.raises(DataError, match=r"frame-000002.color.png: 'pose': found no frame-000002.pose.txt"):
        read_seven_scenes(seven_scenes_root)
    path.write_text(content)
    path.with_name("frame-000002.color.png").unlink()
    with pytest.raises(
        DataError, match=r"frame-000002.pose.txt: 'image': found no frame-000002.color.png or .color.jpg"
    ):
        read_seven_scenes(seven_scenes_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m * [[np.nan], [1], [1], [1]], "'pose': found nan among 16 numbers, expected finite numbers"),
        (lambda m: m * [[1, 1, -1, 1]], r"'pose': found a left-handed one \(determinant -1.000\)"),
        (lambda m: m * [[1.2, 1.2, 1.2, 1]], "'pose': found determinant 1.728, R R.T off the identity by 0.44"),
        (lambda m: m[:3], "'pose': found 12 numbers, expected 16"),
        (lambda m: m.T, r"'pose': found a last row .* expected \[0, 0, 0, 1\]"),
    ],
)
def test_poses_that_are_none(seven_scenes_root, change, message):
    path = pose_file(seven_scenes_root)
    write_pose(path, change(np.loadtxt(path)))
    with pytest.raises(DataError, match=f"frame-000002.pose.txt: {message}"):
        read_seven_scenes(seven_scenes_root)


def test_words_instead_of_numbers(seven_scenes_root):
    pose_file(seven_scenes_root).write_text("lost")
    with pytest.raises(DataError, match="'pose': found lost, expected numbers"):
        read_seven_scenes(seven_scenes_root)


def test_rounded_rotations_are_made_exact(seven_scenes_root):
    path = pose_file(seven_scenes_root)
    write_pose(path, np.loadtxt(path).round(3))
    R = read_seven_scenes(seven_scenes_root).frames[2].R
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)


def test_mixed_image_sizes(seven_scenes_root):
    path = pose_file(seven_scenes_root).with_name("frame-000002.color.png")
    write_image(path, cv2.resize(read_image(path), (100, 64)))
    with pytest.raises(DataError, match=r"'image size': found 100x64, expected 114x64, as frame-000000.color.png has"):
        read_seven_scenes(seven_scenes_root)


def test_faults_can_be_collected(seven_scenes_root):
    write_pose(pose_file(seven_scenes_root), np.full((4, 4), np.nan))
    pose_file(seven_scenes_root, frame=3).unlink()
    shutil.rmtree(seven_scenes_root / "seq-02")
    faults = []
    dataset = read_seven_scenes(seven_scenes_root, on_fault=lambda fault: faults.append(fault.kind))
    assert len(dataset) == 4
    assert sorted(faults) == sorted([FaultKind.POSE, FaultKind.NO_POSE, FaultKind.SPLIT])


def test_damaged_intrinsics(seven_scenes_root):
    (seven_scenes_root / "camera-intrinsics.txt").write_text("0 0 1 0 0 1 0 0 1")
    with pytest.raises(DataError, match=r"camera-intrinsics.txt: 'K'.*expected 3x3 intrinsics"):
        read_seven_scenes(seven_scenes_root)


def test_red_kitchen(real_data):
    root = real_data / "7scenes" / "redkitchen"
    train, test = (read_seven_scenes(root, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (300, 100)
    assert np.ptp(train.centers, axis=0).max() < 5


def collected(root):
    """The data set, and the kinds and messages of its faults."""
    faults = []
    return read_seven_scenes(root, on_fault=lambda fault: faults.append((fault.kind, str(fault)))), faults


def test_one_unreadable_pose_leaves_the_others(seven_scenes_root):
    pose_file(seven_scenes_root).write_bytes(b"\xff\xfe\x00")
    pose_file(seven_scenes_root, frame=4).unlink()
    pose_file(seven_scenes_root, frame=4).mkdir()
    dataset, faults = collected(seven_scenes_root)
    assert len(dataset) == 10
    assert [kind for kind, _ in faults] == [FaultKind.POSE] * 2
    assert "frame-000002.pose.txt: 'text': found 'utf-16-le' codec" in faults[0][1]
    assert "frame-000004.pose.txt: 'file': found Is a directory" in faults[1][1]


def test_a_byte_order_mark_is_no_fault(seven_scenes_root, known_view):
    path = pose_file(seven_scenes_root)
    write_pose(path, known_view.camera_to_world())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    known_view.check(read_seven_scenes(seven_scenes_root).frames[2])


def test_endings_may_be_upper_case(seven_scenes_root):
    for path in seven_scenes_root.glob("seq-01/*.png"):
        path.rename(path.with_suffix(".PNG"))
    dataset, faults = collected(seven_scenes_root)
    assert (len(dataset), faults) == (12, [])
    assert dataset.frames[0].image.name == "frame-000000.color.PNG"


def test_a_sequence_named_twice_is_taken_once(seven_scenes_root):
    assert not read_seven_scenes(seven_scenes_root).notes
    (seven_scenes_root / "TrainSplit.txt").write_text("sequence1\nsequence2\nsequence01\n")
    dataset = read_seven_scenes(seven_scenes_root)
    assert len(dataset) == len({frame.image for frame in dataset}) == 12
    assert dataset.notes == ("1 sequences that the split names again, taken once",)


def test_two_images_of_one_frame(seven_scenes_root):
    folder = seven_scenes_root / "seq-01"
    write_image(folder / "frame-000002.color.jpg", read_image(folder / "frame-000002.color.png"))
    dataset, faults = collected(seven_scenes_root)
    assert len(dataset) == 12
    ((kind, message),) = faults
    assert kind is FaultKind.SAME_ID
    assert "found frame-000002.color.jpg and frame-000002.color.png, expected one image of each pose" in message


def test_both_splits_open_each_file_once(seven_scenes_root, opened):
    counts = opened(read_seven_scenes, seven_scenes_root)
    assert {"TrainSplit.txt", "TestSplit.txt", "camera-intrinsics.txt"} < set(counts)
    assert len(counts) == 18 + 3 and set(counts.values()) == {1}


def test_the_colour_camera_stands_beside_the_depth_sensor(seven_scenes_root):
    """Recorded poses and intrinsics are the depth sensor's; a folder with a camera of its own is taken at its word."""
    own = [read_seven_scenes(seven_scenes_root, calibration=name).frames[0] for name in ("depth", "colour")]
    np.testing.assert_array_equal(own[0].R, own[1].R)
    (seven_scenes_root / "camera-intrinsics.txt").unlink()
    depth, colour = (open_scene(seven_scenes_root, calibration=name) for name in ("depth", "colour"))
    assert "calibration: depth" in depth.notes[0] and not colour.notes
    point = np.array([0.3, -0.2, 1.7])
    seen = [frame.R @ point + frame.t for frame in (depth.frames[3], colour.frames[3])]
    np.testing.assert_allclose(COLOUR_FROM_DEPTH @ [*seen[0], 1], [*seen[1], 1], atol=1e-6)
    scale = depth.frames[0].width / 640
    np.testing.assert_allclose([frame.K[0, 0] / scale for frame in (depth.frames[0], colour.frames[0])], [585, 525])
    assert 0.02 < np.linalg.norm(depth.frames[3].center - colour.frames[3].center) < 0.03


def test_matched_features_of_real_frames_lie_on_the_colour_cameras_epipolar_lines(real_data):
    scene = real_data / "7scenes" / "redkitchen"
    pairs = [(start, start + 9) for start in range(0, 90, 15)]
    medians = {}
    for name in ("depth", "colour"):
        dataset = read_seven_scenes(scene, calibration=name)
        medians[name] = np.median(np.concatenate([epipolar_errors(*dataset.take(pair)) for pair in pairs]))
    assert medians["colour"] < 0.8 * medians["depth"], medians


def epipolar_errors(first: CameraFrame, second: CameraFrame) -> np.ndarray:
    """Sampson distances of matched features, pixels."""
    orb, matcher = cv2.ORB_create(2000), cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    found = [
        orb.detectAndCompute(cv2.cvtColor(read_image(frame.image), cv2.COLOR_RGB2GRAY), None)
        for frame in (first, second)
    ]
    matches = [match for match in matcher.match(found[0][1], found[1][1]) if match.distance < 40]
    x = np.array([[*found[0][0][match.queryIdx].pt, 1.0] for match in matches])
    y = np.array([[*found[1][0][match.trainIdx].pt, 1.0] for match in matches])
    R = second.R @ first.R.T
    t = second.t - R @ first.t
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    fundamental = np.linalg.inv(second.K).T @ cross @ R @ np.linalg.inv(first.K)
    lines, back = x @ fundamental.T, y @ fundamental
    return np.abs((y * lines).sum(1)) / np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1))
