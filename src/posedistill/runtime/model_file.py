"""What exported files of all families share: a session, a graph that fits, and a record that is read strictly."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posedistill import __version__
from posedistill.decode import get_decoder, get_settings
from posedistill.errors import CheckpointError, describe
from posedistill.geometry.cameras import Camera

PROPERTY = "posedistill"
"""Key of the ONNX ``metadata_props`` entry that holds the JSON text."""
FORMAT = 1
"""Raised when a key changes its meaning; a file of a later format is refused, not guessed at."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAMERA_DECODERS = frozenset({"posenet"})
"""The decoders that give poses of cameras; all others give those of objects."""

Readers = Mapping[str, Callable[[Any], Any]]
"""Of each field: plain JSON values to what the metadata hold."""
Fault = tuple[str, object, str, bool]
"""Key, what was found, what was expected, and whether that holds."""


def open_session(path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None) -> Any:
    """An onnxruntime session with every graph optimisation.

    Args:
        threads: of one network call; None lets onnxruntime take every core.
        providers: onnxruntime execution providers in order of preference; None means the CPU.

    Raises:
        CheckpointError: no such file, or no ONNX model.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CheckpointError(describe(path, "file", "nothing", "an exported .onnx model"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers or ["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime raises a dozen unrelated types for a damaged file
        raise CheckpointError(describe(path, "model", f"{error!s:.200}", "a readable ONNX model")) from error


def record_of(session: Any, path: str | Path) -> str:
    """The JSON text inside an opened file; ``CheckpointError`` where it holds none."""
    properties = session.get_modelmeta().custom_metadata_map
    if PROPERTY not in properties:
        raise CheckpointError(describe(path, PROPERTY, "no such metadata", "a model written by posedistill export"))
    return str(properties[PROPERTY])


def check_graph(session: Any, path: str | Path, shape: tuple[int, int], outputs: Sequence[str]) -> None:
    """Refuse a graph whose images are not of ``shape`` (height, width), or that lacks one of the ``outputs``."""
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    if list(shapes.get("images", []))[1:] != [3, *shape]:
        expected = f"an input 'images' [batch, 3, {shape[0]}, {shape[1]}]"
        raise CheckpointError(describe(path, "images", f"inputs {shapes}", expected))
    found = [entry.name for entry in session.get_outputs()]
    if not set(outputs) <= set(found):
        raise CheckpointError(describe(path, "outputs", found, " and ".join(map(repr, outputs))))


def parse_record(text: str, file: str | Path) -> dict[str, Any]:
    """The JSON object of a known format, without its ``format`` key; ``CheckpointError`` for anything else."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(describe(file, PROPERTY, f"no JSON ({error})", "a JSON object")) from error
    if not isinstance(values, dict):
        raise CheckpointError(describe(file, PROPERTY, type(values).__name__, "a JSON object"))
    found = values.pop("format", None)
    if found != FORMAT:
        raise CheckpointError(describe(file, "format", found, f"{FORMAT} (this is posedistill {__version__})"))
    return values


def read_record(
    text: str, file: str | Path, kind: type[Any], readers: Readers, learned: Literal["objects", "cameras"]
) -> dict[str, Any]:
    """The fields of a metadata class out of its JSON text.

    Args:
        kind: the dataclass. readers: one for each of its fields. learned: whose poses the model gives.

    Raises:
        CheckpointError: not JSON, a key is missing, unknown or of the wrong kind, a later format, a model of the
            other kind.
    """
    values = parse_record(text, file)
    decoder = values.get("decoder")
    if decoder is not None and (str(decoder) in CAMERA_DECODERS) != (learned == "cameras"):
        raise CheckpointError(describe(file, "decoder", decoder, f"one that gives poses of {learned}"))
    expected = {entry.name for entry in fields(kind)}
    for key in sorted(expected - values.keys()):
        raise CheckpointError(describe(file, key, "no such key", "a value: the file was cut or edited"))
    for key in sorted(values.keys() - expected):
        raise CheckpointError(describe(file, key, "an unknown key", f"one of {sorted(expected)}"))
    for key, read in readers.items():
        try:
            values[key] = read(values[key])
        except (KeyError, TypeError, ValueError) as error:
            found = f"{values[key]!r:.80} ({type(error).__name__}: {error})"
            raise CheckpointError(describe(file, key, found, "what posedistill export writes")) from error
    return values


def refuse_faults(file: str | Path, faults: Iterable[Fault]) -> None:
    """``CheckpointError`` for the first fault that does not hold."""
    for key, found, wanted, holds in faults:
        if not holds:
            raise CheckpointError(describe(file, key, found, wanted))


def find_decoder(name: str, settings: Mapping[str, Any]) -> tuple[Callable[..., Any], Any]:
    """A decoder and its settings; ``CheckpointError`` where this version has no such decoder or setting."""
    try:
        return get_decoder(name), get_settings(name, settings)
    except (KeyError, TypeError) as error:
        found = f"{name} {dict(settings)}"
        raise CheckpointError(describe("metadata", "decoder", found, f"one we have ({error.args[0]})")) from None


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
