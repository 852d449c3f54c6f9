"""feature: intermediate maps of the student learn from the teacher's, in one of eight published forms.

The maps that both networks name alike are compared (``p4`` with ``p4``), or the ``layers`` a recipe states. Maps of
different size meet at the smaller one; different channels meet through adapters on the student's side, or in forms that
need none. The loss is a mean over images, over pairs and within each over its own count.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posedistill.data.loading.batch import Batch
from posedistill.distill.adapters import Paraphraser, Statistics, Variational, adapter, published_adapter, translator
from posedistill.distill.base import Distiller, DistillSpec, Example, FormSettings, mean_over
from posedistill.distill.functional import maps
from posedistill.distill.functional.layers import Layers, paired_layers, teacher_layers
from posedistill.distill.trust import image_trust
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Prediction

Maps = tuple[Tensor, Tensor, Tensor]
"""A student's map, a teacher's, and the weights of their positions."""

_OPTIONS = {
    "hint": {"profile", "distance"},
    "attention_guided": {"temperature", "guided_weight", "attention_weight", "relation_weight", "faithful"},
    "variational": {"faithful"},
    "factor_transfer": {"faithful"},
    "activation_boundary": {"margin"},
    "solution_flow": {"faithful"},
}
"""What a form has beside ``form``, ``layers`` and ``region``."""


class FeatureSettings(FormSettings):
    """Form, maps, and the options of the forms."""

    form: Literal[
        "hint",
        "attention_transfer",
        "attention_guided",
        "variational",
        "factor_transfer",
        "activation_boundary",
        "solution_flow",
        "neuron_selectivity",
    ] = Field("hint", description="Which comparison of maps: see docs/losses/feature.md.")
    layers: Layers = "all"
    """The maps to compare: ``all`` that both networks have, names, or ``{student's name: teacher's name}``."""
    region: Literal["all", "object"] = "all"
    """Positions that count: all, or those on the visible object, by the share of it that they cover. What a network
    makes of the background is part of what it knows, and of what its scores rest on, so all count by default."""
    profile: Literal["sckd-plus", "fitnet", "sckd-head", "sckd-pub"] = "sckd-plus"
    """``hint``: which adapter, targets and distance."""
    distance: Literal["smooth_l1", "cosine"] = "smooth_l1"
    """``hint`` with profile ``sckd-plus``."""
    margin: float = Field(default=1.0, gt=0, description="Of activation boundaries.")
    temperature: float | None = Field(default=None, gt=0)
    """Of the attention masks and relations; 0.5, or 0.1 where faithful."""
    guided_weight: float | None = Field(default=None, ge=0)
    """0.1, or 7e-5 where faithful."""
    attention_weight: float | None = Field(default=None, ge=0)
    """0.1, or 4e-3 where faithful."""
    relation_weight: float | None = Field(default=None, ge=0)
    """0.1, or 7e-5 where faithful."""
    faithful: bool = False
    """The published form: targets as the teacher gives them instead of standardised ones; ``attention_guided`` takes
    norms instead of mean squares, ``variational`` starts from a variance of 5 instead of 1, ``solution_flow`` takes
    absolute instead of relative errors."""

    def in_use(self) -> tuple[str, set[str]]:
        """The options of the form; the published hints have a distance of their own."""
        options = {"form", "layers", "region"} | _OPTIONS.get(self.form, set())
        if self.form == "hint" and self.profile != "sckd-plus":
            return f"hint ({self.profile})", options - {"distance"}
        return self.form, options


class Feature(Distiller):
    """Mean over the images (in which the object is seen, for ``region: object``) and over the pairs of maps."""

    Settings = FeatureSettings
    needs = frozenset({"features"})
    settings: FeatureSettings

    def __init__(self, spec: DistillSpec, settings: FeatureSettings) -> None:
        super().__init__(spec, settings)
        self.maps = teacher_layers(settings.layers)
        self.learned = nn.ModuleList()
        """One for each pair."""

    def prepare(self, example: Example) -> None:
        """Build the adapters, and measure the teacher's maps on the example where targets are standardised.

        Raises:
            RecipeError: no map is shared, a named one does not exist, or a flow has fewer than two maps.
        """
        paired = self._paired(example.student, example.teacher, example.batch)
        if self.settings.form == "solution_flow" and len(paired) < 2:
            found = f"student maps {sorted(example.student.features)}, teacher maps {sorted(example.teacher.features)}"
            raise RecipeError(describe("recipe", "distill.feature.form", found, "two pairs or more for solution_flow"))
        build = _LEARNED[self.settings.form]
        self.learned = nn.ModuleList(build(self.settings, ours, theirs) for ours, theirs, _ in paired)

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss, in float32; 0 where no image shows the object that ``region`` asks for."""
        with torch.autocast(batch.images.device.type, enabled=False):
            paired = self._paired(student, teacher, batch)
            if self.settings.form == "solution_flow":
                losses = self._flows(paired)
            else:
                losses = [learned(*trio) for learned, trio in zip(self.learned, paired, strict=True)]
            trust = image_trust(self.trust, teacher, batch)
            seen = paired[0][2].flatten(1).sum(1) > 0
            return mean_over(torch.stack(losses).mean(0)[batch.picture] * trust, seen[batch.picture])

    def _paired(self, student: Prediction, teacher: Prediction, batch: Batch) -> list[Maps]:
        names = paired_layers(self.settings.layers, student.features, teacher.features, self.name)
        both = [maps.aligned(student.features[ours], teacher.features[theirs]) for ours, theirs in names.items()]
        region = self.settings.region
        return [(s, t, maps.position_weights(batch, (t.shape[2], t.shape[3]), region)) for s, t in both]

    def _flows(self, paired: list[Maps]) -> list[Tensor]:
        """One loss for each map and the next coarser one."""
        pairs: list[tuple[Any, Maps]] = list(zip(self.learned, paired, strict=True))
        ours = [learned.adapter(student) for learned, (student, _, _) in pairs]
        theirs = [learned.standardise(teacher) for learned, (_, teacher, _) in pairs]
        levels, relative = range(1, len(paired)), not self.settings.faithful
        flows = [[maps.flow(side[i - 1], side[i], paired[i][2]) for i in levels] for side in (ours, theirs)]
        return [maps.flow_distance(s, t, relative) for s, t in zip(*flows, strict=True)]


