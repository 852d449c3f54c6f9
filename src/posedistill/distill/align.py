"""align: the student's votes for each keypoint, as a distribution, are moved onto the teacher's by optimal transport.

Guo et al., "Knowledge Distillation for 6D Pose Estimation by Aligning Distributions of Local Predictions", CVPR 2023.
No vote is matched with another, their counts may differ, and the scores say how much each vote matters.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from posedistill.data.batch import Batch
from posedistill.distill.base import Distiller, mean_over, object_sizes, paired_votes
from posedistill.distill.transport import sinkhorn_divergence
from posedistill.distill.trust import trust_weights
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Prediction, Votes


class AlignSettings(BaseModel):
    """Units, solver, and the balance of the loss's two parts.

    The divergence of two measures has a part that moves votes and a part that compares masses. Left together
    (``coupled``, the published form) the second drowns the first: positions then receive about a hundredth of the
    supervised gradient, and the loss teaches confidence alone. Apart, they are ::

        transport_weight * S(alpha / m_alpha, beta / m_beta) + mass_weight * (sqrt(mean score) - sqrt(mean score'))^2

    The defaults are for positions in object diameters. There a vote that is off by 0.05 receives from ``S`` 0.15 times
    the gradient of a line-of-sight loss of weight 1, so 10 makes the two about equal between 0.02 and 0.05; further
    out ``S`` grows where the supervised loss does not, up to ``reach``. The mass weight gives scores about twice the
    gradient of a focal loss of weight 0.1 per positive cell, the published proportion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    solver: Literal["converged", "faithful"] = "converged"
    unit: Literal["object", "crop"] = "object"
    """Positions count in projected object diameters, or in crop sides (or whatever unit the votes have)."""
    blur: float = Field(default=0.02, gt=0)
    """Scale below which votes are not told apart, in units."""
    reach: float | None = Field(default=0.3, gt=0)
    """Distance beyond which a vote is given up rather than moved, in units; null gives up none."""
    measure: Literal["scores", "uniform"] = "scores"
    """Votes weigh their scores, or all the same."""
    coupled: bool = False
    transport_weight: float = Field(default=10.0, ge=0)
    mass_weight: float = Field(default=0.2, ge=0)
    detach_scores: bool = False
    """Only positions learn."""
    joint: bool = False
    """One transport of whole votes (all keypoints of a cell at once) instead of one a keypoint."""
    iterations: int = Field(default=16, ge=2)
    """Of the converged solver. At a blur of 0.02 the value is then off by less than 1e-4 and the gradient by about
    1e-4, also in early training (votes 0.3 diameters off); a smaller blur needs more."""
    scaling: float = Field(default=0.5, gt=0, lt=1)
    """Of the faithful solver."""

    @model_validator(mode="after")
    def _consistent(self) -> "AlignSettings":
        if self.reach is not None and self.reach < self.blur:
            raise ValueError("reach must not be smaller than blur")
        if self.reach is None and self.coupled:
            raise ValueError("coupled masses differ in total: they need a reach")
        return self


class Align(Distiller):
    """Mean over the images in which both sides vote, and over their keypoints."""

    Settings = AlignSettings
    needs = frozenset({"votes"})
    settings: AlignSettings

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; 0 where no image has votes on both sides."""
        with torch.autocast(batch.images.device.type, enabled=False):
            ours, theirs = paired_votes(self.name, student, teacher)
            sizes = object_sizes(batch)
            image_trust, vote_trust = trust_weights(self.trust, theirs, batch, sizes, teacher.spread)
            a, b = self._masses(ours), self._masses(theirs) * vote_trust
            if self.settings.detach_scores:
                a = a.detach()
            counted = (a.sum(1) > 0) & (b.sum(1) > 0)
            if self.settings.coupled:
                losses = self.settings.transport_weight * self._divergence(ours, a, theirs, b, sizes)
            else:
                shares = [mass / mass.sum(1, keepdim=True).clamp(min=1e-12) for mass in (a, b)]
                divergence = self._divergence(ours, shares[0], theirs, shares[1], sizes)
                gap = _mean_score(a, ours.mask).sqrt() - _mean_score(b, theirs.mask).sqrt()
                losses = self.settings.transport_weight * divergence + self.settings.mass_weight * gap.square()
            return mean_over(losses * image_trust, counted)

    def _masses(self, votes: Votes) -> Tensor:
        weights = votes.weights.float().where(votes.mask, 0)
        if self.settings.measure == "scores":
            return weights
        return votes.mask / votes.mask.sum(1, keepdim=True).clamp(min=1)

    def _divergence(self, ours: Votes, a: Tensor, theirs: Votes, b: Tensor, sizes: Tensor) -> Tensor:
        """``[B]``: the divergence of each image, a mean over its keypoints."""
        settings = self.settings
        (x, x_mask), (y, y_mask) = (self._points(votes, sizes) for votes in (ours, theirs))
        per_image = len(x) // len(a)
        divergence = sinkhorn_divergence(
            x,
            a.repeat_interleave(per_image, 0),
            y,
            b.repeat_interleave(per_image, 0),
            blur=settings.blur,
            reach=settings.reach,
            x_mask=x_mask.repeat_interleave(per_image, 0),
            y_mask=y_mask.repeat_interleave(per_image, 0),
            solver=settings.solver,
            iterations=settings.iterations,
            scaling=settings.scaling,
            group=per_image,
        )
        return divergence.view(len(a), per_image).mean(1)

    def _points(self, votes: Votes, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """``[B * K, N, D]`` points in units (``[B, N, K * D]`` when joint) and ``[B, N]`` mask."""
        values = votes.values.float()
        keypoints, dimensions = values.shape[2:]
        if self.settings.unit == "object":
            if dimensions != 2:
                found = f"votes of {dimensions} dimensions with unit: object"
                raise RecipeError(describe("recipe", f"distill.{self.name}.unit", found, "image points, or unit: crop"))
            values = values / sizes[:, None, None, None]
        if self.settings.joint:
            # The mean over keypoints of the squared distances, so that blur and reach keep their meaning.
            return values.flatten(2) / keypoints**0.5, votes.mask
        return values.transpose(1, 2).flatten(0, 1), votes.mask


def _mean_score(mass: Tensor, mask: Tensor) -> Tensor:
    """``[B]`` mean mass of the votes there are; kept off zero, where a root has no gradient."""
    return (mass.sum(1) / mask.sum(1).clamp(min=1)).clamp(min=1e-6)
