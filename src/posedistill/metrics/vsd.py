"""Visible surface discrepancy, its depth ray-cast by Embree: no OpenGL, no window, no driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array, project
from posedistill.geometry.meshes import hull_corners
from posedistill.geometry.ray_casting import RayCaster

DELTA = 15.0
"""mm a surface may lie behind the measured one and still count as visible (BOP-19)."""
ITODD_DELTA = 5.0
"""The same for ITODD, whose depth is finer."""
TAUS: Array = np.linspace(0.05, 0.5, 10)
"""Misalignment tolerances, as fractions of the diameter."""

Box = tuple[int, int, int, int]


class DepthCaster:
    """Casts depth images of one mesh.

    Args:
        vertices: ``[V, 3]`` mm. faces: ``[F, 3]``.
    """

    def __init__(self, vertices: Array, faces: NDArray[np.int64]) -> None:
        self._caster = RayCaster(vertices, faces)
        self._corners = hull_corners(vertices)

    def box(self, R: Array, t: Array, K: Array, width: int, height: int) -> Box:
        """``x0, y0, x1, y1`` (last exclusive) around the pixels the object may cover; all where it may pass the eye."""
        if (self._corners @ R[2] + t[2]).min() <= 0:
            return 0, 0, width, height
        pixels = project(self._corners, R, t, K)
        low, high = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0)) + 1
        (x0, y0), (x1, y1) = np.clip([low, high], 0, [width, height]).astype(int).tolist()
        return x0, y0, x1, y1

    def cast(self, R: Array, t: Array, K: Array, box: Box) -> NDArray[np.float32]:
        """Depth ``[y1 - y0, x1 - x0]`` float32 mm along the optical axis in a window of the image, 0 for background."""
        x0, y0, x1, y1 = box
        shape = (y1 - y0, x1 - x0)
        if 0 in shape:
            return np.zeros(shape, dtype=np.float32)
        # Rays in the object frame; as their z is 1 in the camera frame, the ray's parameter is the depth itself.
        across, down, ahead = (R.T @ np.linalg.inv(K)).T.astype(np.float32)
        columns = np.arange(x0, x1, dtype=np.float32)[:, None] * across + ahead
        directions = columns + np.arange(y0, y1, dtype=np.float32)[:, None, None] * down
        depth = self._caster.distances(-R.T @ t, directions.reshape(-1, 3)).reshape(shape)
        depth[np.isinf(depth)] = 0.0
        return depth


@dataclass(frozen=True)
class _Rendering:
    box: Box
    depth: NDArray[np.float32]

    def in_window(self, window: Box) -> NDArray[np.float32]:
        """The depth in a larger window."""
        x0, y0, x1, y1 = self.box
        depth = np.zeros((window[3] - window[1], window[2] - window[0]), dtype=np.float32)
        depth[y0 - window[1] : y1 - window[1], x0 - window[0] : x1 - window[0]] = self.depth
        return depth


class VisibleSurface:
    """VSD of poses against the measured depth of one image (Hodan et al., BOP 2018; visibility as in BOP-19).

    Args:
        depth: ``[H, W]`` float32 mm, 0 where nothing was measured. K: ``[3, 3]``.
        casters: object id -> its mesh. delta: tolerance of visibility, mm.
    """

    def __init__(
        self, depth: NDArray[np.float32], K: Array, casters: Mapping[int, DepthCaster], delta: float = DELTA
    ) -> None:
        self._height, self._width = depth.shape
        self._K, self._casters, self._delta = K, casters, np.float32(delta)
        # Distances from the eye, not depths: BOP compares along the ray.
        self._ray_length = _ray_lengths(tuple(K.ravel().tolist()), self._height, self._width)
        self._measured = depth * self._ray_length

    def render(self, obj_id: int, R: Array, t: Array) -> _Rendering:
        """An object's depth in its own window; make it once for each true pose."""
        caster = self._casters[obj_id]
        box = caster.box(R, t, self._K, self._width, self._height)
        return _Rendering(box, caster.cast(R, t, self._K, box))

    def errors(self, estimated: _Rendering, true: _Rendering, diameter: float, taus: Array = TAUS) -> Array:
        """VSD in [0, 1] for each tolerance ``tau * diameter``.

        Of all pixels where either object is visible, the share where only one is or the two lie ``tau`` or more apart.
        """
        window = _around(estimated.box, true.box)
        part = (slice(window[1], window[3]), slice(window[0], window[2]))
        measured, length = self._measured[part], self._ray_length[part]
        dist_est, dist_gt = estimated.in_window(window) * length, true.in_window(window) * length
        limit, unmeasured = measured + self._delta, measured == 0
        visible_gt = (dist_gt > 0) & ((dist_gt <= limit) | unmeasured)
        # Where the true object is seen, an estimate a little behind the surface is seen as well.
        visible_est = (dist_est > 0) & ((dist_est <= limit) | unmeasured | visible_gt)
        both = visible_gt & visible_est
        union = int(np.count_nonzero(visible_gt | visible_est))
        if union == 0:
            return np.ones(len(taus))
        apart = np.sort(np.abs(dist_gt[both] - dist_est[both])) / diameter
        close = np.searchsorted(apart, taus, side="left")
        return 1.0 - close / union


@lru_cache(maxsize=4)
def _ray_lengths(K: tuple[float, ...], height: int, width: int) -> NDArray[np.float32]:
    """``[height, width]`` length of each pixel's ray that reaches depth 1; most data sets have one camera."""
    y = (np.arange(height)[:, None] - K[5]) / K[4]
    x = (np.arange(width) - K[2] - K[1] * y) / K[0]
    return np.sqrt(x**2 + y**2 + 1.0).astype(np.float32)


def _around(a: Box, b: Box) -> Box:
    """Smallest box that holds both."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
