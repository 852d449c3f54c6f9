import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.errors import DataError
from posedistill.geometry.rotations import angle_between, axis_angle, is_rotation, random_rotations
from posedistill.geometry.symmetries import canonical_pose, equivalent_poses, symmetry_transforms

HALF_TURN = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
FLIP = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
AROUND_Z = {"axis": [0, 0, 1], "offset": [0, 0, 0]}
seeds = st.integers(0, 2**32 - 1)


def random_poses(rng, count):
    return random_rotations(count, rng), rng.uniform([-200, -200, 400], [200, 200, 1500], (count, 3))


@pytest.mark.parametrize(
    ("info", "count"),
    [
        ({}, 1),
        ({"symmetries_discrete": [HALF_TURN]}, 2),
        ({"symmetries_continuous": [AROUND_Z]}, 315),
        ({"symmetries_discrete": [FLIP], "symmetries_continuous": [AROUND_Z]}, 630),
    ],
)
def test_counts_identity_first_and_rigid(info, count):
    symmetries = symmetry_transforms(info)
    assert symmetries.shape == (count, 4, 4)
    np.testing.assert_array_equal(symmetries[0], np.eye(4))
    assert is_rotation(symmetries[:, :3, :3], 1e-9).all()
    np.testing.assert_array_equal(symmetries[:, 3], np.tile([0, 0, 0, 1], (count, 1)))
    if count > 1:
        assert angle_between(np.eye(3), symmetries[1:, :3, :3]).min() > 0.019  # each once


def test_continuous_symmetry_turns_about_its_offset():
    offset, axis = np.array([10.0, -20.0, 5.0]), np.array([1.0, 2.0, 2.0]) / 3
    symmetries = symmetry_transforms({"symmetries_continuous": [{"axis": [2, 4, 4], "offset": offset.tolist()}]})
    on_axis = offset + 7.0 * axis
    np.testing.assert_allclose(symmetries[:, :3, :3] @ on_axis + symmetries[:, :3, 3], np.tile(on_axis, (315, 1)))
    # A vertex half a diameter off the axis moves by at most 1 % of the diameter between samples.
    step = angle_between(symmetries[3, :3, :3], symmetries[4, :3, :3])
    assert 0.5 * step <= 0.01


def test_coarser_sampling():
    assert len(symmetry_transforms({"symmetries_continuous": [AROUND_Z]}, max_sym_disc_step=0.1)) == 32


