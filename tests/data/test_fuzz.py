"""Damaged files of every format: each reader ends in a DataError, or reads on; never in another exception."""

import json
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset, read_detections
from posedistill.data.formats.cambridge import read_cambridge
from posedistill.data.formats.colmap import read_colmap
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.formats.labels.files import read_poses
from posedistill.data.formats.labels.writer import write_labels
from posedistill.data.formats.seven_scenes import read_seven_scenes
from posedistill.data.formats.transforms_json import read_transforms
from posedistill.data.formats.viewpoint.annotations import read_cars, read_pix3d, read_table
from posedistill.data.formats.viewpoint.clouds import read_cloud
from posedistill.data.images import write_image
from posedistill.errors import DataError, PoseDistillError
from posedistill.poses import Poses

ROUNDS = 30
TOKENS = (
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"1e999",
    b"9" * 5000,
    b"\0",
    b"\xff\xfe",
    b"\n",
    b" ",
    b",",
    b"[",
    b"{",
    b"/",
    b"\\",
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1e308, float("nan"), float("inf"), 10**400, "", "x", "1", "\0", "/", "..", "a" * 300),
    *([], {}, [[]], [1, [2]], [float("nan")] * 9, {"a": 1}),
)


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes cut out, doubled, flipped or replaced by a token."""
    for _ in range(int(rng.integers(1, 4))):
        start, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
        part, rest = data[start : start + length], data[start + length :]
        change = int(rng.integers(5))
        if change == 0:
            part = b""
        elif change == 1:
            part += part
        elif change == 2:
            part = bytes(byte ^ int(rng.integers(256)) for byte in part[:4]) + part[4:]
        elif change == 3:
            part, rest = TOKENS[rng.integers(len(TOKENS))], data[start:] if rng.random() < 0.5 else rest
        else:
            rest = rest if rng.random() < 0.7 else b""
        data = data[:start] + part + rest
    return data


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from places(content[key])


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """A value replaced or removed, or a key renamed; at times bytes, as in other files."""
    if rng.random() < 0.3:
        return mutated_bytes(data, rng)
    content = json.loads(data)
    where = list(places(content))
    container, key = where[rng.integers(len(where))]
    if rng.random() < 0.2:
        del container[key]
    elif rng.random() < 0.1 and isinstance(container, dict):
        container[str(VALUES[rng.integers(len(VALUES))])] = container.pop(key)
    else:
        container[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(content).encode()


Case = tuple[Path, Callable[[], object]]


def fuzz(path: Path, read: Callable[[], object], seed: int, refusal: type[PoseDistillError] = DataError) -> None:
    """Read a file in many damaged versions, and once more as it was."""
    whole = path.read_bytes()
    mutate = mutated_json if path.suffix == ".json" else mutated_bytes
    read()
    for number in range(ROUNDS):
        data = mutate(whole, np.random.default_rng([seed, number]))
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of overflow, before it is refused
                read()
        except refusal as error:
            assert ": '" in str(error) and "found" in str(error) and "expected" in str(error)
        except Exception as error:
            raise AssertionError(f"round {number} of {path.name}: {error!r} at {data[:2000]!r}") from error
    path.write_bytes(whole)
    read()


@pytest.mark.parametrize(
    "name",
    [
        *("test/000001/scene_gt.json", "test/000001/scene_camera.json", "test/000001/scene_gt_info.json"),
        *("models_eval/models_info.json", "test_targets_bop19.json", "list.txt"),
    ],
)
def test_bop(bop_root: Path, name: str) -> None:
    (bop_root / "list.txt").write_text("000000\n1/000001\n000004/rgb/000010.jpg\n# end\n")
    target = {"scene_id": 1, "im_id": 0, "obj_id": 2, "inst_count": 2}
    (bop_root / "test_targets_bop19.json").write_text(json.dumps([target] * 3))
    info = bop_root / "models_eval" / "models_info.json"
    content = json.loads(info.read_text())
    content["2"] |= {
        "symmetries_discrete": [np.diag([-1.0, -1, 1, 1]).ravel().tolist()],
        "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}],
    }
    info.write_text(json.dumps(content))

    def read() -> None:
        dataset = BopDataset(bop_root, frames="list.txt")
        assert all(frame.instances is not None for frame in dataset.frames)
        dataset.targets()
        dataset.objects()

    fuzz(bop_root / name, read, 1)


def test_detections(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    row = {"scene_id": 2, "image_id": 3, "category_id": 5, "score": 0.5, "bbox": [1.5, 2, 3, 4], "time": 0.25}
    path.write_text(json.dumps([row] * 3))
    fuzz(path, lambda: read_detections(path), 2)


def test_poses(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = [f"1,{number},2,0.5,1 0 0 0 1 0 0 0 1,10 20 800,0.1\n" for number in range(4)]
    path.write_text("scene_id,im_id,obj_id,score,R,t,time\n" + "".join(rows))
    fuzz(path, lambda: Poses.from_bop_csv(path), 3)


@pytest.mark.parametrize("name", ["seq-01/frame-000002.pose.txt", "TrainSplit.txt", "camera-intrinsics.txt"])
def test_seven_scenes(seven_scenes_root: Path, name: str) -> None:
    fuzz(seven_scenes_root / name, lambda: read_seven_scenes(seven_scenes_root), 4)


@pytest.mark.parametrize("name", ["dataset_train.txt", "reconstruction.nvm"])
def test_cambridge(cambridge_root: Path, name: str) -> None:
    fuzz(cambridge_root / name, lambda: read_cambridge(cambridge_root), 5)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", np.full((6, 8, 3), 100, np.uint8))
    return tmp_path


def test_transforms(photographs: Path) -> None:
    matrix = np.eye(4).tolist()
    frames = [{"file_path": f"images/{number}.png", "transform_matrix": matrix} for number in range(4)]
    frames[1] |= {"fl_x": 9.0, "k1": 0.01}
    names = [frame["file_path"] for frame in frames]
    content = {"camera_angle_x": 0.9, "w": 8, "h": 6, "cx": 4.0, "camera_model": "OPENCV", "frames": frames}
    content |= {"train_filenames": names[:3], "test_filenames": names[3:], "k2": -0.01, "applied_scale": 0.5}
    path = photographs / "transforms.json"
    path.write_text(json.dumps(content))
    fuzz(path, lambda: [read_transforms(photographs, split) for split in ("train", "all")], 6)


@pytest.mark.parametrize("name", ["cameras.txt", "images.txt"])
def test_colmap_text(photographs: Path, name: str) -> None:
    (photographs / "cameras.txt").write_text("# cameras\n1 PINHOLE 8 6 9 9 4 3\n2 OPENCV 8 6 9 9 4 3 0.01 0 0 0\n")
    rows = [f"{n} 1 0 0 0 0.1 0 0 {n % 2 + 1} {n}.png\n1.5 2.5 -1 3.5 1.5 7\n" for n in range(4)]
    (photographs / "images.txt").write_text("# images\n" + "".join(rows))
    fuzz(photographs / name, lambda: read_colmap(photographs, "all"), 7)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_colmap_binary(photographs: Path, name: str) -> None:
    cameras = struct.pack("<QiiQQ4d", 1, 1, 1, 8, 6, 9.0, 9.0, 4.0, 3.0)
    (photographs / "cameras.bin").write_bytes(cameras)
    images = struct.pack("<Q", 4)
    for number in range(4):
        images += struct.pack("<i7di", number, 1, 0, 0, 0, 0.1, 0, 0, 1) + f"{number}.png".encode() + b"\0"
        images += struct.pack("<Qddq", 1, 1.0, 2.0, -1)
    (photographs / "images.bin").write_bytes(images)
    fuzz(photographs / name, lambda: read_colmap(photographs, "all"), 8)


@pytest.mark.parametrize("name", ["boxes.data", "train.txt", "train/000001/labels/000000.txt"])
def test_labels(bop_root: Path, tmp_path: Path, name: str) -> None:
    data = write_labels(BopDataset(bop_root, "test"), tmp_path / "labels").data
    folder = data.parent
    place = {"boxes.data": data}.get(name) or next(folder.rglob(Path(name).name))

    def read() -> None:
        for frame in LabelDataset(data, "train").frames:
            assert frame.instances is not None

    fuzz(place, read, 9)


def test_poses_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    path.write_text("1 0 0 0 1 0 0 0 1 0.1 0.2 0.9\n" * 3)
    fuzz(path, lambda: read_poses(path, 3), 10)


def test_annotations(tmp_path: Path) -> None:
    header = "image,category,azimuth,elevation,inplane,shape,split,left,upper,right,lower\n"
    path = tmp_path / "annotations.csv"
    path.write_text(header + "".join(f"{n}.png,mug,{40 * n},-5,2.5,1,train,1,2,30,40\n" for n in range(4)))
    fuzz(path, lambda: read_table(path), 11)


def test_cars(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    entry = {"azimuth": 0.5, "elevation": 0.1, "theta": 0.05, "split": "test", "model_id": "abc"}
    path.write_text(json.dumps({"a.jpg": entry, "b.jpg": entry}))
    fuzz(path, lambda: read_cars(path), 12)


def test_pix3d(tmp_path: Path) -> None:
    path = tmp_path / "pix3d.json"
    entry = {"img": "img/bed/1.png", "category": "bed", "model": "bed/1.obj", "cam_position": [1.0, 0.0, 0.2]}
    entry |= {"inplane_rotation": 0.1, "bbox": [1, 2, 30, 40], "truncated": False, "occluded": False}
    path.write_text(json.dumps([entry] * 2))
    fuzz(path, lambda: read_pix3d(path), 13)


@pytest.mark.parametrize("name", ["cloud.npy", "cloud.npz", "cloud.ply"])
def test_clouds(tmp_path: Path, name: str) -> None:
    path, points = tmp_path / name, np.random.default_rng(0).normal(size=(40, 3))
    if name.endswith(".npy"):
        np.save(path, points)
    elif name.endswith(".npz"):
        np.savez(path, vertices=points, faces=np.arange(30).reshape(10, 3))
    else:
        header = "ply\nformat ascii 1.0\nelement vertex 40\n" + "".join(f"property float {axis}\n" for axis in "xyz")
        path.write_text(header + "end_header\n" + "".join(f"{x} {y} {z}\n" for x, y, z in points))
    fuzz(path, lambda: read_cloud(path), 14)


def test_photographs(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    Poses.of_cameras(np.stack([np.eye(3)] * 2), np.ones((2, 3)), name=["a.jpg", "b.jpg"]).to_csv(path)
    fuzz(path, lambda: Poses.read(path), 15)


def test_json_of_poses(tmp_path: Path) -> None:
    path = tmp_path / "poses.json"
    Poses.of_cameras(np.eye(3)[None], np.ones((1, 3)), name=["a.jpg"]).to_json(path)
    fuzz(path, lambda: Poses.from_json(path), 16)
