"""Writers of the room's recordings in the layouts of 7-Scenes and Cambridge Landmarks.

python -m tests.data.room_writer my_room
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tests.data.room import Preset, Recording, Room, pinhole

from posedistill.data.formats import cambridge, seven_scenes
from posedistill.data.formats.scene_parse import invert_pose
from posedistill.data.images import write_image
from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array, scaled_camera
from posedistill.geometry.rotations import matrix_to_quaternion

HEADER = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"


def write_seven_scenes(
    root: str | Path, recordings: Sequence[Recording], test: Sequence[int], suffix: str = ".png"
) -> None:
    """Write recordings as ``seq-01`` and on.

    Args:
        test: numbers, from 0, of the recordings that are the test split; the others are for training.
        suffix: of the images, ``.png`` or ``.jpg``.

    Raises:
        DataError: ``root`` holds files already, or a full disk.
    """
    root = _empty(Path(root))
    for number, recording in enumerate(recordings):
        folder = root / f"seq-{number + 1:02d}"
        for index, (image, R, t) in enumerate(zip(recording.images, recording.R, recording.t, strict=True)):
            write_image(folder / f"frame-{index:06d}.color{suffix}", image)
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = invert_pose(R, t)
            write_file(folder / f"frame-{index:06d}.pose.txt", _rows(matrix))
    for part, chosen in _parts(len(recordings), test).items():
        lines = "".join(f"sequence{number + 1}\n" for number in chosen)
        write_file(root / seven_scenes.SPLIT_FILES[part], lines)
    camera = recordings[0].camera
    K = scaled_camera(camera.K, (camera.width, camera.height), seven_scenes.SIZE_STATED)
    write_file(root / seven_scenes.INTRINSICS, _rows(K))


def write_cambridge(root: str | Path, recordings: Sequence[Recording], test: Sequence[int]) -> None:
    """Write recordings as ``seq1`` and on, the lists of their poses, and the focal lengths of the reconstruction.

    Raises:
        DataError: ``root`` holds files already, or a full disk.
    """
    root, lines = _empty(Path(root)), list[list[str]]()
    cameras = []
    for number, recording in enumerate(recordings):
        lines.append([])
        focal = recording.camera.K[0, 0] * cambridge.WIDTH / recording.camera.width
        for index, (image, R, t) in enumerate(zip(recording.images, recording.R, recording.t, strict=True)):
            name = f"seq{number + 1}/frame{index + 1:05d}"
            write_image(root / f"{name}.png", image)
            values = " ".join(f"{value:.9f}" for value in (*invert_pose(R, t)[1], *matrix_to_quaternion(R)))
            lines[-1].append(f"{name}.png {values}\n")
            cameras.append(f"{name}.jpg {focal:.9f} {values} 0 0\n")
    for part, chosen in _parts(len(recordings), test).items():
        write_file(root / cambridge.SPLIT_FILES[part], HEADER + "".join("".join(lines[number]) for number in chosen))
    write_file(root / cambridge.RECONSTRUCTION, f"NVM_V3\n\n{len(cameras)}\n{''.join(cameras)}\n0\n")


def write_made_scene(
    root: str | Path,
    layout: str = "7-Scenes",
    sequences: int = 3,
    frames: int = 40,
    seed: int = 0,
    preset: Preset = "room",
    size: tuple[int, int] = (114, 64),
) -> None:
    """Write a made scene in the layout ``7-Scenes`` or ``Cambridge Landmarks``; its last sequence is the test split.

    Args:
        frames: of each sequence. size: width and height of the images, pixels.

    Raises:
        DataError: ``root`` holds files already; another layout.
    """
    writers: dict[str, Callable[..., None]]
    writers = {"7-Scenes": write_seven_scenes, "Cambridge Landmarks": write_cambridge}
    if layout not in writers:
        raise DataError(describe(root, "layout", repr(layout), f"one of {sorted(writers)}"))
    room, camera = Room(preset, seed), pinhole(*size)
    recordings = [room.record(camera, frames, 100 * seed + number) for number in range(sequences)]
    writers[layout](root, recordings, test=[sequences - 1])


def _parts(count: int, test: Sequence[int]) -> dict[str, list[int]]:
    return {"train": [n for n in range(count) if n not in test], "test": [n for n in range(count) if n in test]}


def _rows(matrix: Array) -> str:
    return "".join(" ".join(f"{value:.12e}" for value in row) + "\n" for row in matrix)


def _empty(root: Path) -> Path:
    """A folder that holds nothing, or is not there yet."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(describe(root, "folder", "files already", "an empty or new folder: nothing is written over"))
    return root


if __name__ == "__main__":
    write_made_scene(sys.argv[1])
