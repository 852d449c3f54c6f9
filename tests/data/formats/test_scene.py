import numpy as np
import pytest

from posedistill.data.formats.scene import CameraDataset, hold_out_every
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


def test_every_eighth_is_for_testing():
    train, test = hold_out_every(20, "train", 8), hold_out_every(20, "test", 8)
    assert test.tolist() == [0, 8, 16]
    assert sorted([*train, *test]) == list(range(20))
