"""relate: the student shall relate the images of a batch to each other as the teacher does, or as their poses do.

Widths need not agree, for what is compared is ``[B, B]``. The losses themselves are in
``distill.functional.relations``. Where a published form is inert, or depends on what it should not, the default is
another, and ``faithful`` or ``profile`` gives it.
"""

from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posedistill.data.loading.batch import Batch
from posedistill.distill.base import Distiller, DistillSpec, Example, FormSettings, mean_over
from posedistill.distill.functional import relations
from posedistill.distill.functional.kernels import centered, comparable_pairs, pose_kernel, pose_labels
from posedistill.distill.functional.layers import Layers, paired_layers, teacher_layers
from posedistill.distill.trust import image_trust
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Prediction

OPTIONS: dict[str, set[str]] = {
    "self_cross": {"profile", "reference", "temperature", "rows_weight", "full"},
    "similarity_preserving": {"faithful"},
    "self_similarity": {"faithful"},
    "correlation_congruence": {"faithful", "gamma", "embed"},
    "rkd": {"distance_weight", "angle_weight"},
    "rotation_rkd": set(),
    "pkt": {"faithful"},
    "pose_rows": {"temperature"},
}
"""The forms, and the options each has beside ``form``, ``layers`` and ``trusted_only``."""
TEACHERLESS = {"rotation_rkd", "pose_rows"}
"""The forms in which the batch's poses teach, and the teacher's prediction is not looked at."""
BY_POSE = TEACHERLESS | {"self_cross"}
LOSSES = {loss.__name__: loss for loss in (relations.similarity_preserving, relations.self_similarity, relations.pkt)}


class RelateSettings(FormSettings):
    """The form, what it looks at, and its own options."""

    form: Literal[
        "self_cross",
        "similarity_preserving",
        "self_similarity",
        "correlation_congruence",
        "rkd",
        "rotation_rkd",
        "pkt",
        "pose_rows",
    ] = Field("self_cross", description="Which relations: see docs/losses/relate.md.")
    layers: Layers | None = None
    """Null: the embedding. Else the feature maps to flatten: ``all`` that both networks have, names, or ``{student's
    name: teacher's name}``."""
    trusted_only: bool = False
    """Images that trust weighs 0 are left out of every relation, not only spared a loss of their own."""
    faithful: bool = False
    """The published form, on the scale that its published weight is for."""
    profile: Literal["sckd-plus", "sckd-head", "sckd-pub"] = "sckd-plus"
    """``self_cross``: correlations with a kernel of poses; or cosines with raw labels, compared by the divergence of
    their softmax (``sckd-head``) or by squared differences (``sckd-pub``)."""
    reference: Literal["gt", "pred"] = "gt"
    """The published profiles: what the student's features are crossed with, the labels or its own ``regression``."""
    rows_weight: float = Field(default=0.0, ge=0)
    """``sckd-plus``: weight of the divergence between the rows of both networks, beside that of the scores."""
    full: bool = False
    """``sckd-plus``: every row of features against the poses of every image."""
    temperature: float | None = Field(default=None, gt=0)
    """Of the softmax over rows (null: 0.1), or over the scores of ``sckd-head`` (null: 1)."""
    gamma: float = Field(default=0.4, gt=0)
    """Of the kernel of ``correlation_congruence``."""
    embed: int = Field(default=128, ge=1)
    """Width to which ``correlation_congruence`` brings both sides."""
    distance_weight: float = Field(default=25.0, ge=0, description="Of the distances between instances (rkd).")
    angle_weight: float = Field(default=50.0, ge=0, description="Of the angles between instances (rkd).")

    def in_use(self) -> tuple[str, set[str]]:
        """The options of the form, which its profile and ``faithful`` make fewer."""
        kind, options = str(self.form), {"form", "layers", "trusted_only"} | OPTIONS[self.form]
        if self.form == "self_cross":
            kind += f" ({self.profile})"
            options -= {"reference"} if self.profile == "sckd-plus" else {"rows_weight", "full"}
            if self.profile == "sckd-pub" or (self.profile == "sckd-plus" and not self.rows_weight):
                options -= {"temperature"}
        if self.form == "correlation_congruence" and self.faithful:
            options -= {"gamma"}
        return kind, options


