"""An evaluation scores outcomes by what its metrics declare, and returns from json as it was."""

import json

import numpy as np
import pytest

from posedistill.metrics.evaluation import Curve, Evaluation, Metric, Places, describe_units

HITS = Metric("hits", "found", level="headline")
TURN = Metric("turn_deg", "median turn", "deg", "median", "lower")
BY_KIND = Metric("kind_deg", "median turn by category", "deg", "median", "lower", by_category=True)


@pytest.fixture
def evaluation() -> Evaluation:
    outcomes = {
        HITS: np.array([1.0, 0.0, 1.0, 1.0]),
        TURN: np.array([1.0, 9.0, 3.0, np.inf]),
        BY_KIND: np.array([1.0, 9.0, 3.0, 3.0]),
    }
    places = Places(np.zeros((4, 3)), np.array([[0.0, 0, 1]] * 3 + [[np.nan] * 3]), up=np.array([0.0, -1, 0]))
    curves = {"turn_deg": Curve("turn error, °", [1.0, 10.0], [0.25, 0.75], log=True)}
    about = {"stage": "student", "seed": 2, "dataset": "d/test", "missed": 1, "megabytes": 2.5, "notes": ("one row",)}
    return Evaluation.of(outcomes, ["cup", "mug", "mug", "mug"], curves=curves, places=places, **about)


def test_scores_are_the_declared_statistics(evaluation: Evaluation) -> None:
    assert evaluation.scores == {"hits": 0.75, "turn_deg": 6.0, "kind_deg": 2.0}
    assert evaluation.by_label(HITS) == {"cup": 1.0, "mug": pytest.approx(2 / 3)}
    assert evaluation.by_label(TURN) == {"cup": 1.0, "mug": 9.0}
    assert (evaluation.targets, evaluation.missed) == (4, 1)


def test_an_infinite_score_is_left_out() -> None:
    found = Evaluation.of({TURN: np.array([np.inf, np.inf, 1.0])})
    assert found.scores == {} and found.interval(TURN).high == np.inf


def test_an_interval_holds_its_score(evaluation: Evaluation) -> None:
    for metric in evaluation.metrics:
        found = evaluation.interval(metric)
        assert found.low <= found.value == evaluation.scores[metric.name] <= found.high
        assert found == evaluation.interval(metric)


def test_json_keeps_everything(evaluation: Evaluation) -> None:
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    back = Evaluation.from_dict(json.loads(text))
    assert json.dumps(back.to_dict()) == text
    assert back.metrics == evaluation.metrics and back.scores == evaluation.scores and back.seed == 2
    assert back.outcomes["turn_deg"].tolist() == [1.0, 9.0, 3.0, np.inf]
    assert back.curves == evaluation.curves and back.parameters is None and back.megabytes == 2.5
    np.testing.assert_array_equal(back.places.errors, [1, 1, 1, np.nan])


def test_what_was_not_scored_is_an_evaluation_without_metrics() -> None:
    back = Evaluation.from_dict(json.loads(json.dumps(Evaluation(stage="teacher").to_dict())))
    assert back.stage == "teacher" and back.metrics == () and back.places is None


@pytest.mark.parametrize("damage", [{"metrics": [{"name": "x"}]}, {"labels": None}, {"places": {"truth": [[0, 0, 0]]}}])
def test_damaged_records_are_refused(evaluation: Evaluation, damage: dict) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Evaluation.from_dict(evaluation.to_dict() | damage)
    with pytest.raises(KeyError):
        Evaluation.from_dict({"variant": "student", "scores": {"AR": 0.5}})  # written before metrics were declared


def test_places_must_fit_together() -> None:
    with pytest.raises(ValueError, match=r"places of shapes \(4, 3\), \(3, 3\)"):
        Places(np.zeros((4, 3)), np.zeros((3, 3)))
    assert Places(np.zeros((2, 3)), np.zeros((2, 3)), up=np.array([0.1, 0.2, 0.0])).up is None


def test_metrics_in_words() -> None:
    assert (HITS.heading, HITS.axis, HITS.change_unit, HITS.quantity(0.5)) == ("found", "found, %", "points", "50.0 %")
    assert (TURN.heading, TURN.change_unit, TURN.quantity(7.5)) == ("median turn, °", "°", "7.50°")
    assert TURN.lower_is_better and not HITS.lower_is_better and TURN.gain(-1.0) == 1.0 == HITS.gain(1.0)
    for value in (np.nan, np.inf):
        assert TURN.text(value) == "–" and HITS.change(value) == "–"
    assert describe_units([HITS]) == "Scores in %"
    assert describe_units([TURN]) == "Medians of errors in °, lower is better"
    assert describe_units([HITS, TURN]) == "Medians of errors in °, lower is better; other scores in %"
