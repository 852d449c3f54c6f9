"""The table of camera poses: round trip, and files that are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.camera_poses import COLUMNS, CameraEstimates
from posedistill.errors import DataError
from posedistill.geometry.rotations import random_rotations


def table(count: int, seed: int = 0) -> CameraEstimates:
    rng = np.random.default_rng(seed)
    names = tuple(f"seq-01/a, {row}.png" for row in range(count))
    return CameraEstimates(names, random_rotations(count, rng), rng.normal(size=(count, 3)), rng.uniform(size=count))


@given(seed=st.integers(0, 10_000))
def test_round_trip(tmp_path_factory, seed: int) -> None:
    path, given_table = tmp_path_factory.mktemp("csv") / "poses.csv", table(5, seed)
    given_table.to_csv(path)
    read = CameraEstimates.from_csv(path)
    assert read.names == given_table.names and len(read) == 5
    np.testing.assert_allclose(read.R, given_table.R, atol=1e-7)
    np.testing.assert_allclose(read.t, given_table.t, atol=1e-7)
    np.testing.assert_allclose(read.centers, given_table.centers, atol=1e-7)
    np.testing.assert_allclose(read.seconds, given_table.seconds, rtol=1e-8)


def test_half_turns_survive(tmp_path) -> None:
    turns = np.array([np.diag(signs) for signs in ([1.0, -1, -1], [-1, 1, -1], [-1, -1, 1])])
    CameraEstimates(("a", "b", "c"), turns, np.zeros((3, 3)), np.zeros(3)).to_csv(tmp_path / "poses.csv")
    np.testing.assert_allclose(CameraEstimates.from_csv(tmp_path / "poses.csv").R, turns, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'columns': found none, expected name,x,y,z"),
        ("scene_id,im_id\n", "'columns': found scene_id,im_id, expected name"),
        (",".join(COLUMNS) + "\na.png,1,2,3,1,0,0,0,0.1\nb.png,1,2,here,1,0,0,0,0\n", "'line 3': found b.png,1,2,here"),
        (",".join(COLUMNS) + "\na.png,1,2\n", "'line 2': found a.png,1,2, expected a name and 8 numbers"),
        (",".join(COLUMNS) + "\na.png,1.0\n", "'line 2': found a.png,1.0, expected a name and 8 numbers"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "poses.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        CameraEstimates.from_csv(path)


def test_a_missing_file_is_told(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: 'csv'"):
        CameraEstimates.from_csv(tmp_path / "none.csv")


def test_a_photograph_without_a_pose_stays_without(tmp_path) -> None:
    lost = table(3)
    lost.R[1], lost.t[1] = np.nan, np.nan
    lost.to_csv(tmp_path / "poses.csv")
    read = CameraEstimates.from_csv(tmp_path / "poses.csv")
    assert np.isnan(read.R[1]).all() and np.isnan(read.t[1]).all()
    np.testing.assert_allclose(read.R[[0, 2]], lost.R[[0, 2]], atol=1e-7)
