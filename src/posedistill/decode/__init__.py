"""Decoders: what a network needs of an image, and its outputs -> poses; one file a family. Imports no torch."""

from posedistill.decode.base import Decoder, Pose, Prepared, Request
from posedistill.decode.posenet import PoseNetDecoder
from posedistill.decode.scene_coordinates import SceneCoordinatesDecoder
from posedistill.decode.viewpoint import ViewpointDecoder
from posedistill.decode.wdrnet import WDRNetDecoder
from posedistill.decode.yolo6d import YOLO6DDecoder
from posedistill.decode.zebrapose import ZebraPoseDecoder

__all__ = [
    "DECODERS",
    "Decoder",
    "Pose",
    "PoseNetDecoder",
    "Prepared",
    "Request",
    "SceneCoordinatesDecoder",
    "ViewpointDecoder",
    "WDRNetDecoder",
    "YOLO6DDecoder",
    "ZebraPoseDecoder",
]

DECODERS: dict[str, type[Decoder]] = {
    decoder.family: decoder
    for decoder in (
        PoseNetDecoder,
        SceneCoordinatesDecoder,
        ViewpointDecoder,
        WDRNetDecoder,
        YOLO6DDecoder,
        ZebraPoseDecoder,
    )
}
"""The decoders by the name of their family."""
