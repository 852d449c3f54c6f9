import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.metrics.evaluation import Evaluation
from posedistill.report.evaluations import Group
from posedistill.report.results import load_run
from posedistill.report.trajectory import MARGIN, color_bounds, maps


@pytest.fixture
def group(camera_folder):
    return load_run(camera_folder).main_group()


def test_teacher_student_and_distilled_are_seen_from_above_and_from_the_side(group):
    shown = maps(group)
    assert [figure.stage for figure in shown.figures] == ["teacher", "student", "distilled"]
    assert len(shown.colors) == len(shown.bounds) + 1
    for figure in shown.figures:
        assert [panel.title for panel in figure.panels] == ["from above", "from the side"] and figure.note == ""
        for panel in figure.panels:
            assert len(panel.truth) == len(panel.estimates) == 80 and len(panel.train) == 150
            assert panel.view.scale == shown.figures[0].panels[0].view.scale
            assert {color for _, _, color in panel.estimates} <= set(shown.colors)


def test_places_stand_where_they_were(group):
    """A room of 6 x 3 m: its long side lies to the right, and heights are up."""
    above, side = maps(group).figures[0].panels
    metres = np.ptp(np.array(above.truth), axis=0) / above.view.scale
    assert metres == pytest.approx([6, 3], abs=0.1)
    assert np.ptp(np.array(side.truth)[:, 1]) / side.view.scale == pytest.approx(0.2, abs=0.05)
    for panel in (above, side):
        points = np.array(panel.truth)
        assert (points > MARGIN - 1).all() and (points < np.array(panel.view.size) - MARGIN + 1).all()


def test_errors_are_told_by_colours(group):
    shown = maps(group)
    item, panel = group.of("teacher")[0], shown.figures[0].panels[0]
    worst, best = item.places.errors.argmax(), item.places.errors.argmin()
    assert panel.estimates[worst][2] == shown.colors[-1] and panel.estimates[best][2] == shown.colors[0]


def test_without_a_distilled_network_its_file_is_drawn(group):
    shown = maps(Group([item for item in group.items if item.stage in ("exported", "constant pose")]))
    assert [figure.stage for figure in shown.figures] == ["exported"]


def test_runs_without_places_show_nothing(group):
    assert maps(Group([dataclasses.replace(item, places=None) for item in group.items])) is None
    assert maps(Group()) is None


def test_poses_that_were_not_found_are_not_drawn(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"]["estimate"][3] = [None] * 3
    panel = maps(Group([Evaluation.from_dict(record)])).figures[0].panels[0]
    assert len(panel.estimates) == 79 and len(panel.truth) == 80


def test_a_figure_says_what_it_does_not_show(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"]["estimate"][0] = [1000.0, 0.0, 0.0]
    for key in ("truth", "estimate"):
        record["places"][key] = record["places"][key] * 11  # 880 images
    (figure,) = maps(Group([Evaluation.from_dict(record)])).figures
    assert figure.note == "1 image in 3, 4 farther out"
    assert np.ptp(np.array(figure.panels[0].truth)[:, 0]) > 250  # one estimate far away does not make the room a dot


def test_recordings_are_not_joined(camera_evaluation):
    record = camera_evaluation("student", 0)
    for key in ("truth", "estimate"):
        points = record["places"][key]
        record["places"][key] = points[:10] + points[40:50]
    panel = maps(Group([Evaluation.from_dict(record)])).figures[0].panels[0]
    assert [len(part) for part in panel.path] == [10, 10]


def test_standing_still_is_drawn_too(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"] = {"truth": [[1.0, 2.0, 3.0]], "estimate": [[1.0, 2.0, 3.0]]}
    assert len(maps(Group([Evaluation.from_dict(record)])).figures[0].panels) == 2


@given(st.floats(1e-3, 50), st.floats(1, 1e4))
def test_colours_change_at_few_round_numbers_that_cover_most_errors(low, ratio):
    errors = np.geomspace(low, low * ratio, 40)
    bounds = color_bounds(errors)
    assert 2 <= len(bounds) < 12 and (np.diff(bounds) > 0).all()
    assert bounds[0] <= np.percentile(errors, 5) * (1 + 1e-9) and bounds[-1] >= np.percentile(errors, 95) * (1 - 1e-9)
    assert {f"{bound:.1e}"[:3] for bound in bounds} <= {"1.0", "1.5", "2.0", "3.0", "5.0", "7.0"}
