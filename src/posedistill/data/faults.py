"""The kinds of faults a data set can have, and what to do at one: the reader raises, the checker collects."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from posedistill.errors import DataError


class FaultKind(StrEnum):
    """What is wrong; the value is the heading a report prints."""

    JSON = "json that cannot be read"
    MISSING_KEY = "missing key"
    WRONG_COUNT = "wrong number of values"
    ROTATION = "rotation that is none"
    CAMERA = "camera matrix that is none"
    INFO_LENGTH = "annotation lists of different lengths"
    UNKNOWN_OBJECT = "object absent from models_info.json"
    MISSING_FOLDER = "missing folder or annotation file"
    MISSING_IMAGE = "missing image"
    DAMAGED_IMAGE = "damaged image"
    IMAGE_SIZE = "image of another size"
    DUPLICATE_FRAME = "frame that repeats another pixel by pixel"
    NO_CAMERA = "image without a camera"
    NO_ANNOTATION = "frame without annotations"
    UNITS = "pose in other units than mm"
    BEHIND_CAMERA = "object behind the camera"
    BOX = "box that disagrees with the projected model"
    VISIBLE_BOX = "visible box outside of the whole box"
    MISSING_MASK = "missing or damaged mask"
    EMPTY_MASK = "empty mask of a visible object"
    MASK = "mask that disagrees with the projected model or the box"
    DEPTH = "depth that disagrees with the pose"
    MODEL_FILE = "missing or damaged model"
    MODEL_UNITS = "model in other units than mm"
    MODEL_INFO = "models_info.json that disagrees with the mesh"
    TARGET = "target without an image or instance"
    POSE = "pose that cannot be read"
    NO_POSE = "image without a pose"
    SPLIT = "split that names what is not there"
    CAMERA_MODEL = "damaged or unusable camera model"
    SCENE_FILE = "missing or damaged file of the scene"


OnFault = Callable[[FaultKind, Path, str], None]
"""Called with the kind, the file and the whole message; parsing goes on where it returns."""


def raise_fault(kind: FaultKind, file: Path, message: str) -> None:
    """Stop at the first fault."""
    raise DataError(message)
