import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
from posedistill.metrics import matching
from posedistill.metrics.matching import find_candidates, unused_rows
from posedistill.poses import Poses

from .conftest import estimates_of, write_dataset

EYE = np.eye(3)


def row_of_blocks(count, im_id=3):
    """``count`` blocks 100 mm apart: image id -> poses."""
    return {im_id: [(1, EYE, np.array([100.0 * i, 0.0, 600.0])) for i in range(count)]}


def match(estimates, dataset, thresholds=(np.inf,)):
    """Match by the distance of the origins."""
    candidates = find_candidates(estimates, dataset)
    errors = np.linalg.norm(estimates.t[candidates.est] - candidates.truths.t[candidates.gt], axis=1)
    return candidates, candidates.match(errors, np.broadcast_to(thresholds, (len(errors), len(thresholds))))


def test_the_surest_estimate_chooses_first(tmp_path):
    dataset = BopDataset(write_dataset(tmp_path, row_of_blocks(2)))
    # Both are nearest to the first block; the surer one, though further off, takes it.
    estimates = estimates_of([(3, 1, 0.5, EYE, [5.0, 0, 600]), (3, 1, 0.9, EYE, [20.0, 0, 600])])
    _, matched = match(estimates, dataset, (50.0, 96.0, 95.0))
    np.testing.assert_array_equal(matched, [[1, 1, 1], [-1, 0, -1]])  # 95 is not under 95


def test_only_as_many_estimates_as_targets(tmp_path):
    dataset = BopDataset(write_dataset(tmp_path, row_of_blocks(2)))
    rows = [(3, 1, 0.1, EYE, [0.0, 0, 600]), (3, 1, 0.3, EYE, [900.0, 0, 600]), (3, 1, 0.2, EYE, [990.0, 0, 600])]
    candidates, matched = match(estimates_of(rows), dataset, (50.0,))
    assert sorted(candidates.est_rows[0].tolist()) == [1, 2]  # the right one was the least sure
    np.testing.assert_array_equal(matched, [[-1], [-1]])


def test_equal_scores_keep_the_order_of_the_file(tmp_path):
    dataset = BopDataset(write_dataset(tmp_path, row_of_blocks(1)))
    rows = [(3, 1, 0.5, EYE, [30.0, 0, 600]), (3, 1, 0.5, EYE, [0.0, 0, 600])]
    candidates, _ = match(estimates_of(rows), dataset)
    assert candidates.est_rows.tolist() == [[0]]


def test_hardly_visible_instances_are_no_targets(tmp_path):
    root = write_dataset(tmp_path, row_of_blocks(3), visib={(3, 0): 0.05, (3, 2): 0.1})
    for targets_file in (True, False):
        if not targets_file:
            (root / "test_targets_bop19.json").unlink()
        candidates = find_candidates(Poses.empty(), BopDataset(root))
        np.testing.assert_array_equal(np.sort(candidates.truths.t[:, 0]), [100.0, 200.0])


def test_the_target_file_s_count_decides_and_the_most_visible_are_taken(tmp_path):
    root = write_dataset(tmp_path, row_of_blocks(3), visib={(3, 0): 0.05, (3, 1): 0.08, (3, 2): 0.02})
    target = {"scene_id": 4, "im_id": 3, "obj_id": 1, "inst_count": 2}
    (root / "test_targets_bop19.json").write_text(json.dumps([target]))
    candidates = find_candidates(Poses.empty(), BopDataset(root))
    np.testing.assert_array_equal(candidates.truths.t[:, 0], [100.0, 0.0])


def test_more_targets_than_instances_are_a_fault(tmp_path):
    root = write_dataset(tmp_path, row_of_blocks(1))
    target = {"scene_id": 4, "im_id": 3, "obj_id": 1, "inst_count": 2}
    (root / "test_targets_bop19.json").write_text(json.dumps([target]))
    with pytest.raises(DataError, match=r"scene_gt\.json: '3': found 1 instances, expected 2 of object 1"):
        find_candidates(Poses.empty(), BopDataset(root))


def test_no_target_is_a_fault(tmp_path):
    root = write_dataset(tmp_path, row_of_blocks(1))
    (root / "test_targets_bop19.json").write_text("[]")
    with pytest.raises(DataError, match="'targets': found none"):
        find_candidates(Poses.empty(), BopDataset(root))


