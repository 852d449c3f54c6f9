import numpy as np
import pytest
from tests.data.room import Room, pinhole, walk
from tests.data.room_writer import write_cambridge, write_made_scene, write_seven_scenes

from posedistill.errors import DataError
from posedistill.geometry.rotations import is_rotation, matrix_to_quaternion, quaternion_to_matrix, random_rotations


def test_nothing_is_written_over(seven_scenes_root, recordings, tmp_path):
    before = {path: path.read_bytes() for path in seven_scenes_root.rglob("*") if path.is_file()}
    for write in (write_seven_scenes, write_cambridge):
        with pytest.raises(DataError, match="found files already, expected an empty or new folder"):
            write(seven_scenes_root, recordings, test=[0])
    assert before == {path: path.read_bytes() for path in seven_scenes_root.rglob("*") if path.is_file()}


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'layout': found 'kitti', expected one of \['7-Scenes', 'Cambridge Landm"):
        write_made_scene(tmp_path, "kitti")


def test_the_same_seed_makes_the_same_files(tmp_path):
    for name in ("a", "b"):
        write_made_scene(tmp_path / name, sequences=2, frames=2, seed=5)
    write_made_scene(tmp_path / "c", sequences=2, frames=2, seed=6)
    a, b, c = ([path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()] for name in "abc")
    assert a == b
    assert a != c


def test_quaternions():
    R = random_rotations(50, np.random.default_rng(0))
    q = matrix_to_quaternion(R)
    np.testing.assert_allclose(quaternion_to_matrix(q), R, atol=1e-12)
    assert (q[:, 0] >= 0).all()


def test_walks_are_smooth_and_stay_inside():
    R, t = walk(60, seed=3)
    centers = -np.einsum("nji,nj->ni", R, t)
    assert is_rotation(R, 1e-9).all()
    assert np.linalg.norm(np.diff(centers, axis=0), axis=1).max() < 0.15
    assert ((centers > 0.2) & (centers < [5.8, 3.8, 2.6])).all()
    assert not np.allclose(walk(60, seed=4)[1], t)


def test_a_wall_point_has_one_colour_from_everywhere(recordings, made_room):
    """Pictures and poses belong together: what one view shows, the other shows where geometry says."""
    recording = recordings[0]
    first, last = 0, 1
    camera, errors, wrong = recording.camera, [], []
    origin = -recording.R[first].T @ recording.t[first]
    for x, y in np.random.default_rng(0).integers([5, 5], [109, 59], (200, 2)):
        ray = recording.R[first].T @ np.linalg.inv(camera.K) @ [x, y, 1.0]
        distance = made_room._caster.hits(origin, ray[None].astype(np.float32))[0][0]
        point = camera.K @ (recording.R[last] @ (origin + distance * ray) + recording.t[last])
        u, v = np.rint(point[:2] / point[2]).astype(int)
        if 0 <= u < camera.width and 0 <= v < camera.height:
            here = recording.images[first, y, x].astype(int)
            errors.append(np.abs(here - recording.images[last, v, u]).max())
            wrong.append(np.abs(here - recording.images[last, v, camera.width - 1 - u]).max())
    assert len(errors) > 50
    assert np.median(errors) < 6 < np.median(wrong)


def test_stairs_repeat_what_the_room_does_not():
    camera = pinhole(57, 32)
    pictures = [Room(preset, 0).record(camera, 1, 0).images[0] for preset in ("room", "stairs")]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 5
    assert len(set(Room("stairs", 0)._looks.tolist())) == 12
