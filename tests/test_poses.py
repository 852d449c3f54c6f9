"""The table of poses: round trips of its three kinds of file, and files that are not a table."""

import dataclasses
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.errors import DataError
from posedistill.geometry.rotations import random_rotations
from posedistill.poses import CAMERA_HEADER, HEADER, UNSCORED_HEADER, Poses

ROW = "2,96,6,0.5,1 0 0 0 1 0 0 0 1,1 2 1000,0.1"


def some_estimates(count, seed=0):
    rng = np.random.default_rng(seed)
    return Poses(
        scene_id=rng.integers(0, 50, count),
        im_id=rng.integers(0, 5000, count),
        obj_id=rng.integers(1, 31, count),
        score=rng.uniform(size=count),
        R=random_rotations(count, rng),
        t=rng.normal(size=(count, 3)) * 300.0,
        seconds=rng.uniform(-1, 5, count),
    )


@settings(max_examples=20)
@given(count=st.integers(0, 6), seed=st.integers(0, 2**32 - 1))
def test_csv_keeps_every_bit(tmp_path_factory, count, seed):
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    estimates = some_estimates(count, seed)
    estimates.to_bop_csv(path)
    back = Poses.from_bop_csv(path)
    for name in ("scene_id", "im_id", "obj_id", "score", "R", "t", "seconds"):
        np.testing.assert_array_equal(getattr(back, name), getattr(estimates, name))
        assert getattr(back, name).dtype == getattr(estimates, name).dtype


def test_select_and_concatenate():
    estimates = some_estimates(5)
    parts = [estimates.select(slice(0, 2)), Poses.empty(), estimates.select(np.array([2, 3, 4]))]
    joined = Poses.concatenate(parts)
    np.testing.assert_array_equal(joined.R, estimates.R)
    np.testing.assert_array_equal(joined.select(joined.score > 2.0).t, np.zeros((0, 3)))
    assert len(Poses.concatenate([])) == 0


def test_columns_of_unequal_length_are_refused():
    estimates = some_estimates(3)
    with pytest.raises(ValueError, match=r"Poses\.t: found shape \(2, 3\), expected \(3, 3\)"):
        Poses(
            estimates.scene_id,
            estimates.im_id,
            estimates.obj_id,
            estimates.score,
            estimates.R,
            estimates.t[:2],
            estimates.seconds,
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
            r"'R': found 1 invalid rotation matrices \(lines \[4\]\)",
        ),
        ([ROW.replace("1 0 0 0 1", "-1 0 0 0 1")], "invalid rotation"),
        (["", ROW], "line 2: found 0 columns"),
    ],
)
def test_faulty_rows_are_named(tmp_path, rows, message):
    path = tmp_path / "results.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(DataError, match=message) as error:
        Poses.from_bop_csv(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [ROW + "\n", "", "\n", "scene_id,im_id\n", "\x01\x02"])
