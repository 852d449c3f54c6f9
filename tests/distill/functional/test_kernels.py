import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.data.loading.batch import Batch
from posedistill.distill.functional.kernels import (
    centered,
    centered_cosines,
    centered_gram,
    comparable_pairs,
    cosines,
    off_diagonal,
    pose_kernel,
    pose_labels,
    quaternions,
    rotation_distances,
    squared_distances,
    unit_rows,
)
from posedistill.geometry.rotations import axis_angle, quaternion_to_matrix, random_rotations

from ..conftest import LABELLED_TURNS, from_label_angles


def scene(count: int = 6, seed: int = 0) -> Batch:
    """Cameras about a scene of a few metres."""
    rng = np.random.default_rng(seed)
    R = torch.from_numpy(random_rotations(count, rng)).float()
    t = torch.from_numpy(rng.normal(size=(count, 3))).float()
    return Batch.single(torch.zeros(count, 3, 8, 8), torch.eye(3).expand(count, 3, 3), R, t, torch.arange(count))


@pytest.mark.parametrize(("first", "second", "degrees"), LABELLED_TURNS)
def test_distances_of_rotations(first: tuple, second: tuple, degrees: float) -> None:
    rotations = torch.stack([from_label_angles(*first), from_label_angles(*second)])
    distances = rotation_distances(rotations).rad2deg()
    torch.testing.assert_close(distances[0, 1].item(), degrees, atol=1e-4, rtol=0)
    assert distances.diagonal().eq(0).all()


def test_half_turns_are_half_turns_in_single_precision() -> None:
    rotations = random_rotations(200, np.random.default_rng(0))
    turned = rotations @ np.diag([1.0, -1.0, -1.0])
    both = torch.from_numpy(np.concatenate([rotations, turned])).float()
    angles = rotation_distances(both)
    assert angles.isfinite().all()
    assert (angles[:200, 200:].diagonal() - torch.pi).abs().max() < 2e-3


def test_quaternions_of_every_rotation() -> None:
    half_turns = [axis_angle(axis, np.pi) for axis in np.concatenate([np.eye(3), [[1.0, 1.0, 0.0], [0.1, -1.0, 1.0]]])]
    rotations = np.concatenate([random_rotations(50, np.random.default_rng(0)), half_turns, np.eye(3)[None]])
    found = quaternions(torch.from_numpy(rotations))
    assert (found[:, 0] >= 0).all()
    np.testing.assert_allclose(quaternion_to_matrix(found.numpy()), rotations, atol=1e-12)


def test_labels_are_the_camera_in_the_world() -> None:
    batch = scene()
    labels = pose_labels(batch)
    to_world = torch.from_numpy(quaternion_to_matrix(labels[:, 3:].numpy())).float()
    point = torch.randn(len(batch), 3, 1)
    torch.testing.assert_close(to_world @ point + labels[:, :3, None], batch.R.mT @ (point - batch.t[:, :, None]))


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 1000.0))
def test_the_kernel_knows_neither_frame_nor_unit(seed: int, scale: float) -> None:
    batch, rng = scene(seed=seed), np.random.default_rng(seed)
    pairs = off_diagonal(len(batch))
    before = pose_kernel(batch.camera_centers(), batch.R, pairs)
    world = torch.from_numpy(random_rotations(1, rng)[0]).float()
    centers = scale * (batch.camera_centers() @ world.T + torch.randn(3))
    after = pose_kernel(centers, batch.R @ world.T, pairs)
    torch.testing.assert_close(before, after, atol=1e-3, rtol=0)


def test_the_published_label_similarity_depends_on_the_origin() -> None:
    """A documented weakness of SCKD: its reference changes with the frame that nobody chose on purpose."""
    labels = pose_labels(scene())
    moved = labels + torch.tensor([5.0, 0, 0, 0, 0, 0, 0])
    assert (cosines(labels) - cosines(moved)).abs().max() > 0.5


def test_the_kernel_falls_off_with_medians() -> None:
    """Three cameras in a row, 1, 2 and 3 apart: the median is 2; they do not turn."""
    centers = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    kernel = pose_kernel(centers, torch.eye(3).expand(3, 3, 3), off_diagonal(3))
    expected = torch.exp(-torch.tensor([[0.0, 0.25, 2.25], [0.25, 0.0, 1.0], [2.25, 1.0, 0.0]]) / 2)
    torch.testing.assert_close(kernel, expected)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_equal_poses_are_alike(count: int) -> None:
    kernel = pose_kernel(torch.ones(count, 3), torch.eye(3).expand(count, 3, 3), off_diagonal(count))
    assert kernel.equal(torch.ones(count, count))


def test_poses_of_different_objects_are_not_compared(batch: Batch) -> None:
    batch.label[:] = torch.tensor([0, 1, 0, 1])
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = expected[3, 1] = True
    assert comparable_pairs(batch).equal(expected)
    assert comparable_pairs(scene(4)).equal(off_diagonal(4))


def test_centring_is_by_groups_where_pairs_are_given(batch: Batch) -> None:
    batch.label[:] = torch.tensor([0, 1, 0, 1])
    features = torch.tensor([[1.0], [10.0], [3.0], [20.0]])
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # of the differences -1, -5, 1, 5
    torch.testing.assert_close(centered_cosines(features, comparable_pairs(batch)), expected[:, None] * expected)
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(centered_cosines(features, off_diagonal(4)), cosines(centered(features)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_that_are_equal_have_nothing_left(dtype: torch.dtype) -> None:
    features = torch.randn(1, 7, generator=torch.Generator().manual_seed(0)).to(dtype).repeat(3, 1)
    assert centered(features).eq(0).all() and centered_cosines(features, off_diagonal(3)).eq(0).all()
    others = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]).bool()
    found = centered_cosines(torch.cat([features, torch.eye(2, 7, dtype=dtype)]), others)
    assert found[:3].eq(0).all() and found[3, 4].item() == pytest.approx(-1)
    assert squared_distances(centered_gram(features)).max() < 1e-5


def test_zero_rows_have_no_direction_and_no_gradient() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    found = cosines(features)
    assert found[1].eq(0).all() and found[0, 2].item() == pytest.approx(0.5**0.5)
    (gradient,) = torch.autograd.grad(found.sum() + unit_rows(features).sum(), features)
    assert gradient.isfinite().all() and gradient[1].eq(0).all()


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert squared_distances(centered_gram(features))[0, 1].item() == pytest.approx(25.0)
    features = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) + 1000
    exact = torch.cdist(features.double(), features.double()).square()
    torch.testing.assert_close(squared_distances(centered_gram(features)).double(), exact, atol=1e-3, rtol=1e-3)