class Compared(nn.Module):
    """The student's map, adapted, against the teacher's, standardised where the form does so."""

    def __init__(self, loss: Callable[..., Tensor], adapter: nn.Module, standardise: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.adapter = adapter
        self.standardise = standardise

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """``[B]`` losses of the images, as in all classes below."""
        return self.loss(self.adapter(student), self.standardise(teacher), weights)


class Guided(nn.Module):
    """Attention-guided: masked maps, attention maps of places and channels, and relations, each by its own adapter."""

    def __init__(self, settings: FeatureSettings, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        widths = (student.shape[1], teacher.shape[1])
        self.standardise = _standardise(settings, teacher)
        self.adapter = adapter(*widths)
        self.channels = nn.Linear(*widths)
        self.places = nn.Conv2d(1, 1, 3, padding=1)
        self.relations = adapter(*widths)
        self.faithful = settings.faithful
        defaults = (7e-5, 4e-3, 7e-5) if settings.faithful else (0.1, 0.1, 0.1)
        given = (settings.guided_weight, settings.attention_weight, settings.relation_weight)
        self.weights = [default if value is None else value for value, default in zip(given, defaults, strict=True)]
        self.temperature = settings.temperature or (0.1 if settings.faithful else 0.5)

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """``[B]``"""
        teacher = self.standardise(teacher)
        guided = maps.attention_guided(self.adapter(student), teacher, weights, self.temperature)
        theirs = maps.relations(teacher, weights, self.temperature)
        ours = self.relations(maps.relations(student, weights, self.temperature))
        related = maps.hint(ours, theirs, maps.pooled(weights, (theirs.shape[2], theirs.shape[3])))
        ours, theirs = student.abs(), teacher.abs()
        places = maps.hint(self.places(ours.mean(1, keepdim=True)), theirs.mean(1, keepdim=True), weights)
        pooled = [(magnitude * weights).mean((2, 3)) for magnitude in (ours, theirs)]
        channels = (self.channels(pooled[0]) - pooled[1]).square().mean(1)

        def scaled(mean_square: Tensor, count: int) -> Tensor:
            return (mean_square * count).clamp(min=1e-12).sqrt() if self.faithful else mean_square

        attention = scaled(places, weights[0].numel()) + scaled(channels, teacher.shape[1])
        terms = (scaled(guided, teacher[0].numel()), attention, scaled(related, theirs[0].numel()))
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum(0)


class Factors(nn.Module):
    """FT: a paraphraser of the teacher's map and a translator of the student's, trained together.

    The paraphraser learns by reconstruction alone: no gradient of the transfer reaches it.
    """

    def __init__(self, settings: FeatureSettings, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        channels = teacher.shape[1]
        factors = max(channels // 2, 1)
        self.standardise = _standardise(settings, teacher)
        self.paraphraser = Paraphraser(channels, factors)
        self.translator = translator(student.shape[1], factors)

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """``[B]``: transfer and reconstruction."""
        teacher = self.standardise(teacher)
        factor, again = self.paraphraser(teacher)
        transfer = maps.factor_transfer(self.translator(student), factor.detach(), weights)
        return transfer + maps.hint(again, teacher, weights)


def _standardise(settings: FeatureSettings, teacher: Tensor) -> nn.Module:
    return nn.Identity() if settings.faithful else Statistics(teacher)


def _plain(loss: Callable[..., Tensor]) -> Compared:
    return Compared(loss, nn.Identity(), nn.Identity())


def _hint(settings: FeatureSettings, student: Tensor, teacher: Tensor) -> Compared:
    statistics, widths = Statistics(teacher), (student.shape[1], teacher.shape[1])
    if settings.profile == "sckd-plus":
        return Compared(partial(maps.hint, distance=settings.distance), adapter(*widths), statistics)
    if settings.profile == "fitnet":
        return Compared(maps.hint, adapter(*widths, norm=True, rectify=statistics.rectified), nn.Identity())
    loss = partial(maps.hint, distance="channel_kl") if settings.profile == "sckd-pub" else maps.hint
    return Compared(loss, published_adapter(*widths, rectify=statistics.rectified), nn.Identity())


def _variational(settings: FeatureSettings, student: Tensor, teacher: Tensor) -> Compared:
    predict = Variational(student.shape[1], teacher.shape[1], 5.0 if settings.faithful else 1.0)
    return Compared(maps.variational, predict, _standardise(settings, teacher))


def _boundary(settings: FeatureSettings, student: Tensor, teacher: Tensor) -> Compared:
    connector = adapter(student.shape[1], teacher.shape[1], norm=True)
    return Compared(partial(maps.activation_boundary, margin=settings.margin), connector, nn.Identity())


def _flowing(settings: FeatureSettings, student: Tensor, teacher: Tensor) -> Compared:
    """FSP has its losses between levels; here is only what becomes of one level's maps before."""
    widths = (student.shape[1], teacher.shape[1])
    adapts = published_adapter(*widths, rectify=False) if settings.faithful else adapter(*widths)
    return Compared(maps.hint, adapts, _standardise(settings, teacher))


_LEARNED: dict[str, Callable[[FeatureSettings, Tensor, Tensor], nn.Module]] = {
    "hint": _hint,
    "attention_transfer": lambda *_: _plain(maps.attention_transfer),
    "attention_guided": Guided,
    "variational": _variational,
    "factor_transfer": Factors,
    "activation_boundary": _boundary,
    "solution_flow": _flowing,
    "neuron_selectivity": lambda *_: _plain(maps.neuron_selectivity),
}
