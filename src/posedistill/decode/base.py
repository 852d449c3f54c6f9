"""What a pose family's decoder is: an image and a request in, the network's inputs; its outputs in, poses. Numpy alone.

One class a family, used by evaluation, export, bench and the runtime without torch alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import PoseDistillError
from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.draw import Image

Arrays = Mapping[str, np.ndarray]
"""Named arrays: a network's inputs or outputs (their first axis is the batch), or the tables of a model file."""


@dataclass(frozen=True)
class Request:
    """One image and what to look for in it. A scene needs the image alone.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        K: ``[3, 3]`` intrinsics of the image; None takes the camera that the model knows.
        boxes: ``[n, 4]`` (x, y, w, h) pixels, of whole objects, hidden parts included where they are known.
        labels: the ``n`` object or category ids expected in the boxes.
        scores: ``[n]`` of the boxes, a detector's; None counts each as 1.
    """

    image: Image
    K: Array | None = None
    boxes: Array = field(default_factory=lambda: np.empty((0, 4)))
    labels: Sequence[int] = ()
    scores: Array | None = None


@dataclass(frozen=True)
class Prepared:
    """A request, ready for the network.

    Attributes:
        inputs: the network's inputs by name, all of as many rows as there are pictures to look at.
        K: ``[p, 3, 3]`` intrinsics of the cameras of those pictures.
        rotation: ``[p, 3, 3]`` from the camera of the image to each of theirs (``R`` becomes ``rotation @ R``).
        labels: ``[n]`` int64, as requested. boxes: ``[n, 4]``. scores: ``[n]``.
    """

    inputs: Arrays
    K: Array
    rotation: Array
    labels: NDArray[np.int64]
    boxes: Array
    scores: Array

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose in the image's own camera.

    Attributes:
        R: ``[3, 3]`` and t: ``[3]``, from the object (mm) or the scene (metres) to the camera; ``t`` is NaN where a
            family tells none.
        label: object or category id; 0 of a scene.
        score: confidence in 0..1, times that of the box; 1 where a family tells none.
        box: (x, y, w, h) pixels of the box it was sought in, if any.
        row: of the request, that it answers; a row in which nothing was recognised has no pose.
        seconds: for the whole image, pixels to poses, as BOP wants it: equal for all poses of an image.
    """

    R: Array
    t: Array
    label: int = 0
    score: float = 1.0
    box: tuple[float, float, float, float] | None = None
    row: int = 0
    seconds: float = 0.0

    @property
    def center(self) -> Array:
        """``[3]`` where the camera stands, as the object or scene sees it."""
        return -self.R.T @ self.t

    @property
    def direction(self) -> Array:
        """``[3]`` where the camera looks, of length 1, as the object or scene sees it."""
        return self.R[2]


@dataclass(frozen=True)
class Tolerance:
    """By how much an exported file may stray from its network.

    Attributes:
        outputs: limits of ``Decoder.differences``, by their names; a difference without a limit is only told.
        degrees: between rotations. shift: between camera centres as the object or scene sees them, in its unit.
        rounding: share of the farthest centre that may be lost besides: float32 knows large scenes no better.
    """

    outputs: Mapping[str, float] = field(default_factory=dict)
    degrees: float = 0.1
    shift: float = np.inf
    rounding: float = 0.0


class Decoder(ABC):
    """A family's half without a network. Subclasses are frozen dataclasses of all they must know.

    ``record`` gives that as plain JSON and tables of numbers, for the model file; ``from_record`` reads it back.
    """

    task: ClassVar[str]
    """Whose poses: of ``objects``, of the camera in a ``scene``, or of ``categories``."""
    inputs: ClassVar[tuple[str, ...]] = ("images",)
    outputs: ClassVar[tuple[str, ...]]
    unit: str = "mm"
    """Of ``t``, in words."""
    tolerance: ClassVar[Tolerance]

    @classmethod
    @abstractmethod
    def from_record(cls, section: Mapping[str, Any], tables: Arrays) -> Self:
        """What ``record`` gave; ``RecordFault`` where a value is missing, unknown or cannot be."""

    @abstractmethod
    def record(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All it knows as values for JSON, and as tables of numbers."""

    @abstractmethod
    def prepare(self, request: Request) -> Prepared:
        """The network's inputs, cut out of the image; ``DataError`` where the request cannot be met."""

    @abstractmethod
    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """Poses in the image's camera out of the network's outputs for ``prepared``."""

    @abstractmethod
    def example(self, count: int = 1, seed: int = 0) -> Request:
        """A request with noise for an image, of ``count`` boxes where the family takes boxes."""

    def stand_in(self, prepared: Prepared) -> Arrays | None:
        """Outputs as of a network that has seen something, to time the decoder with; None: any outputs will do."""
        return None

    def differences(self, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """How far two networks' outputs lie apart at most, by name."""
        return {name: float(np.abs(ours[name] - theirs[name]).max(initial=0.0)) for name in self.outputs}


class RecordFault(PoseDistillError):
    """A value of a model's record that cannot be; whoever opens the file names it."""

    def __init__(self, key: str, found: object, expected: str) -> None:
        super().__init__(f"'{key}': found {found}, expected {expected}")
        self.key, self.found, self.expected = key, found, expected


Readers = Mapping[str, Callable[[Any], Any]]
"""Of each key: the plain JSON value to what the decoder holds."""


def read_section(section: Mapping[str, Any], readers: Readers) -> dict[str, Any]:
    """Read every key of a record, strictly.

    Raises:
        RecordFault: a key is missing, unknown or of the wrong kind.

    >>> read_section({"shape": [2, 3]}, {"shape": lambda value: tuple(map(int, value))})
    {'shape': (2, 3)}
    """
    for key in readers.keys() - section.keys():
        raise RecordFault(key, "no such key", "a value: the file was cut or edited")
    for key in section.keys() - readers.keys():
        raise RecordFault(key, "an unknown key", f"one of {sorted(readers)}")
    values = {}
    for key, read in readers.items():
        try:
            values[key] = read(section[key])
        except (KeyError, TypeError, ValueError) as error:
            found = f"{section[key]!r:.80} ({type(error).__name__}: {error})"
            raise RecordFault(key, found, "what posedistill export writes") from error
    return values


def camera_to_json(camera: Camera | None) -> dict[str, Any] | None:
    """Plain values; ``camera_from_json`` gives the camera back."""
    return None if camera is None else {"K": camera.K.tolist(), "width": camera.width, "height": camera.height}


def camera_from_json(value: Mapping[str, Any] | None) -> Camera | None:
    """What ``camera_to_json`` wrote; ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
    if value is None:
        return None
    K = np.asarray(value["K"], dtype=np.float64)
    if K.shape != (3, 3):
        raise ValueError(f"K has shape {K.shape}")
    return Camera(K, int(value["width"]), int(value["height"]))


def floats(value: Any) -> tuple[float, ...]:
    """A list of numbers."""
    return tuple(float(item) for item in value)
