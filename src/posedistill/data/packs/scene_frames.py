"""Photographs of a scene as they enter a pack: undistorted and scaled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.scene import CameraDataset
from posedistill.data.images import read_image
from posedistill.data.packs.build import FrameSource
from posedistill.errors import DataError, describe
from posedistill.files import file_state
from posedistill.geometry.cameras import Array, scaled_camera
from posedistill.geometry.photographs import pinhole, scale, scaled_size, undistort

PUBLISHED_SIZE = (455, 256)
"""Width and height to which PoseNet's descendants squeeze every image, its aspect ignored."""


class SceneFrames(FrameSource):
    """The photographs of a data set.

    Args:
        side: the shorter side, pixels; or (width, height) for all, whatever the aspect (``PUBLISHED_SIZE``).
    """

    def __init__(self, dataset: CameraDataset, side: int | tuple[int, int] = 256) -> None:
        self.frames, self.side = dataset.frames, side
        self.root, self.sequences = dataset.root, dataset.sequences
        self.images = [frame.image for frame in dataset.frames]

    def state(self) -> bytes:
        """Size, image files, cameras, poses and lenses."""
        parts = [repr(self.side).encode()]
        for frame in self.frames:
            parts += [file_state(frame.image), repr((frame.sequence, frame.distortion)).encode()]
            parts += [np.concatenate([frame.K.ravel(), frame.R.ravel(), frame.t]).tobytes()]
        return b"".join(parts)

    def size(self, index: int) -> tuple[int, int]:
        """After scaling."""
        width, height = scaled_size(self.frames[index].width, self.frames[index].height, self.side)
        return height, width

    def camera(self, index: int) -> Array:
        """Of the scaled photograph, without its lens's distortion."""
        frame, (height, width) = self.frames[index], self.size(index)
        return scaled_camera(pinhole(frame.K, frame.distortion, frame.size), frame.size, (width, height))

    def draw(self, index: int, target: NDArray[np.uint8]) -> None:
        """The photograph; the id of all of it is 0."""
        frame = self.frames[index]
        image = read_image(frame.image)
        if image.shape[:2] != (frame.height, frame.width):
            found, expected = f"{image.shape[1]}x{image.shape[0]}", f"{frame.width}x{frame.height}"
            raise DataError(describe(frame.image, "image size", found, expected))
        straight, _ = undistort(image, frame.K, frame.distortion)
        target[..., :3] = scale(straight, (target.shape[1], target.shape[0]))
        target[..., 3] = 0

    def instances(self, index: int, ids: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The scene, which fills its photograph."""
        frame, box = self.frames[index], (0, 0, ids.shape[1], ids.shape[0])
        seen = {"bbox_obj": box, "bbox_visib": box, "visib_fract": 1.0, "score": 1.0}
        return [{"slot": 0, "obj_id": 0, "R": frame.R, "t": frame.t, **seen}]
