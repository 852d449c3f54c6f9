"""Surface codes: each point of an object's surface by a string of bits, coarse to fine (ZebraPose, CVPR 2022)."""

from posedistill.geometry.codes.fold import half_turn, is_folded
from posedistill.geometry.codes.quality import Quality, measure
from posedistill.geometry.codes.samples import surface_samples
from posedistill.geometry.codes.tree import BITS, CodeTree, build_tree, load_tree, node_count, save_tree

__all__ = [
    "BITS",
    "CodeTree",
    "Quality",
    "build_tree",
    "half_turn",
    "is_folded",
    "load_tree",
    "measure",
    "node_count",
    "save_tree",
    "surface_samples",
]
