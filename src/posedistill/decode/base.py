"""What a pose family's decoder is: an image and a request in, the network's inputs; its outputs in, poses. Numpy alone.

One class a family, used by evaluation, export, bench and the runtime without torch alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import PoseDistillError
from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.draw.poses import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB values in 0..1."""

Arrays = Mapping[str, np.ndarray]
"""Named arrays: a network's inputs or outputs (their first axis is the batch), or the tables of a model file."""


@dataclass(frozen=True)
class Request:
    """One image and what to look for in it. A scene needs the image alone.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        K: ``[3, 3]`` intrinsics of the image; None takes the camera that the model knows.
        distortion: of its lens, in OpenCV's order; None takes the lens that the model knows.
        boxes: ``[n, 4]`` (x, y, w, h) pixels, of whole objects, hidden parts included where they are known.
        labels: the ``n`` object or category ids expected in the boxes.
        scores: ``[n]`` of the boxes, a detector's; None counts each as 1.
    """

    image: Image
    K: Array | None = None
    boxes: Array = field(default_factory=lambda: np.empty((0, 4)))
    labels: Sequence[int] = ()
    scores: Array | None = None
    distortion: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Prepared:
    """A request, ready for the network.

    Attributes:
        inputs: the network's inputs by name, all of as many rows as there are pictures to look at.
        K: ``[p, 3, 3]`` intrinsics of the cameras of those pictures.
        rotation: ``[p, 3, 3]`` from the camera of the image to each of theirs (``R`` becomes ``rotation @ R``).
        labels: ``[n]`` int64, as requested. boxes: ``[n, 4]``, scores: ``[n]``, or none in whole pictures.
        picture: ``[n]`` int64, in which of the pictures each label is; in the first one where None.
    """

    inputs: Arrays
    K: Array
    rotation: Array
    labels: NDArray[np.int64]
    boxes: Array
    scores: Array
    picture: NDArray[np.int64] | None = None

    @classmethod
    def of_pictures(
        cls,
        inputs: Arrays,
        K: Array,
        labels: NDArray[np.int64] | None = None,
        picture: NDArray[np.int64] | None = None,
    ) -> "Prepared":
        """Pictures that are as the network wants them, ``K`` ``[p, 3, 3]`` theirs; poses are in their own cameras.

        ``labels`` say what is known to be in them; by default nothing is.
        """
        count = len(K)
        turn = np.tile(np.eye(3), (count, 1, 1))
        labels = np.empty(0, np.int64) if labels is None else labels
        return cls(inputs, K, turn, labels, np.zeros((count, 4)), np.ones(count), picture)

    def labels_in(self, picture: int) -> NDArray[np.int64]:
        """Those of one of the pictures."""
        return self.labels[(np.zeros_like(self.labels) if self.picture is None else self.picture) == picture]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose in the image's own camera.

    Attributes:
        R: ``[3, 3]`` and t: ``[3]``, from the object (mm) or the scene (metres) to the camera; ``t`` is NaN where a
            family tells none.
        label: object or category id; -1 of a scene.
        score: confidence in 0..1, times that of the box; NaN where a family tells none.
        box: (x, y, w, h) pixels of the box it was sought in, if any.
        row: of the request, that it answers; a row in which nothing was recognised has no pose.
        seconds: for the whole image, pixels to poses, as BOP wants it: equal for all poses of an image.
    """

    R: Array
    t: Array
    label: int = -1
    score: float = np.nan
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
        degrees: between rotations. shift: of ``Decoder.shift``.
        rounding: share of the farthest centre that may be lost besides: float32 knows large scenes no better.
    """

    outputs: Mapping[str, float] = field(default_factory=dict)
    degrees: float = 0.1
    shift: float = np.inf
    rounding: float = 0.0


Readers = Mapping[str, Callable[[Any], Any]]
"""Of each key of a section: the plain JSON value to what the decoder holds."""


