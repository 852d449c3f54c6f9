"""Annotated objects of categories as they enter a pack: one square window about each box, all of one size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.images import image_size, read_image
from posedistill.data.packs.build import FrameSource
from posedistill.errors import DataError, describe
from posedistill.files import file_state
from posedistill.geometry.cameras import Array
from posedistill.geometry.warp import warp

ROOM = 1.5
"""Side of a window over that of the crop: room to shift, scale and turn the crop."""


class CategoryFrames(FrameSource):
    """A window of each object of a data set.

    Photographs have all sizes, and a pack but one; a window holds all that a crop can show of its object, in the crop's
    resolution.

    Args:
        labels: of each object, the number that its rows carry. side: of a window, pixels.
        pad: side of a crop over the longer side of its box.
    """

    def __init__(self, dataset: CategoryDataset, labels: Sequence[int], side: int, pad: float) -> None:
        self.views, self.R, self.labels, self.side, self.pad = dataset.views, dataset.R, labels, side, pad
        self.root, self.images = dataset.root, [view.image for view in dataset.views]
        self.sequences = dataset.category

    def state(self) -> bytes:
        """Size, labels, image files, boxes and viewpoints."""
        parts = [repr((self.side, self.pad, list(self.labels))).encode()]
        for view in self.views:
            parts += [file_state(view.image), repr(view.box).encode(), view.viewpoint.tobytes()]
        return b"".join(parts)

    def size(self, index: int) -> tuple[int, int]:
        """The same of all."""
        return self.side, self.side

    def camera(self, index: int) -> Array:
        """A camera that looks straight at the object; nobody knows its focal length."""
        middle = (self.side - 1) / 2
        return np.array([[self.side, 0.0, middle], [0.0, self.side, middle], [0.0, 0.0, 1.0]])

    def draw(self, index: int, target: NDArray[np.uint8]) -> None:
        """The window; beyond the photograph it has the border's colour."""
        view = self.views[index]
        image = read_image(view.image)
        x, y, width, height = checked_box(view, (image.shape[1], image.shape[0]))
        step = ROOM * self.pad * max(width, height) / self.side
        corner = np.array([x + width / 2, y + height / 2]) - step * self.side / 2
        affine = np.array([[[step, 0.0, corner[0]], [0.0, step, corner[1]]]])
        target[..., :3] = warp([image], affine, np.empty((1, self.side, self.side, 3), np.uint8))[0]
        target[..., 3] = 0

    def instances(self, index: int, ids: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The object, its box in the window."""
        view = self.views[index]
        # A stated box spares reading the photograph's header.
        left, upper, right, lower = view.box or view.edges(image_size(view.image))
        longer = self.side / ROOM / self.pad
        width, height = np.array([right - left, lower - upper]) * longer / max(right - left, lower - upper)
        box = ((self.side - width) / 2, (self.side - height) / 2, width, height)
        known = {"bbox_obj": box, "bbox_visib": box, "visib_fract": 1.0, "score": 1.0}
        return [{"slot": 0, "obj_id": self.labels[index], "R": self.R[index], "t": np.zeros(3), **known}]


def checked_box(view: AnnotatedView, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box (x, y, w, h) of an object in a picture of that size (width, height): all of it where none is stated.

    Raises:
        DataError: the middle of the box lies beyond the picture.
    """
    width, height = size
    left, upper, right, lower = view.edges(size)
    x, y = (left + right) / 2, (upper + lower) / 2
    if not (0 <= x <= width and 0 <= y <= height):
        found = f"left {left:g}, upper {upper:g}, right {right:g}, lower {lower:g}"
        raise DataError(describe(view.image, "box", found, f"a box within the picture, {width}x{height}"))
    return left, upper, right - left, lower - upper
