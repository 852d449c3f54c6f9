"""Opening an exported file of any family."""

from collections.abc import Sequence
from pathlib import Path

from posedistill.runtime.camera_predictor import CameraPredictor
from posedistill.runtime.model_file import CAMERA_DECODERS, open_session, parse_record, record_of
from posedistill.runtime.predictor import Predictor


def open_predictor(
    path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None, batch: int = 16
) -> Predictor | CameraPredictor:
    """The predictor of a file that ``posedistill export`` wrote: of objects or of cameras, as its decoder says.

    Args:
        path: the ``.onnx`` file. threads, providers: see ``open_session``. batch: crops or images per call.

    Raises:
        CheckpointError: no such file, not an ONNX model, or one that posedistill did not export.
    """
    session = open_session(path, threads, providers)
    decoder = parse_record(record_of(session, path), path).get("decoder")
    if decoder in CAMERA_DECODERS:
        return CameraPredictor.from_session(session, path, batch)
    return Predictor.from_session(session, path, batch)
