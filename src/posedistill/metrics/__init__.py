"""Scores of poses: pure error functions, BOP-19 matching and average recall, and tables of all of it."""

from posedistill.metrics.matching import Candidates, GroundTruths, find_candidates, unused_rows
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.pose_errors import (
    add,
    add_s,
    mspd,
    mssd,
    nearest_equivalent,
    recall,
    recall_areas,
    reprojection,
    translation_error,
)
from posedistill.metrics.relocalisation import RelocalisationScores, score_cameras
from posedistill.metrics.summary import LEGACY_DIAMETERS, Case, Scores, score_estimates
from posedistill.metrics.vsd import DepthCaster, VisibleSurface

__all__ = [
    "LEGACY_DIAMETERS",
    "Candidates",
    "Case",
    "DepthCaster",
    "GroundTruths",
    "RelocalisationScores",
    "Scores",
    "ScoringModel",
    "VisibleSurface",
    "add",
    "add_s",
    "find_candidates",
    "load_scoring_models",
    "mspd",
    "mssd",
    "nearest_equivalent",
    "recall",
    "recall_areas",
    "reprojection",
    "score_cameras",
    "score_estimates",
    "translation_error",
    "unused_rows",
]
