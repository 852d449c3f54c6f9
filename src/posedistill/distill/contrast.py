"""contrast: a picture's embedding is nearer to the teacher's of that picture than to those of others.

``info_nce``: others of the batch (van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
2018), as in Liu et al., "3D-Augmented Contrastive Knowledge Distillation for Image-based Object Pose Estimation",
ICMR 2022, whose code counts the positive twice (``faithful``).
``pose_weighted_info_nce``: others count by how far off their poses are (Xiao et al., "PoseContrast", 3DV 2021).
``crd``: others come from a bank of all training pictures (Tian et al., "Contrastive Representation Distillation", ICLR
2020); by default an exact one, weighted by pose, as published (``faithful``) two that follow the networks.
"""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.distill.base import Distiller, DistillSpec, Example, FormSettings
from posedistill.distill.functional.bank import MomentumBank, PictureBank, fill_bank, refuse_beyond_memory
from posedistill.distill.functional.kernels import rotation_distances
from posedistill.distill.trust import image_trust
from posedistill.errors import RecipeError, describe
from posedistill.estimators.contrast import (
    Weighting,
    nce,
    negative_weights,
    shared_turns,
    unit,
    viewpoint_distances,
)
from posedistill.estimators.views import Prediction

COLDEST, WARMEST = 0.02, 0.5
"""Limits of a learned temperature."""

_COMMON = {"form", "temperature", "learn_temperature"}
_BY_POSE = {"teacher_side", "weighting", "degrees_per_unit"}
_OPTIONS = {
    "info_nce": {"teacher_side", "faithful"},
    "pose_weighted_info_nce": _BY_POSE,
    "crd": {"faithful", "negatives", "positive"} | _BY_POSE,
}
"""What each form has of its own; ``dim`` too, unless the teacher's side is fixed."""


class ContrastSettings(FormSettings):
    """Form, negatives and temperature."""

    form: Literal["info_nce", "pose_weighted_info_nce", "crd"] = Field(
        "pose_weighted_info_nce", description="Which contrast: see docs/losses/contrast.md."
    )
    weighting: Weighting = "linear"
    """How much a negative counts by its distance in pose; both sines forgive a half turn (front taken for back)."""
    temperature: float = Field(default=0.1, ge=0.01, le=1, description="By which similarities are divided.")
    learn_temperature: bool = False
    """Learn it along, between 0.02 and 0.5, starting from ``temperature``."""
    dim: int = Field(default=128, ge=2)
    """Width of the space in which embeddings are compared."""
    teacher_side: Literal["learned", "fixed"] = "learned"
    """Project the teacher's embedding too, as published, or compare with the embedding itself, less its mean."""
    negatives: int = Field(default=1024, ge=1)
    """``crd``: pictures drawn from the bank at each step."""
    positive: Literal["same_pixels", "bank"] = "same_pixels"
    """``crd``: the teacher's embedding of the very crop, or that of the picture as the bank holds it, not augmented."""
    degrees_per_unit: float | None = Field(default=None, ge=0)
    """What a unit (mm, or m in scenes) between two cameras counts for in degrees of pose distance.

    By default 0 for objects, whose crops are all of a size; in scenes, what makes the median of a batch 90 degrees.
    """
    faithful: bool = False
    """``info_nce``: the positive counted twice. ``crd``: the published objective and banks."""

    def in_use(self) -> tuple[str, set[str]]:
        """The options of the form, few where it is the published one."""
        if self.form == "crd" and self.faithful:
            return "crd with faithful: true", _COMMON | {"faithful", "negatives", "dim"}
        return self.form, _COMMON | _OPTIONS[self.form] | ({"dim"} if self.teacher_side == "learned" else set())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.learn_temperature and not COLDEST < self.temperature < WARMEST:
            raise ValueError(f"{self.temperature} is learned, expected to start between {COLDEST} and {WARMEST}")
        return self


