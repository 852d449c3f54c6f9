"""A comparison's folder made by hand: what its tables, plots and page say of known numbers."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedistill.compare.page import build_comparison, headline, render_markdown
from posedistill.errors import DataError
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report.comparison import cost_table, gap_table, load_comparison, result_table, sweep_table

from .conftest import cells

SEEDS, TARGETS = (0, 1, 2), 400
RECALLS = {"teacher": 0.9, "student": 0.5, "good": 0.7, "bad": 0.3, "same": 0.5}


def record(recall: float, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    """Outcomes with exactly this recall, whichever targets are hit."""
    hits = rng.permutation((np.arange(TARGETS) < round(recall * TARGETS)).astype(float))
    metrics = Metric("add_0.1d", "ADD(-S) 0.1 d", level="headline"), Metric("AR", "AR")
    about = {"seed": seed, "boxes": "gt", "dataset": "toy/test", "parameters": 2e6, "megabytes": 8.0, "gmacs": 0.5}
    return Evaluation.of(dict.fromkeys(metrics, hits), **about).to_dict()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def log(taught: bool) -> str:
    lines = []
    for step in (100, 200):
        terms = {"loss": 2.0, "loss/votes": 1.5, "loss/score": 0.25} | ({"loss/align": 0.25} if taught else {})
        lines.append({"step": step, **terms} | ({"val/score": 0.1 * step / 100} if step == 200 else {}))
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five variants of three seeds; ``late`` has not been trained, ``dead`` has failed."""
    rng = np.random.default_rng(0)
    names = ["student", "good", "bad", "same", "late", "dead"]
    loss = {"name": "align", "weight": 0.3, "trust": {"by": "score"}, "options": {"solver": "faithful"}}
    content = {
        "name": "toy <comparison>",
        "baseline": "student",
        "alone": "student",
        "seeds": list(SEEDS),
        "steps": 1000,
        "batch_size": 16,
        "recipe": "toy",
        "teacher": "teacher/evaluation.json",
        "variants": {
            name: {"alone": name == "student", "distill": [] if name == "student" else [loss], "factor": 0.3}
            for name in names
        },
        "sweep": {
            "steps": 50,
            "seed": 100,
            "values": [0.3, 1.0],
            "scores": {"student": {"0": 0.2}, "good": {"0.3": 0.25, "1": 0.125}, "dead": {"0.3": None, "1": None}},
        },
        "tables": {
            "equal_steps": {name: {str(seed): f"{name}/seed{seed}" for seed in SEEDS} for name in names},
            "equal_time": {name: {"0": f"equal_time/{name}/seed0"} for name in ("student", "good")},
        },
        "costs": {
            "student": {"seconds_per_step": 0.1, "peak_memory_mb": 900.0, "equal_time_steps": 1000},
            "good": {"seconds_per_step": 0.125, "peak_memory_mb": 1200.0, "equal_time_steps": 800},
        },
        "timing_note": "Timed on a busy machine.",
        "failures": {"dead seed 0": "loss: found NaN <at step 7>"},
    }
    write(tmp_path / "comparison.json", json.dumps(content))
    write(tmp_path / "teacher" / "evaluation.json", json.dumps(record(RECALLS["teacher"], 0, rng)))
    same = {seed: record(RECALLS["same"], seed, rng) for seed in SEEDS}
    for name in ("student", "good", "bad", "same"):
        for seed in SEEDS:
            found = same[seed] if name in ("student", "same") else record(RECALLS[name], seed, rng)
            write(tmp_path / name / f"seed{seed}" / "evaluation.json", json.dumps(found))
            write(tmp_path / name / f"seed{seed}" / "metrics.jsonl", log(taught=name != "student"))
    for name in ("student", "good"):
        write(tmp_path / f"equal_time/{name}/seed0/evaluation.json", json.dumps(record(RECALLS[name], 0, rng)))
    write(tmp_path / "environment.json", json.dumps({"processor": "A <processor>", "threads": 2}))
    return tmp_path


def test_means_differences_and_stars(results):
    table = result_table(results, "equal_steps")
    assert table.columns[:2] == ["variant", "ADD(-S) 0.1 d"]
    assert [line[0].text for line in table.rows] == ["teacher", "student", "good", "bad", "same", "late", "dead"]
    assert cells(table, "teacher")[1] == "90.0" and cells(table, "student")[1] == "50.0 ± 0.0"
    good, bad, same = (cells(table, name)[1] for name in ("good", "bad", "same"))
    assert re.fullmatch(r"70\.0 ± 0\.0 \+20\.0 \[\+\d+\.\d, \+\d+\.\d\] \*", good)
    assert re.fullmatch(r"30\.0 ± 0\.0 -20\.0 \[-\d+\.\d, -\d+\.\d\] \*", bad)  # a loss that does harm is shown to
    assert same == "50.0 ± 0.0 +0.0 [+0.0, +0.0]"
    assert cells(table, "late")[:2] == ["late 0 of 3 seeds", "–"]
    assert any("3 seeds x 400 targets" in note and "not corrected" in note for note in table.notes)
    assert any("A bootstrap of 3 seeds" in note and "18 % smaller" in note for note in table.notes)
    assert result_table(results, "equal_time").notes[-1].startswith("One seed: ")  # so far


