import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.errors import DataError
from posedistill.geometry.rotations import random_rotations
from posedistill.poses import HEADER, PoseEstimates

ROW = "2,96,6,0.5,1 0 0 0 1 0 0 0 1,1 2 1000,0.1"


def some_estimates(count, seed=0):
    rng = np.random.default_rng(seed)
    return PoseEstimates(
        scene_id=rng.integers(0, 50, count),
        im_id=rng.integers(0, 5000, count),
        obj_id=rng.integers(1, 31, count),
        score=rng.uniform(size=count),
        R=random_rotations(count, rng),
        t=rng.normal(size=(count, 3)) * 300.0,
        time=rng.uniform(-1, 5, count),
    )


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 6), seed=st.integers(0, 2**32 - 1))
def test_csv_keeps_every_bit(tmp_path_factory, count, seed):
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    estimates = some_estimates(count, seed)
    estimates.to_bop_csv(path)
    back = PoseEstimates.from_bop_csv(path)
    for name in ("scene_id", "im_id", "obj_id", "score", "R", "t", "time"):
        np.testing.assert_array_equal(getattr(back, name), getattr(estimates, name))
        assert getattr(back, name).dtype == getattr(estimates, name).dtype


def test_select_and_concatenate():
    estimates = some_estimates(5)
    parts = [estimates.select(slice(0, 2)), PoseEstimates.empty(), estimates.select(np.array([2, 3, 4]))]
    joined = PoseEstimates.concatenate(parts)
    np.testing.assert_array_equal(joined.R, estimates.R)
    np.testing.assert_array_equal(joined.select(joined.score > 2.0).t, np.zeros((0, 3)))
    assert len(PoseEstimates.concatenate([])) == 0


def test_columns_of_unequal_length_are_refused():
    estimates = some_estimates(3)
    with pytest.raises(ValueError, match=r"PoseEstimates\.t: found shape \(2, 3\), expected \(3, 3\)"):
        PoseEstimates(
            estimates.scene_id,
            estimates.im_id,
            estimates.obj_id,
            estimates.score,
            estimates.R,
            estimates.t[:2],
            estimates.time,
        )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["2,96,6,0.5,1 0 0 0 1 0 0 0 1,1 2 1000"], "line 2: found 6 columns, expected 7"),
        ([ROW, ROW + ",7"], "line 3: found 8 columns"),
        ([ROW, ROW.replace("0.5", "nan")], "line 3: found NaN or inf"),
        ([ROW.replace("1 2 1000", "1 inf 1000")], "line 2: found NaN or inf"),
        ([ROW.replace("1 2 1000", "1 2")], "9 numbers in R and 2 in t"),
        ([ROW.replace("0.5", "sure")], "line 2: could not convert string to float: 'sure'"),
        ([ROW.replace("2,96", "2,9.6")], "line 2: invalid literal for int"),
        (
            [ROW, ROW, ROW.replace("1 0 0 0 1", "2 0 0 0 1")],
            r"'R': found 1 matrices that are no rotation \(lines \[4\]\)",
        ),
        ([ROW.replace("1 0 0 0 1", "-1 0 0 0 1")], "no rotation"),
        (["", ROW], "line 2: found 1 columns"),
    ],
)
def test_faulty_rows_are_named(tmp_path, rows, message):
    path = tmp_path / "results.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(DataError, match=message) as error:
        PoseEstimates.from_bop_csv(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [ROW + "\n", "", "\n", "scene_id,im_id\n", "\x00\x01"])
def test_a_missing_header_is_refused(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"'line 1': found .* expected 'scene_id,im_id,obj_id,score,R,t,time'"):
        PoseEstimates.from_bop_csv(path)


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        PoseEstimates.from_bop_csv(tmp_path / "nowhere.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="expected a BOP results csv"):
        PoseEstimates.from_bop_csv(tmp_path / "image.csv")


def test_many_faults_are_counted_and_some_shown(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("\n".join([HEADER, *["1,2"] * 40]))
    with pytest.raises(DataError, match=r"found 40 faulty rows .*\.\.\."):
        PoseEstimates.from_bop_csv(path)


def test_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes((HEADER + "\r\n" + ROW + "\r\n").encode())
    estimates = PoseEstimates.from_bop_csv(path)
    assert len(estimates) == 1
    assert estimates.time[0] == 0.1


def test_a_full_disk_keeps_the_old_csv(tmp_path):
    path = tmp_path / "results.csv"
    some_estimates(1).to_bop_csv(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"results\.csv: 'file': found .*, expected a writable disk"):
            some_estimates(100).to_bop_csv(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(PoseEstimates.from_bop_csv(path)) == 1
