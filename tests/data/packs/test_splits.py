import numpy as np
import pytest
from tests.data.loading.made_packs import make_objects, make_pack

from posedistill.data.packs.splits import hold_out_blocks, hold_out_frames
from posedistill.errors import DataError


def test_split_holds_whole_frames_back():
    packs = [make_pack(make_objects(), 1, frames=20), make_pack(make_objects(), 2, frames=3)]
    train, validation = hold_out_frames(packs, 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(46))
    frames = np.concatenate([packs[0].instances.frame, 20 + packs[1].instances.frame])
    assert not set(frames[train]) & set(frames[validation])
    assert len(set(frames[validation])) == 5
    again, other = hold_out_frames(packs, 0.2, seed=1)[1], hold_out_frames(packs, 0.2, seed=2)[1]
    assert np.array_equal(validation, again) and not np.array_equal(validation, other)
    assert len(hold_out_frames(packs, 0.0, seed=1)[1]) == 0


def test_blocks_are_runs_with_a_gap_to_what_is_trained_on():
    sequences = ["a"] * 100 + ["b"] * 60
    held = hold_out_blocks(sequences, share=0.2, seed=1, blocks=2, gap=4)
    assert len(held.validation) == 20 + 12
    runs = np.split(held.validation, np.flatnonzero(np.diff(held.validation) > 1) + 1)
    assert [len(run) for run in runs] == [10, 10, 6, 6]
    for run in runs:
        same = [row for row in held.train if sequences[row] == sequences[run[0]]]
        assert np.abs(np.subtract.outer(same, run)).min() > 4
    again = hold_out_blocks(sequences, share=0.2, seed=1, blocks=2, gap=4)
    np.testing.assert_array_equal(held.validation, again.validation)
    other = hold_out_blocks(sequences, share=0.2, seed=2, blocks=2, gap=4)
    assert held.validation.tolist() != other.validation.tolist()


def test_interleaved_sequences_keep_their_own_blocks():
    held = hold_out_blocks(["a", "b"] * 50, share=0.2, seed=0, blocks=1, gap=0)
    for parity in (0, 1):
        rows = held.validation[held.validation % 2 == parity]
        assert len(rows) == 10
        assert set(np.diff(rows)) == {2}


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(DataError, match="all 8 frames within 5 frames"):
        hold_out_blocks(["a"] * 8, share=0.5, seed=0)


def test_short_sequences_give_what_they_can():
    held = hold_out_blocks(["a"] * 3 + ["b"] * 40, share=0.1, seed=0, blocks=3, gap=0)
    assert len(held.validation) == 4
    assert sorted([*held.train, *held.validation]) == list(range(43))
