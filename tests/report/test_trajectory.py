import dataclasses
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.geometry.rotations import random_rotations
from posedistill.report.results import evaluation_of, load_run
from posedistill.report.trajectory import color_bounds, map_axes, render_places


def figures(markup: str) -> dict[str, str]:
    """Title to SVG."""
    return {
        next(element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("title")): svg
        for svg in re.findall(r"<svg.*?</svg>", markup, flags=re.DOTALL)
    }


@pytest.fixture
def group(camera_folder):
    return load_run(camera_folder).main_group()


def test_teacher_student_and_distilled_are_seen_from_above_and_in_space(group):
    shown = figures(render_places(group))
    assert list(shown) == [
        f"{name}, {view}" for name in ("teacher", "student", "distilled") for view in ("from above", "in space")
    ]
    for svg in shown.values():
        text = " ".join("".join(element.itertext()) for element in ET.fromstring(svg).iter())
        assert "error, m" in text and "var(--ink)" in svg and not re.search("#0[14]0[25]0[36]|#0a0b", svg)


def test_without_a_distilled_network_its_file_is_drawn(group):
    shown = figures(render_places([item for item in group if item.variant in ("exported", "constant pose")]))
    assert list(shown) == ["exported, from above", "exported, in space"]


def test_runs_without_places_show_nothing(group):
    assert render_places([dataclasses.replace(item, places=None) for item in group]) == ""
    assert render_places([]) == ""


def test_the_first_seed_is_drawn_and_poses_that_were_not_found_are_not(group, camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"]["estimate"][3] = [None] * 3
    every, fewer = camera_evaluation("student", 0), record
    dots = [
        next(iter(figures(render_places([evaluation_of(item), group[3]])).values())).count("<use")
        for item in (every, fewer)
    ]
    assert dots[0] - dots[1] == 1


def test_a_figure_says_what_it_does_not_show(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"]["estimate"][0] = [1000.0, 0.0, 0.0]
    for key in ("truth", "estimate"):
        record["places"][key] = record["places"][key] * 11  # 880 images
    shown = figures(render_places([evaluation_of(record)]))
    assert next(iter(shown)) == "student, from above (1 image in 3, 4 farther out)"
    ticks = " ".join("".join(element.itertext()) for element in ET.fromstring(next(iter(shown.values()))).iter())
    assert "100" not in ticks  # one estimate far away does not make the room a dot


def test_standing_still_is_drawn_too(camera_evaluation):
    record = camera_evaluation("student", 0)
    record["places"] = {"truth": [[1.0, 2.0, 3.0]], "estimate": [[1.0, 2.0, 3.0]]}
    assert len(figures(render_places([evaluation_of(record)]))) == 2


@given(st.integers(0, 1000), st.booleans())
def test_map_axes_are_a_right_handed_frame_that_turns_with_the_world(seed, known):
    rng = np.random.default_rng(seed)
    stands = rng.normal(size=(30, 3)) * [5.0, 2.0, 0.3] + rng.normal(size=3)
    up = np.array([0.0, 0.0, 2.0]) if known else None
    R = random_rotations(1, rng)[0]
    axes, turned = map_axes(stands, up), map_axes(stands @ R.T, None if up is None else R @ up)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    np.testing.assert_allclose(np.abs(turned @ R @ axes.T), np.eye(3), atol=1e-6)
    spread = ((stands - stands.mean(axis=0)) @ axes.T).std(axis=0)
    assert spread[0] >= spread[1] - 1e-9
    if known:
        np.testing.assert_allclose(axes[2], [0, 0, 1], atol=1e-12)


@given(st.floats(1e-3, 50), st.floats(1, 1e4))
def test_colours_change_at_few_round_numbers_that_cover_most_errors(low, ratio):
    errors = np.geomspace(low, low * ratio, 40)
    bounds = color_bounds(errors)
    assert 2 <= len(bounds) < 12 and (np.diff(bounds) > 0).all()
    assert bounds[0] <= np.percentile(errors, 5) * (1 + 1e-9) and bounds[-1] >= np.percentile(errors, 95) * (1 - 1e-9)
    assert {f"{bound:.1e}"[:3] for bound in bounds} <= {"1.0", "1.5", "2.0", "3.0", "5.0", "7.0"}
