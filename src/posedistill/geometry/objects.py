"""ObjectTable: what the estimator, the decoder and an exported file must know of each object."""

from dataclasses import dataclass

import numpy as np

from posedistill.geometry.cameras import Array


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


def box_corners(minimum: Array, maximum: Array) -> Array:
    """``[8, 3]`` corners of an axis-aligned box in the project's fixed order.

    >>> box_corners(np.zeros(3), np.array([1.0, 2.0, 3.0]))[:3]
    array([[0., 0., 0.],
           [0., 0., 3.],
           [0., 2., 0.]])
    """
    bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
    return np.where(bits == 1, maximum, minimum)
