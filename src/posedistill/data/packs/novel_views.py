"""Novel views of a scene: its photographs as cameras beside them would have taken them, for training."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.images import contact_sheet
from posedistill.data.packs.pack import Pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.data.settings import Settings
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.novel_view import novel_view, resampled
from posedistill.geometry.rotations import axis_angle

_CHECKED = 20
"""Photographs that are asked before any view is drawn."""
_MOVED, _TURNED = 1, 2
"""Ids of the pixels of a view: whether its photograph's depths were known. A build that goes on need not ask again."""


class NovelViewSettings(Settings):
    """Pictures of places beside those of the photographs, by a network's idea of how far things are."""

    points: Path = Field(description="Exported file of scene coordinates that knows the scene.")
    distance: float = Field(gt=0, description="Farthest from the photograph's place: metres, or the scene's unit.")
    turn: float = Field(10.0, ge=0, le=60, description="Largest turn from the photograph's direction, degrees.")
    count: int = Field(10, ge=1, description="Views of each photograph.")
    share: float = Field(0.75, gt=0, le=1, description="Of training pictures, that are novel views.")

    @property
    def drawn(self) -> dict[str, Any]:
        """What the pictures depend on, but for the file's contents."""
        return self.model_dump(mode="json", exclude={"points", "share"})


class Depths(NamedTuple):
    """Inverse depths ``[h, w]`` of a photograph, and ``K [3, 3]`` of a camera of which they would be the pixels."""

    inverse: Array
    K: Array


class NovelViews(SceneFrames):
    """``count`` views of each photograph in turn, from places drawn evenly in a ball about its own.

    Args:
        side: as of ``SceneFrames``. depths: of a photograph; None where they are not known: its views are only turned.
    """

    def __init__(
        self,
        dataset: CameraDataset,
        side: int | tuple[int, int],
        settings: NovelViewSettings,
        depths: Callable[[CameraFrame], Depths | None],
    ) -> None:
        super().__init__(dataset.take(np.repeat(np.arange(len(dataset)), settings.count)), side)
        self.settings, self._ask, self._lock = settings, depths, Lock()
        self._known: dict[Path, Depths | None] = {}
        self._are_moved: dict[Path, bool] = {}
        rng, count = np.random.default_rng(0), len(self.frames)
        ways, axes = rng.normal(size=(2, count, 3))
        reach = settings.distance * rng.random(count) ** (1 / 3) / np.linalg.norm(ways, axis=1)
        angles = np.deg2rad(settings.turn) * rng.random(count)
        self._moves, self._turns = reach[:, None] * ways, axis_angle(axes, angles)

    def state(self) -> bytes:
        """That of the photographs, the file of points and the settings that draw."""
        points = sha256(self.settings.points.read_bytes()).digest()  # a copy of the file is the same file
        return super().state() + repr(self.settings.drawn).encode() + points

    def draw(self, index: int, target: NDArray[np.uint8]) -> None:
        """A view; the id of all of it tells how it was made."""
        super().draw(index, target)
        depths, K, shape = self._depths(index), self.camera(index), target.shape[:2]
        inverse = np.zeros(shape) if depths is None else resampled(depths.inverse, depths.K, K, (shape[0], shape[1]))
        R, t = self._move(index, depths is not None)
        target[..., :3] = novel_view(np.ascontiguousarray(target[..., :3]), inverse, K, R, t)
        target[..., 3] = _TURNED if depths is None else _MOVED

    def instances(self, index: int, ids: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The scene as the new camera sees it."""
        frame, made = self.frames[index], int(ids[0, 0])
        # Views that were drawn before ids told it have 0.
        moved = self._are_moved[frame.image] = made == _MOVED if made else self._depths(index) is not None
        R, t = self._move(index, moved)
        (row,) = super().instances(index, ids)
        return [row | {"R": R @ frame.R, "t": R @ frame.t + t}]

    def check(self) -> None:
        """Ask of a few photographs before any view is drawn.

        Raises:
            DataError: the depths of none are known.
        """
        asked = np.unique(np.linspace(0, len(self.frames) - 1, _CHECKED).astype(int)).tolist()
        if all(self._depths(index) is None for index in asked):
            found = f"points that agree with the pose of none of {len(self._known)} photographs"
            raise DataError(describe(self.settings.points, "novel_views", found, "a network of this scene and unit"))

    def notes(self) -> list[str]:
        """How many photographs could not be moved."""
        every, without = len(self._are_moved), sum(not moved for moved in self._are_moved.values())
        return [f"novel views: {without} of {every} photographs show too few known points: turned, not moved"] * (
            without > 0
        )

    def _move(self, index: int, moved: bool) -> tuple[Array, Array]:
        """``R, t``: the photograph's camera to the new one, or where it is not ``moved`` one in the same place."""
        R = self._turns[index]
        return R, -R @ self._moves[index] if moved else np.zeros(3)

    def _depths(self, index: int) -> Depths | None:
        """Of a view's photograph, which is asked once. Threads draw views of one photograph at a time."""
        frame = self.frames[index]
        with self._lock:
            if frame.image not in self._known:
                self._known[frame.image] = self._ask(frame)
            return self._known[frame.image]


def novel_sheet(photographs: Pack, novel: Pack, rows: int = 6, columns: int = 5) -> Image:
    """In each row a photograph and so many of its novel views (fewer where there are not as many)."""
    each, tiles = len(novel.frames) // len(photographs.frames), []
    columns = min(columns, each)
    for row in np.linspace(0, len(photographs.frames) - 1, rows).astype(int):
        shown = [photographs.frames[row], *novel.frames[row * each : row * each + columns]]
        height, width = photographs.sizes[row]
        tiles += [frame[:height, :width, :3] for frame in shown]
    return contact_sheet(tiles, columns + 1)
