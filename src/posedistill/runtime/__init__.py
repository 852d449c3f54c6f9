"""The runtime: an exported file and a photograph in, poses out, with numpy, OpenCV and onnxruntime alone."""

from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import PredictedPose, Predictor, Request

__all__ = ["ModelMetadata", "PredictedPose", "Predictor", "Request"]
