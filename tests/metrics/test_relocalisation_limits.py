"""An error of exactly a limit lies within it, in scores and in the outcomes of a record."""

from dataclasses import replace

import numpy as np
import pytest

from posedistill.metrics.relocalisation import THRESHOLDS, recall, score_cameras
from posedistill.poses import Poses


@pytest.mark.parametrize(("metres", "degrees"), THRESHOLDS)
def test_an_error_of_exactly_the_limit_lies_within(metres: float, degrees: float) -> None:
    none = np.array([0.0])
    assert recall(np.array([metres]), none, metres, degrees) == 1
    assert recall(none, np.array([degrees]), metres, degrees) == 1
    assert recall(np.array([np.nextafter(metres, np.inf)]), none, metres, degrees) == 0
    assert recall(none, np.array([np.nextafter(degrees, np.inf)]), metres, degrees) == 0


@pytest.mark.parametrize(("metres", "degrees"), THRESHOLDS)
def test_a_record_counts_as_the_recall_does(metres: float, degrees: float) -> None:
    still = Poses.of_cameras(np.eye(3)[None], np.zeros((1, 3)))
    scores = score_cameras(still, still)
    for position, orientation in ((metres, 0.0), (0.0, degrees)):
        errors = {"position_errors": np.array([position]), "orientation_errors": np.array([orientation])}
        record = replace(scores, **errors).to_record()
        assert record["scores"][f"recall_{metres:g}m_{degrees:g}deg"] == 1
