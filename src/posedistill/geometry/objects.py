"""ObjectTable: what the estimator, the decoder and an exported file must know of each object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.symmetries import canonical_pose, symmetry_transforms

INFO_KEYS = ("diameter", "min_x", "min_y", "min_z", "size_x", "size_y", "size_z")
"""What ``models_info.json`` states of every object, mm."""


@dataclass(frozen=True)
class ObjectTable:
    """The objects of a recipe, in class order (class index ``c`` is object ``obj_ids[c]``).

    Attributes:
        obj_ids: ``C`` BOP object ids.
        keypoints: ``[C, K, 3]`` mm, object frame: the corners of the mesh's axis-aligned box, index bits (x, y, z),
            x most significant, 0 = min, 1 = max.
        diameters: ``[C]`` mm.
        symmetries: for each class ``[S, 4, 4]`` transforms that leave the object's look unchanged; the first is the
            identity. Continuous symmetries are sampled.
    """

    obj_ids: tuple[int, ...]
    keypoints: Array
    diameters: Array
    symmetries: tuple[Array, ...]

    def index(self, obj_id: int) -> int:
        """Class index of a BOP object id; ``KeyError`` where the table has none."""
        try:
            return self.obj_ids.index(obj_id)
        except ValueError:
            raise KeyError(f"object {obj_id} is not one of {list(self.obj_ids)}") from None

    def __len__(self) -> int:
        return len(self.obj_ids)

    def canonical(self, label: NDArray[np.int64], R: Array, t: Array) -> tuple[Array, Array]:
        """Of the poses that look the same, the one that stands for all.

        Args:
            label: ``[B]`` classes. R: ``[B, 3, 3]``. t: ``[B, 3]``.
        """
        R, t = R.copy(), t.copy()
        for index in np.unique(label):
            symmetries = self.symmetries[index]
            if len(symmetries) > 1:
                chosen = label == index
                R[chosen], t[chosen] = canonical_pose(R[chosen], t[chosen], symmetries)
        return R, t

    @classmethod
    def from_models_info(
        cls, models_info: Mapping[int, Mapping[str, Any]], obj_ids: Sequence[int] | None = None
    ) -> "ObjectTable":
        """The table of some (default: all) objects of a ``models_info.json``, its keys already integers.

        Raises:
            DataError: an object or one of its keys is missing, or a diameter is not positive.
        """
        obj_ids = tuple(int(obj_id) for obj_id in (sorted(models_info) if obj_ids is None else obj_ids))
        missing = [obj_id for obj_id in obj_ids if obj_id not in models_info]
        if missing:
            raise DataError(describe("models_info.json", str(missing[0]), sorted(models_info), f"objects {missing}"))
        keypoints, diameters = zip(*(_box_and_diameter(i, models_info[i]) for i in obj_ids), strict=True)
        symmetries = tuple(symmetry_transforms(models_info[obj_id]) for obj_id in obj_ids)
        return cls(obj_ids, np.stack(keypoints), np.array(diameters), symmetries)

    @classmethod
    def of_cubes(cls, obj_ids: Sequence[int]) -> "ObjectTable":
        """Cubes of a millimetre a side in the place of objects of which nothing but their ids is known yet.

        >>> ObjectTable.of_cubes([5, 8]).keypoints.shape
        (2, 8, 3)
        """
        cube = dict.fromkeys(INFO_KEYS, 1.0) | {"diameter": 3**0.5}
        return cls.from_models_info(dict.fromkeys(obj_ids, cube), obj_ids)

    def to_tables(self) -> dict[str, np.ndarray]:
        """As named arrays, for an exported file."""
        symmetries = {f"symmetries/{index}": entry for index, entry in enumerate(self.symmetries)}
        ids = np.array(self.obj_ids, dtype=np.int64)
        return {"obj_ids": ids, "keypoints": self.keypoints, "diameters": self.diameters, **symmetries}

    @classmethod
    def from_tables(cls, tables: Mapping[str, np.ndarray]) -> "ObjectTable":
        """What ``to_tables`` gave; ``KeyError`` where a table is missing, ``ValueError`` for one of another shape."""
        obj_ids = tuple(int(value) for value in tables["obj_ids"])
        shapes = {"keypoints": (len(obj_ids), -1, 3), "diameters": (len(obj_ids),)}
        keypoints, diameters = (np.asarray(tables[n], dtype=np.float64).reshape(s) for n, s in shapes.items())
        symmetries = [np.asarray(tables[f"symmetries/{index}"], dtype=np.float64) for index in range(len(obj_ids))]
        return cls(obj_ids, keypoints, diameters, tuple(entry.reshape(-1, 4, 4) for entry in symmetries))


NO_OBJECTS = ObjectTable((), np.zeros((0, 8, 3)), np.zeros(0), ())
"""The table of families that know a scene instead of objects."""


def _box_and_diameter(obj_id: int, info: Mapping[str, Any]) -> tuple[Array, float]:
    """Corners ``[8, 3]`` and diameter of one entry of ``models_info.json``."""
    missing = [key for key in INFO_KEYS if key not in info]
    if missing:
        raise DataError(describe("models_info.json", f"{obj_id}.{missing[0]}", sorted(info), list(INFO_KEYS)))
    diameter, *box = (float(info[key]) for key in INFO_KEYS)
    if not diameter > 0:
        raise DataError(describe("models_info.json", f"{obj_id}.diameter", diameter, "a length above 0 mm"))
    return box_corners(np.array(box[:3]), np.array(box[:3]) + box[3:]), diameter


def box_corners(minimum: Array, maximum: Array) -> Array:
    """``[8, 3]`` corners of an axis-aligned box in the project's fixed order.

    >>> box_corners(np.zeros(3), np.array([1.0, 2.0, 3.0]))[:3]
    array([[0., 0., 0.],
           [0., 0., 3.],
           [0., 2., 0.]])
    """
    bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
    return np.where(bits == 1, maximum, minimum)


BOX_POINTS = 9
"""That single-shot pose knows a box by: its centre and its eight corners."""


def box_points(corners: Array) -> Array:
    """``[9, 3]`` a box's centre, then its corners ``[8, 3]``.

    >>> box_points(box_corners(np.zeros(3), np.array([1.0, 2.0, 3.0])))[:2]
    array([[0.5, 1. , 1.5],
           [0. , 0. , 0. ]])
    """
    return np.concatenate([corners.mean(axis=0, keepdims=True), corners])
