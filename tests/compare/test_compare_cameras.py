"""A comparison of cameras: where less is better, every word, mark and colour must know it."""

import json
import re
from pathlib import Path

import pytest

from posedistill.compare.page import build_comparison, headline, render_markdown
from posedistill.metrics.evaluation import Metric
from posedistill.metrics.statistics import Difference
from posedistill.report.comparison import gap_table, load_comparison, result_table
from posedistill.report.plots import interval_plot

from .conftest import cells

SEEDS = (0, 1, 2)
POSITION = Metric("position_m", "median position", "m", "median", "lower")
METRES = {"student": 0.36, "good": 0.28, "bad": 0.5, "same": 0.36}


@pytest.fixture
def folder(tmp_path: Path, camera_evaluation, references) -> Path:
    """A good and a bad loss and one that changes nothing, on three seeds."""
    loss = {"name": "relate", "weight": 1.0, "trust": {"by": "none"}, "options": {}}
    content = {
        "name": "room",
        "baseline": "student",
        "alone": "student",
        "seeds": list(SEEDS),
        "steps": 1000,
        "batch_size": 16,
        "recipe": "room",
        "teacher": "teacher/evaluation.json",
        "variants": {
            name: {"alone": name == "student", "distill": [] if name == "student" else [loss], "factor": 1.0}
            for name in METRES
        },
        "sweep": None,
        "tables": {"equal_steps": {name: {str(seed): f"{name}/seed{seed}" for seed in SEEDS} for name in METRES}},
        "costs": {},
        "timing_note": "",
        "failures": {},
        "baselines": references,
    }
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    places = {"teacher": camera_evaluation("teacher", 0)}
    places |= {
        f"{name}/seed{seed}": camera_evaluation("student", seed, metres)
        for name, metres in METRES.items()
        for seed in SEEDS
    }
    for place, record in places.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "evaluation.json").write_text(json.dumps(record))
    return tmp_path


def test_a_smaller_error_is_ahead(results):
    text = headline(results)
    assert text == ("At equal steps, in median position against student: 1 ahead (good), 1 behind (bad), 1 undecided.")


def test_differences_are_in_metres_and_degrees_and_of_the_baseline(results):
    table = result_table(results, "equal_steps")
    assert table.columns[:3] == ["variant", "median position, m", "median orientation, °"]
    good, bad = cells(table, "good"), cells(table, "bad")
    assert re.fullmatch(
        r"0\.\d{3} ± 0\.\d{3} -0\.0\d\d \(-2\d %\) \[-0\.\d{3}, -0\.\d{3}\] \*", good[1]
    )  # 0.28 instead of 0.36
    assert re.fullmatch(r"\d+\.\d\d ± \d\.\d\d \+\d\.\d\d \(\+3\d %\) \[\+\d\.\d\d, \+\d\.\d\d\] \*", bad[2])
    assert "+" in good[5] and "-" in bad[5] and "%" not in good[5]  # of shares more is better, in points
    assert cells(table, "same")[1].endswith("+0.000 (0 %) [+0.000, +0.000]")
    assert "in the unit of each column (of shares: points)" in table.notes[1]
    assert "paired bootstrap of medians, 3 seeds x 80 targets" in table.notes[1]


def test_the_naive_baselines_stand_below_without_differences(results):
    table = result_table(results, "equal_steps")
    names = [line[0].text for line in table.rows]
    assert names == ["teacher", *METRES, "constant pose", "nearest image", "nearest position"]
    assert re.fullmatch(r"\d\.\d{3}", cells(table, "constant pose")[1])
    assert "looks at the truth" in cells(table, "nearest position")[0]


def test_a_damaged_baseline_is_left_out_and_told(folder):
    content = json.loads((folder / "comparison.json").read_text())
    content["baselines"][0] = {"scores": {}}
    (folder / "comparison.json").write_text(json.dumps(content))
    results = load_comparison(folder)
    assert len(results.groups["equal_steps"].baselines) == 2
    assert "comparison.json: a record was left out" in results.notes[0]
    del content["baselines"]
    (folder / "comparison.json").write_text(json.dumps(content))
    assert load_comparison(folder).groups["equal_steps"].baselines == {}


def test_a_gap_is_closed_by_less_error(results):
    table = gap_table(results, "equal_steps")
    assert table.columns[1:3] == ["median position", "median orientation"]
    good, bad = (int(cells(table, name)[1].split()[0]) for name in ("good", "bad"))
    assert 30 < good < 90 and bad < -40  # 0.28 between 0.36 and 0.22; 0.5 beyond
    assert cells(table, "same")[1] == "0 [0, 0]"


def test_colours_of_intervals_follow_what_is_better():
    less, more = Difference(-0.1, -0.2, -0.05, ""), Difference(0.1, 0.05, 0.2, "")
    errors = interval_plot(POSITION, {"a": [less]})
    assert "var(--distilled)" in errors and "var(--exported)" not in errors and "m (left is better)" in errors
    assert "var(--exported)" in interval_plot(POSITION, {"a": [more]})
    shares = interval_plot(Metric("recall_0.5m_5deg", "within 0.5 m, 5°"), {"a": [less]})
    assert "var(--exported)" in shares and "points" in shares and "left is better" not in shares


def test_page_and_markdown_are_whole(folder, results):
    page = build_comparison(folder).read_text()
    assert page.count("<svg") == 6 and "room/test" in page and "room/test,  boxes" not in page
    assert "constant pose" in page and "constant pose" in render_markdown(results)


def test_labels_of_metres_have_room() -> None:
    """Few ticks: four or more of three digits would run into each other in a narrow figure."""
    row = [Difference(-0.046, -0.077, 0.058, "")]
    picture = interval_plot(POSITION, {"a": row})
    assert picture is not None
    ticks = re.findall(r">(\N{MINUS SIGN}?\d\.\d+)<", picture)
    assert ticks == ["\N{MINUS SIGN}0.05", "0.00", "0.05"]
