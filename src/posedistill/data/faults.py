"""The kinds of faults a data set can have, and what to do at one: a reader raises it, the checker collects it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from posedistill.errors import DataError, describe


class FaultKind(StrEnum):
    """What is wrong; the value is the heading a report prints."""

    JSON = "json that cannot be read"
    MISSING_KEY = "missing key"
    WRONG_COUNT = "wrong number of values"
    ROTATION = "invalid rotation"
    CAMERA = "invalid camera matrix"
    INFO_LENGTH = "annotation lists of different lengths"
    UNKNOWN_OBJECT = "object absent from models_info.json"
    MISSING_FOLDER = "missing folder or annotation file"
    MISSING_IMAGE = "missing image"
    DAMAGED_IMAGE = "damaged image"
    IMAGE_SIZE = "image of another size"
    SAME_ID = "several images of one id"
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
    DATA_FILE = "damaged .data file"
    LABEL = "label that cannot be read"
    SCENE_FILE = "missing or damaged file of the scene"


class Fault(DataError):
    """A fault of a ``kind`` in a ``file``."""

    def __init__(self, kind: FaultKind, file: Path, message: str) -> None:
        super().__init__(message)
        self.kind, self.file = kind, file


OnFault = Callable[[Fault], None]
"""Called with a fault; reading goes on without the faulty part where it returns."""


def fault(kind: FaultKind, file: Path, key: str, found: object, expected: object) -> Fault:
    """A fault, worded as every error is."""
    return Fault(kind, file, describe(file, key, found, expected))


def raise_fault(found: Fault) -> None:
    """Stop at the first fault."""
    raise found


@contextmanager
def reported(on_fault: OnFault, kind: FaultKind = FaultKind.SCENE_FILE, file: Path = Path()) -> Iterator[None]:
    """Hand a fault to ``on_fault``, which ends the block; another ``DataError`` is a fault of this kind and file."""
    try:
        yield
    except Fault as found:
        on_fault(found)
    except DataError as error:
        on_fault(Fault(kind, file, str(error)))
