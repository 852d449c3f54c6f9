"""The studio: meshes, backgrounds and rays kept warm, and the picture of one frame made with them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.render.backgrounds import Backgrounds, lay_table
from posedistill.data.render.layout import Scene, sample_scene
from posedistill.data.render.raycast import Composite, build_model, cast, compose, pixel_rays
from posedistill.data.render.settings import RenderSettings
from posedistill.data.render.shading import shade, surfaces, table_light
from posedistill.data.render.shapes import distractors
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.meshes import Mesh

DISTRACTOR_POOL = 40
OBJECT_AMBIENT_RAYS, DISTRACTOR_AMBIENT_RAYS = 64, 24
TEXTURE_SIZE = 512
SCENE_TRIALS = 10
"""Scenes drawn until one shows an object at all."""


@dataclass(frozen=True)
class Frame:
    """A rendered frame.

    Attributes:
        image: ``[H, W, 3]`` RGB. depth: ``[H, W]`` mm, 0 where no object or distractor is.
        poses: ``(obj_id, R, t)`` of each object. masks, masks_visib: ``[H, W]`` bool, whole and visible silhouettes.
    """

    image: Image
    K: Array
    poses: list[tuple[int, Array, Array]]
    depth: NDArray[np.float32]
    masks: list[NDArray[np.bool_]]
    masks_visib: list[NDArray[np.bool_]]


class Studio:
    """All that stays warm between frames: models with their Embree scenes, backgrounds, rays and sensor noise."""

    def __init__(self, meshes: Mapping[int, Mesh], settings: RenderSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        things = distractors(DISTRACTOR_POOL, seed) if settings.distractors[1] else []
        objects_ao, things_ao = (
            settings.ambient_occlusion * rays for rays in (OBJECT_AMBIENT_RAYS, DISTRACTOR_AMBIENT_RAYS)
        )
        self.models = [build_model(mesh, obj_id, objects_ao) for obj_id, mesh in sorted(meshes.items())]
        self.models += [build_model(mesh, None, things_ao) for mesh in things]
        self.bodies = [model.body for model in self.models]
        self.backgrounds = Backgrounds(settings.backgrounds)
        self.K = settings.intrinsics()
        self.rays = pixel_rays(self.K, settings.width, settings.height)
        self.grain = _sensor_grain(settings.height + 64, settings.width + 64)


def _sensor_grain(height: int, width: int) -> Image:
    """Noise of sigma 32 about 128, slightly correlated between pixels as after demosaicing."""
    white = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 0.7)
    return np.clip(128 + 32 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def render_frame(studio: Studio, index: int) -> Frame:
    """Render frame ``index``: a pure function of the studio's meshes, settings and seed, and of the index."""
    settings = studio.settings
    rng = np.random.default_rng([studio.seed, index])
    for _ in range(SCENE_TRIALS):
        scene, image = _composed(studio, sample_scene(studio.bodies, settings, rng))
        if any(studio.bodies[placement.body].obj_id is not None for placement in scene.placements):
            break
    picture = paint(studio, scene, image, rng)
    bodies = [studio.bodies[placement.body] for placement in scene.placements]
    shown = [i for i, body in enumerate(bodies) if body.obj_id is not None]
    return Frame(
        picture,
        studio.K,
        [(bodies[i].obj_id or 0, scene.placements[i].R, scene.placements[i].t) for i in shown],
        np.where(np.isfinite(image.depth), image.depth, np.float32(0)),
        [image.silhouette(i) for i in shown],
        [image.owner == i for i in shown],
    )


def paint(studio: Studio, scene: Scene, image: Composite, rng: np.random.Generator) -> Image:
    """The picture ``[H, W, 3]`` of a scene that has been cast: background, surfaces, and what the camera adds."""
    settings = studio.settings
    models = [studio.models[placement.body] for placement in scene.placements]
    picture = studio.backgrounds.picture(settings.width, settings.height, rng)
    if scene.table is not None:
        texture = studio.backgrounds.table_top(TEXTURE_SIZE, rng)
        lay_table(picture, texture, table_light(scene.table, scene, models, settings.shadows), scene.table, studio.K)
    surface = surfaces(models, scene.placements, image, studio.rays, float(studio.K[0, 0]))
    if surface is not None:
        colors = shade(surface, scene, models, settings.shadows)
        picture[surface.rows, surface.columns] = colors
    return _photograph(_feather(picture, image), studio, rng)


def _composed(studio: Studio, scene: Scene) -> tuple[Scene, Composite]:
    """Cast the scene, then take out whatever is hidden, or beside the image, beyond ``min_visible``."""
    settings = studio.settings
    views = [cast(studio.models[p.body], p.R, p.t, studio.K, studio.rays) for p in scene.placements]
    image = compose(views, settings.width, settings.height)
    seen = np.bincount(image.owner[image.owner >= 0], minlength=len(views))
    whole = np.array([0 if view is None else np.count_nonzero(view.face >= 0) for view in views])
    keep = [i for i in range(len(views)) if seen[i] > 0 and seen[i] >= settings.min_visible * whole[i]]
    if len(keep) < len(views):
        image = compose([views[i] for i in keep], settings.width, settings.height)
        scene = replace(scene, placements=tuple(scene.placements[i] for i in keep))
    return scene, image


def _feather(picture: Image, image: Composite) -> Image:
    """Mix colours across silhouettes, as a lens does: one ray a pixel leaves staircases otherwise."""
    owner = (image.owner + 1).astype(np.uint8)
    edge = cv2.morphologyEx(owner, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    rows, columns = np.nonzero(edge)
    if len(rows):
        picture[rows, columns] = cv2.GaussianBlur(picture, (3, 3), 0.7)[rows, columns]
    return picture


def _photograph(picture: Image, studio: Studio, rng: np.random.Generator) -> Image:
    """What the camera adds: blur, exposure, contrast, white balance, noise."""
    settings, jitter = studio.settings, studio.settings.camera_jitter
    sigma = rng.uniform(*settings.blur)
    if sigma > 0.2:
        picture = cv2.GaussianBlur(picture, (5, 5) if sigma < 1.3 else (0, 0), sigma)
    gains = np.exp(rng.normal() * 0.18 * jitter) * np.exp(rng.normal(size=3) * 0.10 * jitter)
    gamma, contrast = np.exp(rng.normal() * 0.3 * jitter), np.exp(rng.normal() * 0.2 * jitter)
    curve = np.clip((np.arange(256)[:, None] / 255) ** gamma * gains, 0, 1)
    curve = np.clip((curve - 0.45) * contrast + 0.45, 0, 1)
    picture = cv2.LUT(picture, np.round(255 * curve).astype(np.uint8)[None])
    strength = rng.uniform(*settings.noise) / 32
    top, left = (int(value) for value in rng.integers(0, 64, 2))
    grain = studio.grain[top : top + settings.height, left : left + settings.width]
    return cv2.addWeighted(picture, 1.0, grain, strength, -128 * strength)
