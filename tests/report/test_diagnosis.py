import json
from pathlib import Path

import numpy as np
import pytest

from posedistill.geometry.rotations import random_rotations
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.poses import Poses
from posedistill.report.diagnosis import diagnose
from posedistill.report.page import build_report
from posedistill.report.results import load_run
from posedistill.report.tables import result_table

ADD = Metric("add_0.1d", "ADD(-S) 0.1 d", level="headline")
POSITION = Metric("position_m", "median position", "m", "median", "lower", level="headline")


def write(folder: Path, metric: Metric, scores: dict[str, float], loss: list[float]) -> Path:
    records = [
        Evaluation((metric,), {metric.name: score}, stage=stage, baseline="constant pose" * (stage == "constant pose"))
        for stage, score in scores.items()
    ]
    (folder / "evaluation.json").write_text(json.dumps([record.to_dict() for record in records]))
    for stage in ("teacher", "distilled"):
        (folder / stage / "seed0").mkdir(parents=True)
        lines = [json.dumps({"step": step, "loss": value}) for step, value in enumerate(loss)]
        (folder / stage / "seed0" / "metrics.jsonl").write_text("\n".join(lines))
    return folder


FALLING, FLAT = np.geomspace(10, 1, 50).tolist(), np.full(50, 2.0).tolist()


def test_zeros_are_explained_by_a_loss_that_still_falls(tmp_path):
    run = load_run(write(tmp_path, ADD, {"teacher": 0.4, "distilled": 0.0}, FALLING))
    (told,) = diagnose(run)
    assert told == (
        "distilled: 0.0 % in ADD(-S) 0.1 d, it has learned nothing: the loss is still falling, so train longer "
        "(train.steps)."
    )
    assert told in result_table(tmp_path).notes and "it has learned nothing" in build_report(tmp_path).read_text()


def test_a_flat_loss_points_elsewhere(tmp_path):
    (told,) = diagnose(load_run(write(tmp_path, ADD, {"teacher": 0.0}, FLAT)))
    assert "the loss no longer falls" in told and "train longer" not in told


@pytest.mark.parametrize("alike", [True, False])
def test_poses_that_are_all_alike(tmp_path, alike):
    folder = write(tmp_path, ADD, {"teacher": 0.0}, FALLING)
    R = np.broadcast_to(np.eye(3), (8, 3, 3)) if alike else random_rotations(8, np.random.default_rng(0))
    ids = np.arange(8)
    t, one = np.tile([0.0, 0.0, 700.0], (8, 1)), np.array(1)
    table = Poses(one, ids, one, one, R, t, np.array(0.1))
    table.to_bop_csv(folder / "teacher" / "seed0" / "results.csv")
    (told,) = diagnose(load_run(folder))
    assert ("all poses are alike" in told) == alike and "still falling" in told


def test_cameras_that_are_no_better_than_a_constant_pose(tmp_path):
    scores = {"teacher": 0.5, "distilled": 2.5, "constant pose": 2.0}
    (told,) = diagnose(load_run(write(tmp_path, POSITION, scores, FLAT)))
    assert told.startswith("distilled: 2.500 m in median position, a constant pose 2.000 m, it has learned nothing")


def test_a_run_that_has_learned_says_nothing(run_folder):
    assert diagnose(load_run(run_folder)) == []
