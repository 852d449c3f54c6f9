import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report import tables
from posedistill.report.cells import Cell, Table
from posedistill.report.evaluations import Group
from posedistill.report.results import load_run

ADD, AR = Metric("add_0.1d", "ADD(-S) 0.1 d"), Metric("AR", "AR")
POSITION = Metric("position_m", "median position", "m", "median", "lower")


def rows(table):
    return {row[0].text: [str(cell) for cell in row[1:]] for row in table.rows}


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_result_table_holds_means_deviations_costs_and_the_paired_difference(run_folder):
    run = load_run(run_folder)
    table, details = tables.result_tables(run)
    assert details.columns == ["model", "ADD(-S) 0.05 d"] and "size, MB" not in details.columns
    values = rows(table)
    assert list(values) == ["teacher", "student", "distilled", "exported"]
    scores = [item.scores["add_0.1d"] for item in run.evaluations if item.stage == "student"]
    assert values["student"][0] == f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}"
    assert "±" not in values["teacher"][0]
    assert values["teacher"][table.columns.index("size, MB") - 1] == "208"
    assert re.fullmatch(r"76\.1 ± \d\.\d \+6\.1 \[\+\d\.\d, \+\d+\.\d\] \*", values["distilled"][0])
    assert "student 3" in table.notes[0] and "3 seeds x 60 targets" in table.notes[1]


def test_outcomes_are_used_where_there_are_some(run_folder):
    group = load_run(run_folder).main_group()
    assert group.difference(ADD, "distilled", "student").basis == "paired bootstrap, 3 seeds x 60 targets"
    other = Group([dataclasses.replace(item, outcomes={}) for item in group.items])
    assert other.difference(ADD, "distilled", "student").basis == "Student's t, 3 seeds"


def test_only_shared_seeds_are_compared():
    found = (("student", 0, 0.4), ("student", 1, 0.9), ("distilled", 0, 0.5))
    group = [Evaluation((AR,), {"AR": score}, stage=stage, seed=seed) for stage, seed, score in found]
    difference = Group(group).difference(AR, "distilled", "student")
    assert difference.mean == pytest.approx(0.1) and difference.basis == "1 seed"
    assert Group(group).difference(AR, "teacher", "student") is None


def test_seeds_meet_their_like_in_whichever_order_they_were_trained():
    found = (("student", 0, 0.1), ("student", 1, 0.8), ("distilled", 1, 0.9), ("distilled", 0, 0.2))
    group = Group([Evaluation((AR,), {"AR": score}, stage=stage, seed=seed) for stage, seed, score in found])
    difference = group.difference(AR, "distilled", "student")
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)


def test_objects_are_sorted_as_numbers_and_one_object_needs_no_table(run_folder):
    group = load_run(run_folder).main_group()
    table = tables.label_table(group, ADD)
    assert list(rows(table)) == ["1", "5", "8", "11"]
    assert all(0 <= cell.heat <= 1 for row in table.rows for cell in row[1:])
    single = Group([dataclasses.replace(item, labels=("5",) * 60) for item in group.items])
    assert tables.label_table(single, ADD) is None


def test_terminal_and_markdown_print_the_same_numbers(run_folder):
    table = tables.result_table(run_folder)
    text, markdown = printed(table, 200), table.to_markdown()
    for cell in rows(tables.result_tables(load_run(run_folder))[0])["student"][:1]:
        assert cell in text and cell in markdown


@pytest.mark.parametrize("folder", ["run_folder", "camera_folder"])
def test_eighty_columns_break_no_word(folder, request):
    table = tables.result_table(request.getfixturevalue(folder))
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 80
    shown = [column for column in table.columns if f"lack of room: {column}" not in text]
    words = {word for column in shown for word in column.split()}
    cells = [cell for row in table.rows for cell, column in zip(row, table.columns, strict=True) if column in shown]
    assert len(shown) >= 6
    assert words | {word for cell in cells for word in str(cell).split()} <= set(text.split())


def test_columns_without_room_are_named():
    table = Table(
        "", ["name", "first number", "second", "third"], [[Cell("long name"), Cell("1"), Cell("2"), Cell("3")]]
    )
    assert "Not shown for lack of room: second, third." in " ".join(printed(table, 26).split())
    assert "Not shown" not in printed(table, 40)


def test_a_table_before_evaluation_names_what_is_missing(tmp_path):
    table = tables.result_table(tmp_path)
    assert "evaluation.json is missing" in table.to_markdown() and "evaluation.json is missing" in printed(table)


def test_markup_in_names_is_printed_as_it_is(tmp_path):
    made = Evaluation((AR,), {"AR": 0.5}, stage="[bold]x|y", dataset="[red]d")
    (tmp_path / "evaluation.json").write_text(json.dumps([made.to_dict()]))
    table = tables.result_table(tmp_path)
    assert "[bold]x|y" in printed(table) and "[red]d" in printed(table)
    assert "[bold]x\\|y" in table.to_markdown()


def test_no_bench_no_table():
    assert tables.bench_table([]) is None
    table = tables.bench_table([{"stage": "teacher", "p50_ms": float("nan"), "threads": 2, "device": "cpu"}])
    assert str(table.rows[0][0]) == "teacher cpu, 2 threads" and table.rows[0][1].text == "–"


def test_a_table_of_cameras_has_units_and_the_naive_baselines_below(camera_folder):
    (table,) = tables.result_tables(load_run(camera_folder))
    assert table.columns[:4] == ["model", "median position, m", "median orientation, °", "within 0.05 m, 5°"]
    names = [row[0].text for row in table.rows]
    baselines = ["constant pose", "nearest image", "nearest position"]
    assert names == ["teacher", "student", "distilled", "exported", *baselines]
    values = rows(table)
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", values["student"][0])
    assert re.fullmatch(r"\d\.\d{2} ± \d\.\d{2}", values["student"][1])
    assert re.fullmatch(r"\d\.\d ± \d\.\d", values["student"][2])
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} -0\.\d{3} \(-\d+ %\) \[-0\.\d{3}, -0\.\d{3}\] \*", values["distilled"][0])
    assert re.search(r"\+\d+\.\d \[.*\]", values["distilled"][4])
    assert values["constant pose"][0] > "1" and set(values["constant pose"][6:]) == {""}
    assert "Medians of errors in m and °, lower is better; other scores in %; mean" in table.notes[0]
    assert "paired bootstrap of medians, 3 seeds x 80 targets (median position, median orientation)" in table.notes[1]
    assert "Neighbouring images" in table.notes[1]


def test_the_terminal_shows_medians_first(camera_folder):
    head = tables.result_table(camera_folder).to_markdown().splitlines()[2]
    assert head.startswith("| model | median position, m | median orientation, ° | within 0.05 m, 5° | params, M")


def test_medians_of_single_images_are_used_where_they_are_the_score(camera_folder):
    group = load_run(camera_folder).main_group()
    difference = group.difference(POSITION, "distilled", "student")
    assert difference.basis == "paired bootstrap of medians, 3 seeds x 80 targets"
    means = [np.mean(group.scores(stage, POSITION)) for stage in ("student", "distilled")]
    assert difference.mean == pytest.approx(means[1] - means[0], abs=1e-5)
