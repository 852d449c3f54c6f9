"""Random scenes: which objects stand where, before which camera and in which light. Pure sampling, no pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.render.settings import LOWEST_TABLE_VIEW, RenderSettings
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import axis_angle, random_rotations, rotation_onto

AXIS_Z = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Body:
    """What placing needs to know of a mesh.

    Attributes:
        obj_id: BOP id, None for a distractor.
        hull: ``[H, 3]`` vertices of the convex hull, mm, object frame.
        center, radius: the bounding sphere, mm.
    """

    obj_id: int | None
    hull: Array
    center: Array
    radius: float


@dataclass(frozen=True)
class Look:
    """How a placed body reflects light: ``albedo * gain`` (linear RGB), a specular lobe and its exponent."""

    gain: Array
    saturation: float
    specular: float
    gloss: float


@dataclass(frozen=True)
class Placement:
    """Body number ``body`` of the library at the pose ``R, t`` (object to camera, mm)."""

    body: int
    R: Array
    t: Array
    look: Look


@dataclass(frozen=True)
class Light:
    """A directional light: unit ``direction`` towards it (camera frame) and linear RGB ``color``."""

    direction: Array
    color: Array


@dataclass(frozen=True)
class Table:
    """A plane z = 0 seen by the camera at ``R, t`` (plane to camera, mm), ``size`` mm along its x and y."""

    R: Array
    t: Array
    size: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Everything the picture of one frame depends on, but for the random state of its textures.

    Attributes:
        lights: the brightest first; that one casts shadows, softened over ``penumbra`` pixels.
        sky, ground: linear RGB of the ambient light from above and below. up: unit, camera frame.
    """

    placements: tuple[Placement, ...]
    lights: tuple[Light, ...]
    sky: Array
    ground: Array
    up: Array
    table: Table | None
    penumbra: int


_Placed = list[tuple[int, Array, Array]]
"""Bodies placed so far, each with ``R, t`` in whichever frame the layout works in."""


def _direction(azimuth: float, elevation: float) -> Array:
    """Unit vector at an elevation above the xy plane, radians."""
    level = math.cos(elevation)
    return np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])


def view_rotation(azimuth: float, elevation: float, inplane: float) -> Array:
    """Object-to-camera rotation of a camera on the view sphere that looks at the origin, z up; angles in radians.

    >>> view_rotation(0.0, 0.0, 0.0) @ np.array([0.0, 0.0, 1.0])
    array([ 0., -1.,  0.])
    """
    towards = _direction(azimuth, elevation)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    rows = np.stack([right, np.cross(-towards, right), -towards])
    return axis_angle(AXIS_Z, inplane) @ rows


def sample_scene(bodies: Sequence[Body], settings: RenderSettings, rng: np.random.Generator) -> Scene:
    """Draw a scene: objects and distractors in a cluster, on a table or free in space, and the light.

    Args:
        bodies: the library; those with an ``obj_id`` are objects.
    """
    objects = [i for i, body in enumerate(bodies) if body.obj_id is not None]
    others = [i for i, body in enumerate(bodies) if body.obj_id is None]
    low, high = (min(bound, len(objects)) for bound in settings.objects_per_image)
    chosen = list(rng.permutation(objects)[: rng.integers(low, high + 1)])
    if others:
        chosen += list(rng.choice(others, rng.integers(settings.distractors[0], settings.distractors[1] + 1)))
    ray = _anchor_ray(settings, rng)
    tabletop = rng.random() < settings.tabletop
    standing = [i for i in chosen if bodies[i].obj_id is not None or rng.random() < 0.75]
    layout = _on_table if tabletop else _free
    placed, table, up = layout(bodies, standing, ray, settings, rng)
    for body in (i for i in chosen if i not in standing):
        _hold_before(bodies, body, placed, rng)
    return _lit(bodies, placed, table, up, settings, rng)


def single_scene(
    bodies: Sequence[Body],
    body: int,
    pose: tuple[Array, Array],
    before: int | None,
    settings: RenderSettings,
    rng: np.random.Generator,
) -> Scene:
    """One body at a stated pose (object to camera), maybe another hung ``before`` it, and the light from above it."""
    placed: _Placed = [(body, *pose)]
    if before is not None:
        _hold_before(bodies, before, placed, rng)
    return _lit(bodies, placed, None, pose[0] @ AXIS_Z, settings, rng)


