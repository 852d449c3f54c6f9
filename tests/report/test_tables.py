import dataclasses
import json
import re

import numpy as np
import pytest
from rich.console import Console

from posedistill.report import tables
from posedistill.report.results import Evaluation, load_run


def rows(table):
    return {row[0].text: [str(cell) for cell in row[1:]] for row in table.rows}


def test_the_result_table_holds_means_deviations_costs_and_the_paired_difference(run_folder):
    run = load_run(run_folder)
    (table,) = tables.result_tables(run)
    values = rows(table)
    assert list(values) == ["teacher", "student", "distilled", "exported", "distilled − student"]
    scores = [item.scores["add_0.1d"] for item in run.evaluations if item.variant == "student"]
    assert values["student"][0] == f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}"
    assert "±" not in values["teacher"][0]
    assert values["teacher"][table.columns.index("size, MB") - 1] == "208"
    assert values["distilled − student"][0].startswith("+") and "[" in values["distilled − student"][0]
    assert "student 3" in table.notes[0] and "3 seeds x 60 targets" in table.notes[1]


def test_outcomes_are_used_only_where_they_are_those_of_the_metric(run_folder):
    group = load_run(run_folder).main_group()
    assert tables.compare(group, "add_0.1d", "student", "distilled").basis == "paired bootstrap, 3 seeds x 60 targets"
    assert tables.compare(group, "proj_5px", "student", "distilled").basis == "Student's t, 3 seeds"
    other = [dataclasses.replace(item, outcomes={"add_0.1d": [1.0] * 60}) for item in group]
    assert tables.compare(other, "add_0.1d", "student", "distilled").basis == "Student's t, 3 seeds"


def test_only_shared_seeds_are_compared():
    group = [Evaluation("student", 0, scores={"AR": 0.4}), Evaluation("student", 1, scores={"AR": 0.9})]
    group.append(Evaluation("distilled", 0, scores={"AR": 0.5}))
    difference = tables.compare(group, "AR", "student", "distilled")
    assert difference.mean == pytest.approx(0.1) and difference.basis == "1 seed"
    assert tables.compare(group, "AR", "student", "teacher") is None


def test_objects_are_sorted_as_numbers_and_one_object_needs_no_table(run_folder):
    group = load_run(run_folder).main_group()
    table = tables.per_object_table(group, "add_0.1d")
    assert list(rows(table)) == ["1", "5", "8", "11"]
    assert all(0 <= cell.heat <= 1 for row in table.rows for cell in row[1:])
    single = [dataclasses.replace(item, per_object={"5": {"add_0.1d": 0.5}}) for item in group]
    assert tables.per_object_table(single, "add_0.1d") is None


def test_latency_comes_from_one_source(run_folder):
    run = load_run(run_folder)
    latency, words = tables.latencies(run, run.main_group())
    assert words == "latency p50" and latency["teacher"] == 171.0 and "student" not in latency
    run.bench = run.bench[:1]
    latency, words = tables.latencies(run, run.main_group())
    assert words == "evaluation time an image" and latency["student"] == pytest.approx(11)


def test_terminal_and_markdown_print_the_same_numbers(run_folder):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tables.result_table(run_folder))
    text, markdown = console.export_text(), tables.result_markdown(run_folder)
    for cell in rows(tables.result_tables(load_run(run_folder))[0])["distilled"][:1]:
        assert cell in text and cell in markdown


def test_a_table_before_evaluation_names_what_is_missing(tmp_path):
    assert "evaluation.json is missing" in tables.result_markdown(tmp_path)
    tables.result_table(tmp_path)


def test_markup_in_names_is_printed_as_it_is(tmp_path):
    record = {"variant": "[bold]x|y", "dataset": "[red]d", "scores": {"AR": 0.5}}
    (tmp_path / "evaluation.json").write_text(json.dumps([record]))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tables.result_table(tmp_path))
    text = console.export_text()
    assert "[bold]x|y" in text and "[red]d" in text
    assert "[bold]x\\|y" in tables.result_markdown(tmp_path)


def test_no_bench_no_table():
    assert tables.bench_table([]) is None
    table = tables.bench_table([{"variant": "teacher", "p50_ms": float("nan"), "threads": 2, "device": "cpu"}])
    assert str(table.rows[0][0]) == "teacher cpu, 2 threads" and table.rows[0][1].text == "–"


def test_a_table_of_cameras_has_units_and_the_trivial_answers_below(camera_folder):
    (table,) = tables.result_tables(load_run(camera_folder))
    assert table.columns[:4] == ["model", "median position, m", "median orientation, °", "within 0.05 m, 5°"]
    names = [row[0].text for row in table.rows]
    answers = ["constant pose", "nearest image", "nearest position"]
    assert names == ["teacher", "student", "distilled", "exported", "distilled − student", *answers]
    values = rows(table)
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", values["student"][0])
    assert re.fullmatch(r"\d\.\d{2} ± \d\.\d{2}", values["student"][1])
    assert re.fullmatch(r"\d\.\d ± \d\.\d", values["student"][2])
    assert re.fullmatch(r"-0\.\d{3} \(-\d+ %\) \[-0\.\d{3}, -0\.\d{3}\]", values["distilled − student"][0])
    assert re.fullmatch(r"\+\d+\.\d \[.*\]", values["distilled − student"][4])
    assert values["constant pose"][0] > "1" and set(values["constant pose"][6:]) == {""}
    assert "Medians of errors in m and °, lower is better; shares of images in %; mean" in table.notes[0]
    assert "paired bootstrap of medians, 3 seeds x 80 targets (median position, median orientation)" in table.notes[1]
    assert "Neighbouring images" in table.notes[1]


def test_the_terminal_shows_medians_first(camera_folder):
    head = tables.result_markdown(camera_folder).splitlines()[2]
    assert head.startswith("| model | median position, m | median orientation, ° | within 0.05 m, 5° | params, M")


def test_medians_of_single_images_are_used_where_they_are_the_score(camera_folder):
    group = load_run(camera_folder).main_group()
    assert tables.compare(group, "position_m", "student", "distilled").basis.startswith("paired bootstrap of medians")
    means = [dataclasses.replace(item, scores={"position_m": 9.0}) for item in group]
    assert tables.compare(means, "position_m", "student", "distilled").basis == "Student's t, 3 seeds"
