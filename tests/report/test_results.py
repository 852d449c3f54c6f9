import json

import numpy as np
import pytest

from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report.evaluations import Group
from posedistill.report.results import load_run


def test_a_whole_run_is_read_without_notes(run_folder):
    run = load_run(run_folder)
    assert run.notes == []
    assert [item.stage for item in run.evaluations] == ["teacher"] + ["student"] * 3 + ["distilled"] * 3 + ["exported"]
    assert [item["stage"] for item in run.bench] == ["teacher", "distilled", "exported"]
    assert list(run.histories) == ["teacher", "student", "distilled"]
    assert list(run.histories["student"]) == ["seed0", "seed1", "seed2"]
    assert len(run.histories["teacher"][""]["loss/score"]) == 400
    assert len(run.overlays) == 8 and run.overlays[0].stage == "student"
    assert len(run.evaluations[1].outcomes["add_0.1d"]) == 60


def test_an_empty_folder_gives_notes_that_name_what_is_missing(tmp_path):
    run = load_run(tmp_path)
    notes = "\n".join(run.notes)
    for name in ("evaluation.json", "bench.json", "environment.json", "recipe.yaml", "metrics.jsonl", "cases/"):
        assert name in notes


def test_damaged_files_lose_only_what_is_damaged(run_folder):
    records = json.loads((run_folder / "evaluation.json").read_text())
    records += [{"seed": 3}, "text", {**records[0], "places": {"truth": [[0, 0]], "estimate": [[0, 0]]}}]
    (run_folder / "evaluation.json").write_text(json.dumps(records))
    (run_folder / "bench.json").write_text('[{"stage": "teacher", "p50')
    (run_folder / "environment.json").write_bytes(b"\xff\xfe\x00")
    (run_folder / "cases" / "student_best_00.jpg").unlink()
    with (run_folder / "teacher" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4000, "loss": 0.')
    run = load_run(run_folder)
    notes = "\n".join(run.notes)
    assert len(run.evaluations) == 8
    assert notes.count("a record was left out") == 3
    assert "bench.json cannot be read" in notes and "environment.json cannot be read" in notes
    assert "student_best_00.jpg is missing" in notes and len(run.overlays) == 7
    assert "teacher/metrics.jsonl: 1 damaged line(s)" in notes


def test_a_resumed_run_keeps_the_later_value_of_a_step(tmp_path):
    (tmp_path / "student").mkdir()
    lines = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 10, "loss": 1.0}]
    (tmp_path / "student" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_run(tmp_path).histories["student"][""]["loss"] == {10: 1.0, 20: 2.0}


def test_box_modes_are_never_mixed(run_folder):
    records = json.loads((run_folder / "evaluation.json").read_text())
    (run_folder / "evaluation.json").write_text(json.dumps([*records, {**records[0], "boxes": "detector"}]))
    run = load_run(run_folder)
    assert {group.items[0].boxes: len(group.items) for group in run.groups()} == {"gt": 8, "detector": 1}
    assert {item.boxes for item in run.main_group().items} == {"gt"}


def test_the_headline_metric_is_the_usual_one_or_any(run_folder):
    run = load_run(run_folder)
    assert [metric.name for metric in run.main_group().headline] == ["add_0.1d"]
    assert Group().headline == []


def test_metrics_stand_by_their_levels():
    levels = {"a": "detail", "b": "main", "c": "headline"}
    metrics = tuple(Metric(name, name, level=level) for name, level in levels.items())
    group = Group([Evaluation(metrics, {"a": 0.1, "b": 0.2, "c": 0.3}), Evaluation(metrics[:1], {"a": 0.1})])
    assert [metric.name for metric in group.metrics] == ["c", "b", "a"]
    assert [metric.name for metric in group.main_metrics] == ["c", "b"]
    assert [metric.name for metric in group.headline] == ["c"]
    assert [metric.name for metric in Group([Evaluation(metrics, {"a": 0.1})]).headline] == ["a"]


def test_a_run_of_cameras_is_read_with_places_and_without_a_note_on_cases(camera_folder):
    run = load_run(camera_folder)
    assert run.notes == []
    assert [item.stage for item in run.evaluations][-3:] == ["constant pose", "nearest image", "nearest position"]
    places = run.evaluations[0].places
    assert places.truth.shape == places.estimate.shape == (80, 3) and places.train.shape == (150, 3)
    assert places.errors == pytest.approx(run.evaluations[0].outcomes["position_m"], abs=2e-3)  # millimetres
    assert [metric.name for metric in run.main_group().headline] == ["position_m", "orientation_deg"]


def test_a_pose_that_was_not_found_is_infinitely_wrong_and_stands_nowhere(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["outcomes"]["position_m"][3] = None
    record["places"]["estimate"][3] = [None] * 3
    found = Evaluation.from_dict(json.loads(json.dumps(record)))
    assert found.outcomes["position_m"][3] == np.inf and np.isnan(found.places.errors[3])


def test_places_that_do_not_fit_together_leave_the_record_out(camera_folder):
    records = json.loads((camera_folder / "evaluation.json").read_text())
    records[0]["places"]["estimate"].pop()
    del records[1]["places"]["train"], records[1]["places"]["up"]
    records[2]["places"]["up"] = [0.1, -0.2, 0.0]  # images of all postures
    (camera_folder / "evaluation.json").write_text(json.dumps(records))
    run = load_run(camera_folder)
    assert len(run.evaluations) == len(records) - 1 and "places of shapes (80, 3), (79, 3)" in run.notes[0]
    assert run.evaluations[0].places.train.shape == (0, 3) and run.evaluations[0].places.up is None
    assert run.evaluations[1].places.up is None and run.evaluations[2].places.up is not None
