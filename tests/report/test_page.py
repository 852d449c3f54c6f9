import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from posedistill.metrics.evaluation import Curve, Evaluation, Metric
from posedistill.report.page import build_report, render_page
from posedistill.report.render import whole_words
from posedistill.report.results import RunResults, load_run

VOID = {"meta", "img", "br", "path", "use", "circle", "polyline"}


class Checker(HTMLParser):
    """Collects tags, texts and references, and fails on tags that do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.references, self.text = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def build(folder):
    path = build_report(folder)
    assert path == folder / "report.html"
    return Checker(path.read_text(encoding="utf-8"))


def headings(page):
    text = [line.strip() for line in page.text]
    return [title for title in SECTIONS if title in text]


SECTIONS = ["Results", "Accuracy over cost", "By object or category", "Error analysis", "Where the cameras stood",
            "Best and worst cases", "Speed", "Training", "How it was obtained", "Not shown"]  # fmt: skip


def test_a_whole_run_gives_every_section_but_the_list_of_what_is_missing(run_folder):
    page = build(run_folder)
    assert headings(page) == [name for name in SECTIONS if name not in ("Where the cameras stood", "Not shown")]
    assert page.tags.count("img") == 8 and page.tags.count("svg") == 3 + 1 + 4 + 1
    assert page.tags.count("table") == 4 + 1 + 4  # with the error analysis, by model and of each model by object
    assert not list(run_folder.glob("*.part"))


def test_the_page_needs_nothing_else(run_folder):
    page = build(run_folder)
    assert page.references and all(value.startswith(("data:image/jpeg;base64,", "#")) for value in page.references)
    html = (run_folder / "report.html").read_text()
    assert "@import" not in html and not {"script", "link", "iframe"} & set(page.tags)
    assert all("#" in url for url in re.findall(r"url\(([^)]*)\)", html))


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    page = build(tmp_path / "new")
    assert headings(page) == ["Not shown"]
    text = " ".join(page.text)
    assert "Nothing was evaluated yet." in text and "evaluation.json is missing" in text


@pytest.mark.parametrize(
    ("name", "section"),
    [("evaluation.json", "Results"), ("bench.json", "Speed"), ("environment.json", None), ("recipe.yaml", None),
     ("cases", "Best and worst cases"), ("student", None)],
)  # fmt: skip
def test_any_file_may_be_missing(run_folder, name, section):
    path = run_folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = build(run_folder)
    assert section not in headings(page)
    assert ("Not shown" in headings(page)) == (name != "student")


def test_text_from_files_is_escaped(run_folder):
    evil = "<script>alert(1)</script>\"'&"
    hits, curve = {Metric(evil, evil): np.ones(2)}, Curve(evil, [0, 1], [0, 1])
    about = {"dataset": evil, "boxes": evil, "labels": [evil, "b"], "curves": {evil: curve}}
    records = [
        Evaluation.of(hits, **about, stage=stage, megabytes=size).to_dict()
        for stage, size in ((evil, 2.0), ("student", 1.0))
    ]
    (run_folder / "evaluation.json").write_text(json.dumps(records))
    (run_folder / "bench.json").write_text(json.dumps([{"stage": evil, "runtime": evil}]))
    (run_folder / "environment.json").write_text(json.dumps({evil: evil, "list": [evil], "map": {evil: {evil: evil}}}))
    (run_folder / "recipe.yaml").write_text(evil)
    (run_folder / "student" / "metrics.jsonl").write_text(json.dumps({"step": 1, f"loss/{evil}": 1.0}))
    case = run_folder / "cases" / "student_best_00.json"
    case.write_text(json.dumps({"stage": evil, "kind": "best", "caption": evil}))
    page = build(run_folder)
    assert "script" not in page.tags
    assert sum(evil in text for text in page.text) > 10


def test_metrics_without_numbers_and_odd_names_do_no_harm(run_folder):
    metrics = Metric("AR", "AR"), Metric("$x_{", "$x_{")
    made = [
        Evaluation(metrics, {"$x_{": 0.2}, stage="student"),
        Evaluation(stage="teacher"),
        Evaluation(stage="megapose"),
    ]
    records = [item.to_dict() for item in made]
    (run_folder / "evaluation.json").write_text(json.dumps(records))
    assert "Results" in headings(build(run_folder))


def test_a_run_of_cameras_has_sections_of_its_own(camera_folder):
    page = build(camera_folder)
    absent = ("By object or category", "Error analysis", "Best and worst cases", "Not shown")
    kept = [name for name in SECTIONS if name not in absent]
    assert headings(page) == kept
    assert page.tags.count("svg") == 2 * 3 + 3 * 2 + 3 + 1  # costs and curves, maps, losses, validation
    text = " ".join(page.text)
    for words in ("Down and to the left is better", "nearest position", "looks at the truth", "median position, m"):
        assert words in text
    assert "Scores in %" not in text and "ground-truth boxes" not in text
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.references)


def told(recipe):
    return " ".join(Checker(render_page(RunResults(Path("room"), recipe=recipe))).text)


def test_the_recipe_of_any_task_is_told(camera_folder):
    text = told((camera_folder / "recipe.yaml").read_text())
    for words in ("posedistill run room/recipe.yaml", "a median below 0.3 m", "name relate, weight 100"):
        assert words in text
    assert "scene data/room, short_side 256, crop 224, validation 0.1, gap 5" in text
    text = told("data: {train: [{models: code, count: 9}], test: {source: {models: code, seed: 1}, boxes: gt}}")
    assert "models code, count 9" in text and "models code, seed 1, boxes gt" in text
    assert "How it was obtained" in told("- no recipe") and "command" not in told("- no recipe")


def test_words_stay_whole_in_the_headline_and_are_escaped(run_folder):
    page = render_page(load_run(run_folder))
    assert 'in <span class="word">ADD(-S)</span> 0.1 d; the teacher' in page
    assert whole_words("a-<b>") == '<span class="word">a-&lt;b&gt;</span>'