class Relate(Distiller):
    """Mean over images; over stages the mean too, but for the published self-cross profiles, which add them up."""

    Settings = RelateSettings
    settings: RelateSettings

    def __init__(self, spec: DistillSpec, settings: RelateSettings) -> None:
        super().__init__(spec, settings)
        view = "embedding" if settings.layers is None else "features"
        self.needs = frozenset({view, "regression"} if settings.reference == "pred" else {view})
        self.needs_teacher = frozenset() if settings.form in TEACHERLESS else frozenset({view})
        if settings.layers is not None:
            self.maps = teacher_layers(settings.layers)
        if settings.trusted_only and spec.trust.by == "none":
            found, expected = "trust: none", "a trust to tell images apart, or trusted_only: false"
            raise RecipeError(describe("recipe", f"distill.{spec.name}.trusted_only", found, expected))
        self.student_embeds, self.teacher_embeds = nn.ModuleList(), nn.ModuleList()

    def prepare(self, example: Example) -> None:
        """See that both sides can be compared, and build the embeddings of ``correlation_congruence``.

        As published both are learned, and free to agree on a constant. By default the teacher's is a fixed projection,
        random and orthogonal, which keeps its relations about as they are.
        """
        stages = self._stages(example.student, example.teacher, example.batch)
        if self.settings.form != "correlation_congruence":
            return
        for ours, theirs in stages:
            self.student_embeds.append(nn.Linear(ours.shape[1], self.settings.embed))
            embed = nn.Linear(theirs.shape[1], self.settings.embed, bias=self.settings.faithful)
            if not self.settings.faithful:
                nn.init.orthogonal_(embed.requires_grad_(False).weight)
            self.teacher_embeds.append(embed)

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss; 0 where the batch is too small to hold a relation."""
        settings = self.settings
        with torch.autocast(batch.images.device.type, enabled=False):
            stages = self._stages(student, teacher, batch)
            trust = image_trust(self.trust, teacher, batch)
            # Choosing rows waits for the device, once a step; a slice does not.
            kept = trust > 0 if settings.trusted_only else slice(None)
            poses = _Poses(batch, kept, student.regression if settings.reference == "pred" else None)
            losses = torch.stack(
                [self._losses(number, ours[kept], theirs[kept], poses) for number, (ours, theirs) in enumerate(stages)]
            )
            losses = losses.sum(0) if settings.profile != "sckd-plus" else losses.mean(0)
            by_kernel = settings.form in BY_POSE and settings.profile == "sckd-plus"
            counted = poses.pairs.any(1) if by_kernel else torch.ones_like(losses, dtype=torch.bool)
            return mean_over(losses * trust[kept], counted)

    def _losses(self, number: int, ours: Tensor, theirs: Tensor, poses: "_Poses") -> Tensor:
        """``[B]`` losses of the images in one stage."""
        settings = self.settings
        match settings.form:
            case "self_cross":
                return self._self_cross(ours, theirs, poses)
            case "rotation_rkd":
                return relations.rotation_rkd(ours, poses.rotations, poses.pairs)
            case "pose_rows":
                return relations.pose_rows(ours, poses.kernel, poses.pairs, settings.temperature or 0.1)
            case "rkd":
                return relations.rkd(ours, theirs, settings.distance_weight, settings.angle_weight)
            case "correlation_congruence":
                ours, theirs = self.student_embeds[number](ours.float()), self.teacher_embeds[number](theirs.float())
                if settings.faithful:
                    return relations.consecutive_congruence(ours, theirs)
                return relations.correlation_congruence(centered(ours), centered(theirs), settings.gamma)
        loss = LOSSES[settings.form]
        if settings.faithful:
            return loss(ours, theirs)
        # A sum over the other images instead of their mean: the weight then holds for any batch size.
        others = len(ours) / max(len(ours) - 1, 1) if settings.form == "self_similarity" else len(ours)
        return others * loss(centered(ours), centered(theirs))

    def _self_cross(self, ours: Tensor, theirs: Tensor, poses: "_Poses") -> Tensor:
        settings = self.settings
        if settings.profile == "sckd-plus":
            rows = settings.rows_weight, settings.temperature or 0.1
            return relations.pearson_self_cross(ours, theirs, poses.kernel, poses.pairs, settings.full, *rows)
        temperature = None if settings.profile == "sckd-pub" else settings.temperature or 1.0
        return relations.self_cross(ours, theirs, poses.labels, poses.predicted, temperature)

    def _stages(self, student: Prediction, teacher: Prediction, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """``[B, D]`` features of both sides, stage by stage.

        Raises:
            RecipeError: a side has no such view, or the two show different counts of images.
        """
        alone = self.settings.form in TEACHERLESS
        stages = []
        for name, other in self._names(student, teacher):
            ours = self._view("student", student, name, batch)
            theirs = (ours if alone else self._view("teacher", teacher, other, batch)).detach()
            if len(ours) != len(theirs):
                found = f"student {list(ours.shape)}, teacher {list(theirs.shape)}"
                raise RecipeError(describe("recipe", f"distill.{self.name}", found, "features of the same images"))
            stages.append((ours, theirs))
        return stages

    def _names(self, student: Prediction, teacher: Prediction) -> list[tuple[str, str]]:
        layers = self.settings.layers
        if layers is None:
            return [("", "")]
        if self.settings.form in TEACHERLESS:
            layers, teacher = layers if layers == "all" else tuple(layers), student
        return list(paired_layers(layers, student.features, teacher.features, self.name).items())

    def _view(self, side: str, prediction: Prediction, name: str, batch: Batch) -> Tensor:
        """``[I, D]``; instances in one picture share its maps."""
        view = prediction.features[name][batch.picture] if name else prediction.embedding
        if view is None:
            expected = f"a {side} with an embedding, or options.layers"
            raise RecipeError(describe("recipe", f"distill.{self.name}.layers", "none, and no embedding", expected))
        return view.flatten(1)


class _Poses:
    """What is known of the pictures that are related to each other."""

    def __init__(self, batch: Batch, kept: Tensor | slice, predicted: Tensor | None) -> None:
        self.pairs = comparable_pairs(batch)[kept][:, kept]
        self.rotations = batch.R[kept]
        self.predicted = None if predicted is None else predicted[kept]
        self._batch, self._kept = batch, kept

    @cached_property
    def kernel(self) -> Tensor:
        return pose_kernel(self._batch.camera_centers()[self._kept], self.rotations, self.pairs)

    @cached_property
    def labels(self) -> Tensor:
        return pose_labels(self._batch)[self._kept]
