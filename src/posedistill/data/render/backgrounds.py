"""What lies behind and under the objects: photographs from a folder or pictures made in code, and table tops."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.images import IMAGE_SUFFIXES, image_size, read_image
from posedistill.data.render.layout import Table
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image

LARGEST = 1024
"""Pixels: photographs are kept no larger than this."""
SMALLEST = 16
"""Pixels: photographs whose shorter side is kept smaller than this are left out."""
KEPT = 256
"""Photographs held decoded by a process."""


class Backgrounds:
    """Random pictures of any size; photographs are decoded once and kept.

    Args:
        folder: of photographs, searched with its subfolders; None for pictures made in code only.

    Attributes:
        paths: the photographs. too_small: those left out, for they hold too few pixels along a side.

    Raises:
        DataError: the folder is missing or holds no image that is large enough; a file that is no image.
    """

    def __init__(self, folder: Path | None) -> None:
        self.paths: list[Path] = []
        self.too_small: list[Path] = []
        if folder is not None:
            folder = Path(folder)
            if not folder.is_dir():
                raise DataError(describe(folder, "backgrounds", "no such folder", "a folder of photographs"))
            for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
                (self.paths if _kept_side(path) >= SMALLEST else self.too_small).append(path)
            if not self.paths:
                found = f"no image, and {len(self.too_small)} too small" if self.too_small else "no image"
                expected = f"files {', '.join(IMAGE_SUFFIXES)} of {SMALLEST} pixels a side or more"
                raise DataError(describe(folder, "backgrounds", found, expected))
        self._load = lru_cache(maxsize=KEPT)(_load_small)

    def picture(self, width: int, height: int, rng: np.random.Generator) -> Image:
        """A background ``[height, width, 3]``: a random cut of a photograph, at times out of focus, or made in code."""
        picture = self._print(width, height, rng, photographs=0.85)
        if rng.random() < 0.5:
            picture = _defocus(picture, float(rng.uniform(0.5, 3.0)))
        return _tint(picture, 0.25, rng)

    def table_top(self, size: int, rng: np.random.Generator) -> Image:
        """A square texture: plain, grainy, chequered, a photograph, or a board of prints and markers."""
        kinds: list[Callable[[], Image]] = [
            lambda: _plain(size, rng),
            lambda: _checker(size, rng),
            lambda: self._print(size, size, rng),
            lambda: self._board(size, rng),
        ]
        return _tint(kinds[int(rng.choice(4, p=[0.3, 0.08, 0.22, 0.4]))](), 0.15, rng)

    def _print(self, width: int, height: int, rng: np.random.Generator, photographs: float = 0.7) -> Image:
        """A cut of a photograph in a share of cases, where there are any; else made in code."""
        if self.paths and rng.random() < photographs:
            return _random_cut(self._load(self.paths[int(rng.integers(len(self.paths)))]), width, height, rng)
        return clutter(width, height, rng)

    def _board(self, size: int, rng: np.random.Generator) -> Image:
        """A plain board with a few prints laid on it askew and, at times, a frame of black and white markers."""
        board = _plain(size, rng)
        for _ in range(int(rng.integers(1, 5))):
            width, height = (int(value) for value in rng.uniform(0.2, 0.6, 2) * size)
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(0, 360)), 1.0)
            turn[:, 2] += rng.uniform(0.2, 0.8, 2) * size - (width / 2, height / 2)
            sheet = self._print(width, height, rng)
            cv2.warpAffine(sheet, turn, (size, size), dst=board, borderMode=cv2.BORDER_TRANSPARENT)
        if rng.random() < 0.5:
            _draw_markers(board, rng)
        return board


def _kept_side(path: Path) -> float:
    """The shorter side of a photograph as it is kept; only the file's header is read."""
    size = image_size(path)
    return min(size) * min(1.0, LARGEST / max(size))


def _load_small(path: Path) -> Image:
    image = read_image(path)
    scale = LARGEST / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _random_cut(photo: Image, width: int, height: int, rng: np.random.Generator) -> Image:
    """A random window of the photograph, stretched to the size asked for, mirrored every other time."""
    rows, columns = photo.shape[:2]
    share = rng.uniform(0.4, 1.0) * min(columns / width, rows / height)
    cut_w, cut_h = max(int(share * width), 8), max(int(share * height), 8)
    left, top = int(rng.integers(columns - cut_w + 1)), int(rng.integers(rows - cut_h + 1))
    cut = photo[top : top + cut_h, left : left + cut_w]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    return cv2.resize(np.ascontiguousarray(cut), (width, height), interpolation=cv2.INTER_LINEAR)


