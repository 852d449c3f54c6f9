"""Whole pictures: losses between families whose votes differ, on pictures with several instances or none."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.pictures import batch_of_pictures
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.distill.base import Example, same_keypoints
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.training.teaching.teachers import EnsembleTeacher, LabelTeacher, NetworkTeacher

SIZE = (64, 96)
K = np.array([[120.0, 0, 47.5], [0, 120.0, 31.5], [0, 0, 1]])


def objects() -> ObjectTable:
    half = np.array([40.0, 30.0, 50.0])
    corners = np.stack([box_corners(-half, half)] * 2)
    return ObjectTable((1, 2), corners, np.full(2, 2 * np.linalg.norm(half)), (np.eye(4)[None],) * 2)


def pictures(*counts: int) -> Batch:
    """So many instances in each picture, of both classes in turn."""
    rng, total = np.random.default_rng(0), sum(counts)
    R = random_rotations(total, rng)
    t = np.array([0, 0, 500.0]) + rng.uniform(-1, 1, (total, 3)) * [90, 50, 20]
    label = np.arange(total) % 2
    return batch_of_pictures(objects(), counts, label, R, t, K, SIZE, rng)


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    settings = {"backbone": "darknet_tiny_q", "score_threshold": 0.0}
    return build_estimator("yolo6d", objects(), settings, SIZE)


LOSSES: list[tuple[str, dict[str, Any], str]] = [
    ("align", {}, "score"),
    ("match", {"form": "response"}, "score"),
    ("match", {"form": "response", "faithful": True}, "none"),
    ("match", {"form": "same_cell"}, "score"),
    ("match", {"form": "cluster_mean", "gate": "upper_bound"}, "none"),
    ("relate", {}, "none"),
    ("relate", {"form": "similarity_preserving", "layers": "all"}, "none"),
    ("feature", {}, "score"),
    ("contrast", {"form": "info_nce"}, "none"),
]


@pytest.mark.parametrize(("verb", "options", "trust"), LOSSES)
@pytest.mark.parametrize("counts", [(3, 0, 1, 2), (1, 1), (0, 1), (0, 0)])
def test_losses_take_pictures_of_several_instances(
    verb: str, options: dict[str, Any], trust: str, counts: tuple[int, ...]
) -> None:
    batch, student, teacher = pictures(*counts), network(0), NetworkTeacher(network(1), torch.device("cpu"))
    distiller = build_distiller(DistillSpec(name=verb, options=options, trust=trust), student.offers, teacher.offers)
    with torch.no_grad():
        distiller.prepare(Example(student.eval()(batch), teacher.predict(batch, -1), batch, lambda: iter(())))
    loss = distiller(student.train()(batch), teacher.predict(batch, 0), batch)
    assert bool(loss.isfinite()) and loss.ndim == 0
    loss.backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert len(batch) < 3 or sum(float(gradient.abs().sum()) for gradient in gradients) > 0


@pytest.mark.parametrize("verb", ["align", "match"])
def test_a_csv_teaches_nine_points_by_its_eight_corners(verb: str) -> None:
    batch, student = pictures(2, 1), network(0).train()
    options = {"form": "cluster_mean"} if verb == "match" else {}
    distiller = build_distiller(DistillSpec(name=verb, options=options), student.offers, LabelTeacher.offers)
    loss = distiller(student(batch), LabelTeacher().predict(batch, 0), batch)
    loss.backward()
    head = student.network.grid.head.weight.grad.flatten(1).abs().sum(1)
    assert loss > 0 and bool((head[2:18] > 0).all()) and not head[:2].any()


def test_an_ensemble_of_pictures_speaks_for_instances() -> None:
    batch = pictures(2, 0, 1)
    teacher = EnsembleTeacher([NetworkTeacher(network(seed), torch.device("cpu")) for seed in range(2)])
    taught = teacher.predict(batch, 0)
    assert taught.votes is not None and len(taught.votes.values) == 3
    assert taught.spread is not None and taught.spread.shape == (3,) and bool(taught.spread.isfinite().all())


def of_cells(points: int, seed: int) -> Votes:
    rng = torch.Generator().manual_seed(seed)
    ids = torch.cat([cell_ids(32, 2, 3), cell_ids(16, 4, 6)])[None] if points == 8 else cell_ids(32, 2, 3)[None]
    count = ids.shape[1]
    values, weights = torch.rand(1, count, points, 2, generator=rng), torch.rand(1, count, generator=rng)
    return Votes(values, weights, torch.ones(1, count, dtype=torch.bool), ids)


@pytest.mark.parametrize("form", ["response", "same_cell", "cluster_mean"])
@pytest.mark.parametrize(("ours", "theirs"), [(9, 8), (8, 9)])
def test_families_with_and_without_a_centre_are_compared_by_their_corners(form: str, ours: int, theirs: int) -> None:
    batch = pictures(1)
    offers = frozenset({"votes", "cells"})
    distiller = build_distiller(DistillSpec(name="match", options={"form": form}), offers, offers)
    student, teacher = of_cells(ours, 0), of_cells(theirs, 1)
    cut = same_keypoints(student, teacher)

    def loss(x: Votes, y: Votes) -> Tensor:
        return distiller(Prediction({}, x, x), Prediction({}, y, y), batch)

    assert loss(student, teacher) > 0
    torch.testing.assert_close(loss(student, teacher), loss(*cut))
    assert loss(copy.deepcopy(cut[0]), cut[0]) < 1e-5
