"""The runtime: an exported file and an image in, poses out, with numpy, OpenCV and onnxruntime alone."""

from posedistill.decode.base import Pose, Request
from posedistill.runtime.predictor import Predictor, Run
from posedistill.runtime.record import Record
from posedistill.runtime.search import locate
from posedistill.runtime.track import Tracker

__all__ = ["Pose", "Predictor", "Record", "Request", "Run", "Tracker", "locate"]