class Contrast(Distiller):
    """A mean over images; ``prepare`` makes the projectors of both embeddings and, for ``crd``, fills the bank."""

    Settings = ContrastSettings
    settings: ContrastSettings
    needs = frozenset({"embedding"})
    student: nn.Linear
    teacher: nn.Linear | None
    pictures: PictureBank
    banks: MomentumBank
    center: Tensor
    degrees: Tensor

    def __init__(self, spec: DistillSpec, settings: ContrastSettings) -> None:
        super().__init__(spec, settings)
        self.warmth = nn.Parameter(_warmth_of(settings.temperature)) if settings.learn_temperature else None

    def prepare(self, example: Example) -> None:
        """Build projectors in the widths of both embeddings; ``crd``: fill the bank.

        Raises:
            RecipeError: embeddings that are no vectors, a weighting that scenes do not have, a bank beyond memory.
        """
        ours, theirs = self._embeddings(example.student, example.teacher)
        learned = self.settings.teacher_side == "learned"
        width = self.settings.dim if learned else theirs.shape[1]
        self.student = nn.Linear(ours.shape[1], width)
        self.teacher = nn.Linear(theirs.shape[1], width) if learned else None
        self.register_buffer("center", theirs.mean(0))
        self.register_buffer("degrees", self._degrees_per_unit(example.batch))
        if self.settings.form != "crd":
            return
        if not self.settings.faithful:
            self.pictures = fill_bank(self.name, example, theirs.shape[1])
            return
        device = example.batch.images.device
        refuse_beyond_memory(self.name, example.picture_count, 2 * width, device)
        self.pictures = fill_bank(self.name, example, 0)
        self.banks = MomentumBank(len(self.pictures), width, device)

    def temperature(self) -> Tensor | float:
        """The temperature in force: fixed, or what has been learned, always within its limits."""
        if self.warmth is None:
            return self.settings.temperature
        return COLDEST * (WARMEST / COLDEST) ** self.warmth.sigmoid()

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; its minimum is 0, or ln 2 where the positive is counted twice."""
        with torch.autocast(batch.images.device.type, enabled=False):
            ours, theirs = self._embeddings(student, teacher)
            anchors, keys = unit(self.student(ours)), self._keys(theirs)
            if self.settings.form == "crd":
                compare = self._momentum_crd if self.settings.faithful else self._exact_crd
                losses = compare(anchors, keys, batch)
            else:
                scores = anchors @ keys.T / self.temperature()
                losses = nce(scores.diagonal(), scores, self._batch_weights(batch))
            return (losses * image_trust(self.trust, teacher, batch)).sum() / max(len(losses), 1)

    def _batch_weights(self, batch: Batch) -> Tensor:
        """``[B, B]`` how much each picture of the batch counts as another's negative."""
        if self.settings.form == "info_nce":
            same = torch.eye(len(batch), device=batch.images.device)
            return torch.ones_like(same) if self.settings.faithful else 1 - same
        centers, turns = batch.camera_centers(), batch.targets.get("turns")
        both = shared_turns(turns, turns)
        distances = pose_distances(batch.R, centers, batch.R, centers, self.degrees, both)
        return negative_weights(distances, self.settings.weighting).fill_diagonal_(0)

    def _exact_crd(self, anchors: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """``[B]``: against what the frozen teacher makes of other pictures, whose weights follow their poses."""
        bank = self.pictures
        if self.settings.positive == "bank":
            rows, known = bank.rows(batch.ids)
            keys = torch.where(known[:, None], self._keys(bank.embeddings[rows]), keys)
        rows = bank.draw(batch.ids, self.settings.negatives)
        both = shared_turns(batch.targets.get("turns"), None if bank.turns is None else bank.turns[rows])
        poses = batch.R, batch.camera_centers(), bank.R[rows], bank.centers[rows]
        distances = pose_distances(*poses, self.degrees, both)
        others = bank.ids[rows] != batch.ids[:, None]
        weights = negative_weights(distances, self.settings.weighting) * others
        temperature = self.temperature()
        negatives = anchors @ self._keys(bank.embeddings[rows]).T
        return nce((anchors * keys).sum(1) / temperature, negatives / temperature, weights)

    def _momentum_crd(self, anchors: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """``[B]``: anchors of either side against the bank of the other; then the banks follow."""
        own, known = self.pictures.rows(batch.ids)
        rows = self.pictures.draw(batch.ids, self.settings.negatives)
        others = self.pictures.ids[rows] != batch.ids[:, None]
        banks, losses = self.banks, []
        for side, (fresh, bank) in enumerate(((anchors, banks.teacher), (keys, banks.student))):
            scores = torch.cat([(fresh * bank[own]).sum(1, keepdim=True), fresh @ bank[rows].T], dim=1)
            scores = banks.normalise(side, scores / self.temperature())
            losses.append(crd_nce(scores[:, 0], scores[:, 1:], others, len(self.pictures)))
        if self.training:
            banks.update(own, known, anchors, keys)
        return torch.where(known, losses[0] + losses[1], 0)

    def _keys(self, embeddings: Tensor) -> Tensor:
        """``[N, D] -> [N, dim]`` of length 1."""
        return unit(embeddings - self.center if self.teacher is None else self.teacher(embeddings))

    def _embeddings(self, student: Prediction, teacher: Prediction) -> tuple[Tensor, Tensor]:
        ours, theirs = student.embedding, teacher.embedding
        shapes = [None if side is None else list(side.shape) for side in (ours, theirs)]
        if ours is None or theirs is None or ours.ndim != 2 or theirs.ndim != 2 or len(ours) != len(theirs):
            found = f"student embedding {shapes[0]}, teacher embedding {shapes[1]}"
            expected = "one vector for each picture ([B, D]) on both sides"
            raise RecipeError(describe("recipe", f"distill.{self.name}", found, expected))
        return ours.float(), theirs.detach().float()

    def _degrees_per_unit(self, batch: Batch) -> Tensor:
        of_scene = "diameters" not in batch.targets and bool(batch.t.any())  # a category has no translation
        given = self.settings.degrees_per_unit
        if of_scene and self.settings.weighting in ("sin", "sinsin"):
            expected = "linear, sqrt or square for scenes, where the farthest camera would not count"
            raise RecipeError(describe("recipe", f"distill.{self.name}.weighting", self.settings.weighting, expected))
        if not of_scene or given is not None or len(batch) < 2:
            return batch.t.new_tensor(given or 0.0)
        median = functional.pdist(batch.camera_centers().float()).median()
        return torch.where(median > 0, 90 / median, 0)


def crd_nce(positive: Tensor, negatives: Tensor, others: Tensor, count: int) -> Tensor:
    """Published objective of CRD: tell the positive from ``K`` draws among ``count`` pictures, each by itself.

    Tian et al. 2020, the critic's objective: with ``c = K / count``, ``-ln(P+ / (P+ + c)) - sum_k ln(c / (P_k + c))``.

    Args:
        positive: ``[B]``, negatives: ``[B, K]`` logarithms of ``P = exp(similarity / temperature) / Z``.
        others: ``[B, K]`` bool, False for a draw that is the anchor's own picture; it is left out.

    Returns:
        ``[B]``

    >>> p, n = torch.tensor([0.5]).log(), torch.tensor([[0.1, 0.2]]).log()
    >>> crd_nce(p, n, torch.ones(1, 2, dtype=torch.bool), 10)
    tensor([1.4351])
    """
    share = negatives.shape[1] / count
    noise = positive.new_full((), share + 1e-7).log()  # a copy from the host would wait for the device
    hit = torch.logaddexp(positive, noise) - positive
    misses = torch.logaddexp(negatives, noise) - math.log(share)
    return hit + misses.where(others, 0).sum(1)


def pose_distances(
    R: Tensor,
    centers: Tensor,
    other_R: Tensor,
    other_centers: Tensor,
    degrees: Tensor,
    turns: Tensor | None = None,
) -> Tensor:
    """How far apart two poses are, in degrees: the angle between rotations, and what is between the cameras.

    ``d = min(180, hypot(angle, degrees * |c - c'|))``; with ``degrees`` 0 the geodesic distance of rotations.

    Args:
        R: ``[B, 3, 3]``, centers: ``[B, 3]`` camera positions; other_R: ``[K, 3, 3]``, other_centers: ``[K, 3]``.
        degrees: what a unit of length counts for.
        turns: ``[B, K]`` degrees after which either looks the same: its nearest equivalent is then compared.

    Returns:
        ``[B, K]`` float32.

    >>> turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> pose_distances(torch.eye(3)[None], torch.zeros(1, 3), turn[None], torch.zeros(1, 3), torch.tensor(0.0))
    tensor([[90.]])
    """
    if turns is None:
        angles = rotation_distances(R.double(), other_R.double()).rad2deg()
    else:
        angles = viewpoint_distances(R.double(), other_R.double(), turns)
    lengths = torch.cdist(centers.double(), other_centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return torch.hypot(angles, degrees * lengths).clamp(max=180).float()


def _warmth_of(temperature: float) -> Tensor:
    """What ``Contrast.temperature`` turns into this temperature; 0, where weight decay pulls, is 0.1."""
    share = math.log(temperature / COLDEST) / math.log(WARMEST / COLDEST)
    return torch.tensor(share).logit()
