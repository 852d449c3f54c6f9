import subprocess
import sys

import numpy as np
import pytest

from posedistill.decode import DECODERS, WDRNetDecoder
from posedistill.decode.cells import CellLayout
from posedistill.decode.wdrnet import WDRNetDecoding, decode, select_cells
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import box_corners

SIZE = 256
LAYOUT = CellLayout.build((8, 16, 32, 64), SIZE)
KEYPOINTS = box_corners(np.array([-40.0, -30.0, -50.0]), np.array([40.0, 30.0, 50.0]))
K = np.array([[1100.0, 0.0, 120.0], [0.0, 1100.0, 131.0], [0.0, 0.0, 1.0]])
ANGLE = 0.6
R = np.array([[np.cos(ANGLE), 0, np.sin(ANGLE)], [0, 1, 0], [-np.sin(ANGLE), 0, np.cos(ANGLE)]])
T = np.array([5.0, -8.0, 700.0])


def votes_of_all_cells(noise: float = 0.0) -> Array:
    corners = project(KEYPOINTS, R, T, K)
    rng = np.random.default_rng(0)
    return corners + rng.normal(scale=noise, size=(len(LAYOUT), 8, 2)) if noise else np.tile(corners, (1360, 1, 1))


def logits_with(level_scores: tuple[float, ...]) -> Array:
    """All cells of a level alike but for a small slope that makes the first cells the best."""
    scores = np.array(level_scores)[LAYOUT.level] - 1e-5 * np.arange(len(LAYOUT))
    return np.log(scores / (1 - scores))


def angle_deg(a: Array, b: Array) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1))))


def test_exact_votes_give_the_exact_pose() -> None:
    pose = decode(logits_with((0.5, 0.6, 0.7, 0.8)), votes_of_all_cells(), LAYOUT, K, KEYPOINTS)
    assert pose is not None
    assert angle_deg(pose.R, R) < 1e-3
    np.testing.assert_allclose(pose.t, T, atol=1e-3)
    assert pose.score == pytest.approx(0.787, abs=2e-3)  # 0.8 less the slope of the first stride-64 cell


def test_noisy_and_wild_votes_give_a_near_pose_with_fewer_inliers() -> None:
    votes = votes_of_all_cells(noise=1.5)
    # Cells chosen in level order: spoil four of the ten.
    logits = logits_with((0.5, 0.6, 0.7, 0.8))
    chosen = select_cells(1 / (1 + np.exp(-logits)), votes, LAYOUT)
    votes[chosen[:4]] += 60.0
    pose = decode(logits, votes, LAYOUT, K, KEYPOINTS)
    assert pose is not None
    assert angle_deg(pose.R, R) < 3
    assert np.linalg.norm(pose.t - T) < 15
    assert 0.3 < pose.score < 0.6


def test_noise_of_a_small_network_is_no_outlier() -> None:
    """Votes 4 px off, as a small network's are: the published 5 px leave PnP with those that happen to agree."""
    logits, rng = logits_with((0.5, 0.6, 0.7, 0.8)), np.random.default_rng(0)
    spread = {}
    for threshold in (0.02, WDRNetDecoding().threshold):
        found = [
            decode(
                logits,
                project(KEYPOINTS, R, T, K) + rng.normal(scale=4.0, size=(len(LAYOUT), 8, 2)),
                LAYOUT,
                K,
                KEYPOINTS,
                WDRNetDecoding(threshold=threshold),
            )
            for _ in range(60)
        ]
        spread[threshold] = np.std([np.log(pose.t[2] / T[2]) for pose in found if pose is not None])
    assert spread[0.05] < 0.8 * spread[0.02]


def test_selection_follows_the_budget_of_the_object_s_size() -> None:
    votes = np.zeros((len(LAYOUT), 8, 2))
    votes[:, 0] = (171.0, 40.0)
    scores = np.array((0.9, 0.5, 0.4, 0.3))[LAYOUT.level] - 1e-5 * np.arange(len(LAYOUT))
    chosen = select_cells(scores, votes, LAYOUT)
    assert np.bincount(LAYOUT.level[chosen], minlength=4).tolist() == [0, 1, 5, 4]
    assert chosen.tolist() == [1024, *range(1280, 1285), *range(1344, 1348)]
    more = select_cells(scores, votes, LAYOUT, WDRNetDecoding(cells=20))
    assert len(more) == 20
    faithful = select_cells(scores, np.where(votes == 171, 228, votes), LAYOUT, WDRNetDecoding(faithful=True))
    assert np.bincount(LAYOUT.level[faithful], minlength=4).tolist() == [0, 0, 3, 6]  # the fifth level's cell is lost


def test_size_is_read_off_the_most_confident_cell() -> None:
    votes = np.zeros((len(LAYOUT), 8, 2))
    votes[:, 0] = (32.0, 32.0)
    scores = np.full(len(LAYOUT), 0.5)
    scores[1350] = 0.9
    votes[1350, 0] = (256.0, 10.0)
    assert np.bincount(LAYOUT.level[select_cells(scores, votes, LAYOUT)], minlength=4).tolist() == [0, 0, 3, 7]


def test_only_cells_above_the_threshold_vote() -> None:
    votes = votes_of_all_cells()
    scores = np.full(len(LAYOUT), 0.05)
    scores[[1344, 1350]] = 0.3, 0.2
    assert select_cells(scores, votes, LAYOUT).tolist() == [1344, 1350]


def test_an_object_nobody_is_sure_of_gets_a_pose_with_a_low_score_or_none() -> None:
    logits, votes = logits_with((0.02, 0.02, 0.03, 0.05)), votes_of_all_cells()
    pose = decode(logits, votes, LAYOUT, K, KEYPOINTS)
    assert pose is not None
    assert pose.score < 0.1
    assert decode(logits, votes, LAYOUT, K, KEYPOINTS, WDRNetDecoding(always_answer=False)) is None


def test_votes_that_make_no_object_give_none_or_a_pose_of_little_support() -> None:
    votes = np.random.default_rng(1).uniform(0, SIZE, (len(LAYOUT), 8, 2))
    pose = decode(logits_with((0.5, 0.6, 0.7, 0.8)), votes, LAYOUT, K, KEYPOINTS)
    assert pose is None or pose.score < 0.25
    assert decode(logits_with((0.5, 0.6, 0.7, 0.8)), np.full_like(votes, np.nan), LAYOUT, K, KEYPOINTS) is None


def test_decoding_is_repeatable() -> None:
    logits, votes = logits_with((0.5, 0.6, 0.7, 0.8)), votes_of_all_cells(noise=4.0)
    poses = [decode(logits, votes, LAYOUT, K, KEYPOINTS) for _ in range(2)]
    assert poses[0] is not None
    assert poses[1] is not None
    assert (poses[0].R == poses[1].R).all()
    assert poses[0].score == poses[1].score


def test_decoders_by_family() -> None:
    assert DECODERS["wdrnet"] is WDRNetDecoder
    assert all(decoder.family == name for name, decoder in DECODERS.items())


def test_decoders_import_no_torch() -> None:
    code = "import sys, posedistill.decode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