@pytest.mark.parametrize(
    "info",
    [
        {"symmetries_discrete": [[1, 0, 0]]},
        {"symmetries_discrete": [[2 * x for x in HALF_TURN]]},
        {"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]},
        {"symmetries_continuous": [{"axis": [0, 1], "offset": [0, 0, 0]}]},
        {"symmetries_continuous": [{"offset": [0, 0, 0]}]},
    ],
)
def test_damaged_symmetries_are_named(info):
    with pytest.raises(DataError, match=f"models_info.json: '{next(iter(info))}': found"):
        symmetry_transforms(info)


@settings(max_examples=40)
@given(seed=seeds, info=st.sampled_from([{"symmetries_discrete": [HALF_TURN]}, {"symmetries_continuous": [AROUND_Z]}]))
def test_equivalent_poses_have_one_canonical_pose(seed, info):
    rng = np.random.default_rng(seed)
    symmetries = symmetry_transforms(info)
    R, t = random_poses(rng, 3)
    expected_R, expected_t = canonical_pose(R, t, symmetries)
    other = rng.integers(len(symmetries))
    all_R, all_t = equivalent_poses(R, t, symmetries)
    found_R, found_t = canonical_pose(all_R[:, other], all_t[:, other], symmetries)
    np.testing.assert_allclose(found_t, expected_t, atol=1e-6)
    # Two neighbouring samples of a continuous symmetry may tie to rounding.
    assert angle_between(found_R, expected_R).max() < (1e-6 if len(symmetries) == 2 else 0.0201)


@settings(max_examples=30)
@given(seed=seeds)
def test_canonical_pose_is_one_of_the_equivalent_ones(seed):
    R, t = random_poses(np.random.default_rng(seed), 4)
    symmetries = symmetry_transforms({"symmetries_discrete": [HALF_TURN, FLIP]})
    canonical_R, canonical_t = canonical_pose(R, t, symmetries)
    all_R, all_t = equivalent_poses(R, t, symmetries)
    distance = np.abs(all_R - canonical_R[:, None]).max(axis=(2, 3)) + np.abs(all_t - canonical_t[:, None]).max(axis=2)
    np.testing.assert_allclose(distance.min(axis=1), 0.0, atol=1e-12)


def test_without_symmetries_a_pose_is_its_own():
    R, t = random_poses(np.random.default_rng(0), 5)
    canonical_R, canonical_t = canonical_pose(R, t, symmetry_transforms({}))
    np.testing.assert_array_equal(canonical_R, R)
    np.testing.assert_array_equal(canonical_t, t)


def test_canonical_choice_follows_the_look_and_not_the_place():
    """The same look at the left and at the right edge of the image gets the same choice."""
    symmetries = symmetry_transforms({"symmetries_discrete": [HALF_TURN]})
    looks = axis_angle(np.array([0.0, 0.0, 1.0]), np.deg2rad(89.0))
    for x in (-400.0, 0.0, 400.0):
        t = np.array([[x, 0.0, 600.0]])
        ray = axis_angle(np.array([0.0, 1.0, 0.0]), np.arctan2(x, 600.0))
        R, _ = canonical_pose((ray @ looks)[None], t, symmetries)
        np.testing.assert_allclose(R[0], ray @ looks, atol=1e-9)


QUARTER = [1, 0, 0, 0, 0, 0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
SPHERES = [
    {"symmetries_continuous": [{"axis": axis, "offset": [0, 0, 0]} for axis in np.eye(3).tolist()]},
    {"symmetries_continuous": [{"axis": axis, "offset": [5, -3, 8]} for axis in ([1, 2, 0], [0, 0, 1])]},
    {"symmetries_continuous": [AROUND_Z], "symmetries_discrete": [QUARTER]},
]


@settings(max_examples=30)
@given(seed=seeds, info=st.sampled_from(SPHERES))
def test_a_sphere_has_one_canonical_pose_however_it_is_turned(seed, info):
    """Also by turns that are no sample of its symmetries, but products of many."""
    rng = np.random.default_rng(seed)
    symmetries = symmetry_transforms(info)
    R, t = random_poses(rng, 3)
    expected_R, expected_t = canonical_pose(R, t, symmetries)
    assert is_rotation(expected_R, 1e-9).all()
    for _ in range(4):
        other = rng.integers(len(symmetries))
        R, t = (poses[:, other] for poses in equivalent_poses(R, t, symmetries))
    found_R, found_t = canonical_pose(R, t, symmetries)
    np.testing.assert_allclose(found_t, expected_t, atol=1e-6)
    np.testing.assert_allclose(found_R, expected_R, atol=1e-9)
    again_R, again_t = canonical_pose(found_R, found_t, symmetries)
    np.testing.assert_allclose(again_R, found_R, atol=1e-9)
    np.testing.assert_allclose(again_t, found_t, atol=1e-6)


def cube():
    quarters = [axis_angle(axis, np.pi / 2) for axis in np.eye(3)]
    group = [np.eye(3)]
    for R in group:
        group += [q @ R for q in quarters if not any(np.allclose(q @ R, known) for known in group)]
    return group[1:]


@settings(max_examples=20)
@given(seed=seeds)
def test_a_cube_is_no_sphere(seed):
    rows = [np.block([[R, np.zeros((3, 1))], [np.zeros(3), 1]]).round(9).ravel().tolist() for R in cube()]
    symmetries = symmetry_transforms({"symmetries_discrete": rows})
    assert len(symmetries) == 24
    rng = np.random.default_rng(seed)
    R, t = random_poses(rng, 2)
    canonical_R, _ = canonical_pose(R, t, symmetries)
    all_R, all_t = equivalent_poses(R, t, symmetries)
    assert angle_between(all_R, canonical_R[:, None]).min(axis=1).max() < 1e-6
    found_R, _ = canonical_pose(all_R[:, 5], all_t[:, 5], symmetries)
    assert angle_between(found_R, canonical_R).max() < 1e-6
