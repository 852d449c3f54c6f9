"""align: the student's votes for each keypoint, as a distribution, are moved onto the teacher's by optimal transport.

Guo et al., "Knowledge Distillation for 6D Pose Estimation by Aligning Distributions of Local Predictions", CVPR 2023.
No vote is matched with another, their counts may differ, and the scores say how much each vote matters. Votes that are
surface codes (Su et al., "ZebraPose", CVPR 2022) are moved as vectors of bit probabilities.
"""

import logging
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill.base import Distiller, FormSettings, mean_over, paired_votes
from posedistill.distill.functional.transport import sinkhorn_divergence
from posedistill.distill.trust import trust_weights
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Prediction, Votes, place_of_cells

_log = logging.getLogger(__name__)
_UNSOLVED = 0.01
"""Residual of a transport from which on the loss is told to be off."""


class AlignSettings(FormSettings):
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

    solver: Literal["converged", "faithful"] = Field(
        "converged", description="converged: the corrected transport; faithful: as published."
    )
    unit: Literal["object", "crop", "code"] = "object"
    """Positions count in projected object diameters, or in crop sides (or whatever unit the votes have). Codes, vectors
    of bit probabilities, count by the root mean square over their bits: 0 where they agree, 1 where all differ."""
    blur: float = Field(default=0.02, gt=0)
    """Scale below which votes are not told apart, in units."""
    reach: float | None = Field(default=0.3, gt=0)
    """Distance beyond which a vote is given up rather than moved, in units; null gives up none."""
    measure: Literal["scores", "uniform"] = "scores"
    """Votes weigh their scores, or all the same."""
    coupled: bool = Field(False, description="Masses of both sides count as they are, instead of as shares.")
    transport_weight: float = Field(default=10.0, ge=0, description="Of the transport.")
    mass_weight: float = Field(default=0.2, ge=0, description="Of the difference in mass.")
    detach_scores: bool = False
    """Only positions learn."""
    joint: bool = False
    """One transport of whole votes (all keypoints of a cell at once) instead of one a keypoint; codes always are."""
    place_weight: float = Field(default=1.0, ge=0)
    """``code``: how much the squared distance of two cells, in crop sides, adds to that of their codes. Without it the
    loss does not care where in the picture a code is read."""
    bit_decay: float = Field(default=1.0, gt=0, le=1)
    """``code``: a bit's weight, as a fraction of the weight of the next coarser one before it."""
    iterations: int = Field(default=16, ge=2)
    """Of the converged solver. At a blur of 0.02 values are then off by 1e-6 and gradients by 2e-4, by 1e-3 in early
    training (votes 0.3 diameters off); problems that need more get more."""
    scaling: float = Field(default=0.5, gt=0, lt=1)
    """Of the faithful solver."""

    def in_use(self) -> tuple[str, set[str]]:
        """All but what belongs to another unit or to the other solver."""
        idle = {"joint"} if self.unit == "code" else {"place_weight", "bit_decay"}
        idle |= {"iterations"} if self.solver == "faithful" else {"scaling"}
        return f"unit: {self.unit}, solver: {self.solver}", set(type(self).model_fields) - idle

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reach is not None and self.reach < self.blur:
            raise ValueError("reach must not be smaller than blur")
        if self.reach is None and self.coupled:
            raise ValueError("coupled masses differ in total: they need a reach")
        return self


