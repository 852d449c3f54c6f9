"""Losses between a student's and a teacher's Prediction: one verb a file, and trust, which weights any of them."""

from posedistill.distill.base import Distiller, DistillSpec, Example, build_distiller
from posedistill.distill.trust import TrustSettings

__all__ = ["DistillSpec", "Distiller", "Example", "TrustSettings", "build_distiller"]
