"""Rendered categories: CAD models of named categories, posed as real annotations are, as a data set of viewpoints.

What is written is a folder that ``data.formats.viewpoint`` reads: ``annotations.csv``, ``images/`` and, as clouds,
``shapes/CATEGORY/SHAPE.npy``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedistill.data.formats.viewpoint.categories import CategoryDataset
from posedistill.data.formats.viewpoint.clouds import POINTS, ShapeFolder, normalised, read_shape, sample_surface
from posedistill.data.images import write_image
from posedistill.data.render.layout import single_scene
from posedistill.data.render.raycast import cast, compose
from posedistill.data.render.settings import RenderSettings
from posedistill.data.render.studio import Studio, paint
from posedistill.errors import DataError, RecipeError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.meshes.parts import make_mesh
from posedistill.geometry.rotations import rotation_onto
from posedistill.geometry.viewpoint import in_range, viewpoint_rotation

COLUMNS = "image,category,shape,split,azimuth,elevation,inplane,left,upper,right,lower,occluded"
DIAGONAL = 400.0
"""Of every model as it is rendered, mm."""
_OCCLUDED = 0.75
"""Visible share below which a thing counts as occluded."""
_SPREADS = ((0.0, 360.0), (12.0, 12.0), (0.0, 5.0))
"""Where no annotation tells: any azimuth, mean and deviation of elevation and in-plane rotation, degrees."""

Shapes = Mapping[tuple[str, str], Mesh]
"""Meshes by category and name."""


@dataclass(frozen=True)
class View:
    """A rendered thing: RGB ``[H, W, 3]``, the box (left, upper, right, lower) of all of it, and its visible share."""

    image: Image
    box: tuple[int, int, int, int]
    visible: float


def category_settings(size: int, backgrounds: Path | None = None) -> RenderSettings:
    """Square pictures of one thing, half of them with something before it or beside it."""
    return RenderSettings(
        width=size, height=size, fov=30, distractors=(0, 1), tabletop=0, backgrounds=backgrounds, material_jitter=1.0
    )


def load_shapes(folder: Path, categories: list[str] | None = None) -> dict[tuple[str, str], Mesh]:
    """The CAD models of a folder, each centred and of one size.

    Raises:
        DataError: no model; a cloud where a mesh is needed; any fault of a file.
    """
    found, shapes = ShapeFolder(folder), {}
    for category in categories or found.categories():
        if not (names := found.of_category(category)):
            known = ", ".join(found.categories()) or "CATEGORY/SHAPE.*"
            raise DataError(
                describe(folder, "shapes", f"no CAD model of {category}", f"categories that it has ({known})")
            )
        for name in names:
            path = found.find(category, name)
            assert path is not None
            mesh = read_shape(path)
            if not isinstance(mesh, tuple):
                raise DataError(describe(path, "faces", "a point cloud", "a CAD model with faces, to be rendered"))
            vertices, faces = mesh
            shapes[category, name] = make_mesh(path, DIAGONAL * normalised(vertices, path), faces)
    if not shapes:
        raise DataError(describe(folder, "shapes", "no CAD model", "models of any category (CATEGORY/SHAPE.*)"))
    return shapes


def render_categories(
    shapes: Shapes,
    out: Path,
    count: int,
    settings: RenderSettings,
    poses: CategoryDataset | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Render ``count`` pictures of each category, each of a model drawn at random; the same for the same seed.

    Every fourth picture is of the split ``val``. Returns how many were rendered.

    Args:
        shapes: centred, z up, the front towards -y.
        settings: size, light, backgrounds, blur and noise; ``distractors`` hang before the thing, at most one, in a
            share of pictures that is the mean of its range.
        poses: annotations whose viewpoints are drawn, category by category; categories without any are seen from
            anywhere, mostly from a little above.
        progress: called with (pictures done, all of them).

    Raises:
        RecipeError: the folder holds such a data set already. DataError: a full disk.
    """
    if (out / "annotations.csv").exists():
        raise RecipeError(describe(out, "annotations.csv", "a data set", "a new folder"))
    names = sorted(shapes)
    studio = Studio({number: shapes[name] for number, name in enumerate(names)}, settings, seed)
    lines, categories = [COLUMNS], sorted({category for category, _ in names})
    for place, category in enumerate(categories):
        own = [number for number, name in enumerate(names) if name[0] == category]
        for index in range(count):
            rng = np.random.default_rng([seed, place, index])
            number = own[int(rng.integers(len(own)))]
            viewpoint = draw_viewpoint(category, poses, rng)
            view = render_view(studio, number, viewpoint, rng)
            image = f"images/{category}/{index:05d}.jpg"
            write_image(out / image, view.image)
            split = "val" if index % 4 == 3 else "train"
            angles = [f"{angle:.3f}" for angle in viewpoint]
            hidden = int(view.visible < _OCCLUDED)
            lines.append(",".join(map(str, [image, category, names[number][1], split, *angles, *view.box, hidden])))
            if progress is not None:
                progress(place * count + index + 1, len(categories) * count)
    for (category, name), mesh in shapes.items():
        write_cloud(out / "shapes" / category / f"{name}.npy", mesh, seed)
    write_file(out / "annotations.csv", "\n".join(lines) + "\n")
    return len(lines) - 1


def write_cloud(path: Path, mesh: Mesh, seed: int) -> None:
    """Points on a mesh's surface, centred, the diagonal of their box 1."""
    points = sample_surface(mesh.vertices, mesh.faces, POINTS, np.random.default_rng(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, normalised(points, path).astype(np.float32))


def draw_viewpoint(category: str, poses: CategoryDataset | None, rng: np.random.Generator) -> Array:
    """``[3]`` degrees: that of a real thing of the category, moved by a degree or so; else a likely one."""
    rows = [] if poses is None else [row for row, name in enumerate(poses.category) if name == category]
    if poses is not None and rows:
        return in_range(poses.views[rows[rng.integers(len(rows))]].viewpoint + rng.normal(size=3))
    (low, high), *others = _SPREADS
    return in_range(np.array([rng.uniform(low, high), *(rng.normal(*spread) for spread in others)]))


def render_view(studio: Studio, number: int, viewpoint: Array, rng: np.random.Generator) -> View:
    """Model ``number`` of a studio under a viewpoint, near the middle of the picture; what the crop shows is exact."""
    settings, K = studio.settings, studio.K
    distance = K[0, 0] * DIAGONAL / (rng.uniform(0.55, 0.9) * min(settings.width, settings.height))
    aside = np.array([*(rng.uniform(-0.06, 0.06, 2) * DIAGONAL / 0.5), distance])
    pose = rotation_onto(np.array([0.0, 0.0, 1.0]), aside) @ viewpoint_rotation(viewpoint), aside
    others = [place for place, body in enumerate(studio.bodies) if body.obj_id is None]
    hides = others and rng.random() < np.mean(settings.distractors)
    before = int(rng.choice(others)) if hides else None
    scene = single_scene(studio.bodies, number, pose, before, settings, rng)
    views = [cast(studio.models[placed.body], placed.R, placed.t, K, studio.rays) for placed in scene.placements]
    image = compose(views, settings.width, settings.height)
    whole = image.silhouette(0)
    rows, columns = np.nonzero(whole)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return View(paint(studio, scene, image, rng), box, float((image.owner == 0).sum() / whole.sum()))