def test_a_missing_header_is_refused(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"'line 1': found .* expected 'scene_id,im_id,obj_id,score,R,t,time'"):
        Poses.from_bop_csv(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_csv_from_windows(tmp_path, encoding):
    path = tmp_path / "results.csv"
    path.write_bytes(f"{HEADER}\r\n{ROW}\r\n".encode(encoding))
    assert len(Poses.from_bop_csv(path)) == 1


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        Poses.from_bop_csv(tmp_path / "nowhere.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="expected a csv of scene_id,im_id"):
        Poses.from_bop_csv(tmp_path / "image.csv")


def test_many_faults_are_counted_and_some_shown(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("\n".join([HEADER, *["1,2"] * 40]))
    with pytest.raises(DataError, match=r"found 40 faulty rows .*\.\.\."):
        Poses.from_bop_csv(path)


def test_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes((HEADER + "\r\n" + ROW + "\r\n").encode())
    estimates = Poses.from_bop_csv(path)
    assert len(estimates) == 1
    assert estimates.seconds[0] == 0.1


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
    assert len(Poses.from_bop_csv(path)) == 1


def some_cameras(count: int, seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    names = [f"seq-01/a, {row}.png" for row in range(count)]
    R, t = random_rotations(count, rng), rng.normal(size=(count, 3))
    return Poses.of_cameras(R, t, name=names, seconds=rng.uniform(size=count), score=rng.uniform(size=count))


def test_a_single_value_fills_a_column():
    cameras = some_cameras(3)
    assert cameras.scene_id.tolist() == cameras.obj_id.tolist() == [-1, -1, -1]
    assert np.isnan(Poses.of_cameras(cameras.R).score).all() and cameras.category.tolist() == ["", "", ""]
    np.testing.assert_allclose(Poses.of_cameras(cameras.R, centers=cameras.centers).t, cameras.t, atol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_named_photographs_return_from_a_csv(tmp_path_factory, seed: int) -> None:
    path, cameras = tmp_path_factory.mktemp("csv") / "poses.csv", some_cameras(5, seed)
    cameras.to_csv(path)
    read = Poses.from_csv(path)
    assert read.name.tolist() == cameras.name.tolist() and len(read) == 5
    for column in ("R", "t", "centers", "seconds", "score"):
        np.testing.assert_allclose(getattr(read, column), getattr(cameras, column), atol=1e-7)


def test_a_csv_without_scores_is_read(tmp_path) -> None:
    (tmp_path / "old.csv").write_text(UNSCORED_HEADER + "\na.png,1,2,3,1,0,0,0,0.1\n")
    old = Poses.read(tmp_path / "old.csv")
    assert old.seconds.tolist() == [0.1] and np.isnan(old.score).all()


def test_a_table_picks_its_own_csv(tmp_path) -> None:
    """Images with names are told apart by them, others by BOP's ids; the first line of a file says which."""
    named = some_cameras(2)
    by_id = Poses.of_cameras(named.R, named.t, score=1.0)
    for poses, header in ((named, CAMERA_HEADER), (by_id, HEADER)):
        poses.write(tmp_path / "poses.csv")
        assert (tmp_path / "poses.csv").read_text().startswith(header + "\n")
        assert Poses.read(tmp_path / "poses.csv").name.tolist() == poses.name.tolist()


def test_half_turns_survive(tmp_path) -> None:
    turns = np.array([np.diag(signs) for signs in ([1.0, -1, -1], [-1, 1, -1], [-1, -1, 1])])
    Poses.of_cameras(turns, np.zeros((3, 3)), name=["a", "b", "c"]).to_csv(tmp_path / "poses.csv")
    np.testing.assert_allclose(Poses.from_csv(tmp_path / "poses.csv").R, turns, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'line 1': found '', expected 'name,x,y,z"),
        ("scene_id,im_id\n", "'line 1': found 'scene_id,im_id', expected 'name"),
        (
            CAMERA_HEADER + "\na.png,1,2,3,1,0,0,0,0.1,1\nb.png,1,2,here,1,0,0,0,0,1\n",
            "line 3: could not convert .* 'here'",
        ),
        (CAMERA_HEADER + "\na.png,1,2\n", r"1 faulty rows \(line 2: found 3 columns, expected 10\)"),
        (CAMERA_HEADER + "\na.png,1,2,3,0,0,0,0,0.1,1\n", "line 2: found inf or a quaternion of zeros"),
        (CAMERA_HEADER + "\na.png,1,2,inf,1,0,0,0,0.1,1\n", "line 2: found inf"),
    ],
)
def test_what_is_not_a_table_of_photographs_is_told(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "poses.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Poses.from_csv(path)


def test_a_csv_from_excel_is_read(tmp_path) -> None:
    """With a byte-order mark."""
    (tmp_path / "bop.csv").write_text("\ufeff" + HEADER + "\n" + ROW + "\n")
    (tmp_path / "named.csv").write_text("\ufeff" + CAMERA_HEADER + "\na.png,1,2,3,1,0,0,0,0.1,0.5\n")
    assert len(Poses.from_bop_csv(tmp_path / "bop.csv")) == len(Poses.from_csv(tmp_path / "named.csv")) == 1


@pytest.mark.parametrize("parts", ["R", "t", "Rt"])
def test_a_lost_pose_stays_lost(tmp_path, parts: str) -> None:
    lost = some_cameras(3)
    for part in parts:
        getattr(lost, part)[1] = np.nan
    lost.to_csv(tmp_path / "poses.csv")
    lost.to_json(tmp_path / "poses.json")
    for read in (Poses.from_csv(tmp_path / "poses.csv"), Poses.from_json(tmp_path / "poses.json")):
        assert read.found.tolist() == [True, False, True] == lost.found.tolist()
        assert read.name.tolist() == lost.name.tolist()
        np.testing.assert_allclose(read.R[[0, 2]], lost.R[[0, 2]], atol=1e-7)


def test_a_bop_csv_has_no_row_for_a_lost_pose(tmp_path) -> None:
    lost = some_estimates(3)
    lost.t[1] = np.nan
    lost.to_bop_csv(tmp_path / "results.csv")
    np.testing.assert_array_equal(Poses.from_bop_csv(tmp_path / "results.csv").t, lost.t[[0, 2]])


def test_json_keeps_every_bit_of_every_family(tmp_path) -> None:
    chairs = Poses.of_cameras(random_rotations(2, np.random.default_rng(0)), np.full((2, 3), np.nan), name=["a", "b"])
    chairs = dataclasses.replace(chairs, category=np.array(["chair", "aeroplane"]))
    table = Poses.concatenate([some_estimates(3), some_cameras(2), chairs])
    table.to_json(tmp_path / "poses.json")
    read = Poses.from_json(tmp_path / "poses.json")
    for column in dataclasses.fields(Poses):
        np.testing.assert_array_equal(getattr(read, column.name), getattr(table, column.name))
    Poses.empty().to_json(tmp_path / "poses.json")
    assert len(Poses.from_json(tmp_path / "poses.json")) == 0


def test_an_invalid_rotation_in_json_is_told(tmp_path) -> None:
    table = some_cameras(3)
    table.R[1] *= 1.1
    table.to_json(tmp_path / "poses.json")
    with pytest.raises(DataError, match=r"'R': found 1 invalid rotation matrices \(rows \[1\]\)"):
        Poses.from_json(tmp_path / "poses.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "'json': found"),
        ("7", "'row 0': found 'int' object"),
        ('[{"R": [1, 2, 3]}]', "'row 0': found .*, expected scene_id, im_id"),
    ],
)
def test_what_is_not_json_of_poses_is_told(tmp_path, text: str, message: str) -> None:
    (tmp_path / "poses.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Poses.from_json(tmp_path / "poses.json")
