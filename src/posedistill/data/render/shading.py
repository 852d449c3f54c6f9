"""Light on what the rays hit: vertex colours or textures, hemisphere ambient, Blinn-Phong lights, cast shadows."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.render.layout import Light, Placement, Scene, Table
from posedistill.data.render.raycast import GAMMA, Composite, Model
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.ray_casting import Floats

_TO_LINEAR = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)
_STEPS = 8191
_TO_BYTE = np.round(255 * (np.arange(_STEPS + 1) / _STEPS) ** (1 / GAMMA)).astype(np.uint8)
LIFT = 1.0
"""Millimetres that a shadow ray starts above the surface, lest it hits the face it leaves."""
AMBIENT_FLOOR = 0.25
"""Light that reaches even the deepest corner, by way of other surfaces."""


@dataclass(frozen=True)
class Surface:
    """The visible points of a frame, ``P`` of them, camera frame.

    Attributes:
        rows, columns: ``[P]`` pixels. points, normals (towards the camera), albedo (linear): ``[P, 3]``.
        rays: ``[P, 3]`` unit viewing directions. ambient, specular, gloss: ``[P]``.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    points: Floats
    rays: Floats
    normals: Floats
    albedo: Floats
    ambient: Floats
    specular: Floats
    gloss: Floats


def _sample_texture(model: Model, uv: Floats, pixel_mm: float) -> Floats:
    """Linear colours ``[P, 3]`` of the texture level whose texels are about as large as a pixel."""
    level = int(np.clip(np.round(np.log2(max(model.texels * pixel_mm, 1.0))), 0, len(model.texture) - 1))
    texture = model.texture[level]
    height, width = texture.shape[:2]
    columns = (uv[:, 0] % 1.0 * width).astype(np.intp).clip(0, width - 1)
    rows = ((1.0 - uv[:, 1]) % 1.0 * height).astype(np.intp).clip(0, height - 1)
    return _TO_LINEAR[texture[rows, columns]]


def _surface_of(
    model: Model, placement: Placement, image: Composite, index: int, rays: Floats, focal: float
) -> Surface:
    """The visible points of one view."""
    view = image.views[index]
    assert view is not None
    rows, columns = np.nonzero(image.owner[view.window()] == index)
    depth, values = view.depth[rows, columns], view.attributes(model, rows, columns)
    albedo = values[:, 3:6]
    if model.texture:
        albedo = _sample_texture(model, values[:, 7:9], float(placement.t[2]) / focal)
    look = placement.look
    grey = albedo.mean(axis=1, keepdims=True)
    albedo = np.maximum(grey + (albedo - grey) * np.float32(look.saturation), 0) * look.gain.astype(np.float32)
    rows, columns = rows + view.top, columns + view.left
    directions = rays[rows, columns]
    points = directions * depth[:, None]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    normals = values[:, :3] @ placement.R.T.astype(np.float32)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    normals *= np.where(np.einsum("pi,pi->p", normals, directions) > 0, -1, 1).astype(np.float32)[:, None]
    ambient = AMBIENT_FLOOR + (1 - AMBIENT_FLOOR) * values[:, 6]
    specular, gloss = (np.full(len(rows), value, np.float32) for value in (look.specular, look.gloss))
    return Surface(rows, columns, points, directions, normals, albedo, ambient, specular, gloss)


