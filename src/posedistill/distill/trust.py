"""How far to trust the teacher: weights for its images or for its single votes, usable with any loss.

``score``: its own confidence. ``error``: its distance from the annotation, after the attentive imitation loss of
Saputra et al., "Distilling Knowledge From a Deep Pose Regressor Network", ICCV 2019, with a fixed limit instead of the
range of errors in the batch, so that one outlier does not change the weights of all others.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from posedistill.data.batch import Batch, of_objects
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Prediction, Votes


class TrustSettings(BaseModel):
    """Which weights; the default trusts all alike (losses on votes already weigh votes by the teacher's scores)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["none", "score", "error"] = "none"
    per: Literal["image", "vote"] = "image"
    limit: float = Field(default=0.1, gt=0)
    """``error``: the mean keypoint error at which trust ends, in object diameters."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """No weight falls below it."""


def trust_weights(settings: TrustSettings, votes: Votes, batch: Batch, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Weights in ``floor`` .. 1 of the images ``[B]`` and of the votes ``[B, N]`` of a teacher.

    Args:
        votes: the teacher's; for ``error`` of image keypoints.
        sizes: ``[B]`` projected diameters in crop sides.

    Raises:
        RecipeError: ``error`` for votes that are not the batch's keypoints.
    """
    weights = votes.weights.float().where(votes.mask, 0)
    if settings.by == "none":
        return torch.ones_like(weights[:, 0]), torch.ones_like(weights)
    if settings.by == "score":
        per_vote, per_image = weights, weights.amax(1)
    else:
        per_vote, per_image = _by_error(settings, votes, weights, batch, sizes)
    per_vote, per_image = per_vote.clamp(settings.floor, 1), per_image.clamp(settings.floor, 1)
    if settings.per == "image":
        return per_image, torch.ones_like(per_vote)
    return torch.ones_like(per_image), per_vote


def image_trust(settings: TrustSettings, teacher: Prediction, batch: Batch) -> Tensor:
    """``[B]`` weights in ``floor`` .. 1 of a teacher's images, for losses that look at no votes.

    Raises:
        RecipeError: trust that the teacher's views cannot tell.
    """
    if settings.by == "none":
        return torch.ones(len(batch), device=batch.images.device)
    if teacher.votes is None:
        raise RecipeError(describe("recipe", "distill.trust", f"{settings.by} of a teacher without votes", "votes"))
    sizes = of_objects(batch, "distill.trust").sizes()
    per_image, _ = trust_weights(settings.model_copy(update={"per": "image"}), teacher.votes, batch, sizes)
    return per_image


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """``[B, N, K, D], [B, N] -> [B, K, D]``; zeros where all weights are zero."""
    total = weights.sum(1)[:, None, None].clamp(min=1e-12)
    return (values * weights[..., None, None]).sum(1) / total


def _by_error(
    settings: TrustSettings, votes: Votes, weights: Tensor, batch: Batch, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    truth = of_objects(batch, "distill.trust: error").keypoints / batch.images.shape[-1]
    if votes.values.shape[2:] != truth.shape[1:]:
        found = f"teacher votes {list(votes.values.shape)}"
        expected = f"[B, N, {truth.shape[1]}, {truth.shape[2]}], votes for the annotated keypoints"
        raise RecipeError(describe("recipe", "distill.trust", found, expected))
    values = votes.values.float().where(votes.mask[..., None, None], 0)
    limits = settings.limit * sizes
    vote_errors = (values - truth[:, None]).norm(dim=-1).mean(-1) / limits[:, None]
    image_errors = (weighted_mean(values, weights) - truth).norm(dim=-1).mean(-1) / limits
    return 1 - vote_errors, 1 - image_errors
