"""The error analysis in the terminal, in the page and in a comparison's markdown."""

import io
import re

import numpy as np
from rich.console import Console

from posedistill.metrics.error_analysis import ErrorAnalysis
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report import plots
from posedistill.report.error_tables import error_tables, model_error_table, object_error_tables
from posedistill.report.evaluations import Group

ADD = Metric("add_0.1d", "ADD(-S) 0.1 d")


def measured(stage="student", seed=0, labels=("1", "12"), bias=0.02, missed=3, count=60) -> Evaluation:
    """Poses too far by ``bias``, the more the less is visible."""
    rng = np.random.default_rng(seed)
    visible = np.linspace(0.2, 1.0, count)
    depth = bias / visible + rng.normal(0, 0.01, count)
    columns = [depth, 900 * depth, rng.uniform(1, 3, count), rng.uniform(2, 6, count)]
    for column in columns:
        column[:missed] = np.nan
    errors = ErrorAnalysis(*columns, visible)
    about = {"stage": stage, "seed": seed, "dataset": "lm/test", "errors": errors, "missed": missed}
    return Evaluation.of({ADD: np.ones(count)}, np.resize(labels, count).tolist(), **about)


def printed(*tables) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(*tables)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "lack of room" not in text and "…" not in text
    return text


def test_every_column_fits_a_terminal():
    wild = measured(labels=tuple(map(str, range(10, 31))), bias=1.5)
    wild.errors.depth_mm[:] *= 5
    assert len(error_tables(wild)) == 3
    printed(*error_tables(wild))


def test_over_all_by_object_and_by_visible_share():
    text = printed(*error_tables(measured(bias=0.05)))
    assert "57 of 60 targets have an estimate, 3 are missed" in text
    number = r"\+?\d+\.\d"
    assert re.search(rf"depth, % +\+8\.\d +\[{number}, {number}\] +{number} +\[{number}, {number}\]", text)
    assert re.search(r"\n 12 +30 +1 +\+\d", text) and re.search(r"\n 1 +30 +2 +\+\d", text)
    shares = re.findall(r"\n (\d+–\d+ %) +\d+ +\d+ +\+(\d+\.\d)", text)
    assert [name for name, _ in shares] == ["10–30 %", "30–50 %", "50–70 %", "70–90 %", "90–100 %"]
    depths = [float(depth) for _, depth in shares]
    assert depths == sorted(depths, reverse=True)  # the bias grows with occlusion, as made


def test_one_object_seen_whole_needs_one_table():
    errors = measured(labels=("6",), count=40)
    errors.errors.visible[:] = 1.0
    assert len(error_tables(errors)) == 1


def test_evaluations_without_errors_have_no_tables():
    assert error_tables(Evaluation()) == []
    assert model_error_table(Group([Evaluation(stage="student")])) is None
    assert object_error_tables(Group([Evaluation(stage="student")])) == []
    assert plots.depth_by_visibility(Group([Evaluation(stage="student")])) is None


def test_models_stand_side_by_side_with_intervals_over_seeds():
    group = Group([measured("teacher", bias=0.0), *(measured("student", seed) for seed in (1, 2, 3))])
    table = model_error_table(group)
    rows = {row[0].text: row for row in table.rows}
    assert list(rows) == ["teacher", "student"] and rows["student"][1].text == "3"
    depths = [np.nanmedian(item.errors.depth) for item in group.of("student")]
    assert rows["student"][2].text == f"{100 * np.mean(depths):+.1f}"
    assert re.fullmatch(r"\[\+\d\.\d, \+\d\.\d\]", rows["student"][2].detail)
    printed(table)
    by_object = object_error_tables(group)
    assert [table.title for table in by_object] == ["teacher: error analysis", "student: error analysis"]
    assert [row[0].text for row in by_object[1].rows] == ["1", "12"]


def test_the_plot_shows_depth_over_visible_share():
    svg = plots.depth_by_visibility(Group([measured("teacher", bias=0.0), measured("student")]))
    assert "visible share of the target, %" in svg and "depth error, % of the distance" in svg
    assert "var(--teacher)" in svg and "var(--student)" in svg


def test_few_targets_give_no_plot():
    assert plots.depth_by_visibility(Group([measured(count=6, missed=4)])) is None
