from typing import Any

import pytest
import torch
from torch import Tensor

from posedistill.data.batch import ObjectBatch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.distill.match import Match, counterparts
from posedistill.errors import RecipeError
from posedistill.estimators.base import Prediction, Votes

VIEWS = frozenset({"votes", "cells"})
Pair = tuple[Prediction, Prediction]


def match(trust: Any = "none", **options: Any) -> Match:
    distiller = build_distiller(DistillSpec(name="match", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Match)
    return distiller


def all_of(votes: Votes | None) -> Votes:
    assert votes is not None
    return votes


def test_each_vote_meets_the_one_of_its_own_cell(predictions: Pair) -> None:
    votes, cells = all_of(predictions[0].votes), all_of(predictions[1].cells)
    assert votes.cells is not None and cells.cells is not None
    order = torch.randperm(cells.cells.shape[1])
    shuffled = Votes(cells.values[:, order], cells.weights[:, order], cells.mask[:, order], cells.cells[:, order])
    votes.cells = votes.cells.clone()
    votes.cells[0, 3] = 7 << 16  # a level the teacher does not have
    same = counterparts(votes, shuffled)
    expected = torch.ones(4, 10, dtype=torch.bool)
    expected[0, 3] = False
    assert same.mask.equal(expected) and not same.values.requires_grad
    assert same.values[expected].equal(cells.values[:, :10][expected])


def test_same_cell_is_the_mean_over_cells_weighted_by_the_teacher(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    votes, cells = all_of(student.votes), all_of(teacher.cells)
    cells.weights = torch.linspace(0.1, 0.9, 50).expand(4, -1)
    votes.mask[2, 5:] = False
    loss = match(norm="l2", unit="crop", position_weight=1.0, score_weight=0.0)(student, teacher, batch)
    distance = (votes.values - cells.values[:, :10]).square().sum(-1).mean(-1) / 2
    torch.testing.assert_close(loss, (distance * cells.weights[:, :10])[votes.mask].mean())


def test_same_cell_scores_learn_the_teachers(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    loss = match(position_weight=0.0, score_weight=1.0)
    weights = all_of(student.votes).weights
    (gradient,) = torch.autograd.grad(loss(student, teacher, batch), weights)
    assert (gradient < 0).all()
    with torch.no_grad():
        weights.fill_(0.9)
    (gradient,) = torch.autograd.grad(loss(student, teacher, batch), weights)
    assert gradient.abs().max() < 1e-6


def test_cluster_mean_compares_weighted_means_in_object_sizes(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    with torch.no_grad():
        all_of(teacher.votes).weights[:, ::2] = 0.3
    loss = match(form="cluster_mean", norm="l2", position_weight=1.0)(student, teacher, batch)

    def mean(votes: Votes) -> Tensor:
        weights = votes.weights[..., None, None]
        return (votes.values * weights).sum(1) / weights.sum(1)

    difference = (mean(all_of(student.votes)) - mean(all_of(teacher.votes))) / 0.5
    torch.testing.assert_close(loss, difference.square().sum(-1).mean() / 2)


@pytest.mark.parametrize("form", ["same_cell", "cluster_mean"])
@pytest.mark.parametrize("norm", ["smooth_l1", "l2"])
def test_gradients_reach_the_student_alone(predictions: Pair, batch: ObjectBatch, form: str, norm: str) -> None:
    student, teacher = predictions
    match(form=form, norm=norm)(student, teacher, batch).backward()
    assert all_of(student.votes).values.grad is not None
    for votes in (all_of(teacher.votes), all_of(teacher.cells)):
        assert votes.values.grad is None and votes.weights.grad is None


@pytest.mark.parametrize("form", ["same_cell", "cluster_mean"])
def test_nothing_to_match_costs_nothing(predictions: Pair, batch: ObjectBatch, form: str) -> None:
    student, teacher = predictions
    votes = all_of(student.votes)
    votes.mask[:] = False
    with torch.no_grad():
        votes.values.fill_(torch.nan)
    loss = match(form=form)(student, teacher, batch)
    (gradient,) = torch.autograd.grad(loss, votes.values)
    assert loss == 0 and (gradient == 0).all()


@pytest.mark.parametrize("form", ["same_cell", "cluster_mean"])
def test_trust_in_images(predictions: Pair, batch: ObjectBatch, form: str) -> None:
    student, teacher = predictions
    plain = match(form=form)(student, teacher, batch)
    torch.testing.assert_close(match({"by": "score"}, form=form)(student, teacher, batch), 0.9 * plain)


def test_votes_without_cells_are_refused(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    all_of(student.votes).cells = None
    with pytest.raises(RecipeError, match="votes with cells, or cluster_mean"):
        match()(student, teacher, batch)
