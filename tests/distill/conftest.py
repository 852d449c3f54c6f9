"""A batch without pictures, and votes around its keypoints."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.geometry.viewpoint import labelled_viewpoint, viewpoint_rotation

SIDE = 256
MakeVotes = Callable[..., Votes]
Labels = tuple[float, float, float]
"""Azimuth, elevation and in-plane rotation, degrees."""
LABELLED_TURNS: list[tuple[Labels, Labels, float]] = [
    ((0, 90, 180), (30, 90, 180), 30.0),
    ((10, 100, 190), (350, 80, 170), 34.4643),
    ((0, 90, 180), (180, 90, 180), 180.0),
    ((45, 120, 180), (45, 120, 225), 45.0),
    ((123, 77, 201), (300, 140, 15), 143.2068),
    ((7, 90, 352), (352, 97, 7), 21.6718),
]
"""Two rotations by their labels, and the angle between them, degrees."""


def from_label_angles(azimuth: float, elevation: float, inplane: float) -> Tensor:
    return torch.from_numpy(viewpoint_rotation(labelled_viewpoint(np.array([azimuth, elevation, inplane]))))


@pytest.fixture
def batch() -> Batch:
    """Four crops; the objects are 130 mm, half a crop wide."""
    count, rng = 4, torch.Generator().manual_seed(0)
    camera = torch.tensor([[500.0, 0, SIDE / 2], [0, 500.0, SIDE / 2], [0, 0, 1]]).expand(count, 3, 3)
    return Batch.single(
        images=torch.zeros(count, 3, SIDE, SIDE),
        masks=torch.ones(count, SIDE, SIDE, dtype=torch.bool),
        label=torch.zeros(count, dtype=torch.int64),
        K=camera,
        R=torch.eye(3).expand(count, 3, 3),
        t=torch.tensor([0.0, 0.0, 507.8125]).expand(count, 3),
        keypoints3d=torch.zeros(count, 8, 3),
        keypoints=SIDE * (0.25 + 0.5 * torch.rand(count, 8, 2, generator=rng)),
        diameters=torch.full((count,), 130.0),
        ids=torch.arange(count),
    )


@pytest.fixture
def make_votes(batch: Batch) -> MakeVotes:
    """``make_votes(count, spread, score, seed)``: votes scattered about the keypoints, ready for gradients."""

    def make(count: int, spread: float = 0.02, score: float = 0.5, seed: int = 0) -> Votes:
        rng = torch.Generator().manual_seed(seed)
        noise = spread * torch.randn(len(batch), count, 8, 2, generator=rng)
        values: Tensor = (batch.targets["keypoints"][:, None] / SIDE + noise).requires_grad_()
        weights = torch.full((len(batch), count), score).requires_grad_()
        ids = cell_ids(16, 8, 8)[:count].expand(len(batch), -1)
        return Votes(values, weights, torch.ones(len(batch), count, dtype=torch.bool), ids)

    return make


@pytest.fixture
def predictions(make_votes: MakeVotes) -> tuple[Prediction, Prediction]:
    """A student and a teacher that disagree."""
    student = Prediction({}, make_votes(10, 0.03, 0.5, 1), cells=make_votes(40, 0.03, 0.5, 2))
    teacher = Prediction({}, make_votes(12, 0.01, 0.9, 3), cells=make_votes(50, 0.01, 0.9, 4))
    return student, teacher
