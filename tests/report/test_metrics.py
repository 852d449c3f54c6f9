import numpy as np
import pytest

from posedistill.report.metrics import HEADLINE_METRICS, Metric, describe_units


def test_every_metric_of_cameras_is_known_and_in_the_order_of_the_page(camera_evaluation):
    names = list(camera_evaluation("student", 0)["scores"])
    assert [name for name in HEADLINE_METRICS if name in names] == names
    headings = [Metric(name).heading for name in names]
    assert headings[:3] == ["median position, m", "median orientation, °", "within 0.05 m, 5°"]
    assert headings[-1] == "within 5 m, 10°"
    assert [Metric(name).lower_is_better for name in names] == [True, True] + [False] * 4
    assert {Metric(name).statistic for name in names[:2]} == {"median"} and Metric(names[2]).statistic == "mean"


def test_metrics_of_objects_are_shares():
    for name in HEADLINE_METRICS[:4]:
        metric = Metric(name)
        assert (metric.unit, metric.change_unit, metric.statistic, metric.lower_is_better) == (
            "%",
            "points",
            "mean",
            False,
        )
        assert metric.quantity(0.5) == "50.0 %" and metric.heading == metric.label and metric.gain(0.1) == 0.1


def test_numbers_that_are_none_are_dashes():
    for value in (np.nan, np.inf):
        assert Metric("position_m").text(value) == "–" and Metric("AR").change(value) == "–"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["AR", "add_0.1d"], "Scores in %"),
        (["position_m", "orientation_deg"], "Medians of errors in m and °, lower is better"),
        (["orientation_deg", "AR"], "Medians of errors in °, lower is better; shares of images in %"),
    ],
)
def test_units_in_words(names, words):
    assert describe_units([Metric(name) for name in names]) == words