def test_seeds_that_only_one_side_has_are_left_out_of_the_difference(folder):
    (folder / "good" / "seed2" / "evaluation.json").unlink()
    table = result_table(load_comparison(folder), "equal_steps")
    assert cells(table, "good")[0] == "good 2 of 3 seeds"
    assert any("2 seeds x 400 targets" in note for note in table.notes)


def test_the_share_of_the_teachers_lead(results):
    table = gap_table(results, "equal_steps")
    assert cells(table, "good")[1].startswith("50 [") and cells(table, "bad")[1].startswith("-50 [")
    assert cells(table, "same")[1] == "0 [0, 0]" and cells(table, "late")[1] == "–"


def test_without_a_lead_there_is_no_share(folder):
    rng = np.random.default_rng(1)
    write(folder / "teacher" / "evaluation.json", json.dumps(record(0.5, 0, rng)))
    assert cells(gap_table(load_comparison(folder), "equal_steps"), "good")[1] == "–"


def test_costs(results):
    table = cost_table(results)
    assert cells(table, "good")[1:] == ["2", "8", "0.5", "125", "1.25", "1,200", "1,000", "800"]
    assert cells(table, "good")[0] == "good 0.3 align (solver faithful, trust score)"
    assert cells(table, "student")[0] == "student no distillation" and cells(table, "bad")[4] == "–"
    assert "Timed on a busy machine." in table.notes


def test_the_sweep_marks_what_was_chosen(results):
    table = sweep_table(results)
    assert table.columns == ["variant", "x 0", "x 0.3", "x 1"]
    assert cells(table, "student") == ["student", "20.0", "–", "–"]
    assert cells(table, "good") == ["good", "–", "25.0 ✓", "12.5"]
    assert cells(table, "dead")[1:] == ["–", "–", "–"]


def test_a_factor_at_an_end_of_the_range_is_told(folder):
    content = json.loads((folder / "comparison.json").read_text())
    content["sweep"]["values"] = [0.1, 0.3, 1.0]
    content["sweep"]["scores"] |= {
        "bad": {"0.1": 0.1, "0.3": 0.2, "1": 0.3},
        "good": {"0.1": 0.1, "0.3": 0.4, "1": 0.2},
    }
    content["variants"]["bad"]["factor"] = 1.0
    write(folder / "comparison.json", json.dumps(content))
    ends = [note for note in sweep_table(load_comparison(folder)).notes if "end of the range" in note]
    assert len(ends) == 1 and ends[0].endswith(": bad.")  # good has the middle one; dead was never trained


def test_the_headline_counts_both_ways(results):
    text = headline(results)
    assert "1 ahead (good), 1 behind (bad), 1 undecided, 2 not measured" in text and "against student" in text


def test_markdown_holds_every_table_and_failure(results):
    text = render_markdown(results)
    for title in ("**Equal steps**", "**Equal wall-clock**", "gap to the teacher closed", "| x 0.3 |", "ms/step"):
        assert title in text
    assert "- failed: dead seed 0: loss: found NaN" in text


class Checker(HTMLParser):
    """Collects what a page would fetch, and whether tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_and_complete(folder):
    path = build_comparison(folder)
    page = path.read_text()
    assert (folder / "comparison.md").exists() and path == folder / "comparison.html"
    checker = Checker()
    checker.feed(re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    assert checker.fetched == [] and checker.open == []
    assert not re.search(r'href="[^#]|url\([^#]|@import|<script', page)
    titles = ("Equal steps", "Equal wall-clock", "Differences", "Gap to the teacher", "Costs", "Weights", "Training")
    for title in titles:
        assert f"<h2>{title}</h2>" in page
    assert "toy &lt;comparison&gt;" in page and "&lt;at step 7&gt;" in page and "A &lt;processor&gt;" in page
    assert (
        "<title>good: loss on labels over training steps</title>" in page
        and "<title>good: distillation over training steps</title>" in page
    )
    assert page.count("<svg") == 2 + 3 * 3  # two metrics; three variants with logs beside the baseline


def test_a_comparison_that_has_just_begun_gives_a_short_page(folder):
    for path in [*folder.rglob("evaluation.json"), *folder.rglob("metrics.jsonl"), folder / "environment.json"]:
        path.unlink()
    page = build_comparison(folder).read_text()
    assert "Nothing has been measured yet." in page and "<h2>Equal steps</h2>" not in page


def test_a_damaged_record_is_told_and_left_out(folder):
    (folder / "good" / "seed0" / "evaluation.json").write_text("{")
    results = load_comparison(folder)
    assert any("good/seed0/evaluation.json was left out" in note for note in results.notes)
    assert cells(result_table(results, "equal_steps"), "good")[0] == "good 2 of 3 seeds"


def test_a_teacher_that_was_not_measured_has_no_row(folder):
    content = json.loads((folder / "comparison.json").read_text())
    write(folder / "comparison.json", json.dumps(content | {"teacher": None}))
    results = load_comparison(folder)
    assert gap_table(results, "equal_steps") is None
    assert result_table(results, "equal_steps").rows[0][0].text == "student"


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="posedistill compare"):
        build_comparison(tmp_path)