class Align(Distiller):
    """Mean over the images in which both sides vote, and over their keypoints; NaN in a vote makes it NaN."""

    Settings = AlignSettings
    needs = frozenset({"votes"})
    settings: AlignSettings
    warned = False

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; 0 where no image has votes on both sides.

        Raises:
            RecipeError: votes that the settings cannot compare.
        """
        settings = self.settings
        with torch.autocast(batch.images.device.type, enabled=False):
            ours, theirs = paired_votes(self.name, student, teacher)
            image_trust, vote_trust = trust_weights(self.trust, theirs, batch, teacher.spread)
            a, b = self._masses(ours), self._masses(theirs) * vote_trust
            if settings.detach_scores:
                a = a.detach()
            x, y = (self._points(votes, batch) for votes in (ours, theirs))
            # Not "> 0": NaN scores are an error to be told, not an image without votes.
            counted = ~((a.sum(1) <= 0) | (b.sum(1) <= 0))
            if settings.coupled:
                losses = settings.transport_weight * self._divergence(x, a, ours.mask, y, b, theirs.mask)
            else:
                shares = [mass / mass.sum(1, keepdim=True).clamp(min=1e-12) for mass in (a, b)]
                divergence = self._divergence(x, shares[0], ours.mask, y, shares[1], theirs.mask)
                losses = settings.transport_weight * divergence
                if settings.measure == "scores":
                    gap = _mean_score(a, ours.mask).sqrt() - _mean_score(b, theirs.mask).sqrt()
                    losses = losses + settings.mass_weight * gap.square()
            return mean_over(losses * image_trust, counted)

    def _masses(self, votes: Votes) -> Tensor:
        """``[B, N]``"""
        if self.settings.measure == "scores":
            return votes.weights.float().where(votes.mask, 0)
        return votes.mask / votes.mask.sum(1, keepdim=True).clamp(min=1)

    def _divergence(self, x: Tensor, a: Tensor, x_mask: Tensor, y: Tensor, b: Tensor, y_mask: Tensor) -> Tensor:
        """``[B]``: the divergence of each image, a mean over its ``G`` problems: ``[B, G, N, D]``, ``[B, N]``."""
        settings, (images, group) = self.settings, x.shape[:2]
        divergence, residual = sinkhorn_divergence(
            x.flatten(0, 1),
            a.repeat_interleave(group, 0),
            y.flatten(0, 1),
            b.repeat_interleave(group, 0),
            blur=settings.blur,
            reach=settings.reach,
            x_mask=x_mask.repeat_interleave(group, 0),
            y_mask=y_mask.repeat_interleave(group, 0),
            solver=settings.solver,
            iterations=settings.iterations,
            scaling=settings.scaling,
            group=group,
        )
        if not self.warned and residual is not None and (worst := residual.amax().item()) > _UNSOLVED:
            self.warned = True
            _log.warning(
                "distill.%s: the transport is not solved (residual %.1g, expected below %g) at blur %g and reach %s: "
                "state a larger blur, or more iterations",
                self.name,
                worst,
                _UNSOLVED,
                settings.blur,
                settings.reach,
            )
        return divergence.view(images, group).mean(1)

    def _points(self, votes: Votes, batch: Batch) -> Tensor:
        """Points in units, ``[B, K, N, D]``; whole votes as one, ``[B, 1, N, D']``, when joint or codes."""
        values = votes.values.float()
        keypoints, dimensions = values.shape[2:]
        if self.settings.unit == "code":
            return self._codes(votes, batch.images.shape[-1])[:, None]
        if self.settings.unit == "object":
            if dimensions != 2:
                found = f"votes of {dimensions} dimensions with unit: object"
                expected = "image points, or unit: crop or code"
                raise RecipeError(describe("recipe", f"distill.{self.name}.unit", found, expected))
            values = values / batch.sizes("distill.align.unit: object")[:, None, None, None]
        if self.settings.joint:
            # The mean over keypoints of the squared distances, so that blur and reach keep their meaning.
            return (values.flatten(2) / keypoints**0.5)[:, None]
        return values.transpose(1, 2)

    def _codes(self, votes: Votes, side: int) -> Tensor:
        """``[B, N, K * D + 2]``: bits, scaled by the roots of their weights, which sum to 1; and the cells' places."""
        values = votes.values.float()
        weights = self.settings.bit_decay ** torch.arange(values.shape[3], device=values.device)
        codes = (values * (weights / weights.sum() / values.shape[2]).sqrt()).flatten(2)
        if self.settings.place_weight == 0:
            return codes
        if votes.cells is None:
            expected = "votes of cells, or place_weight: 0"
            raise RecipeError(describe("recipe", f"distill.{self.name}", "votes that tell no cells", expected))
        return torch.cat([codes, self.settings.place_weight**0.5 * cell_places(votes.cells, side)], -1)


def cell_places(cells: Tensor, side: int) -> Tensor:
    """``[..., 2]``: centres (x, y) of the cells that ``cell_ids`` numbers so, in sides of a crop of ``side`` pixels.

    >>> from posedistill.estimators.views import cell_ids
    >>> cell_places(cell_ids(16, 2, 2), 32).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    stride, row, column = place_of_cells(cells)
    return torch.stack([column + 0.5, row + 0.5], -1) * (stride / side)[..., None]


def _mean_score(mass: Tensor, mask: Tensor) -> Tensor:
    """``[B]`` mean mass of the votes there are; kept off zero, where a root has no gradient."""
    return (mass.sum(1) / mask.sum(1).clamp(min=1)).clamp(min=1e-6)
