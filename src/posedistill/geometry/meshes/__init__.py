"""Meshes: read from .ply, .obj, .glb and .stl, written as BOP's .ply, measured."""

from posedistill.geometry.meshes.files import READERS, diameter, hull_corners, load_mesh, model_info, save_ply
from posedistill.geometry.meshes.parts import Mesh, box_mesh

__all__ = ["READERS", "Mesh", "box_mesh", "diameter", "hull_corners", "load_mesh", "model_info", "save_ply"]
