"""RenderSettings: what a rendered training set shall look like, and the refusal of views that cannot be rendered."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from posedistill.data.settings import Settings
from posedistill.errors import RecipeError, describe
from posedistill.geometry.cameras import Array

LOWEST_TABLE_VIEW = 5.0
"""Degrees: a camera lower than this over a table sees it edge-on."""
SMALLEST_OBJECT = 8.0
"""Pixels: an object smaller than this in the far view teaches nothing."""

Row = tuple[float, float, float]
Range = tuple[float, float]

_BOUNDS = {"elevation": (-90.0, 90.0), "inplane": (-180.0, 180.0), "objects_per_image": (1, 64), "lights": (0, 8)}
_BOUNDS |= dict.fromkeys(("distance", "distractors", "blur", "noise"), (0, math.inf))
"""Within which (lowest, highest) of a range must lie."""


class RenderSettings(Settings):
    """Settings of `render_dataset`. Ranges are (lowest, highest), sampled uniformly; lengths are mm, angles degrees.

    The view sphere (``distance``, ``elevation``, ``inplane``, every azimuth) is that of a camera around an object
    whose z axis points up, as in BOP. Elevation (-90, 90) with in-plane (-180, 180) gives every rotation.
    """

    width: int = Field(640, ge=32, le=8192, description="pixels")
    height: int = Field(480, ge=32, le=8192, description="pixels")
    fov: float = Field(58.0, gt=5, lt=150, description="horizontal field of view, used where K is not given")
    K: tuple[Row, Row, Row] | None = Field(None, description="3x3 intrinsics, pixels")
    distance: Range = Field((500.0, 1400.0), description="camera to object")
    elevation: Range = Field((0.0, 90.0), description="of the camera over the object's xy plane")
    inplane: Range = Field((-35.0, 35.0), description="turn about the viewing ray")

    objects_per_image: tuple[int, int] = Field((3, 6), description="each object at most once in an image")
    distractors: tuple[int, int] = Field((0, 4), description="other things in an image, made in code")
    tabletop: float = Field(0.6, ge=0, le=1, description="share of images with everything upright on one plane")
    min_visible: float = Field(0.1, ge=0, le=0.9, description="objects seen less than this fraction are taken out")

    backgrounds: Path | None = Field(None, description="folder of photographs; procedural pictures where None")
    lights: tuple[int, int] = Field((1, 3), description="directional lights beside the ambient one")
    shadows: bool = Field(True, description="cast by the main light")
    ambient_occlusion: bool = Field(True, description="baked into the vertices")
    material_jitter: float = Field(0.5, ge=0, le=1, description="strength of random colour and gloss of the objects")
    camera_jitter: float = Field(0.5, ge=0, le=1, description="strength of random exposure, white balance, contrast")
    blur: Range = Field((0.3, 1.0), description="sigma of the lens, pixels")
    noise: Range = Field((0.0, 6.0), description="sigma of the sensor, grey levels of 255")

    depth: bool = Field(True, description="write depth images")
    jpeg_quality: int = Field(92, ge=50, le=100, description="of the images; 100 is largest")

    @model_validator(mode="after")
    def _check(self) -> "RenderSettings":
        for key, (lowest, highest) in _BOUNDS.items():
            low, high = getattr(self, key)
            if not lowest <= low <= high <= highest:
                raise RecipeError(
                    describe("render", key, (low, high), f"(lowest, highest) in order, within [{lowest}, {highest}]")
                )
        if self.tabletop > 0 and self.elevation[1] < LOWEST_TABLE_VIEW:
            expected = f"a camera higher than {LOWEST_TABLE_VIEW:g} deg, or tabletop: 0"
            raise RecipeError(describe("render", "elevation", f"{self.elevation} with a tabletop", expected))
        self._check_intrinsics()
        return self

    def _check_intrinsics(self) -> None:
        K = self.intrinsics()
        upper = K[1, 0] == K[2, 0] == K[2, 1] == 0 and K[2, 2] == 1
        if not (upper and np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
            raise RecipeError(
                describe("render", "K", K.tolist(), "[[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0")
            )
        if not (0 <= K[0, 2] <= self.width and 0 <= K[1, 2] <= self.height):
            found = f"principal point ({K[0, 2]:g}, {K[1, 2]:g})"
            raise RecipeError(describe("render", "K", found, f"a point of the {self.width}x{self.height} image"))

    def intrinsics(self) -> Array:
        """The camera's ``K``, 3x3.

        >>> RenderSettings(width=641, height=481, fov=90).intrinsics()
        array([[320.5,   0. , 320. ],
               [  0. , 320.5, 240. ],
               [  0. ,   0. ,   1. ]])
        """
        if self.K is not None:
            return np.array(self.K, dtype=np.float64)
        focal = self.width / 2 / math.tan(math.radians(self.fov) / 2)
        return np.array(
            [[focal, 0.0, (self.width - 1) / 2], [0.0, focal, (self.height - 1) / 2], [0.0, 0.0, 1.0]]
        ).round(9)

    def check_objects(self, sizes: Mapping[int, float]) -> None:
        """Refuse distances at which an object swallows the camera, overfills the image or shrinks to a dot.

        Args:
            sizes: longest side of each object's box, mm, by object id.

        Raises:
            RecipeError: naming the object, the distance found and the one expected.
        """
        near, far = self.distance
        focal = float(self.intrinsics()[0, 0])
        for obj_id, size in sizes.items():
            nearest = max(0.75 * size, focal * size / (1.5 * max(self.width, self.height)))
            if near < nearest:
                found = f"{near:g} mm to object {obj_id}, {size:.0f} mm large"
                raise RecipeError(
                    describe("render", "distance", found, f"at least {nearest:.0f} mm to keep it in view")
                )
            if focal * size / far < SMALLEST_OBJECT:
                farthest = focal * size / SMALLEST_OBJECT
                found = f"{far:g} mm to object {obj_id}, {size:.3g} mm large (is the mesh in mm?)"
                raise RecipeError(describe("render", "distance", found, f"at most {farthest:.3g} mm, to see it at all"))