def camera_from_json(value: Mapping[str, Any] | None) -> Camera | None:
    """A reader of cameras or None; ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
    if value is None:
        return None
    K = np.asarray(value["K"], dtype=np.float64)
    if K.shape != (3, 3):
        raise ValueError(f"K has shape {K.shape}")
    return Camera(K, int(value["width"]), int(value["height"]))


def floats(value: Any) -> tuple[float, ...]:
    """A list of numbers."""
    return tuple(float(item) for item in value)


def pair(value: Any) -> tuple[int, int]:
    """Two whole numbers."""
    first, second = value
    return int(first), int(second)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decoder(ABC):
    """A family's half without a network. Subclasses are frozen dataclasses of all that they must know.

    Building one checks that its values fit together (``RecordFault``).

    Attributes:
        mean, std: RGB normalisation of pixel values in 0..1.
        camera: the one that the model knows.
    """

    family: ClassVar[str]
    """Name of the family in recipes and model files."""
    task: ClassVar[str]
    """Whose poses: of ``objects``, of the camera in a ``scene``, or of ``categories``."""
    tolerance: ClassVar[Tolerance]
    readers: ClassVar[Readers] = {"mean": floats, "std": floats, "camera": camera_from_json}
    """The section that it has in a model file, key by key; keys are the names of its fields."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    camera: Camera | None = None

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        check(
            ("mean", self.mean, "3 numbers", len(self.mean) == 3),
            ("std", self.std, "3 positive numbers", len(self.std) == 3 and min(self.std) > 0),
        )

    @property
    def unit(self) -> str:
        """Of ``t``, in words."""
        return "mm"

    @property
    @abstractmethod
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the network's inputs by name, without the batch."""

    @property
    @abstractmethod
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the network's outputs by name, without the batch."""

    @abstractmethod
    def prepare(self, request: Request) -> Prepared:
        """The network's inputs, cut out of the image; ``DataError`` where the request cannot be met."""

    @abstractmethod
    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """Poses in the image's camera out of the network's outputs for ``prepared``; at most one for each row asked."""

    @abstractmethod
    def example(self, rows: int = 1, image: Image | None = None, seed: int = 0) -> list[Request]:
        """Requests that make ``rows`` inputs out of an image, of noise without one: to compare and time networks."""

    def stand_in(self, prepared: Prepared) -> Arrays | None:
        """Outputs as of a network that recognises something, to time ``decode`` with; None where any will do."""
        return None

    def shift(self, ours: Pose, theirs: Pose) -> float:
        """How far two poses lie apart, in ``unit``."""
        return float(np.linalg.norm(ours.t - theirs.t))

    def differences(self, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """How far two networks' outputs lie apart at most, by name."""
        return {name: float(np.abs(ours[name] - theirs[name]).max(initial=0.0)) for name in self.outputs}

    def halved(self) -> Self:
        """For files of 16 bits: with its large tables in as many."""
        return self

    def record(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that it knows: values for JSON, and tables of numbers; ``from_record`` reads them back."""
        return {key: _plain(getattr(self, key)) for key in self.readers}, self.tables()

    def tables(self) -> dict[str, np.ndarray]:
        """What of ``record`` is numbers rather than settings."""
        return {}

    def normalise(self, planes: Image, out: NDArray[np.float32]) -> None:
        """Write a picture ``[h, w, 3]`` as ``[3, h, w]``, less ``mean`` and over ``std``."""
        # Channel by channel: contiguous planes are written twenty times faster than interleaved pixels.
        for channel, plane in enumerate(cv2.split(planes)):
            np.subtract(plane, np.float32(255) * np.float32(self.mean[channel]), out=out[channel], dtype=np.float32)
            out[channel] /= np.float32(255) * np.float32(self.std[channel])

    @classmethod
    def from_record(cls, section: Mapping[str, Any], tables: Arrays) -> Self:
        """What ``record`` gave; ``RecordFault`` where a value is missing, unknown or cannot be."""
        values = read_section(section, cls.readers)
        try:
            values |= cls.fields_of(tables)
        except KeyError as error:
            raise RecordFault(str(error.args[0]), f"tables {sorted(tables)}", "a table of that name") from error
        except (TypeError, ValueError) as error:
            raise RecordFault("tables", error, "what posedistill export writes") from error
        return cls(**values)

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """The fields that ``tables`` gave; ``KeyError`` for a table that is missing."""
        return {}


def _plain(value: Any) -> Any:
    """Dataclasses and arrays as JSON has them."""
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return value.tolist() if isinstance(value, np.ndarray) else value


class RecordFault(PoseDistillError):
    """A value of a model's record that cannot be; whoever opens the file names it."""

    def __init__(self, key: str, found: object, expected: str) -> None:
        super().__init__(f"'{key}': found {found}, expected {expected}")
        self.key, self.found, self.expected = key, found, expected


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
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            found = f"{section[key]!r:.80} ({type(error).__name__}: {error})"
            raise RecordFault(key, found, "what posedistill export writes") from error
    return values


def check(*faults: tuple[str, object, str, bool]) -> None:
    """``RecordFault`` for the first (key, what was found, what was expected, whether that holds) that does not hold."""
    for key, found, expected, holds in faults:
        if not holds:
            raise RecordFault(key, found, expected)
