"""Scores of poses: pure error functions, BOP-19 matching and average recall, and the Evaluation that holds them."""

from posedistill.metrics.evaluation import Curve, Evaluation, Metric, Places
from posedistill.metrics.matching import Candidates, GroundTruths, find_candidates, unused_rows
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.object_scores import LEGACY_DIAMETERS, Case, find_cases, score_estimates
from posedistill.metrics.pose_errors import add, add_s, mspd, mssd, nearest_equivalent, reprojection, translation_error
from posedistill.metrics.relocalisation import orientation_errors, position_errors, score_cameras
from posedistill.metrics.vsd import DepthCaster, VisibleSurface

__all__ = [
    "LEGACY_DIAMETERS",
    "Candidates",
    "Case",
    "Curve",
    "DepthCaster",
    "Evaluation",
    "GroundTruths",
    "Metric",
    "Places",
    "ScoringModel",
    "VisibleSurface",
    "add",
    "add_s",
    "find_candidates",
    "find_cases",
    "load_scoring_models",
    "mspd",
    "mssd",
    "nearest_equivalent",
    "orientation_errors",
    "position_errors",
    "reprojection",
    "score_cameras",
    "score_estimates",
    "translation_error",
    "unused_rows",
]
