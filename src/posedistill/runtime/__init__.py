"""The runtime: an exported file and a photograph in, poses out, with numpy, OpenCV and onnxruntime alone."""

from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.camera_predictor import CameraPredictor, CameraRun, PredictedCamera
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.opening import open_predictor
from posedistill.runtime.predictor import PredictedPose, Predictor, Request

__all__ = [
    "CameraMetadata",
    "CameraPredictor",
    "CameraRun",
    "ModelMetadata",
    "PredictedCamera",
    "PredictedPose",
    "Predictor",
    "Request",
    "open_predictor",
]
