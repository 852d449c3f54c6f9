import numpy as np
import pytest

from posedistill.data.formats.scene import CameraDataset, hold_out_blocks, hold_out_every
from posedistill.data.formats.seven_scenes import read_seven_scenes
from posedistill.errors import DataError


def test_a_table_of_frames(seven_scenes_root, recordings):
    dataset = read_seven_scenes(seven_scenes_root)
    assert len(dataset) == 12
    np.testing.assert_allclose(dataset.R[6:], recordings[1].R, atol=1e-9)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", dataset.R, dataset.centers), -dataset.t, atol=1e-12)
    part = dataset.take(np.array([1, 7]))
    assert part.sequences == ("seq-01", "seq-02")
    assert [frame.image for frame in part] == [dataset.frames[1].image, dataset.frames[7].image]


def test_no_frame_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"split train.*no usable frame"):
        CameraDataset(tmp_path, "train", ())


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


def test_every_eighth_is_for_testing():
    train, test = hold_out_every(20, "train", 8), hold_out_every(20, "test", 8)
    assert test.tolist() == [0, 8, 16]
    assert sorted([*train, *test]) == list(range(20))
