"""Ray casting of scenes: models made ready, first hits of placed models, and who hides whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.render.layout import Body
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, hull_corners
from posedistill.geometry.ray_casting import Floats, Ints, RayCaster
from posedistill.geometry.rotations import even_directions

GAMMA = 2.2


@dataclass(frozen=True)
class Model:
    """A mesh made ready for rendering.

    Attributes:
        attributes: ``[V, 9]`` normal, linear albedo, ambient occlusion, uv of each vertex.
        texture: halved over and over, sRGB uint8; empty where the albedo stands in the vertices.
        texels: texture pixels a millimetre at full size.
    """

    body: Body
    caster: RayCaster
    faces: Ints
    attributes: Floats
    texture: tuple[NDArray[np.uint8], ...] = ()
    texels: float = 1.0


def build_model(mesh: Mesh, obj_id: int | None, ambient_rays: int = 64) -> Model:
    """Build the Embree scene, the convex hull and, with ``ambient_rays`` from each vertex, the ambient occlusion."""
    vertices, normals = mesh.vertices, mesh.normals
    caster = RayCaster(vertices, mesh.faces)
    hull = outer_points(vertices)
    center = (hull.min(axis=0) + hull.max(axis=0)) / 2
    body = Body(obj_id, hull, center, float(np.linalg.norm(hull - center, axis=1).max()))
    open_sky = np.ones(len(vertices))
    if ambient_rays:
        open_sky = bake_ambient(caster, vertices, normals, body.radius, ambient_rays)
    colors = np.full((len(vertices), 3), 128.0) if mesh.colors is None else mesh.colors
    uv = np.zeros((len(vertices), 2)) if mesh.uv is None else mesh.uv
    attributes = np.column_stack([normals, (colors / 255.0) ** GAMMA, open_sky, uv]).astype(np.float32)
    faces = mesh.faces.astype(np.int32)
    if mesh.texture is None or mesh.uv is None:
        return Model(body, caster, faces, attributes)
    return Model(body, caster, faces, attributes, _halvings(mesh.texture), _texel_density(mesh))


def outer_points(vertices: Array, most: int = 1024) -> Array:
    """Corners of the convex hull, ``[H, 3]``; of a finely rounded hull only the outermost in ``most`` directions.

    What the thinning cuts off is below a thousandth of the mesh's size.
    """
    hull = hull_corners(vertices)
    if len(hull) > most:
        hull = hull[np.unique(((hull - hull.mean(axis=0)) @ even_directions(most).T).argmax(axis=0))]
    return hull


def _halvings(texture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    """The texture, then halved until it is small: what a far view samples instead of aliasing."""
    levels = [texture]
    while min(levels[-1].shape[:2]) > 16:
        levels.append(cv2.pyrDown(levels[-1]))
    return tuple(levels)


def _texel_density(mesh: Mesh) -> float:
    """Texture pixels a millimetre: the square root of texture area over surface area."""
    assert mesh.uv is not None and mesh.texture is not None
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    a, b = (mesh.uv[mesh.faces[:, i]] - mesh.uv[mesh.faces[:, 0]] for i in (1, 2))
    texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() * mesh.texture.shape[0] * mesh.texture.shape[1]
    return float(np.sqrt(max(texels, 1.0) / max(area, 1e-9)))


def bake_ambient(caster: RayCaster, vertices: Array, normals: Array, radius: float, rays: int) -> Array:
    """Cosine-weighted share of the sky that each vertex sees past its own mesh, ``[V]`` in 0..1.

    Of the two sides of the surface the more open one counts, so that meshes with turned faces are not black.
    """
    lift = (normals * 1e-3 * radius).astype(np.float32)
    outside, inside = vertices.astype(np.float32) + lift, vertices.astype(np.float32) - lift
    seen = np.zeros((2, len(vertices)))
    for direction in even_directions(rays):
        cosine = normals @ direction
        front = cosine > 0
        free = ~caster.blocked(np.where(front[:, None], outside, inside), direction)
        seen += np.stack([np.where(front & free, cosine, 0), np.where(~front & free, -cosine, 0)])
    # Over a sphere of evenly spread directions the cosines of one side add up to a quarter of their number.
    return np.minimum(seen.max(axis=0) / (rays / 4), 1.0)


@dataclass(frozen=True)
class View:
    """What one placed model shows to the camera within its box of the image.

    Attributes:
        left, top: corner of the box, pixels. depth: ``[h, w]`` mm along z, inf beside the model.
        face, u, v: ``[h, w]`` face and barycentric coordinates of the first hit.
    """

    left: int
    top: int
    depth: Floats
    face: Ints
    u: Floats
    v: Floats

    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.top, self.top + self.depth.shape[0]), slice(self.left, self.left + self.depth.shape[1])

    def attributes(self, model: Model, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
        """``[P, 9]`` attributes of its model at pixels of the box that show it."""
        face, u, v = (layer[rows, columns] for layer in (self.face, self.u, self.v))
        weights = np.stack([1 - u - v, u, v], axis=1)
        return np.einsum("pc,pca->pa", weights, model.attributes[model.faces[face]])


@dataclass
class Composite:
    """Views merged by depth: ``depth`` ``[H, W]`` mm (inf where empty), ``owner`` ``[H, W]`` view index or -1."""

    depth: Floats
    owner: NDArray[np.int16]
    views: list[View | None] = field(default_factory=list)

    def silhouette(self, index: int) -> NDArray[np.bool_]:
        """``[H, W]``: where the view would be seen if it stood alone."""
        mask = np.zeros(self.depth.shape, dtype=bool)
        view = self.views[index]
        if view is not None:
            mask[view.window()] = view.face >= 0
        return mask


def pixel_rays(K: Array, width: int, height: int) -> Floats:
    """Viewing rays ``[H, W, 3]`` with z = 1, so that a distance along them is a depth."""
    ys, xs = np.mgrid[:height, :width]
    pixels = np.stack([xs, ys, np.ones_like(xs)], axis=-1).astype(np.float64)
    return np.ascontiguousarray(pixels @ np.linalg.inv(K).T, dtype=np.float32)


def cast(model: Model, R: Array, t: Array, K: Array, rays: Floats) -> View | None:
    """Cast the rays of the box that the hull of a model at a pose covers; None where that is outside the image."""
    height, width = rays.shape[:2]
    corners = model.body.hull @ R.T + t
    left, top, right, bottom = 0, 0, width, height
    if corners[:, 2].max() <= 1.0:
        return None
    if corners[:, 2].min() > 1.0:
        pixels = corners @ K[:2].T / corners[:, 2:]
        low, high = np.floor(pixels.min(axis=0)).astype(int) - 1, np.ceil(pixels.max(axis=0)).astype(int) + 2
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        right, bottom = min(int(high[0]), width), min(int(high[1]), height)
    if right <= left or bottom <= top:
        return None
    box = rays[top:bottom, left:right]
    directions = box.reshape(-1, 3) @ R.astype(np.float32)
    depth, face, u, v = model.caster.hits(-R.T @ t, directions)
    depth = np.where(face >= 0, depth, np.float32(np.inf))
    shape = box.shape[:2]
    return View(left, top, depth.reshape(shape), face.reshape(shape), u.reshape(shape), v.reshape(shape))


def compose(views: Sequence[View | None], width: int, height: int) -> Composite:
    """Merge views: in each pixel the nearest one is seen."""
    image = Composite(np.full((height, width), np.inf, np.float32), np.full((height, width), -1, np.int16), list(views))
    for index, view in enumerate(views):
        if view is None:
            continue
        window = view.window()
        nearer = view.depth < image.depth[window]
        np.copyto(image.depth[window], view.depth, where=nearer)
        image.owner[window][nearer] = index
    return image
