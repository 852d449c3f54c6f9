"""Reading .stl, text and binary: triangles alone, without colours."""

from pathlib import Path

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.meshes.parts import Mesh, make_mesh

CREASE = 30.0
"""Degrees between neighbouring faces from which an edge is sharp: the file does not say which are."""


def read_stl(path: Path, looks: bool) -> list[Mesh]:
    """The mesh of a .stl file; it has no looks, so ``looks`` changes nothing."""
    import trimesh

    loaded = trimesh.load_mesh(path, file_type="stl", process=True)  # equal corners become one vertex
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        raise DataError(describe(path, "faces", "no face", "a triangle mesh"))
    shaded = trimesh.graph.smooth_shade(loaded, angle=np.radians(CREASE))
    return [make_mesh(path, np.array(shaded.vertices, dtype=np.float64), np.array(shaded.faces, dtype=np.int64))]
