"""ObjectView: what views of the instances of objects share, be they crops or whole pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posedistill.data.loading.photographs import Photographs
from posedistill.data.loading.sampling import Indices
from posedistill.data.loading.views import ViewPolicy
from posedistill.data.packs.pack import Pack
from posedistill.errors import RecipeError, describe
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import ObjectTable


class ObjectView(ViewPolicy):
    """A view of packed instances of objects; poses of symmetric objects are in canonical form.

    Args:
        packs: their instances are numbered through, in order.
        objects: gives each object's class, keypoints, diameter and symmetries.
        backgrounds: uint8 ``[M, h, w, 3]`` photographs to put behind objects, and before them.
    """

    labelled = True

    def __init__(self, packs: Sequence[Pack], objects: ObjectTable, backgrounds: NDArray[np.uint8] | None) -> None:
        self.packs, self.objects = list(packs), objects
        self._photographs = None if backgrounds is None or not len(backgrounds) else Photographs(backgrounds)

    def _column(self, name: str) -> NDArray:
        """Of all packed instances."""
        return np.concatenate([getattr(pack.instances, name) for pack in self.packs])

    def _frame_column(self) -> Indices:
        """The frame of each packed instance, numbered through all packs."""
        starts = np.cumsum([0, *(len(pack.frames) for pack in self.packs)])
        frames = [start + pack.instances.frame for start, pack in zip(starts, self.packs, strict=False)]
        return np.concatenate(frames)

    def _hold(self, ids: Indices) -> None:
        """Hold the columns of some instances, which are rows from now on.

        Raises:
            RecipeError: there is none.
        """
        obj_ids = self.objects.obj_ids
        if not len(ids):
            raise RecipeError(describe("recipe", "data", "no instance", f"instances of {list(obj_ids)}"))
        self.ids, order = ids, np.argsort(obj_ids)
        self.label = order[np.searchsorted(obj_ids, self._column("obj_id")[ids], sorter=order)]
        names = ("R", "t", "slot", "score", "bbox_visib")
        self.R, self.t, self.slots, self.score, self.visible = (self._column(name)[ids] for name in names)

    def _posed(self, rows: Indices, rotation: Array, K: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Canonical ``R``, ``t`` and the targets of some rows under new cameras ``rotation``, ``K`` ``[I, 3, 3]``."""
        label, R = self.label[rows], rotation @ self.R[rows]
        R, t = self.objects.canonical(label, R, np.einsum("bij,bj->bi", rotation, self.t[rows]))
        keypoints3d = self.objects.keypoints[label]
        targets = {
            "keypoints3d": keypoints3d,
            "keypoints": project(keypoints3d, R, t, K),
            "diameters": self.objects.diameters[label],
        }
        return R, t, targets
