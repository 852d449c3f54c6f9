"""match: the student's answers are compared point by point with the teacher's.

On votes, for any counts of them (the published comparison of naive distillation leaves its form open):

``same_cell``: every cell whose vote the student offers is compared with the vote of the same cell in the teacher,
whichever cells the teacher would itself have chosen; a cell the teacher does not have is left out.
``cluster_mean``: the score-weighted mean vote of each keypoint is compared with the teacher's.
``response``: every cell is compared with the same cell, positions where the teacher is sure, scores everywhere.

On whole images: ``regression`` (vectors), ``logits`` (classes) and ``bits`` (maps or vectors of independent bits).
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill.base import (
    Distiller,
    DistillSpec,
    FormSettings,
    listed,
    mean_over,
    paired_votes,
    same_keypoints,
)
from posedistill.distill.functional.response import (
    Gate,
    Norm,
    bit_divergence,
    divergence,
    imitation_loss,
    logit,
    pooled_bits,
    single_shot_loss,
)
from posedistill.distill.trust import annotated_keypoints, image_trust, trust_weights, weighted_mean
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Prediction, Votes

Form = Literal["same_cell", "cluster_mean", "response", "regression", "logits", "bits"]
_POINTS = {"form", "norm", "beta", "gate", "margin"}
_VOTES = _POINTS | {"unit", "position_weight"}
_OPTIONS: dict[str, set[str]] = {
    "same_cell": _VOTES | {"score_weight"},
    "cluster_mean": _VOTES,
    "response": _VOTES | {"score_weight", "threshold", "faithful"},
    "regression": _POINTS | {"scale"},
    "logits": {"form", "heads", "temperature"},
    "bits": {"form", "heads", "temperature", "mask"},
}
_NEEDS = {
    "same_cell": {"votes", "cells"},
    "cluster_mean": {"votes"},
    "response": {"cells"},
    "regression": {"regression"},
    "logits": {"logits"},
    "bits": {"logits"},
}


class MatchSettings(FormSettings):
    """Form, distance and unit."""

    form: Form = Field("same_cell", description="What is compared with what: see docs/losses/match.md.")
    norm: Norm = "smooth_l1"
    """Of the distance: Huber's, divided by ``beta``; the sum of absolute differences; half the squared distance; or,
    where votes are code probabilities, the binary cross entropy of their bits."""
    beta: float = Field(default=0.02, gt=0)
    """Where ``smooth_l1`` turns linear, in units."""
    unit: Literal["object", "crop"] = "object"
    """Votes count in projected object diameters, or in crop sides."""
    gate: Gate = "none"
    """Imitate always; only as far as that costs less than the truth (``min``); or only where the teacher is nearer to
    the truth than the student (``upper_bound``)."""
    margin: float = Field(default=0.0, ge=0)
    """``upper_bound``: by how much nearer, in units."""
    position_weight: float = Field(default=0.3, ge=0)
    """Of votes. 0.3 pulls a vote about as hard as a line-of-sight loss of weight 1."""
    score_weight: float = Field(default=0.05, ge=0)
    """Of the binary cross entropy between scores; as hard as align by default."""
    threshold: float = Field(default=0.1, ge=0, lt=1)
    """``response``: a teacher's cell below it teaches no position."""
    faithful: bool = False
    """``response``: the published form, with weights of its own."""
    scale: tuple[float, ...] | None = None
    """``regression``: each component is multiplied by its own, e.g. [1, 1, 1, 3, 3, 3, 3] where rotations come last."""
    heads: tuple[str, ...] | None = None
    """Names of the logits; all that both sides have, by default. Their losses are added. ``bits`` of maps are compared
    as far as both go, on the coarser map."""
    temperature: float = Field(default=1.0, gt=0, description="By which logits are divided.")
    mask: str | None = None
    """``bits``: head of one channel, whose probability in the teacher weighs the positions."""

    def in_use(self) -> tuple[str, set[str]]:
        """All options of the form, or next to none where it is the published one."""
        if self.form == "response" and self.faithful:
            return "response with faithful: true", {"form", "faithful"}
        return self.form, _OPTIONS[self.form]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.form == "regression" and self.norm == "bce":
            raise ValueError("bce compares probabilities, not a regression")
        if self.margin and self.gate != "upper_bound":
            raise ValueError("a margin needs gate: upper_bound")
        return self


