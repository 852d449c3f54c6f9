"""The figures of single-shot papers, as their code computes them."""

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.geometry.cameras import project
from posedistill.metrics import score_estimates
from posedistill.metrics.matching import find_candidates
from posedistill.metrics.single_shot import METRICS, _box, _passed, _unclipped_angle, score_boxes, score_single_shot
from posedistill.poses import Poses

from .conftest import HALF_TURN, INFOS, MESHES, K, estimates_of, write_dataset


@pytest.fixture
def dataset(tmp_path, frames):
    return BopDataset(write_dataset(tmp_path, frames))


def moved(frames, change):
    """Estimates ``change(R, t)`` of every instance."""
    return estimates_of((im, o, 0.9, *change(R, t)) for im, poses in frames.items() for o, R, t in poses)


def test_perfect_estimates(dataset, perfect):
    found = score_single_shot(perfect, dataset)
    names = ("add_s_0.1d", "published_proj_5px", "published_add_0.1d")
    assert [found.scores[name] for name in names] == [1.0, 1.0, 1.0]
    assert [found.scores[name] for name in ("corner_px", "published_px", "published_vertex_mm")] == pytest.approx(
        [0, 0, 0], abs=1e-6
    )
    assert found.targets == 6 and set(found.outcomes) == set(METRICS)


def test_symmetries_count_for_the_strict_figures_alone(dataset, frames):
    """The bar, object 2, turned by its half turn looks as it was; published figures call it wrong."""
    turned = moved(frames, lambda R, t: (R @ HALF_TURN[:3, :3], t))
    found, strict = score_single_shot(turned, dataset), score_estimates(turned, dataset)
    of_bar = {metric.name: found.by_label(metric)["2"] for metric in found.metrics}
    assert of_bar["add_s_0.1d"] == 1 and of_bar["corner_px"] == pytest.approx(0, abs=1e-6)
    assert of_bar["published_add_0.1d"] == of_bar["published_cmdeg_5_5"] == 0
    assert strict.by_label(strict.metrics[0])["2"] == 1


def test_the_threshold_itself_still_passes(dataset, perfect):
    candidates = find_candidates(perfect, dataset)
    on_it = np.full(len(candidates.gt), 5.0)
    assert _passed(candidates, on_it, 5.0).all() and not candidates.hits(on_it, np.array([5.0])).any()
    assert not _passed(candidates, on_it + 1e-9, 5.0).any()


def test_a_rotation_next_to_the_truth_fails_the_unclipped_angle():
    R = np.eye(3)[None] * (1 + 1e-9)
    assert np.isinf(_unclipped_angle(R, np.eye(3)[None])).all()
    turn = np.array([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    assert _unclipped_angle(turn, np.eye(3)[None]) == pytest.approx(90)


def test_a_known_shift(dataset, frames):
    found = score_single_shot(moved(frames, lambda R, t: (R, t + np.array([6.0, 0, 0]))), dataset)
    np.testing.assert_allclose(found.outcomes["published_vertex_mm"], 6.0, atol=1e-6)
    assert found.scores["published_translation_mm"] == pytest.approx(6.0)
    expected = [0.1 * INFOS[int(label)]["diameter"] > 6.0 for label in found.labels]
    assert found.outcomes["published_add_0.1d"].astype(bool).tolist() == expected
    pixels = found.outcomes["published_px"]
    depths = np.array([t[2] for poses in frames.values() for _, _, t in poses])
    assert (np.abs(pixels - 300 * 6 / depths) < 0.15 * pixels).all()
    assert (np.abs(found.outcomes["corner_px"] - pixels) < 0.15 * pixels).all()


def test_a_known_turn(dataset, frames):
    """About an axis of each object; half of them three times as far."""
    turns = iter([2.0, 6.0] * 3)

    def turned(R, t):
        return R @ cv2.Rodrigues(np.array([0.0, 0.0, np.radians(next(turns))]))[0], t

    found = score_single_shot(moved(frames, turned), dataset)
    assert sorted(found.outcomes["published_angle_deg"]) == pytest.approx([2.0] * 3 + [6.0] * 3, abs=1e-4)
    assert found.scores["published_angle_deg"] == pytest.approx(4.0, abs=1e-4)
    assert found.scores["published_translation_mm"] == pytest.approx(0.0, abs=1e-9)
    assert found.scores["published_cmdeg_5_5"] == pytest.approx(0.5)


def test_what_is_missed_fails_everything_and_has_no_mean(dataset, perfect):
    found = score_single_shot(perfect.select(perfect.im_id != 7), dataset)
    assert found.scores["published_proj_5px"] == pytest.approx(2 / 3)
    assert "published_px" not in found.scores and found.scores["corner_px"] == pytest.approx(0, abs=1e-6)
    none = score_single_shot(Poses.empty(), dataset)
    assert none.scores["published_add_0.1d"] == none.scores["add_s_0.1d"] == 0


def test_both_kinds_stand_in_one_table(dataset, perfect):
    strict, published = score_estimates(perfect, dataset), score_single_shot(perfect, dataset)
    both = strict.beside(published)
    assert [metric.name for metric in both.metrics] == [m.name for m in (*strict.metrics, *published.metrics)]
    assert both.scores == strict.scores | published.scores and both.targets == 6
    assert set(both.intervals()) == {metric.name for metric in both.metrics}


def test_boxes_that_a_network_says_itself(dataset, frames):
    """Each instance has the nearest one of its object in its image; points may be where no pose puts them."""
    shift = np.array([3.0, 4.0])
    boxes = {}
    for im_id, poses in frames.items():
        for obj_id, R, t in poses:
            box = project(_box(MESHES[obj_id].vertices), R, t, K)
            boxes.setdefault((4, im_id, obj_id), []).extend([box + 100, box + shift])
    found = score_boxes(boxes, dataset)
    np.testing.assert_allclose(found.outcomes["published_corner_px"], 5.0, atol=1e-9)
    bent = {key: [box + [[90.0, 0]] * (np.arange(9) == 4)[:, None] for box in own[1:]] for key, own in boxes.items()}
    assert score_boxes(bent, dataset).scores["published_corner_px"] > 10
    del boxes[next(iter(boxes))]
    assert np.isinf(score_boxes(boxes, dataset).outcomes["published_corner_px"]).sum() == 1
