"""`data check` on scenes: made ones, damaged file by file, and real ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.room_writer import write_made_scene

from posedistill.data.check.dataset import check_dataset
from posedistill.data.check.report import SHOWN
from posedistill.data.faults import FaultKind
from posedistill.data.formats.open_scene import open_scene
from posedistill.data.images import read_image, write_image
from posedistill.errors import DataError
from posedistill.geometry.rotations import matrix_to_quaternion

FIRST = "seq-01/frame-000000"


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_made_scene(folder / "seven", "7-Scenes", frames=24)
    write_made_scene(folder / "cambridge", "Cambridge Landmarks", frames=24)
    return folder


@pytest.fixture
def seven(_made: Path, tmp_path: Path) -> Path:
    """A private copy of three walks of 24 frames in the layout of 7-Scenes, the last one for testing."""
    return Path(shutil.copytree(_made / "seven", tmp_path / "seven"))


@pytest.fixture
def cambridge(_made: Path, tmp_path: Path) -> Path:
    """The same in the layout of Cambridge Landmarks."""
    return Path(shutil.copytree(_made / "cambridge", tmp_path / "cambridge"))


@pytest.fixture
def transforms(seven: Path, tmp_path: Path) -> Path:
    """The first walk as a capture with a transforms.json."""
    frames, root = open_scene(seven, "train").frames[:24], tmp_path / "capture"
    shutil.copytree(seven / "seq-01", root / "images", ignore=shutil.ignore_patterns("*.txt"))
    entries = []
    for frame in frames:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = frame.R.T @ np.diag([1, -1, -1]), frame.center
        entries.append({"file_path": f"images/{frame.image.name}", "transform_matrix": matrix.tolist()})
    content = {"fl_x": float(frames[0].K[0, 0]), "w": 114, "h": 64, "frames": entries}
    (root / "transforms.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def colmap(seven: Path, tmp_path: Path) -> Path:
    """The first walk as a binary COLMAP model."""
    frames, root = open_scene(seven, "train").frames[:24], tmp_path / "colmap"
    shutil.copytree(seven / "seq-01", root / "images", ignore=shutil.ignore_patterns("*.txt"))
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    K = frames[0].K
    pinhole = np.array([K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5]).tobytes()
    sizes = np.array([114, 64], "<u8").tobytes()
    (model / "cameras.bin").write_bytes(np.uint64(1).tobytes() + np.array([1, 1], "<i4").tobytes() + sizes + pinhole)
    images = np.uint64(len(frames)).tobytes()
    for number, frame in enumerate(frames, 1):
        pose = np.concatenate([matrix_to_quaternion(frame.R), frame.t]).tobytes()
        name = frame.image.name.encode() + b"\0"
        images += np.int32(number).tobytes() + pose + np.int32(1).tobytes() + name + np.uint64(0).tobytes()
    (model / "images.bin").write_bytes(images)
    return root


@pytest.mark.parametrize("layout", ["seven", "cambridge"])
def test_a_sound_scene_has_no_faults(request: pytest.FixtureRequest, layout: str) -> None:
    root = request.getfixturevalue(layout)
    seen: list[tuple[int, int]] = []
    report = check_dataset(root, progress=lambda done, total: seen.append((done, total)))
    assert report.ok and not report.warnings, str(report)
    assert seen == [(done, 72) for done in range(1, 73)]
    form = {"seven": "7-Scenes", "cambridge": "Cambridge Landmarks"}[layout]
    lines = str(report).split("\n")
    assert lines[1] == f"  train: {form}, 2 sequences, 48 frames (48 decoded; 114x64 (48))"
    assert lines[3] == f"  test: {form}, 1 sequence, 24 frames (24 decoded; 114x64 (24))"
    assert lines[2].startswith("    cameras within 1.8 x 2.09 x 0.675 m, 0.169") and lines[2].endswith(
        "64 degrees of view"
    )
    assert lines[-1] == "no faults found"
    assert report.splits["test"].frames == 24


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text) and None


def _pose(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """Change the 4x4 of a frame of 7-Scenes in place."""

    def apply(root: Path) -> None:
        path = root / f"{name}.pose.txt"
        matrix = np.loadtxt(path)
        change(matrix)
        np.savetxt(path, matrix)

    return apply


def _line(part: str, number: int, change: Callable[[list[str]], object]) -> Callable[[Path], None]:
    """Change the words of a line of Cambridge Landmarks in place; from 1, its header counted."""

    def apply(root: Path) -> None:
        path = root / f"dataset_{part}.txt"
        lines = path.read_text().split("\n")
        words = lines[number - 1].split(" ")
        change(words)
        lines[number - 1] = " ".join(words)
        path.write_text("\n".join(lines))

    return apply


def _cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(share * len(data))])

    return apply


def _shrink(name: str) -> Callable[[Path], None]:
    return lambda root: write_image(root / name, read_image(root / name)[::2, ::2])


def _matrix(row: int, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / "transforms.json").read_text())
        change(content["frames"][row])
        (root / "transforms.json").write_text(json.dumps(content))

    return apply


DAMAGED: list[tuple[str, FaultKind, Callable[[Path], Any], str]] = [
    ("seven", FaultKind.POSE, _pose(FIRST, lambda m: m.__setitem__((0, 3), np.nan)), f"{FIRST}.pose.txt: 'pose': f"),
    ("seven", FaultKind.POSE, lambda root: (root / f"{FIRST}.pose.txt").write_bytes(b"\xff\xfe"), f"{FIRST}.pose.txt"),
    ("seven", FaultKind.ROTATION, _pose(FIRST, lambda m: m.__imul__([[1], [1], [-1], [1]])), "a left-handed one (det"),
    ("seven", FaultKind.NO_POSE, lambda root: (root / f"{FIRST}.pose.txt").unlink(), f"{FIRST}.color.png: 'pose'"),
    ("seven", FaultKind.MISSING_IMAGE, lambda root: (root / f"{FIRST}.color.png").unlink(), f"{FIRST}.pose.txt: 'ima"),
    ("seven", FaultKind.DAMAGED_IMAGE, _cut(f"{FIRST}.color.png"), f"{FIRST}.color.png: 'image': found a file cut off"),
    ("seven", FaultKind.DAMAGED_IMAGE, _write(f"{FIRST}.color.png", "x"), f"{FIRST}.color.png: 'image': found cannot"),
    ("seven", FaultKind.SPLIT, _write("TestSplit.txt", "sequence3\nsequence9\n"), "'sequence9': found no folder"),
    ("seven", FaultKind.IMAGE_SIZE, _shrink("seq-02/frame-000005.color.png"), "'image size': found 57x32"),
    ("seven", FaultKind.SCENE_FILE, lambda root: (root / "TestSplit.txt").unlink(), "TestSplit.txt: 'file': found no"),
    ("seven", FaultKind.SCENE_FILE, _write("camera-intrinsics.txt", "1 2 3"), "camera-intrinsics.txt: 'K': found [1."),
    ("cambridge", FaultKind.ROTATION, _line("train", 9, lambda w: w.__setitem__(slice(4, 8), "0000")), "'line 9'"),
    ("cambridge", FaultKind.POSE, _line("test", 4, lambda w: w.__setitem__(1, "nan")), "dataset_test.txt: 'line 4': f"),
    ("cambridge", FaultKind.POSE, _line("test", 5, lambda w: w.pop()), "'line 5': found 6 numbers after"),
    ("cambridge", FaultKind.MISSING_IMAGE, lambda root: (root / "seq3/frame00007.png").unlink(), "frame00007.png: 'im"),
    ("cambridge", FaultKind.SCENE_FILE, _line("test", 3, lambda w: w.append("x")), "dataset_test.txt: 'header': found"),
    ("transforms", FaultKind.POSE, _matrix(3, lambda e: e["transform_matrix"][0].pop()), "'frames[3].transform_matrix"),
    ("transforms", FaultKind.MISSING_KEY, _matrix(4, lambda e: e.pop("file_path")), "'frames[4]': found ['transform_m"),
    ("transforms", FaultKind.CAMERA, _matrix(5, lambda e: e.update(fl_x="x")), "transforms.json: 'fl_x': found 'x'"),
    ("transforms", FaultKind.CAMERA_MODEL, _matrix(5, lambda e: e.update(k1=None)), "transforms.json: 'k1, k2, p1, p2"),
    ("transforms", FaultKind.CAMERA_MODEL, _matrix(5, lambda e: e.update(w="64")), "'w': found '64', expected a whole"),
    ("transforms", FaultKind.SCENE_FILE, _write("transforms.json", 100_000 * "["), "transforms.json: 'json': found"),
    ("transforms", FaultKind.IMAGE_SIZE, _shrink("images/frame-000002.color.png"), "found 57x32, expected 114x64"),
    ("transforms", FaultKind.SCENE_FILE, _cut("transforms.json"), "transforms.json: 'json': found"),
    ("colmap", FaultKind.SCENE_FILE, _cut("sparse/0/images.bin", 0.7), "'image 17 of 24': found the file's end"),
    ("colmap", FaultKind.SCENE_FILE, _cut("sparse/0/cameras.bin", 0.7), "'camera 1 of 1': found the file's end"),
    ("colmap", FaultKind.IMAGE_SIZE, _shrink("images/frame-000002.color.png"), "114x64, as camera 1 has"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "kind", "damage", "message"), DAMAGED, ids=lambda value: str(getattr(value, "name", ""))
)
def test_each_fault_is_found_once_and_named(
    request: pytest.FixtureRequest, layout: str, kind: FaultKind, damage: Callable[[Path], Any], message: str
) -> None:
    root = request.getfixturevalue(layout)
    damage(root)
    report = check_dataset(root)
    faults = {found: count for found, count in report.counts.items() if found is not FaultKind.SCENE_FILE}
    whole_file = kind is FaultKind.SCENE_FILE
    assert kind in report.counts and sum(faults.values()) == (not whole_file), str(report)
    assert message in report.messages[kind][0], report.messages[kind]
    assert f"FAULT  {kind.value}: " in str(report) and str(report).endswith(" faults found")


def test_every_fault_of_every_split_is_collected(seven: Path, tmp_path: Path) -> None:
    for damage in (
        _pose("seq-01/frame-000000", lambda m: m.__imul__(np.nan)),
        *(_pose(f"seq-03/frame-00000{number}", lambda m: m.__imul__(np.nan)) for number in range(7)),
        _cut("seq-02/frame-000003.color.png"),
        _cut("seq-03/frame-000010.color.png"),
        lambda root: (root / "seq-03/frame-000011.pose.txt").unlink(),
    ):
        damage(seven)
    report = check_dataset(seven, overlay=tmp_path / "scene.png")
    assert report.counts == {FaultKind.POSE: 8, FaultKind.DAMAGED_IMAGE: 2, FaultKind.NO_POSE: 1}
    assert len(report.messages[FaultKind.POSE]) == SHOWN and "... and 3 more" in str(report)
    assert report.splits["train"].frames == 47 and report.splits["test"].frames == 16
    assert report.splits["test"].sizes == {"114x64": 15}
    assert (tmp_path / "scene.png").is_file()


def test_one_split_alone(seven: Path) -> None:
    (seven / "TestSplit.txt").unlink()
    assert not check_dataset(seven).ok
    report = check_dataset(seven, "train")
    assert report.ok and list(report.splits) == ["train"] and not report.warnings
    assert check_dataset(seven, "all").splits["all"].frames == 72
    with pytest.raises(DataError, match="'split': found 'val', expected one of train, test, all"):
        check_dataset(seven, "val")


def test_sequences_that_no_split_names(seven: Path) -> None:
    (seven / "TrainSplit.txt").write_text("sequence1\n")
    report = check_dataset(seven)
    assert report.ok
    assert report.warnings == [
        f"{seven}: 'split': found seq-02 in neither split, expected each sequence in TrainSplit.txt or TestSplit.txt"
    ]


def test_pictures_in_both_splits(seven: Path) -> None:
    """A sequence that both splits name; a photograph that another repeats."""
    shutil.copy(seven / "seq-03/frame-000004.color.png", seven / "seq-02/frame-000020.color.png")
    (found,) = check_dataset(seven).messages[FaultKind.DUPLICATE_FRAME]
    assert "frame-000004.color.png: 'image': found the pixels of" in found
    assert "frame-000020.color.png (train), expected a picture of its own" in found
    (seven / "TestSplit.txt").write_text("sequence2\n")
    report = check_dataset(seven)
    assert report.counts == {FaultKind.DUPLICATE_FRAME: 24}
    assert "'split': found train and test, expected one of them" in str(report)
    assert any("100% of test frames stand within 5 cm and 5 degrees" in warning for warning in report.warnings)


def test_what_readers_mend_is_told(cambridge: Path, transforms: Path) -> None:
    _line("train", 9, lambda w: w.__setitem__(slice(4, 8), [str(1.05 * float(x)) for x in w[4:8]]))(cambridge)
    _line("train", 10, lambda w: w.__setitem__(1, "1e9"))(cambridge)
    report = check_dataset(cambridge)
    assert report.ok
    assert report.warnings[:2] == [
        f"{cambridge}: train: 1 quaternions normalised",
        f"{cambridge}: train: 1 positions beyond 1 km left out",
    ]
    shutil.copy(cambridge / "seq1/frame00001.png", cambridge / "seq3/other.png")
    told = f"{cambridge}: test: 1 images that neither list names (first: seq3/other.png)"
    assert check_dataset(cambridge, "test").warnings[0] == told
    shutil.copy(transforms / "images/frame-000000.color.png", transforms / "images/other.png")
    report = check_dataset(transforms)
    assert report.ok
    assert f"WARN   {transforms}: train and test: 1 images without a pose (first: other.png)" in str(report)


def test_captures_without_a_split_of_their_own(transforms: Path, colmap: Path) -> None:
    for root in (transforms, transforms / "transforms.json", colmap):
        report = check_dataset(root)
        assert report.ok and any("come next to a training frame" in warning for warning in report.warnings), str(report)
        assert "(the file's own unit)" in str(report)


def test_cambridge_in_millimetres(cambridge: Path) -> None:
    for part, count in (("train", 48), ("test", 24)):
        for number in range(4, 4 + count):
            change = lambda w: w.__setitem__(slice(1, 4), [str(1000 * float(x)) for x in w[1:4]])  # noqa: E731
            _line(part, number, change)(cambridge)
    report = check_dataset(cambridge)
    assert "split train': found 48 of 48 positions beyond 1 km, expected metres" in str(report)
    assert "split test': found 24 of 24" in str(report) and not report.splits


def test_limit_decodes_fewer_photographs_and_checks_all_poses(seven: Path) -> None:
    for path in seven.rglob("*.color.png"):
        _cut(path.relative_to(seven).as_posix(), 0.9)(seven)
    _pose("seq-02/frame-000003", lambda m: m.__imul__(np.nan))(seven)
    report = check_dataset(seven, limit=6)
    assert report.counts == {FaultKind.POSE: 1, FaultKind.DAMAGED_IMAGE: 6}
    assert sum(split.checked for split in report.splits.values()) == 6


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_looks_at_nothing(seven: Path, limit: int) -> None:
    with pytest.raises(DataError, match=f"seven: 'limit': found {limit}, expected at least 1 frame"):
        check_dataset(seven, limit=limit)


def test_the_overlay_shows_cameras_and_photographs(seven: Path, tmp_path: Path) -> None:
    _cut("seq-02/frame-000003.color.png")(seven)
    report = check_dataset(seven, overlay=tmp_path / "scene.png")
    assert report.overlay == tmp_path / "scene.png" and f"overlay: {tmp_path}" in str(report)
    sheet = read_image(tmp_path / "scene.png").astype(int)
    assert sheet.shape == (640 + 24 + 240, 1920, 3)

    def drawn(part: np.ndarray, color: tuple[int, int, int]) -> int:
        return int((np.abs(part - color).max(axis=2) < 20).sum())

    for panel in (sheet[40:600, :800], sheet[40:600, 960:1760]):
        assert drawn(panel, (0, 114, 178)) > 1.5 * drawn(panel, (230, 120, 0)) > 300, "train and test"
        assert 50 < drawn(panel, (200, 0, 60)) < 200, "one ring"
    assert drawn(sheet[640:664, :320], (200, 0, 60)) > 4000, "the damaged photograph comes first"
    assert sheet[664:, :320].max() == 0, "and has no picture"
    photograph = sheet[700:868, 330:630]
    assert photograph.std() > 20
    with pytest.raises(DataError, match=r"an ending '\.xyz', expected a picture as png, jpg"):
        check_dataset(seven, overlay=tmp_path / "scene.xyz")


def test_the_overlay_survives_lost_poses(seven: Path, tmp_path: Path) -> None:
    """One camera far away moves neither the view nor the picture's limits."""
    _pose("seq-01/frame-000003", lambda m: m.__setitem__((slice(0, 3), 3), [1e12, -1e12, 0]))(seven)
    check_dataset(seven, overlay=tmp_path / "scene.png")
    sheet = read_image(tmp_path / "scene.png")[:600, :960].astype(int)
    columns = np.flatnonzero((np.abs(sheet - (0, 114, 178)).max(axis=2) < 20).any(axis=0))
    assert np.ptp(columns) > 400


