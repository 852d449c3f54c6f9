"""What stands for an object: its category, and the shape that it is shown beside."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posedistill.data.formats.viewpoint.categories import AnnotatedView
from posedistill.data.formats.viewpoint.clouds import POINTS, ShapeFolder, read_cloud
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.viewpoint import from_shapenet


class Kind(NamedTuple):
    """A category, and a shape of it (empty without shapes)."""

    category: str
    shape: str

    @property
    def name(self) -> str:
        """Both, as a model file lists them."""
        return "/".join(filter(None, self))


class Shapes:
    """Which shape of a folder stands beside an object.

    Args:
        stand_ins: whether a missing shape is replaced by another of its category.
        swapped: whether every shape is replaced by another of its category, where there is one.
        shapenet_frame: whether the shapes have ShapeNet's axes.
    """

    def __init__(
        self, folder: Path, *, stand_ins: bool = False, swapped: bool = False, shapenet_frame: bool = False
    ) -> None:
        self.folder = ShapeFolder(folder)
        self.stand_ins, self.swapped, self.shapenet_frame = stand_ins, swapped, shapenet_frame

    def kind(self, view: AnnotatedView) -> Kind:
        """Of an object; the same one for the same object and folder.

        Raises:
            DataError: its shape is missing and nothing may stand in.
        """
        own = self.folder.find(view.category, view.shape)
        if own is not None and not self.swapped:
            return Kind(view.category, view.shape)
        others = self.folder.of_category(view.category) if self.stand_ins or self.swapped else []
        others = [name for name in others if self.folder.find(view.category, name) != own] or others
        if others:
            return Kind(view.category, others[zlib.crc32(f"{view.shape}".encode()) % len(others)])
        found = f"no shape {view.shape!r} of category {view.category}, of {view.image.name}"
        expected = "a cloud or CAD model" + ("" if self.stand_ins else ", or stand_ins: true in the recipe's data")
        raise DataError(describe(self.folder.folder, "shapes", found, expected))

    def clouds(self, kinds: Sequence[Kind], points: int = POINTS) -> Array:
        """``[S, N, 3]`` of each kind, N the ``points`` or more."""
        paths = [self.folder.find(*kind) for kind in kinds]
        clouds = np.stack([read_cloud(path, max(POINTS, points)) for path in paths if path is not None])
        return from_shapenet(clouds) if self.shapenet_frame else clouds
