"""The pose families by their name in a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from posedistill.errors import RecipeError, expectation, key_of
from posedistill.estimators.base import Estimator
from posedistill.estimators.posenet import PoseNet, PoseNetSettings
from posedistill.estimators.scene_coordinates import SceneCoordinates, SceneCoordinatesSettings
from posedistill.estimators.viewpoint import Viewpoint, ViewpointSettings
from posedistill.estimators.wdrnet import WDRNet, WDRNetSettings
from posedistill.estimators.yolo6d import YOLO6D, YOLO6DSettings
from posedistill.estimators.zebrapose import ZebraPose, ZebraPoseSettings
from posedistill.geometry.objects import ObjectTable

FAMILIES: dict[str, type[Estimator]] = {
    "posenet": PoseNet,
    "scene_coordinates": SceneCoordinates,
    "viewpoint": Viewpoint,
    "wdrnet": WDRNet,
    "yolo6d": YOLO6D,
    "zebrapose": ZebraPose,
}
"""The estimators by their name in a recipe."""
SETTINGS: dict[str, type[BaseModel]] = {
    "posenet": PoseNetSettings,
    "scene_coordinates": SceneCoordinatesSettings,
    "viewpoint": ViewpointSettings,
    "wdrnet": WDRNetSettings,
    "yolo6d": YOLO6DSettings,
    "zebrapose": ZebraPoseSettings,
}
"""The settings of each family, by its name in a recipe."""


def build_estimator(
    family: str, objects: ObjectTable, settings: Mapping[str, Any] | BaseModel, size: int | tuple[int, int]
) -> Estimator:
    """An estimator by family name; families that know a scene look at no objects (``NO_OBJECTS`` will do).

    ``size`` of the network's input: the side of a square, or of whole pictures (height, width).

    Raises:
        RecipeError: an unknown family, or settings it does not have; the message names key and value.
    """
    if family not in SETTINGS:
        raise RecipeError(f"family: found {family!r}, expected one of {sorted(SETTINGS)}")
    values = settings.model_dump() if isinstance(settings, BaseModel) else dict(settings)
    try:
        build: Callable[[ObjectTable, Any, Any], Estimator] = FAMILIES[family]
        return build(objects, SETTINGS[family].model_validate(values), size)
    except ValidationError as error:
        known = SETTINGS[family].model_fields
        found = [(key_of(fault["loc"]), fault["input"], expectation(fault, known)) for fault in error.errors()]
        faults = "; ".join(f"{key}: found {value!r}, expected {expected}" for key, value, expected in found)
        raise RecipeError(f"{family}: {faults}") from error