def _anchor_ray(settings: RenderSettings, rng: np.random.Generator) -> Array:
    """Unit viewing ray through a random pixel of the middle of the image, where the cluster will be."""
    pixel = np.array([settings.width * rng.uniform(0.28, 0.72), settings.height * rng.uniform(0.28, 0.72), 1.0])
    ray = np.linalg.solve(settings.intrinsics(), pixel)
    return ray / np.linalg.norm(ray)


def _view(settings: RenderSettings, lowest: float, rng: np.random.Generator) -> Array:
    elevation = rng.uniform(max(settings.elevation[0], lowest), settings.elevation[1])
    inplane = rng.uniform(*settings.inplane)
    return view_rotation(rng.uniform(0, 2 * np.pi), math.radians(elevation), math.radians(inplane))


Layout = tuple[_Placed, Table | None, Array]


def _on_table(
    bodies: Sequence[Body], chosen: Sequence[int], ray: Array, settings: RenderSettings, rng: np.random.Generator
) -> Layout:
    """Objects upright with a random yaw (distractors anyhow) on one plane, side by side without touching."""
    spots: _Placed = []
    prints: list[NDArray[np.float32]] = []
    spread = rng.uniform(0.5, 0.95)
    for body in rng.permutation(np.array(chosen, dtype=int)):
        R = axis_angle(AXIS_Z, rng.uniform(0, 2 * np.pi))
        if bodies[body].obj_id is None:
            R = random_rotations(1, rng)[0]
        hull = bodies[body].hull @ R.T
        outline = cv2.approxPolyDP(cv2.convexHull(hull[:, :2].astype(np.float32)), 1.0, True)[:, 0]
        offset = _find_spot(outline, prints, spread, rng)
        prints.append(outline + offset.astype(np.float32))
        spots.append((int(body), R, np.array([*offset, -hull[:, 2].min()])))
    middle = np.mean([R @ bodies[b].center + t for b, R, t in spots], axis=0)
    R_view = rotation_onto(AXIS_Z, ray) @ _view(settings, LOWEST_TABLE_VIEW, rng)
    t_view = ray * rng.uniform(*settings.distance) - R_view @ middle
    placed = [(b, R_view @ R, R_view @ t + t_view) for b, R, t in spots]
    extent = float(np.concatenate(prints).std() * 4)
    turn = axis_angle(AXIS_Z, rng.uniform(0, 2 * np.pi))
    size = (extent * rng.uniform(1.2, 4.0) + 200, extent * rng.uniform(1.2, 4.0) + 200)
    shift = np.array([*(rng.uniform(-0.15, 0.15, 2) * size), 0.0])
    return placed, Table(R_view @ turn, t_view + R_view @ shift, size), R_view @ AXIS_Z


def _find_spot(
    outline: NDArray[np.float32], prints: Sequence[NDArray[np.float32]], spread: float, rng: np.random.Generator
) -> Array:
    """An offset ``[2]`` at which the outline meets no footprint, close to one of them, rather an early one."""
    if not prints:
        return np.zeros(2)
    centers = [(other.min(axis=0) + other.max(axis=0)) / 2 for other in prints]
    widths = [float(np.ptp(other, axis=0).mean()) for other in (*prints, outline)]
    for attempt in range(60):
        neighbour = int(len(prints) * rng.random() ** 1.7)
        step = (widths[-1] + widths[neighbour]) / 2 * spread * (1 + 0.04 * attempt)
        angle = rng.uniform(0, 2 * np.pi)
        offset = centers[neighbour] + step * np.array([math.cos(angle), math.sin(angle)])
        moved = outline + offset.astype(np.float32)
        if all(cv2.intersectConvexConvex(moved, other)[0] <= 0 for other in prints):
            break
    return np.asarray(offset, dtype=np.float64)