def surfaces(
    models: Sequence[Model], placements: Sequence[Placement], image: Composite, rays: Floats, focal: float
) -> Surface | None:
    """The visible points of all views; None where nothing is seen. ``models`` are the placements' own."""
    parts = [
        _surface_of(model, placement, image, index, rays, focal)
        for index, (model, placement) in enumerate(zip(models, placements, strict=True))
        if image.views[index] is not None
    ]
    if not parts:
        return None
    names = Surface.__dataclass_fields__
    return Surface(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def in_shadow(
    points: Floats, direction: Array, models: Sequence[Model], placements: Sequence[Placement]
) -> NDArray[np.bool_]:
    """Whether each of ``[P, 3]`` points (camera frame) has a model between itself and a light in ``direction``.

    Only rays that pass a model's bounding sphere are cast at it.
    """
    shadow = np.zeros(len(points), dtype=bool)
    towards = direction.astype(np.float32)
    along = points @ towards
    for model, placement in zip(models, placements, strict=True):
        center = placement.R @ model.body.center + placement.t
        axis = float(center @ direction)
        foot = points - center.astype(np.float32)
        off = np.einsum("pi,pi->p", foot, foot) - (along - axis) ** 2
        near = np.flatnonzero((off < model.body.radius**2) & (along < axis + model.body.radius) & ~shadow)
        if len(near):
            local = (points[near] - placement.t.astype(np.float32)) @ placement.R.astype(np.float32)
            shadow[near] = model.caster.blocked(local, placement.R.T @ direction)
    return shadow


def _soft(shadow: NDArray[np.bool_], surface: Surface, width: int) -> Floats:
    """Light that passes, ``[P]``: the shadow averaged over ``width`` pixels of foreground, a cheap penumbra."""
    top, left = surface.rows.min(), surface.columns.min()
    rows, columns = surface.rows - top, surface.columns - left
    layers = np.zeros((rows.max() + 1, columns.max() + 1, 2), np.float32)
    layers[rows, columns, 0] = 1.0
    layers[rows, columns, 1] = ~shadow
    layers = cv2.blur(layers, (width, width), borderType=cv2.BORDER_CONSTANT)
    return layers[rows, columns, 1] / layers[rows, columns, 0]


def shade(surface: Surface, scene: Scene, models: Sequence[Model], shadows: bool) -> Image:
    """sRGB colours ``[P, 3]`` of the visible points; the first light of the scene casts shadows."""
    up = 0.5 + 0.5 * (surface.normals @ scene.up.astype(np.float32))
    sky, ground = scene.sky.astype(np.float32), scene.ground.astype(np.float32)
    diffuse = (ground + (sky - ground) * up[:, None]) * surface.ambient[:, None]
    shine = np.zeros_like(diffuse)
    for number, light in enumerate(scene.lights):
        color = light.color.astype(np.float32)
        cosine = np.maximum(surface.normals @ light.direction.astype(np.float32), 0)
        if number == 0 and shadows:
            lifted = surface.points + surface.normals * np.float32(LIFT)
            hidden = in_shadow(lifted, light.direction, models, scene.placements)
            cosine *= _soft(hidden, surface, scene.penumbra)
        diffuse += cosine[:, None] * color
        shine += _specular(surface, light, cosine)[:, None] * color
    linear = np.clip(surface.albedo * diffuse + shine, 0, 1)
    return _TO_BYTE[(linear * _STEPS).astype(np.intp)]


def _specular(surface: Surface, light: Light, cosine: Floats) -> Floats:
    """Normalised Blinn-Phong lobe, ``[P]``; only where the surface shines and is lit."""
    result = np.zeros(len(cosine), np.float32)
    shiny = np.flatnonzero((surface.specular > 0) & (cosine > 0))
    half = light.direction.astype(np.float32) - surface.rays[shiny]
    half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
    peak = np.maximum(np.einsum("pi,pi->p", surface.normals[shiny], half), 0)
    gloss = surface.gloss[shiny]
    result[shiny] = surface.specular[shiny] * (gloss + 8) / 24 * peak**gloss * np.minimum(cosine[shiny] * 4, 1)
    return result


def table_light(table: Table, scene: Scene, models: Sequence[Model], shadows: bool, resolution: int = 256) -> Floats:
    """Linear light ``[resolution, resolution, 3]`` that falls on the table, with cast and contact shadows."""
    normal = table.R[:, 2]
    scale = resolution / np.array(table.size)
    light = np.ones((resolution, resolution, 3), np.float32) * scene.sky.astype(np.float32)
    if shadows:
        light *= _contact(table, scene, models, scale, resolution)[..., None]
    for number, lamp in enumerate(scene.lights):
        strength = np.full((resolution, resolution), max(float(lamp.direction @ normal), 0.0), np.float32)
        if number == 0 and shadows:
            strength *= cv2.GaussianBlur(
                _table_shadow(table, lamp, scene, models, scale, resolution), (0, 0), 0.6 + 0.5 * scene.penumbra
            )
        light += strength[..., None] * lamp.color.astype(np.float32)
    return light


def _contact(table: Table, scene: Scene, models: Sequence[Model], scale: Array, resolution: int) -> Floats:
    """Share of the sky's light left near the models: dark under them, a wide soft halo around them."""
    halo, foot = (np.zeros((resolution, resolution), np.float32) for _ in range(2))
    for model, placement in zip(models, scene.placements, strict=True):
        hull = _on_plane(model, placement, table)
        for layer, reach in ((halo, 0.8), (foot, 0.12)):
            points = hull[(hull[:, 2] > -1) & (hull[:, 2] < reach * 2 * model.body.radius), :2]
            if len(points) > 2:
                outline = (points * scale + resolution / 2).astype(np.float32)
                cv2.fillConvexPoly(layer, cv2.convexHull(outline).astype(np.int32), 1.0)
    width = float(scale.mean())
    halo, foot = cv2.GaussianBlur(halo, (0, 0), 24 * width), cv2.GaussianBlur(foot, (0, 0), 5 * width)
    return np.asarray((1 - 0.45 * halo) * (1 - 0.5 * foot), dtype=np.float32)


def _on_plane(model: Model, placement: Placement, table: Table) -> Array:
    """The model's hull ``[H, 3]`` in the table's frame, mm."""
    return (model.body.hull @ placement.R.T + placement.t - table.t) @ table.R


def _table_shadow(
    table: Table, lamp: Light, scene: Scene, models: Sequence[Model], scale: Array, resolution: int
) -> Floats:
    """1 where the lamp reaches the table and 0 in shadow; rays start only where a model's shadow can fall."""
    lit = np.ones((resolution, resolution), np.float32)
    towards = table.R.T @ lamp.direction
    if towards[2] < 0.05:
        return lit
    for model, placement in zip(models, scene.placements, strict=True):
        hull = _on_plane(model, placement, table)
        fallen = hull[:, :2] - towards[:2] * (hull[:, 2:] / towards[2])
        low, high = (fallen.min(axis=0) * scale + resolution / 2), (fallen.max(axis=0) * scale + resolution / 2)
        (left, top), (right, bottom) = np.clip([np.floor(low), np.ceil(high) + 1], 0, resolution).astype(int)
        if right <= left or bottom <= top:
            continue
        ys, xs = np.mgrid[top:bottom, left:right]
        flat = (np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5 - resolution / 2) / scale
        points = np.column_stack([flat, np.full(len(flat), 0.05)]) @ table.R.T + table.t
        local = (points - placement.t) @ placement.R
        hidden = model.caster.blocked(local.astype(np.float32), placement.R.T @ lamp.direction)
        lit[top:bottom, left:right][hidden.reshape(ys.shape)] = 0.0
    return lit
