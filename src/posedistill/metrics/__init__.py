"""Scores of poses: pure error functions, BOP-19 matching and average recall, and the Evaluation that holds them."""

from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.object_scores import find_cases, score_estimates
from posedistill.metrics.relocalisation import score_cameras

__all__ = ["Evaluation", "ScoringModel", "find_cases", "load_scoring_models", "score_cameras", "score_estimates"]
