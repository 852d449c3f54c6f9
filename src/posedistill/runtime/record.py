"""Record: what an exported file says of its network, all that is needed to use it. Read strictly.

It lives in the metadata of the ONNX model: one JSON text, and the tables of numbers (keypoints, symmetries, surfaces)
as an ``.npz`` archive in base64.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posedistill import __version__
from posedistill.decode import DECODERS
from posedistill.decode.base import Decoder, Readers, RecordFault, check, read_section
from posedistill.errors import CheckpointError, describe
from posedistill.runtime.threshold import Threshold

PROPERTY, TABLES = "posedistill", "posedistill_tables"
"""Keys of the ONNX ``metadata_props`` that hold the JSON text and the tables."""
FORMAT = 2
"""Raised when a key changes its meaning; a file of another format is refused, not guessed at."""
_PLACES = "places"
Frames = Mapping[str, np.ndarray]
"""By the folder they lie in: ``[n, 2]`` (scene_id, im_id) of BOP's, as in "lm/test"; ``[n]`` image names of a scene."""


@dataclass(frozen=True, eq=False)
class Record:
    """What an exported file says of its network.

    Attributes:
        decoder: of the network's family, with all that it must know.
        training: what the network was trained on, for whoever finds the file. parameters: of the network.
        version: of the posedistill that wrote the file.
        frames: the real ones that the network was trained on (renders are in nobody's test); None where it is unknown.
        places: ``[M, 3]`` where cameras of the training photographs stood, for maps; None where it is of no scene.
        threshold: under which score a search for objects reports nothing; None where nobody chose one.
    """

    decoder: Decoder
    training: str = ""
    parameters: int = 0
    version: str = __version__
    frames: Frames | None = None
    threshold: Threshold | None = None
    places: np.ndarray | None = None

    def to_properties(self) -> dict[str, str]:
        """As texts for the metadata of a model; ``from_properties`` gives the same record back."""
        section, tables = self.decoder.record()
        content = {
            "format": FORMAT,
            "family": self.decoder.family,
            "inputs": self.decoder.inputs,
            "outputs": self.decoder.outputs,
            "training": self.training,
            "parameters": self.parameters,
            "version": self.version,
            "section": section,
        }
        if self.frames is not None:
            content["frames"] = list(self.frames)
            tables = tables | {_table_of(name): frames for name, frames in self.frames.items()}
        if self.threshold is not None:
            content["threshold"] = self.threshold.to_json()
        if self.places is not None:
            tables = tables | {_PLACES: self.places.astype(np.float32)}
        packed = io.BytesIO()
        np.savez_compressed(packed, **tables)  # type: ignore[arg-type]
        return {PROPERTY: json.dumps(content), TABLES: base64.b64encode(packed.getvalue()).decode("ascii")}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], file: str | Path) -> "Record":
        """Read what ``to_properties`` gave; ``file`` is named in errors.

        Raises:
            CheckpointError: no record of ours, damaged, of another format or of an unknown family, or a value that is
                missing, unknown, of the wrong kind, or at odds with another.
        """
        if PROPERTY not in properties:
            raise CheckpointError(describe(file, PROPERTY, "no such metadata", "a model written by posedistill export"))
        try:
            content = json.loads(properties[PROPERTY])
        except (ValueError, RecursionError) as error:
            raise CheckpointError(describe(file, PROPERTY, f"no JSON ({error})", "a JSON object")) from error
        try:
            return cls._read(content, properties.get(TABLES, ""))
        except RecordFault as fault:
            raise CheckpointError(describe(file, fault.key, fault.found, fault.expected)) from fault
        except (ArithmeticError, ValueError, MemoryError) as error:  # of numbers that no network has
            raise CheckpointError(describe(file, "section", error, "what posedistill export wrote")) from error

    @classmethod
    def _read(cls, content: Any, packed: str) -> "Record":
        if not isinstance(content, dict):
            raise RecordFault(PROPERTY, type(content).__name__, "a JSON object")
        found = content.pop("format", None)
        expected = f"{FORMAT} (this is posedistill {__version__}); posedistill export RUN_FOLDER writes it anew"
        check(("format", found, expected, found == FORMAT))
        values = read_section({"frames": None, "threshold": None} | content, _READERS)
        if values["family"] not in DECODERS:
            raise RecordFault("family", values["family"], f"one of {sorted(DECODERS)}")
        tables = _unpack(packed)
        decoder = DECODERS[values["family"]].from_record(values["section"], tables)
        for key, ours in (("inputs", decoder.inputs), ("outputs", decoder.outputs)):
            check((key, values[key], f"{ours}, as its section says", values[key] == ours))
        frames = None if values["frames"] is None else {name: _frames(tables, name) for name in values["frames"]}
        about = (values["training"], values["parameters"], values["version"])
        return cls(decoder, *about, frames, values["threshold"], _places(tables))


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
    for pool in ("intra", "inter"):  # threads that spin while they wait take the cores from whoever else runs here
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers or ["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime raises a dozen unrelated types for a damaged file
        raise CheckpointError(describe(path, "model", f"{error!s:.200}", "a readable ONNX model")) from error


def record_of(session: Any, path: str | Path) -> Record:
    """The record of an opened file, whose graph fits it.

    Raises:
        CheckpointError: see ``Record.from_properties``, or a graph with other inputs or outputs.
    """
    try:
        properties = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise CheckpointError(describe(path, "metadata", error, "what posedistill export wrote")) from error
    record = Record.from_properties(properties, path)
    decoder = record.decoder
    shapes = {entry.name: tuple(entry.shape[1:]) for entry in session.get_inputs()}
    # An exporter drops an input that the graph does not use: the class, where there is only one object.
    if not shapes or any(decoder.inputs.get(name) != shape for name, shape in shapes.items()):
        raise CheckpointError(describe(path, "inputs", shapes, f"{decoder.inputs} of each row"))
    found = [entry.name for entry in session.get_outputs()]
    if not decoder.outputs.keys() <= set(found):
        raise CheckpointError(describe(path, "outputs", found, " and ".join(map(repr, decoder.outputs))))
    return record


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _shapes(value: Any) -> dict[str, tuple[int, ...]]:
    return {str(name): tuple(int(length) for length in shape) for name, shape in _object(value).items()}


_READERS: Readers = {
    "family": str,
    "inputs": _shapes,
    "outputs": _shapes,
    "training": str,
    "parameters": int,
    "version": str,
    "section": _object,
    "frames": lambda value: None if value is None else [str(name) for name in value],
    "threshold": lambda value: None if value is None else Threshold.from_json(_object(value)),
}


def _table_of(folder: str) -> str:
    return f"frames/{folder}"


def _frames(tables: Mapping[str, np.ndarray], folder: str) -> np.ndarray:
    """The training frames of a folder; ``RecordFault`` where the table is missing or of another kind."""
    found = tables.get(_table_of(folder))
    if found is None or (found.ndim, found.dtype.kind) not in ((1, "U"), (2, "i")):
        kind = "no such table" if found is None else f"{found.dtype} {found.shape}"
        raise RecordFault(_table_of(folder), kind, "[n, 2] ids or [n] names of frames")
    return found


def _places(tables: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Where training cameras stood; ``RecordFault`` where the table is of another kind."""
    found = tables.get(_PLACES)
    if found is not None and not (found.ndim == 2 and found.shape[1] == 3 and np.isfinite(found).all()):
        raise RecordFault(_PLACES, f"{found.dtype} {found.shape}", "[M, 3] finite numbers")
    return found


def _unpack(packed: str) -> dict[str, np.ndarray]:
    """The tables of a record; ``RecordFault`` where they are damaged."""
    try:
        with np.load(io.BytesIO(base64.b64decode(packed, validate=True)), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive may break any assumption
        raise RecordFault(
            TABLES, f"{type(error).__name__}: {error}", "the tables that posedistill export wrote"
        ) from error