def test_targets_of_no_instance_and_repeated_ones_do_not_count(tmp_path):
    root = write_dataset(tmp_path, row_of_blocks(2) | {7: [(1, EYE, np.array([0.0, 0, 600]))]})
    path, target = root / "test_targets_bop19.json", {"scene_id": 4, "im_id": 3, "obj_id": 1, "inst_count": 2}
    path.write_text(json.dumps([target, {**target, "im_id": 7, "inst_count": 0}, target]))
    candidates = find_candidates(Poses.empty(), BopDataset(root))
    assert candidates.truths.im_id.tolist() == [3, 3]
    path.write_text(json.dumps([{**target, "inst_count": 0}]))
    with pytest.raises(DataError, match="'targets': found none"):
        find_candidates(Poses.empty(), BopDataset(root))
    path.write_text(json.dumps([target, {**target, "inst_count": 1}]))
    with pytest.raises(DataError, match=r"inst_count=2.* and .*inst_count=1.*expected each object of an image once"):
        find_candidates(Poses.empty(), BopDataset(root))


def test_large_grids_are_matched_in_parts(tmp_path, monkeypatch):
    dataset = BopDataset(write_dataset(tmp_path, row_of_blocks(3)))
    estimates = estimates_of([(3, 1, 0.1 * i, EYE, [90.0 * i, 0, 600]) for i in range(3)])
    thresholds = tuple(np.linspace(0, 120, 25))
    _, whole = match(estimates, dataset, thresholds)
    monkeypatch.setattr(matching, "_GRID", 20)
    _, parts = match(estimates, dataset, thresholds)
    np.testing.assert_array_equal(parts, whole)


def test_a_list_of_frames_restricts_the_targets(tmp_path, frames):
    root = write_dataset(tmp_path / "data", frames)
    (tmp_path / "list.txt").write_text("000007\n")
    candidates = find_candidates(Poses.empty(), BopDataset(root, frames=tmp_path / "list.txt"))
    assert candidates.truths.im_id.tolist() == [7, 7]
    assert [frame.im_id for frame in candidates.truths.frames] == [7]


def anywhere(rng):
    return rng.uniform([-200, -200, 600], [200, 200, 1000])


def greedy(errors, threshold):
    """The definition, one estimate after the other: errors [E, H] -> estimate of each truth."""
    owner = np.full(errors.shape[1], -1)
    for estimate, row in enumerate(errors):
        free = [truth for truth in range(len(row)) if owner[truth] < 0 and row[truth] < threshold]
        if free:
            owner[min(free, key=lambda truth: row[truth])] = estimate
    return owner


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_matching_is_the_greedy_definition(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    counts = {im_id: int(rng.integers(1, 5)) for im_id in (3, 5, 9)}
    truth = {im_id: [(1, EYE, anywhere(rng)) for _ in range(n)] for im_id, n in counts.items()}
    dataset = BopDataset(write_dataset(tmp_path_factory.mktemp("bop"), truth, depth=False))
    rows = [(int(i), 1, rng.uniform(), EYE, anywhere(rng)) for i in rng.choice([3, 5, 9], 9)]
    estimates = estimates_of(rows)
    thresholds = (50.0, 150.0, np.inf)
    candidates, matched = match(estimates, dataset, thresholds)
    for im_id, count in counts.items():
        mine = np.flatnonzero(estimates.im_id == im_id)
        mine = mine[np.argsort(-estimates.score[mine])][:count]
        slots = np.flatnonzero(candidates.truths.im_id == im_id)
        for column, threshold in enumerate(thresholds):
            errors = np.linalg.norm(estimates.t[mine][:, None] - candidates.truths.t[slots], axis=-1)
            owner = greedy(errors.reshape(len(mine), len(slots)), threshold)
            expected = [mine[o] if o >= 0 else -1 for o in owner]
            assert matched[slots, column].tolist() == expected


def test_rows_that_cannot_count_are_named_with_their_lines(tmp_path, frames):
    dataset = BopDataset(write_dataset(tmp_path, frames))
    (_, R, t), *_ = frames[3]
    rows = [(3, 1, 0.9, R, t), (3, 77, 0.9, R, t), (4, 1, 0.9, R, t), (3, 1, 0.9, R, -t), (5, 78, 0.1, R, t)]
    messages = unused_rows(estimates_of(rows), dataset, "mine.csv")
    assert messages == [
        "mine.csv: 'obj_id': found unknown objects in 2 rows (lines 3, 6), expected some of [1, 2]",
        "mine.csv: 'im_id': found images without targets in 1 rows (lines 4), expected target images",
        "mine.csv: 't': found objects behind the camera in 1 rows (lines 5), expected t_z > 0",
    ]
    many = estimates_of([(4, 1, 0.9, R, t)] * 30)
    assert "in 30 rows (lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)" in unused_rows(many, dataset, "mine.csv")[0]
    assert unused_rows(Poses.empty(), dataset, "mine.csv") == []
