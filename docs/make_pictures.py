"""Draws the pictures of the documentation, of objects made in code: python docs/make_pictures.py (a minute)."""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import contact_sheet, read_image, write_image
from posedistill.data.render.dataset import RenderSettings, render_dataset
from posedistill.data.render.shapes import code_models_info, code_objects
from posedistill.deploy.shapes import coarse_shape
from posedistill.geometry.draw.poses import color_of, draw_pose
from posedistill.geometry.objects import box_corners

HERE = Path(__file__).parent / "pictures"
VIEWS = RenderSettings(width=480, height=360, distance=(380, 620), objects_per_image=(2, 3), distractors=(1, 3))


def main(out: Path = HERE, count: int = 6) -> list[Path]:
    """Write ``renders.jpg`` and ``poses.jpg``: what networks learn from, and true poses drawn into it."""
    meshes = code_objects()
    with tempfile.TemporaryDirectory() as folder:
        render_dataset(meshes, code_models_info(), folder, VIEWS, count, seed=7, workers=1)
        frames = BopDataset(Path(folder), "train_render").frames
        plain = [read_image(frame.rgb) for frame in frames]
        drawn = [image.copy() for image in plain]
        for place, frame in enumerate(frames):
            for one in sorted(frame.instances, key=lambda one: -one.t[2]):
                mesh = meshes[one.obj_id]
                corners = box_corners(mesh.vertices.min(axis=0), mesh.vertices.max(axis=0))
                shape, color = coarse_shape(mesh.vertices, mesh.faces), color_of(one.obj_id)
                label = f"object {one.obj_id}"
                drawn[place] = draw_pose(drawn[place], one.R, one.t, frame.K, corners, color, label, shape)
    written = []
    for name, images in (("renders", plain), ("poses", drawn)):
        written.append(out / f"{name}.jpg")
        write_image(written[-1], smaller(contact_sheet(images, columns=3)))
    return written


def smaller(sheet: np.ndarray, width: int = 1200) -> np.ndarray:
    """A sheet of at most so many pixels across."""
    scale = min(1.0, width / sheet.shape[1])
    return cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    print(*main(), sep="\n")