def _free(
    bodies: Sequence[Body], chosen: Sequence[int], ray: Array, settings: RenderSettings, rng: np.random.Generator
) -> Layout:
    """Each body seen from its own point of the view sphere, in a loose cluster around one distance."""
    near, far = settings.distance
    base = rng.uniform(near, far)
    spread = rng.uniform(0.45, 1.0)
    across = rotation_onto(AXIS_Z, ray)[:, :2]
    placed: _Placed = []
    centers: list[Array] = []
    for body in rng.permutation(np.array(chosen, dtype=int)):
        radius = bodies[body].radius
        for attempt in range(20):
            sideways = rng.normal(size=2) * radius * spread * (1 + 0.15 * attempt) * (len(placed) > 0)
            distance = float(np.clip(base + rng.normal() * radius * (0.8 + 0.2 * attempt), near, far))
            center = ray * distance + across @ sideways * 1.1
            gaps = [
                math.dist(center, other) - 0.62 * (radius + bodies[b].radius)
                for (b, _, _), other in zip(placed, centers, strict=True)
            ]
            if min(gaps, default=1.0) > 0:
                break
        R = random_rotations(1, rng)[0]
        if bodies[body].obj_id is not None:
            R = rotation_onto(AXIS_Z, center) @ _view(settings, -90.0, rng)
        placed.append((int(body), R, center - R @ bodies[body].center))
        centers.append(center)
    up = axis_angle(AXIS_Z, rng.normal() * 0.4) @ np.array([0.0, -0.85, -0.53])
    return placed, None, up


def _hold_before(bodies: Sequence[Body], body: int, placed: _Placed, rng: np.random.Generator) -> None:
    """Hang a body between the camera and one of those placed, so that it hides a part of it."""
    target, R, t = placed[int(rng.integers(len(placed)))]
    hidden = bodies[target]
    center = R @ hidden.center + t
    aim = center + rng.normal(size=3) * hidden.radius * 0.9
    room = 1.0 - 1.2 * (hidden.radius + bodies[body].radius) / float(np.linalg.norm(center))
    if room < 0.35:
        return
    R = random_rotations(1, rng)[0]
    placed.append((body, R, aim * rng.uniform(0.35, room) - R @ bodies[body].center))


def _sample_look(distractor: bool, jitter: float, rng: np.random.Generator) -> Look:
    strength = 1.0 if distractor else jitter
    gain = np.exp(rng.normal() * 0.35 * strength) * np.exp(rng.normal(size=3) * 0.14 * strength)
    glossy = rng.random() < 0.35 + 0.3 * strength
    specular = rng.uniform(0.02, 0.5) * glossy * (0.4 + 0.6 * strength)
    return Look(gain, float(np.exp(rng.normal() * 0.35 * strength)), specular, float(np.exp(rng.uniform(1.6, 5.0))))


def _temperature(rng: np.random.Generator, warmth: float) -> Array:
    """Linear RGB of a light between tungsten (warm) and blue sky (cold), unit mean."""
    shift = float(np.clip(rng.normal() * 0.22 * warmth, -0.45, 0.45))
    color = np.array([1.0 + shift, 1.0 + 0.1 * rng.normal() * warmth * 0.5, 1.0 - shift])
    return color / color.mean()


def _lit(
    bodies: Sequence[Body],
    placed: _Placed,
    table: Table | None,
    up: Array,
    settings: RenderSettings,
    rng: np.random.Generator,
) -> Scene:
    """Add looks, and lights above the scene's horizon, so that a white surface in full light comes out near white."""
    placements = tuple(
        Placement(body, R, t, _sample_look(bodies[body].obj_id is None, settings.material_jitter, rng))
        for body, R, t in placed
    )
    count = int(rng.integers(settings.lights[0], settings.lights[1] + 1))
    frame = rotation_onto(AXIS_Z, up)
    warmth = 0.4 + settings.camera_jitter
    ambient = rng.uniform(0.25, 0.75) if count else 1.0
    shares = rng.dirichlet(np.ones(count)) if count else np.zeros(0)
    exposure = math.exp(rng.normal() * 0.3 * (0.4 + settings.camera_jitter))
    lights = []
    for share in sorted(shares, reverse=True):
        azimuth, elevation = rng.uniform(0, 2 * np.pi), math.radians(rng.uniform(20, 85))
        color = _temperature(rng, warmth) * share * (1 - ambient) * 1.3 * exposure
        lights.append(Light(frame @ _direction(azimuth, elevation), color))
    sky = _temperature(rng, warmth) * ambient * exposure
    return Scene(placements, tuple(lights), sky, sky * rng.uniform(0.3, 0.8), up, table, int(rng.integers(1, 7)))
