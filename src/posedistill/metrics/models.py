"""ScoringModel: what the scores must know of an object, loaded once."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from posedistill.data.formats.bop import BopDataset
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, hull_corners
from posedistill.geometry.symmetries import symmetry_transforms
from posedistill.metrics.vsd import DepthCaster


@dataclass(frozen=True)
class ScoringModel:
    """An object as the scores see it.

    Attributes:
        mesh: BOP's evaluation model. diameter: mm, from ``models_info.json``.
        symmetries: ``[S, 4, 4]``, identity first.
    """

    mesh: Mesh
    diameter: float
    symmetries: Array

    @property
    def symmetric(self) -> bool:
        """Whether ``models_info.json`` states any symmetry."""
        return len(self.symmetries) > 1

    @cached_property
    def hull(self) -> Array:
        """``[H, 3]`` corners of the convex hull."""
        return hull_corners(self.mesh.vertices)

    @cached_property
    def caster(self) -> DepthCaster:
        """Casts the model's depth."""
        return DepthCaster(self.mesh.vertices, self.mesh.faces)


def load_scoring_models(dataset: BopDataset, obj_ids: Collection[int] | None = None) -> dict[int, ScoringModel]:
    """The evaluation models of a data set; by default of all objects that its targets name.

    Raises:
        DataError: a missing or damaged mesh, an object absent from ``models_info.json``.
    """
    chosen = sorted({target.obj_id for target in dataset.targets()} if obj_ids is None else set(obj_ids))
    infos = {obj_id: dataset.models_info[obj_id] for obj_id in dataset.objects(chosen).obj_ids}
    return {
        obj_id: ScoringModel(
            dataset.mesh(obj_id, eval=True, looks=False), float(info["diameter"]), symmetry_transforms(info)
        )
        for obj_id, info in infos.items()
    }