class Match(Distiller):
    """A mean over images, but ``same_cell``, which is one over all compared cells."""

    Settings = MatchSettings
    settings: MatchSettings
    scale: Tensor | None

    def __init__(self, spec: DistillSpec, settings: MatchSettings) -> None:
        super().__init__(spec, settings)
        self.needs = frozenset(_NEEDS[settings.form])
        scale = None if settings.scale is None else torch.tensor(settings.scale)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; 0 where there is nothing to compare."""
        with torch.autocast(batch.images.device.type, enabled=False):
            match self.settings.form:
                case "same_cell":
                    return self._same_cell(student, teacher, batch)
                case "cluster_mean":
                    return self._cluster_mean(student, teacher, batch)
                case "response":
                    return self._response(student, teacher, batch)
                case "regression":
                    return self._regression(student, teacher, batch)
                case _:
                    return self._logits(student, teacher, batch)

    def _cluster_mean(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        ours, theirs = paired_votes(self.name, student, teacher)
        images, votes = trust_weights(self.trust, theirs, batch, teacher.spread)
        a = ours.weights.float().where(ours.mask, 0)
        b = theirs.weights.float().where(theirs.mask, 0) * votes
        losses = self._positions(_mean_vote(ours, a), _mean_vote(theirs, b), theirs, batch)
        return self.settings.position_weight * mean_over(losses * images, (a.sum(1) > 0) & (b.sum(1) > 0))

    def _same_cell(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        ours, _ = paired_votes(self.name, student, teacher)
        ours, same = _same_cells(ours, teacher.cells)
        position, score, targets = self._cells(ours, same, batch)
        losses = self.settings.position_weight * position * targets + self.settings.score_weight * score
        return mean_over((losses * self._trust(teacher, same, batch)).flatten(), same.mask.flatten())

    def _response(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        if student.cells is None:
            raise _unfit("a student prediction without cells", "the votes of every cell")
        ours, same = _same_cells(student.cells, teacher.cells)
        counted = same.mask.any(1)
        if self.settings.faithful:
            height, width = batch.images.shape[2:]
            truth, centers = annotated_keypoints(batch, same), batch.box_centers("distill: annotated keypoints") / width
            losses = single_shot_loss(ours, same, truth, centers, (height, width))
            return mean_over(losses * image_trust(self.trust, teacher, batch), counted)
        position, score, targets = self._cells(ours, same, batch)
        trust = self._trust(teacher, same, batch)
        sure = same.mask & (targets > self.settings.threshold)
        position = _mean(position * trust, targets.where(sure, 0))
        # Cells without an object are many, those with one few: each kind makes half.
        score = (_mean(score * trust, sure) + _mean(score * trust, same.mask & ~sure)) / 2
        return mean_over(self.settings.position_weight * position + self.settings.score_weight * score, counted)

    def _regression(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        x, y = student.regression, teacher.regression
        if x is None or y is None or x.shape != y.shape:
            found = f"student regression {_shape(x)}, teacher regression {_shape(y)}"
            raise _unfit(found, "equal shapes [B, D], in the same space")
        truth = teacher.regression_truth if teacher.regression_truth is not None else student.regression_truth
        if self.settings.gate != "none" and truth is None:
            raise _unfit(f"gate: {self.settings.gate} for a regression without its truth", "gate: none")
        if self.scale is not None and len(self.scale) != x.shape[1]:
            raise _unfit(f"a scale of {len(self.scale)} components, regression {_shape(x)}", "one for each component")
        scale = 1.0 if self.scale is None else self.scale
        x, y = (x.float() * scale)[:, None], (y.float() * scale)[:, None]
        truth = None if truth is None else (truth.float() * scale)[:, None]
        return (self._imitation(x, y, truth) * image_trust(self.trust, teacher, batch)).mean()

    def _logits(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        temperature, total = self.settings.temperature, torch.zeros(len(batch), device=batch.images.device)
        for name, x, y in self._heads(student.logits, teacher.logits):
            if self.settings.form == "bits":
                x, y = self._shared(x, y, student.logits, teacher.logits)
                bits = bit_divergence(x, y, temperature).mean(1)
                mask = self._mask(teacher, name, bits)
                total = total + _mean(bits.reshape(len(bits), -1), mask.reshape(len(bits), -1))
            elif x.shape[1] == 1:
                raise _unfit(f"logits {name} {_shape(x)}, a single class", "two classes or more, or form: bits")
            else:
                total = total + divergence(x, y, temperature)
        return (total * image_trust(self.trust, teacher, batch)).mean()

    def _cells(self, ours: Votes, same: Votes, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, N]`` losses of positions and of scores, and the teacher's scores; zeros where it has no such cell."""
        x, y = (votes.values.float().where(same.mask[..., None, None], 0) for votes in (ours, same))
        scores, targets = (votes.weights.float().where(same.mask, 0) for votes in (ours, same))
        position = self._positions(x, y, same, batch)
        return position, bit_divergence(logit(scores), logit(targets)), targets

    def _positions(self, x: Tensor, y: Tensor, teacher: Votes, batch: Batch) -> Tensor:
        """``[B, ..., K, D] -> [B, ...]``: distances of votes, in units."""
        scale = torch.ones(len(x), device=x.device)
        if self.settings.unit == "object" and self.settings.norm != "bce":
            if x.shape[-1] != 2:
                found = f"votes of {x.shape[-1]} dimensions with unit: object"
                raise _unfit(found, "image points, unit: crop, or norm: bce", ".unit")
            scale = batch.sizes("distill.match.unit: object")
        truth = None if self.settings.gate == "none" else annotated_keypoints(batch, teacher)
        sides = [x, y]
        if truth is not None:
            sides.append(truth.view(len(x), *[1] * (x.ndim - 3), *truth.shape[1:]).expand_as(x))
        sides = [side / scale.view(-1, *[1] * (x.ndim - 1)) for side in sides]
        return self._imitation(*sides)

    def _imitation(self, x: Tensor, y: Tensor, truth: Tensor | None = None) -> Tensor:
        settings = self.settings
        return imitation_loss(
            x, y, truth, norm=settings.norm, beta=settings.beta, gate=settings.gate, margin=settings.margin
        )

    def _trust(self, teacher: Prediction, same: Votes, batch: Batch) -> Tensor:
        """``[B, N]``: an image is trusted by the votes the teacher would choose, a cell by its own."""
        if self.trust.per == "image":
            return image_trust(self.trust, teacher, batch)[:, None].expand_as(same.weights)
        return trust_weights(self.trust, same, batch)[1]

    def _heads(self, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
        shared = [name for name in ours if name in theirs and name != self.settings.mask]
        names = self.settings.heads or shared
        if not names or any(name not in ours or name not in theirs for name in names):
            found = f"a student with logits {listed(ours)}, a teacher with {listed(theirs)}"
            raise _unfit(found, f"{listed(names)} on both sides" if names else "one of the same name", ".heads")
        for name in names:
            x, y = ours[name], theirs[name]
            nested = self.settings.form == "bits" and x.ndim == y.ndim == 4 and len(x) == len(y)
            if x.shape != y.shape and not nested:
                found = f"student logits {name} {_shape(ours[name])}, teacher logits {_shape(theirs[name])}"
                raise _unfit(found, "equal shapes [B, classes, ...]")
        return [(name, ours[name], theirs[name]) for name in names]

    def _shared(
        self, x: Tensor, y: Tensor, ours: dict[str, Tensor], theirs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The bits that both sides have, of maps those at the places of the coarser: codes are nested."""
        if x.ndim != 4 or x.shape == y.shape:
            return x, y
        bits, name = min(x.shape[1], y.shape[1]), self.settings.mask or ""
        size = (min(x.shape[2], y.shape[2]), min(x.shape[3], y.shape[3]))
        return pooled_bits(x[:, :bits], size, ours.get(name)), pooled_bits(y[:, :bits], size, theirs.get(name))

    def _mask(self, teacher: Prediction, name: str, bits: Tensor) -> Tensor:
        """``[B, ...]`` how much each position of a head counts."""
        if self.settings.mask is None:
            return torch.ones_like(bits)
        mask = teacher.logits.get(self.settings.mask)
        if mask is not None and mask.ndim == bits.ndim + 1 == 4:
            mask = pooled_bits(mask, (bits.shape[1], bits.shape[2]))
        if mask is None or mask.shape != (len(bits), 1, *bits.shape[1:]):
            found = f"mask {self.settings.mask} {_shape(mask)} for logits {name} of positions {_shape(bits)}"
            raise _unfit(found, "a teacher's head of one channel at the same positions", ".mask")
        return mask.detach().float().sigmoid()[:, 0]


def _same_cells(ours: Votes, cells: Votes | None) -> tuple[Votes, Votes]:
    """A student's votes for the keypoints that the teacher has too, and the teacher's of the same cells."""
    if cells is not None:
        ours, cells = same_keypoints(ours, cells)
    return ours, counterparts(ours, cells)


def counterparts(votes: Votes, cells: Votes | None) -> Votes:
    """The teacher's vote of each cell that voted in ``votes``: ``[B, N, K, D]``, masked where it has no such cell.

    Raises:
        RecipeError: one of the two does not say which cells its votes come from, or they are votes of different things.
    """
    if votes.cells is None or cells is None or cells.cells is None:
        raise _unfit("votes without cells", "votes with cells, or cluster_mean")
    ours, theirs = votes.values.shape, cells.values.shape
    if ours[0] != theirs[0] or ours[2:] != theirs[2:]:
        found = f"student votes {list(ours)}, teacher cells {list(theirs)}"
        raise _unfit(found, "equal counts of images, keypoints and dimensions ([B, N, K, D])")
    # Found in order, for grids of thousands of cells have millions of pairs.
    ordered, order = cells.cells.sort(1)
    place = torch.searchsorted(ordered, votes.cells.contiguous()).clamp(max=ordered.shape[1] - 1)
    index = order.gather(1, place)
    picked = cells.at(index)
    mask = votes.mask & (ordered.gather(1, place) == votes.cells) & picked.mask
    return Votes(picked.values.detach(), picked.weights.detach(), mask, votes.cells, picked.errors)


def _mean_vote(votes: Votes, weights: Tensor) -> Tensor:
    """``[B, K, D]``"""
    return weighted_mean(votes.values.float().where(votes.mask[..., None, None], 0), weights)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """``[B, N] -> [B]``; 0 where all weights are zero."""
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def _unfit(found: str, expected: str, key: str = "") -> RecipeError:
    return RecipeError(describe("recipe", f"distill.match{key}", found, expected))


def _shape(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)
