import re
import xml.etree.ElementTree as ET

import numpy as np

from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report import plots
from posedistill.report.evaluations import Group
from posedistill.report.results import load_run

ADD = Metric("add_0.1d", "ADD(-S) 0.1 d")
POSITION = Metric("position_m", "median position", "m", "median", "lower")
ORIENTATION = Metric("orientation_deg", "median orientation", "deg", "median", "lower")


def texts(svg: str) -> str:
    return " ".join(
        "".join(element.itertext()) for element in ET.fromstring(svg).iter() if element.tag.endswith("text")
    )


def test_accuracy_over_size_names_axes_units_and_variants(run_folder):
    group = load_run(run_folder).main_group()
    svg = plots.accuracy_over_cost(group, ADD, {"teacher": 208.0, "student": 8.4, "distilled": 8.4}, "model size, MB")
    assert "model size, MB" in texts(svg) and "ADD(-S) 0.1 d, %" in texts(svg)
    for variant in ("teacher", "student", "distilled"):
        assert f"var(--{variant})" in svg and variant in texts(svg)


def test_a_plot_of_one_point_is_no_plot(run_folder):
    group = load_run(run_folder).main_group()
    assert plots.accuracy_over_cost(group, ADD, {"teacher": 208.0, "student": 0.0}, "size") is None
    assert plots.accuracy_over_cost(Group(), ADD, {}, "size") is None


def test_figures_follow_the_theme_and_scale(run_folder):
    svg = plots.error_curves(load_run(run_folder).main_group(), ADD)
    root = ET.fromstring(svg)
    assert "viewBox" in root.attrib and "width" not in root.attrib and "height" not in root.attrib
    assert "var(--ink)" in svg and "var(--grid)" in svg
    assert not re.search(r"#01020[36]|#0a0b", svg) and "DejaVu" not in svg and 'href="http' not in svg


def test_recall_curves_want_a_curve():
    assert plots.error_curves(Group([Evaluation(stage="student")]), ADD) is None


def test_every_logged_quantity_gets_a_panel(run_folder):
    histories = load_run(run_folder).histories
    panels = plots.history_panels(histories, "loss")
    assert len(panels) == 4 and "loss/align" in texts(panels[-1])
    assert len(plots.history_panels(histories, "val/")) == 1
    assert plots.history_panels({}, "loss") == []


def test_long_logs_are_thinned_without_moving_their_mean():
    steps, values = plots.thinned({step: float(step % 2) for step in range(24_000)})
    assert len(steps) == 240 and np.allclose(values, 0.5) and steps[0] < 100


def test_the_mean_of_seeds_ends_where_the_shortest_seed_ends():
    long, short = (np.arange(10.0), np.ones(10)), (np.arange(5.0), np.full(5, 3.0))
    steps, mean = plots.mean_curve([long, short])
    assert steps[-1] == 4 and np.allclose(mean, 2)


def test_ids_of_two_figures_do_not_meet(run_folder):
    run = load_run(run_folder)
    figures = [plots.error_curves(run.main_group(), ADD), *plots.history_panels(run.histories, "loss")]
    clips = [set(re.findall(r'clipPath id="([^"]+)"', svg)) for svg in figures]
    assert all(clips) and len(set.union(*clips)) == sum(map(len, clips))


def test_errors_stand_on_a_logarithmic_axis_beside_the_naive_baselines(camera_folder):
    group = load_run(camera_folder).main_group()
    svg = plots.accuracy_over_cost(group, ORIENTATION, {"teacher": 208.0, "student": 8.4}, "model size, MB")
    shown = texts(svg)
    assert "median orientation, °" in shown and "%" not in shown
    for name in ("constant pose", "nearest image", "nearest position"):
        assert shown.count(name) == 1
    ticks = [float(text) for text in re.findall(r"(?<![\d.])(1|2|5|10|20|50|100)(?![\d.])", shown)]
    assert {2.0, 5.0, 20.0, 50.0} <= set(ticks)


def test_error_curves_tell_units_and_all_who_were_measured(camera_folder):
    group = load_run(camera_folder).main_group()
    svg = plots.error_curves(group, POSITION)
    assert "position error, m" in texts(svg) and "targets within it, %" in texts(svg)
    assert all(name in texts(svg) for name in ("teacher", "student", "distilled", "constant pose"))
    assert plots.error_curves(Group([Evaluation(stage="student")]), POSITION) is None


def test_curves_of_networks_fill_the_figure_however_far_off_the_naive_baselines_are(camera_folder):
    group = load_run(camera_folder).main_group()
    networks = Group([item for item in group.items if item.stage not in group.baselines])
    ticks = [re.findall(r"\d\.\d+", texts(plots.error_curves(chosen, POSITION))) for chosen in (group, networks)]
    assert ticks[0] == ticks[1] != []


def test_no_axis_of_shares_goes_below_zero():
    found = [("teacher", 0, 0.9), ("student", 0, 0.0), ("student", 1, 0.04)]
    group = Group([Evaluation((ADD,), {"add_0.1d": score}, stage=stage, seed=seed) for stage, seed, score in found])
    svg = plots.accuracy_over_cost(group, ADD, {"teacher": 208.0, "student": 8.4}, "model size, MB")
    panel = plots.history_panel("val/score", {"student": [{0: 0.0, 10: 0.5, 20: 0.9}]})
    for shown in (svg, panel):
        assert shown is not None and "\N{MINUS SIGN}" not in texts(shown) and " 0" in texts(shown)


def test_a_curve_of_few_points_shows_them():
    many = plots.history_panel("loss", {"student": [{step: 1.0 + step for step in range(100)}]})
    few = plots.history_panel("loss", {"student": [{0: 2.0, 10: 1.0}]})
    assert "<use" in few and "<use" not in many


def test_two_points_are_no_curve():
    two, three = (
        plots.history_panel("loss", {"student": [dict.fromkeys(steps, 1.0)]}) for steps in ((0, 9), (0, 5, 9))
    )
    line = "fill: none; stroke: var(--student)"
    assert "<use" in two and line not in two and line in three
