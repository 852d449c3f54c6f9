"""A score threshold: chosen by its definition, and carried in the record."""

import json

import numpy as np
import pytest

from posedistill.errors import CheckpointError
from posedistill.runtime.record import PROPERTY, Record
from posedistill.runtime.threshold import Threshold, choose_threshold


def f1(true, false, score):
    kept, reported = np.mean(np.asarray(true) >= score), np.mean(np.asarray(false) >= score)
    return 2 * kept / (1 + kept + reported)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    true, false = rng.beta(5, 3, 40) * (rng.random(40) < 0.9), rng.beta(2, 7, 70)
    chosen = choose_threshold(true, false, "made")
    assert f1(true, false, chosen.score) >= max(f1(true, false, score) for score in np.linspace(0, 1, 997)) - 1e-12
    assert chosen.kept == np.mean(true >= chosen.score) and chosen.false == np.mean(false >= chosen.score)
    assert (chosen.objects, chosen.photographs, chosen.source) == (40, 70, "made")


def test_both_kinds_weigh_alike_however_many_there_are():
    rng = np.random.default_rng(0)
    true, false = rng.beta(5, 3, 40), rng.beta(3, 5, 40)
    assert choose_threshold(true, np.tile(false, 5)).score == choose_threshold(true, false).score


def test_the_middle_of_the_widest_gap():
    assert choose_threshold([0.9, 0.6], [0.2, 0.1]).score == pytest.approx(0.4)
    assert choose_threshold([0.9], [0.0]).score == pytest.approx(0.45)


def test_objects_that_are_never_found_lower_what_is_kept():
    assert choose_threshold([0.9, 0.8, 0.0, 0.0], [0.1]).kept == 0.5


@pytest.mark.parametrize(("true", "false"), [([], [0.1]), ([0.9], [])])
def test_both_kinds_are_needed(true, false):
    with pytest.raises(ValueError, match="expected some of each"):
        choose_threshold(true, false)


CHOSEN = Threshold(0.35, 0.95, 0.02, 63, 50, "validation frames, backgrounds")


def test_a_record_carries_it(scene):
    properties = Record(scene.decoder, threshold=CHOSEN).to_properties()
    assert Record.from_properties(properties, "file").threshold == CHOSEN
    assert Record.from_properties(Record(scene.decoder).to_properties(), "file").threshold is None
    assert "threshold" not in json.loads(Record(scene.decoder).to_properties()[PROPERTY])  # as before there were any


@pytest.mark.parametrize("value", [0.3, {"score": 0.3}, CHOSEN.to_json() | {"score": 1.5}, CHOSEN.to_json() | {"x": 1}])
def test_a_damaged_one_is_refused(scene, value):
    properties = Record(scene.decoder, threshold=CHOSEN).to_properties()
    content = json.loads(properties[PROPERTY]) | {"threshold": value}
    with pytest.raises(CheckpointError, match=r"cut\.onnx: 'threshold': found"):
        Record.from_properties(properties | {PROPERTY: json.dumps(content)}, "cut.onnx")