def test_a_folder_of_neither_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="such as test/000001; or a scene of 7-Scenes, Cambridge"):
        check_dataset(tmp_path)
    with pytest.raises(
        DataError,
        match=r"no such folder, expected a data set in the BOP format, a .data file, viewpoints, or a scene of 7-Sc",
    ):
        check_dataset(tmp_path / "nowhere")


def test_the_real_kitchen(real_data: Path, tmp_path: Path) -> None:
    report = check_dataset(real_data / "7scenes" / "redkitchen", limit=20, overlay=tmp_path / "kitchen.png")
    assert report.ok, str(report)
    assert [split.frames for split in report.splits.values()] == [300, 100]
    camera, warning = report.warnings
    assert "train and test: camera and poses of the depth sensor (calibration: depth), not those of" in camera
    assert "11% of test frames stand within 5 cm and 5 degrees of a training frame: neighbouring frames" in warning


def test_a_real_capture(real_data: Path, tmp_path: Path) -> None:
    report = check_dataset(real_data / "fox", overlay=tmp_path / "fox.png")
    assert report.ok, str(report)
    assert [split.frames for split in report.splits.values()] == [43, 7]
    near, warning = report.warnings
    assert "57% of test frames stand within 2% of the scene's extent and 5 degrees of a training frame" in near
    assert "100% of test frames come next to a training frame in the same recording" in warning
