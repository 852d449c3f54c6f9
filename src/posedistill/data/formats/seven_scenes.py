"""Reader of 7-Scenes (Shotton et al., CVPR 2013): ``seq-XX/frame-XXXXXX.color.png`` with 4x4 camera-to-world poses.

The published intrinsics and poses are those of the depth sensor, while the photographs are the colour camera's, 2.6 cm
beside it and turned by 0.67 degrees. That is nothing to a network that regresses poses, and ruins whatever projects
points: ``calibration`` says which of the two cameras a frame is told of.
"""

import re
from pathlib import Path

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.scene import CameraDataset, CameraFrame, natural_order
from posedistill.data.formats.scene_parse import OneSize, Split, numbers, pose_from_camera_to_world
from posedistill.errors import DataError, describe
from posedistill.files import kept, read_text
from posedistill.geometry.cameras import Array, Calibration, scaled_camera
from posedistill.geometry.rotations import mean_rotation

K_STATED: Array = np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]])
"""The camera the data set states, for 640x480: the depth sensor's."""
K_COLOUR: Array = np.array([[525.0, 0.0, 320.0], [0.0, 525.0, 240.0], [0.0, 0.0, 1.0]])
"""The camera that took the photographs, for 640x480."""
COLOUR_FROM_DEPTH: Array = np.array(
    [
        [0.99996518, 0.00267651, -0.00790410, -0.02555894],
        [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
        [0.00788199, 0.00817183, 0.99993554, 0.00203187],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""From the depth sensor's frame to the colour camera's, as Brachmann et al., CVPR 2023, calibrate them (metres)."""
SIZE_STATED = (640, 480)
SPLIT_FILES = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
INTRINSICS = "camera-intrinsics.txt"
_SUFFIXES = (".color.png", ".color.jpg", ".color.jpeg")
_POSE = ".pose.txt"


def read_seven_scenes(
    root: str | Path,
    split: Split = "train",
    K: Array | None = None,
    on_fault: OnFault = raise_fault,
    calibration: Calibration = "depth",
) -> CameraDataset:
    """Read one scene.

    Args:
        root: folder with ``seq-XX`` and the split files.
        split: ``all`` reads every ``seq-XX`` there is and needs no split file. A sequence that a split file names again
            is read once, which ``notes`` tells.
        K: ``[3, 3]`` for the images as they are. Default: ``camera-intrinsics.txt`` where the folder has one, else the
            camera the data set states; both are for 640x480 and scaled to the images.
        on_fault: called at a fault of a frame or sequence, which is then left out; raises by default.
        calibration: ``depth`` takes poses and intrinsics as they are recorded; ``colour`` those of the camera that took
            the photographs, where the folder's intrinsics are the depth sensor's. A folder that states others was
            calibrated by somebody, and is taken at its word.

    Raises:
        DataError: no such folder or split file; a missing sequence; an image without a pose, a pose without an image;
            an invalid pose; an image of another size.
    """
    root, size_of = Path(root), OneSize()
    stated = _intrinsics(root / INTRINSICS) if K is None else None
    moved = calibration == "colour" and stated is not None and np.array_equal(stated, K_STATED)
    stated = K_COLOUR if moved else stated
    frames: list[CameraFrame] = []
    named = split_folders(root, split, on_fault)
    folders = dict.fromkeys(named)
    for folder in folders:
        for stem, image in _pictures(folder, on_fault).items():
            pose = folder / f"{stem}{_POSE}"
            with reported(on_fault, FaultKind.POSE, pose):
                size = size_of(image)
                camera = np.asarray(K) if stated is None else scaled_camera(stated, SIZE_STATED, size)
                R, t = _of_colour(*_pose(pose)) if moved else _pose(pose)
                frames.append(CameraFrame(image, folder.name, camera, *size, R, t))
    repeats = len(named) - len(folders)
    notes = [f"{repeats} sequences that the split names again, taken once"] if repeats else []
    if stated is not None and np.array_equal(stated, K_STATED):
        notes.append("camera and poses of the depth sensor (calibration: depth), not those of the photographs")
    return CameraDataset(root, split, tuple(frames), tuple(notes))


def split_folders(root: Path, split: Split, on_fault: OnFault) -> list[Path]:
    """The folders of a split, in the split file's order; ``all`` are whatever is there.

    Raises:
        DataError: no split file.
    """
    if split == "all":
        return sorted((path for path in root.glob("seq-*") if path.is_dir()), key=lambda path: natural_order(path.name))
    file = root / SPLIT_FILES[split]
    folders = []
    for line in read_text(file, "lines such as sequence1").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        number = re.search(r"(?<!\d)\d{1,9}(?!\d)", text)
        if number is None:
            on_fault(fault(FaultKind.SPLIT, file, "sequence", repr(text), "a line such as sequence1"))
        elif (folder := root / f"seq-{int(number[0]):02d}").is_dir():
            folders.append(folder)
        else:
            hint = f" (unpack {folder.name}.zip)" if folder.with_suffix(".zip").exists() else ""
            on_fault(fault(FaultKind.SPLIT, file, text, f"no folder {folder.name}", f"one in {root}{hint}"))
    return folders


def _pictures(folder: Path, on_fault: OnFault) -> dict[str, Path]:
    """Images with a pose, by their frame's name, in the order of time; whatever lacks the other half is a fault."""
    images: dict[str, Path] = {}
    files = sorted(folder.glob("frame-*"))
    for path in files:
        suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix is None:
            continue
        if (first := images.setdefault(path.name[: -len(suffix)], path)) != path:
            found = f"{first.name} and {path.name}"
            on_fault(fault(FaultKind.SAME_ID, path, "image", found, "one image of each pose"))
    poses = {path.name.removesuffix(_POSE): path for path in files if path.name.endswith(_POSE)}
    for stem in sorted(images.keys() - poses.keys()):
        on_fault(fault(FaultKind.NO_POSE, images[stem], "pose", f"no {stem}{_POSE}", "a pose of each image"))
    for stem in sorted(poses.keys() - images.keys()):
        found = f"no {stem}{_SUFFIXES[0]} or {_SUFFIXES[1]}"
        on_fault(fault(FaultKind.MISSING_IMAGE, poses[stem], "image", found, "an image of each pose"))
    if not images and not poses:
        expected = f"frame-XXXXXX{_SUFFIXES[0]} and frame-XXXXXX{_POSE}"
        on_fault(fault(FaultKind.SPLIT, folder, "frames", "none", expected))
    return {stem: images[stem] for stem in sorted(images.keys() & poses.keys())}


def _pose(path: Path) -> tuple[Array, Array]:
    values = numbers(read_text(path, "a 4x4 pose").split(), path, "pose")
    if values.size != 16:
        raise fault(FaultKind.POSE, path, "pose", f"{values.size} numbers", "16 (4x4, camera to world)")
    return pose_from_camera_to_world(values.reshape(4, 4), path, "pose")


def _of_colour(R: Array, t: Array) -> tuple[Array, Array]:
    """The colour camera's world-to-camera pose, where the depth sensor's is ``R, t``."""
    turn, shift = COLOUR_FROM_DEPTH[:3, :3], COLOUR_FROM_DEPTH[:3, 3]
    return mean_rotation((turn @ R)[None]), turn @ t + shift


@kept
def _intrinsics(path: Path) -> Array:
    if not path.exists():
        return K_STATED
    values = numbers(read_text(path, "a 3x3 matrix").split(), path, "K")
    if values.size != 9 or not (values[0] > 0 and values[4] > 0 and values[6:].tolist() == [0, 0, 1]):
        raise DataError(describe(path, "K", f"{values.tolist()}", "3x3 intrinsics for 640x480"))
    return values.reshape(3, 3)