def _defocus(picture: Image, sigma: float) -> Image:
    """Blur at half size: twice as fast, and nobody can tell."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / 2 + 0.1), (width, height))


def _tint(picture: Image, strength: float, rng: np.random.Generator) -> Image:
    """Random gain and gamma in each channel, through a table of 256 entries."""
    gains = np.exp(rng.normal() * strength) * np.exp(rng.normal(size=3) * strength * 0.4)
    gamma = np.exp(rng.normal() * strength)
    curve = 255 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gains, 0, 1)
    return cv2.LUT(picture, np.round(curve).astype(np.uint8)[None])


def _speckle(width: int, height: int, grain: int, strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise ``[height, width, 3]`` whose blobs are about ``grain`` pixels large."""
    cells = (max(height // grain, 2), max(width // grain, 2), 3)
    coarse = rng.normal(size=cells).astype(np.float32) * strength
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def _plain(size: int, rng: np.random.Generator) -> Image:
    """One colour, often pale or dark grey, with grain along one direction as of wood or cloth."""
    color = rng.uniform(20, 245, 3)
    if rng.random() < 0.65:
        color = color.mean() + rng.uniform(-15, 15, 3)
    grain = rng.normal(size=(size if rng.random() < 0.5 else size // 16, size // 8, 1)).astype(np.float32)
    texture = cv2.resize(grain, (size, size)) * np.float32(rng.uniform(0, 10))
    shade = _speckle(size, size, size // 4, 8.0, rng)
    return np.clip(color + texture[..., None] + shade, 0, 255).astype(np.uint8)


def _checker(size: int, rng: np.random.Generator) -> Image:
    cells = int(rng.integers(4, 24))
    colors = rng.uniform(0, 255, (2, 3))
    board = colors[np.add.outer(np.arange(cells), np.arange(cells)) % 2].astype(np.uint8)
    return cv2.resize(board, (size, size), interpolation=cv2.INTER_NEAREST)


def _draw_markers(board: Image, rng: np.random.Generator) -> None:
    """A frame of black squares with white cells inside, as on calibration boards."""
    size = len(board)
    count = int(rng.integers(6, 12))
    step = size / count
    side = int(step * rng.uniform(0.6, 0.85))
    for i in range(count):
        for x, y in ((i, 0), (i, count - 1), (0, i), (count - 1, i)):
            corner = int((x + 0.1) * step), int((y + 0.1) * step)
            board[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 245
            bits = rng.integers(0, 2, (5, 5)).astype(np.uint8) * 235 + 10
            bits[[0, -1]], bits[:, [0, -1]] = 10, 10
            inner = cv2.resize(bits, (side - 4, side - 4), interpolation=cv2.INTER_NEAREST) if side > 12 else None
            if inner is not None:
                board[corner[1] + 2 : corner[1] + side - 2, corner[0] + 2 : corner[0] + side - 2] = inner[..., None]


def clutter(width: int, height: int, rng: np.random.Generator) -> Image:
    """A picture made in code: a gradient, smooth noise, and random boxes, discs, polygons, lines and letters."""
    columns, rows = width // 4 + 1, height // 4 + 1
    ramp = np.linspace(0, 1, columns)[None, :, None] * rng.uniform(-80, 80, 3)
    fall = np.linspace(0, 1, rows)[:, None, None] * rng.uniform(-80, 80, 3)
    base = rng.uniform(40, 215, 3) + ramp + fall + _speckle(columns, rows, int(rng.integers(2, 30)), 22.0, rng)
    picture = cv2.resize(np.clip(base, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    scale = np.array([width, height])
    for _ in range(int(rng.integers(4, 40))):
        color = tuple(float(value) for value in rng.uniform(0, 255, 3))
        center, reach = rng.random(2) * scale, rng.uniform(0.02, 0.3) * min(width, height)
        kind = int(rng.integers(4))
        if kind == 0:
            angle = float(rng.uniform(0, 180))
            corners = cv2.boxPoints((tuple(center), tuple(rng.uniform(0.3, 2, 2) * reach), angle))
            cv2.fillConvexPoly(picture, corners.astype(np.int32), color)
        elif kind == 1:
            axes = tuple(int(value) + 1 for value in rng.uniform(0.3, 1, 2) * reach)
            cv2.ellipse(picture, tuple(int(v) for v in center), axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
        elif kind == 2:
            points = (center + rng.normal(size=(5, 2)) * reach).astype(np.int32)
            cv2.polylines(picture, [points], bool(rng.integers(2)), color, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            text = "".join(chr(int(code)) for code in rng.integers(48, 123, 6))
            cv2.putText(picture, text, tuple(int(v) for v in center), int(rng.integers(8)), reach / 40, color, 2)
    colorful = float(rng.uniform(0.15, 1.0))
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(picture, colorful, grey, 1 - colorful, 0)


def lay_table(picture: Image, texture: Image, light: NDArray[np.float32], table: Table, K: Array) -> None:
    """Draw a lit table top into a picture, in place.

    Args:
        texture: ``[T, T, 3]`` sRGB. light: ``[r, r, 3]`` linear light on the table, from `shading.table_light`.
    """
    size = len(texture)
    # sRGB is close to a power law, so lighting in linear space is a product with the light's root.
    gain = cv2.resize(np.clip(light, 0, 4) ** (1 / 2.2) * 120, (size, size))
    lit = cv2.multiply(texture, np.clip(gain, 0, 255).astype(np.uint8), scale=1 / 120)
    to_plane = np.diag([table.size[0] / size, table.size[1] / size, 1.0])
    to_plane[:2, 2] = np.array(table.size) * (0.5 / size - 0.5)
    homography = K @ np.column_stack([table.R[:, 0], table.R[:, 1], table.t]) @ to_plane
    height, width = picture.shape[:2]
    above = _above_horizon(table, K, width, height)
    kept = picture.copy() if above is not None else picture
    cv2.warpPerspective(
        lit, homography, (width, height), dst=picture, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )
    if above is not None:
        picture[above] = kept[above]


def _above_horizon(table: Table, K: Array, width: int, height: int) -> NDArray[np.bool_] | None:
    """Pixels whose rays meet the table's plane behind the camera; None where there is none in the image."""
    slope = table.R[:, 2] @ np.linalg.inv(K) * np.sign(table.R[:, 2] @ table.t)
    corners = np.array([[x, y, 1] for x in (0, width) for y in (0, height)]) @ slope
    if corners.min() > 0:
        return None
    return slope[0] * np.arange(width) + slope[1] * np.arange(height)[:, None] + slope[2] <= 0
