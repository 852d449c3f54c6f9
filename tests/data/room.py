"""A made scene for camera relocalisation: a textured room, ray-cast by a pinhole camera that walks through it.

Everything follows from a seed, so tests and benchmarks need no data set.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.ray_casting import RayCaster

Preset = Literal["room", "stairs"]

SIZE = (6.0, 4.0, 2.8)
"""Metres: length, width and height; the corner is the world's origin, z points up."""
_TEXELS = 192
_SAMPLES = 2
"""Rays along a side of a pixel."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a camera saw on one walk: ``images`` uint8 ``[N, H, W, 3]``, ``R [N, 3, 3]``, ``t [N, 3]``, metres."""

    images: NDArray[np.uint8]
    R: Array
    t: Array
    camera: Camera


class Room:
    """Rectangles with textures, and what a camera sees of them.

    Args:
        preset: ``room`` has a texture of its own on each wall and piece of furniture; ``stairs`` is a flight of steps
            that look alike, as in the hardest of the 7 scenes.
    """

    def __init__(self, preset: Preset = "room", seed: int = 0) -> None:
        quads, looks = _sides(np.zeros(3), np.array(SIZE)), list(range(6))
        if preset == "room":
            for number, (low, high) in enumerate(_furniture(np.random.default_rng([seed, 0]))):
                quads += _sides(low, high)
                looks += [6 + 6 * number + side for side in range(6)]
        else:
            for number in range(8):
                near, top = 3.3 + 0.3 * number, 0.2 + 0.2 * number
                quads += _sides(np.array([near, 0.6, 0.0]), np.array([near + 0.3, 3.4, top]))
                looks += [6, 7, 8, 9, 10, 11]
        self._corners, self._edges = np.array([quad[0] for quad in quads]), np.array([quad[1:] for quad in quads])
        self._looks = np.array(looks)
        self._textures = np.stack([_texture([seed, 1, look]) for look in range(max(looks) + 1)])
        vertices = np.concatenate([_vertices(*quad) for quad in quads])
        faces = (4 * np.arange(len(quads))[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
        self._caster = RayCaster(vertices, faces)

    def picture(self, camera: Camera, R: Array, t: Array) -> NDArray[np.uint8]:
        """``[H, W, 3]`` RGB of a camera inside of the room; pose from world to camera."""
        origin = -R.T @ t
        rays = _rays(camera) @ R
        distances, faces, _, _ = self._caster.hits(origin, rays.astype(np.float32))
        quads = np.maximum(faces, 0) // 2
        offsets = origin + distances[:, None] * rays - self._corners[quads]
        edges = self._edges[quads]
        places = np.einsum("nij,nj->ni", edges, offsets) / (edges**2).sum(axis=2)
        texels = np.clip(places * _TEXELS, 0, _TEXELS - 1).astype(np.int64)
        colours = self._textures[self._looks[quads], texels[:, 1], texels[:, 0]].astype(np.float32)
        colours[faces < 0] = 0
        size = (camera.height, _SAMPLES, camera.width, _SAMPLES, 3)
        return np.rint(colours.reshape(size).mean(axis=(1, 3))).astype(np.uint8)

    def points(self, pixels: Array, K: Array, R: Array, t: Array) -> Array:
        """``[N, 3]`` what a camera inside of the room sees at pixels ``[N, 2]``, metres."""
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(K).T @ R
        origin = -R.T @ t
        distances = self._caster.hits(origin, rays.astype(np.float32))[0]
        points: Array = origin + distances[:, None] * rays
        return points

    def record(self, camera: Camera, frames: int, seed: int) -> Recording:
        """What the camera sees on a walk of so many frames."""
        R, t = walk(frames, seed)
        return Recording(np.stack([self.picture(camera, *pose) for pose in zip(R, t, strict=True)]), R, t, camera)


def pinhole(width: int = 114, height: int = 64, focal: float | None = None) -> Camera:
    """A camera with its principal point in the middle; the focal length is 0.8 widths by default."""
    focal = 0.8 * width if focal is None else focal
    return Camera(
        np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]), width, height
    )


def walk(frames: int, seed: int) -> tuple[Array, Array]:
    """World-to-camera poses ``[N, 3, 3], [N, 3]`` of a smooth walk that looks about; each seed walks another way."""
    rng = np.random.default_rng([seed, 2])
    time = np.linspace(0, 1, frames)[:, None]
    phase, speed = rng.uniform(0, 2 * np.pi, (2, 3)), rng.uniform(2.5, 5.0, (2, 3))
    middle, reach = np.array([1.9, 2.0, 1.5]), np.array([0.9, 1.1, 0.35])
    centers = middle + reach * np.sin(phase[0] + speed[0] * time)
    targets = np.array([4.8, 2.0, 1.1]) + np.array([0.3, 1.6, 0.6]) * np.sin(phase[1] + speed[1] * time)
    R = _looking(targets - centers)
    return R, -np.einsum("nij,nj->ni", R, centers)


def _looking(directions: Array) -> Array:
    """World-to-camera rotations that look along ``[N, 3]``, the horizon level."""
    forward = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _rays(camera: Camera) -> Array:
    """``[H * s * W * s, 3]`` directions in the camera's frame, depth 1, row by row."""
    steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    x = (np.arange(camera.width)[:, None] + steps).ravel()
    y = (np.arange(camera.height)[:, None] + steps).ravel()
    columns, rows = np.meshgrid(x, y)
    pixels = np.stack([columns, rows, np.ones_like(columns)], axis=-1).reshape(-1, 3)
    return pixels @ np.linalg.inv(camera.K).T


Quad = tuple[Array, Array, Array]
"""A corner and two edges."""


def _sides(low: Array, high: Array) -> list[Quad]:
    """The six sides of a box; rays meet them from within and without."""
    quads = []
    for axis in range(3):
        first, second = (np.eye(3)[other] * (high - low) for other in range(3) if other != axis)
        for end in (low, high):
            corner = low.copy()
            corner[axis] = end[axis]
            quads.append((corner, first, second))
    return quads


def _vertices(corner: Array, first: Array, second: Array) -> Array:
    return np.stack([corner, corner + first, corner + first + second, corner + second])


def _furniture(rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Boxes along the walls that the walk never enters."""
    boxes = []
    for x, y in ((4.6, 0.2), (4.9, 2.9), (3.4, 0.1), (3.6, 3.2)):
        low = np.array([x, y, 0.0])
        boxes.append((low, low + rng.uniform([0.5, 0.4, 0.5], [1.0, 0.7, 1.6])))
    return boxes


def _texture(seed: list[int]) -> NDArray[np.uint8]:
    """``[T, T, 3]``: soft clouds in two colours with patches of others."""
    rng = np.random.default_rng(seed)
    clouds = cv2.resize(
        rng.uniform(0, 1, (6, 6, 1)).astype(np.float32), (_TEXELS, _TEXELS), None, 0, 0, cv2.INTER_CUBIC
    )
    first, second = rng.uniform(30, 225, (2, 3))
    texture: NDArray[np.uint8] = np.clip(first + clouds[..., None] * (second - first), 0, 255).astype(np.uint8)
    for _ in range(14):
        colour = rng.uniform(0, 255, 3).tolist()
        middle, half = rng.integers(0, _TEXELS, 2), rng.integers(6, 26, 2)
        if rng.random() < 0.5:
            cv2.rectangle(texture, (middle - half).tolist(), (middle + half).tolist(), colour, -1)
        else:
            cv2.ellipse(texture, middle.tolist(), half.tolist(), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return texture
