"""match: the naive forms of prediction distillation, vote against vote or mean against mean.

The published comparison leaves its form open. Both of these are defined for any counts of votes:

``same_cell``: every cell whose vote the student offers is compared with the vote of the same cell in the teacher,
whichever cells the teacher would itself have chosen; a cell the teacher does not have is left out.
``cluster_mean``: the score-weighted mean vote of each keypoint is compared with the teacher's.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from posedistill.data.batch import Batch
from posedistill.distill.base import Distiller, DistillSpec, mean_over, object_sizes, paired_votes
from posedistill.distill.trust import trust_weights, weighted_mean
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Prediction, Votes


class MatchSettings(BaseModel):
    """Form, distance and unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["same_cell", "cluster_mean"] = "same_cell"
    norm: Literal["smooth_l1", "l2"] = "smooth_l1"
    """Of the distance between votes: Huber's, divided by ``beta``, or half the squared distance."""
    beta: float = Field(default=0.02, gt=0)
    """Where ``smooth_l1`` turns linear, in units."""
    unit: Literal["object", "crop"] = "object"
    """Positions count in projected object diameters, or in crop sides."""
    position_weight: float = Field(default=0.3, ge=0)
    """0.3 pulls a vote about as hard as a line-of-sight loss of weight 1."""
    score_weight: float = Field(default=0.05, ge=0)
    """``same_cell``: weight of the binary cross entropy between scores; as hard as align by default."""


class Match(Distiller):
    """``same_cell`` is a mean over the compared cells, ``cluster_mean`` over the images in which both sides vote."""

    Settings = MatchSettings
    settings: MatchSettings

    def __init__(self, spec: DistillSpec, settings: MatchSettings) -> None:
        super().__init__(spec, settings)
        self.needs = frozenset({"votes", "cells"} if settings.form == "same_cell" else {"votes"})

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; 0 where there is nothing to compare."""
        with torch.autocast(batch.images.device.type, enabled=False):
            ours, theirs = paired_votes(self.name, student, teacher)
            sizes = object_sizes(batch)
            if self.settings.form == "cluster_mean":
                return self._cluster_mean(ours, theirs, batch, sizes)
            return self._same_cell(ours, counterparts(ours, teacher.cells), theirs, batch, sizes)

    def _cluster_mean(self, ours: Votes, theirs: Votes, batch: Batch, sizes: Tensor) -> Tensor:
        image_trust, vote_trust = trust_weights(self.trust, theirs, batch, sizes)
        a = ours.weights.float().where(ours.mask, 0)
        b = theirs.weights.float().where(theirs.mask, 0) * vote_trust
        distance = self._distance(_mean_vote(ours, a), _mean_vote(theirs, b), sizes).mean(1)
        counted = (a.sum(1) > 0) & (b.sum(1) > 0)
        return self.settings.position_weight * mean_over(distance * image_trust, counted)

    def _same_cell(self, ours: Votes, same: Votes, theirs: Votes, batch: Batch, sizes: Tensor) -> Tensor:
        # An image is trusted by the votes the teacher would choose, a cell by its own.
        image_trust, _ = trust_weights(self.trust, theirs, batch, sizes)
        _, vote_trust = trust_weights(self.trust, same, batch, sizes)
        trust = image_trust[:, None] * vote_trust
        x, y = (votes.values.float().where(same.mask[..., None, None], 0) for votes in (ours, same))
        scores, targets = (votes.weights.float().where(same.mask, 0.5) for votes in (ours, same))
        distance = self._distance(x.flatten(0, 1), y.flatten(0, 1), sizes.repeat_interleave(x.shape[1]))
        position = distance.mean(1).view_as(trust) * targets
        score = functional.binary_cross_entropy(scores.clamp(1e-6, 1 - 1e-6), targets, reduction="none")
        losses = self.settings.position_weight * position + self.settings.score_weight * score
        return mean_over((losses * trust).flatten(), same.mask.flatten())

    def _distance(self, x: Tensor, y: Tensor, sizes: Tensor) -> Tensor:
        """``[P, K, D], [P, K, D], [P] -> [P, K]`` distances of positions in crop sides."""
        scale = sizes[:, None, None] if self.settings.unit == "object" else 1.0
        if self.settings.norm == "l2":
            return ((x - y) / scale).square().sum(-1) / 2
        return functional.smooth_l1_loss(x / scale, y / scale, beta=self.settings.beta, reduction="none").sum(-1)


def counterparts(votes: Votes, cells: Votes | None) -> Votes:
    """The teacher's vote of each cell that voted in ``votes``: ``[B, N, K, D]``, masked where it has no such cell.

    Raises:
        RecipeError: one of the two does not say which cells its votes come from.
    """
    if votes.cells is None or cells is None or cells.cells is None:
        raise RecipeError(
            describe("recipe", "distill.match", "votes without cells", "votes with cells, or cluster_mean")
        )
    equal = votes.cells[:, :, None] == cells.cells[:, None]
    index = equal.int().argmax(-1)
    values = cells.values.detach().gather(1, index[..., None, None].expand(-1, -1, *cells.values.shape[2:]))
    mask = votes.mask & equal.any(-1) & cells.mask.gather(1, index)
    return Votes(values, cells.weights.detach().gather(1, index), mask, votes.cells)


def _mean_vote(votes: Votes, weights: Tensor) -> Tensor:
    """``[B, K, D]``"""
    return weighted_mean(votes.values.float().where(votes.mask[..., None, None], 0), weights)
