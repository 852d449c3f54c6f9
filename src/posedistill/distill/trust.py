"""How far to trust the teacher: weights for its images or for its single votes, usable with any loss.

``score``: its own confidence. ``error``: its distance from the annotation, after the attentive imitation loss of
Saputra et al., "Distilling Knowledge From a Deep Pose Regressor Network", ICCV 2019 (AIL). ``spread``: how far the
members of an ensemble disagree. All weights are functions of one batch: there is nothing to save or to resume.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Prediction, Votes

_USELESS = 1000.0
"""The largest error that a vote counts with, where votes bring their own."""
PERCENTILE = 0.95
"""Of the errors of a batch, where ``eta: percentile`` ends trust."""


class TrustSettings(Settings):
    """Which weights; the default trusts all alike (losses on votes already weigh votes by the teacher's scores)."""

    by: Literal["none", "score", "error", "spread"] = Field(
        "none", description="none: all alike; score: the teacher's own; error: against labels; spread: of an ensemble."
    )
    per: Literal["image", "vote"] = Field("image", description="Whether images or single votes are weighed.")
    limit: float = Field(default=0.1, gt=0)
    """``error``: where trust ends; ``spread``: where it has fallen to 1/e. In object diameters for votes, in pixels
    of a picture 640 wide for points of a scene, in the units of the view ``regression`` for regressors."""
    eta: Literal["limit", "percentile", "faithful"] = "limit"
    """``error``: what an error is compared with: ``limit``; the range up to the batch's 95th percentile; or
    (published) the range of the batch's squared errors."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """No weight falls below it."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrustSettings":
        if self.by == "spread" and self.per == "vote":
            raise ValueError("a spread is known of images: by: spread needs per: image")
        if self.by != "error" and self.eta != "limit":
            raise ValueError("eta compares errors: it needs by: error")
        return self


@torch.no_grad()
def trust_weights(
    settings: TrustSettings, votes: Votes, batch: Batch, spread: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights in ``floor`` .. 1 of the images ``[B]`` and of the votes ``[B, N]`` of a teacher.

    Args:
        votes: the teacher's; for ``error`` of image keypoints.
        spread: ``[B]`` of the teacher's ``Prediction``, for ``spread``.

    Raises:
        RecipeError: ``error`` for votes that neither bring errors nor are the batch's keypoints, or ``spread`` without
            one.
    """
    weights = votes.weights.float().where(votes.mask, 0)
    per_image, per_vote = weights.new_ones(len(weights)), torch.ones_like(weights)
    if settings.by == "none" or not weights.shape[1]:
        return per_image, per_vote
    if settings.by == "spread":
        return _by_spread(settings, spread), per_vote
    if settings.by == "score":
        if settings.per == "image":
            per_image = weights.amax(1)
        else:
            per_vote = weights
    elif votes.errors is not None:
        if settings.per == "vote":
            per_vote = attentive_weights(votes.errors, settings, votes.mask)
        else:
            # An error may be infinite, and then stands for a vote that is of no use.
            errors = votes.errors.clamp(max=settings.limit if settings.eta == "limit" else _USELESS)
            errors = (errors * weights).sum(1) / weights.sum(1).clamp(min=1e-12)
            per_image = attentive_weights(errors, settings, weights.sum(1) > 0)
    else:
        truth, sizes = annotated_keypoints(batch, votes), batch.sizes("distill.trust: error")
        values = votes.values.float().where(votes.mask[..., None, None], 0)
        if settings.per == "image":
            errors = (weighted_mean(values, weights) - truth).norm(dim=-1).mean(-1) / sizes
            per_image = attentive_weights(errors, settings, weights.sum(1) > 0)
        else:
            errors = (values - truth[:, None]).norm(dim=-1).mean(-1) / sizes[:, None]
            per_vote = attentive_weights(errors, settings, votes.mask)
    return per_image.clamp(settings.floor, 1), per_vote.clamp(settings.floor, 1)


@torch.no_grad()
def image_trust(settings: TrustSettings, teacher: Prediction, batch: Batch) -> Tensor:
    """``[B]`` weights in ``floor`` .. 1 of a teacher's images, from whichever of its views can tell.

    ``score`` and ``error`` look at votes where the teacher has them. Without votes, ``score`` is the largest softmax
    probability of ``logits`` (a mean over heads and positions) and ``error`` the distance of ``regression`` from
    ``regression_truth``.

    Raises:
        RecipeError: trust that the teacher's views cannot tell.
    """
    if settings.by == "none":
        return torch.ones(len(batch), device=batch.images.device)
    if settings.by == "spread":
        return _by_spread(settings, teacher.spread)
    if teacher.votes is not None:
        return trust_weights(settings.model_copy(update={"per": "image"}), teacher.votes, batch)[0]
    if settings.by == "score":
        return top_probability(teacher.logits).clamp(settings.floor, 1)
    if teacher.regression is None or teacher.regression_truth is None:
        raise _unknown("error of a teacher without votes", "votes, or regression with its truth")
    errors = (teacher.regression.float() - teacher.regression_truth.float()).norm(dim=-1)
    return attentive_weights(errors, settings).clamp(settings.floor, 1)


def attentive_weights(errors: Tensor, settings: TrustSettings, counted: Tensor | None = None) -> Tensor:
    """Saputra's ``Phi = 1 - e / eta``, kept in ``0`` .. ``1``: the less, the farther the teacher is from the truth.

    Args:
        errors: ``[...]`` of images or votes, in the units of ``settings.limit``.
        counted: where they mean something; the rest says nothing of ``eta``.

    ``limit``: ``1 - e / limit``. ``percentile``: ``1 - (e - e_min) / (e_95 - e_min)``, so that the best of the batch
    counts in full and one outlier does not decide what the others count. ``faithful``: ``1 - e^2 / (max e^2 - min
    e^2)``. The last two say nothing of errors that are all equal, as in a batch of one: then all are trusted.

    >>> import torch
    >>> attentive_weights(torch.tensor([0.0, 1.0, 2.0]), TrustSettings(by="error", eta="faithful"))
    tensor([1.0000, 0.7500, 0.0000])
    """
    if settings.eta == "limit":
        return (1 - errors / settings.limit).clamp(0, 1)
    counted = torch.ones_like(errors, dtype=torch.bool) if counted is None else counted
    if settings.eta == "faithful":
        errors = errors.square()
    low = errors.where(counted, torch.inf).min()
    if settings.eta == "faithful":
        span, excess = errors.where(counted, -torch.inf).max() - low, errors
    else:
        # Over NaN instead of an index by a mask, which would wait for the device.
        span = torch.nanquantile(errors.where(counted, torch.nan), PERCENTILE) - low
        excess = errors - low
    weights = (1 - excess / span).clamp(0, 1)
    return weights.where(span > 0, 1.0)


def top_probability(logits: dict[str, Tensor]) -> Tensor:
    """``[B]`` largest softmax probability, a mean over the heads of ``[B, classes, ...]`` and their positions.

    Raises:
        RecipeError: there is no head with classes to choose from.
    """
    heads = [head.float().softmax(1).amax(1) for head in logits.values() if head.shape[1] > 1]
    if not heads:
        raise _unknown("score of a teacher without votes", "votes, or logits of at least two classes")
    return torch.stack([head.reshape(len(head), -1).mean(1) for head in heads]).mean(0)


def annotated_keypoints(batch: Batch, votes: Votes) -> Tensor:
    """``[B, K, 2]`` what votes should say by the annotation, in picture widths.

    One keypoint more than the batch has is the centre of the object's box, in front of the others, as single-shot
    networks learn it.

    Raises:
        RecipeError: the votes are not for the batch's keypoints.
    """
    asked_by, width = "distill: annotated keypoints", batch.images.shape[-1]
    truth = batch.target("keypoints", asked_by) / width
    keypoints, dimensions = votes.values.shape[2:]
    if dimensions == 2 and keypoints == truth.shape[1] + 1:
        return torch.cat([batch.box_centers(asked_by)[:, None] / width, truth], 1)
    if (keypoints, dimensions) != truth.shape[1:]:
        found = f"teacher votes {list(votes.values.shape)}"
        expected = f"[B, N, {truth.shape[1]}, {truth.shape[2]}], votes for the annotated keypoints"
        raise RecipeError(describe("recipe", "distill.trust", found, expected))
    return truth


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """``[B, N, K, D], [B, N] -> [B, K, D]``; zeros where all weights are zero."""
    total = weights.sum(1)[:, None, None].clamp(min=1e-12)
    return (values * weights[..., None, None]).sum(1) / total


def _by_spread(settings: TrustSettings, spread: Tensor | None) -> Tensor:
    """``[B]`` ``exp(-spread / limit)``; a spread that is not a number trusts nothing."""
    if spread is None:
        found = "a spread that is not known, as of a single network or of codes"
        raise _unknown(found, "a teacher that is an ensemble, of keypoints or numbers")
    return (-spread.float() / settings.limit).exp().nan_to_num(0.0).clamp(settings.floor, 1)


def _unknown(found: str, expected: str) -> RecipeError:
    return RecipeError(describe("recipe", "distill.trust", found, expected))
