from dataclasses import replace

import numpy as np
import pytest

from posedistill.geometry.viewpoint import viewpoint_rotation
from posedistill.metrics.evaluation import Evaluation, Turns
from posedistill.metrics.viewpoint import score_viewpoints
from posedistill.poses import Poses
from posedistill.report.evaluations import Group
from posedistill.report.viewpoint.figures import figures, sector_medians


def evaluation(stage="teacher", seed=0, maps=True, categories=("car", "bus")) -> Evaluation:
    """Forty targets, every fourth of which is taken for its opposite."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform([0, -10, -5], [360, 30, 5], (40, 3))
    found = truth + np.array([180.0, 0, 0]) * (np.arange(40) % 4 == 0)[:, None]
    poses = Poses.of_cameras(viewpoint_rotation(found))
    made = score_viewpoints(poses, viewpoint_rotation(truth), np.repeat(categories, 40 // len(categories)).tolist())
    assert made.turns is not None
    rows = np.arange(0.0, 40.0, 2.0)
    known = {"pca": rng.normal(size=(20, 2)), "tsne": rng.normal(size=(20, 2)), "rows": rows} if maps else {}
    return replace(made, stage=stage, seed=seed, turns=replace(made.turns, **known))


def test_what_is_drawn():
    group = Group(
        [evaluation(), evaluation("distilled"), evaluation("distilled", 1), evaluation("exported", maps=False)]
    )
    drawn = [str(svg) for svg in figures(group)]
    assert len(drawn) == 1 + 2 + 2 * 4  # errors; azimuths of two models; two maps each, by azimuth and by category
    assert all(svg.startswith("<svg") and "<title>" in svg for svg in drawn)
    assert sum("25.0 % opposite" in svg for svg in drawn) == 2
    assert any("teacher: t-SNE by category" in svg and "bus" in svg for svg in drawn)
    one = [str(svg) for svg in figures(Group([evaluation(categories=("car",))]))]
    assert not any("by category" in svg for svg in one) and len(one) == 4


def test_half_a_turn_of_a_symmetric_thing_is_not_opposite():
    truth = viewpoint_rotation(np.random.default_rng(0).uniform([0, -10, -5], [360, 30, 5], (8, 3)))
    turned = Poses.of_cameras(truth @ np.diag([-1.0, -1.0, 1.0]))
    for order, share in ((1, "100.0 %"), (2, "0.0 %")):
        made = replace(score_viewpoints(turned, truth, ["table"] * 8, np.full(8, order)), stage="teacher")
        assert any(f"teacher: {share} opposite" in str(svg) for svg in figures(Group([made])))


def test_nothing_to_draw():
    assert figures(Group([])) == [] and figures(Group([Evaluation(stage="teacher")])) == []


def test_turns_survive_the_file():
    made = evaluation()
    again = Evaluation.from_dict(made.to_dict())
    assert again.turns is not None and made.turns is not None
    for name, values in vars(made.turns).items():
        np.testing.assert_allclose(getattr(again.turns, name), values, atol=1e-3)
    missing = replace(made, turns=replace(made.turns, estimate=np.full((40, 3), np.nan)))
    assert np.isnan(Evaluation.from_dict(missing.to_dict()).turns.estimate).all()
    assert Evaluation.from_dict(Evaluation(stage="a").to_dict()).turns is None
    with pytest.raises(ValueError, match=r"turns of shapes"):
        Turns(np.zeros((3, 3)), np.zeros((2, 3)))


def test_medians_of_sectors():
    azimuth, errors = np.repeat([10.0, 200.0, 300.0], [3, 5, 2]), np.arange(10.0)
    middles, medians = sector_medians(azimuth, errors)
    assert middles.tolist() == [15.0, 195.0] and medians.tolist() == [1.0, 5.0]
