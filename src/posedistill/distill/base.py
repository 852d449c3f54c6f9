"""What every distillation loss has in common: its entry in a recipe, the views it needs, and how it is built."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.distill.trust import TrustSettings
from posedistill.errors import RecipeError, describe, expectation, key_of
from posedistill.estimators.views import Prediction, Votes

DISTILLERS = {
    "align": "posedistill.distill.align:Align",
    "contrast": "posedistill.distill.contrast:Contrast",
    "feature": "posedistill.distill.feature:Feature",
    "match": "posedistill.distill.match:Match",
    "relate": "posedistill.distill.relate:Relate",
}
"""The losses a recipe can name in one word; any other is named ``package.module:Name``."""


class DistillSpec(Settings):
    """One distillation loss of a recipe.

    >>> DistillSpec(name="align", weight=2.0, trust="error", options={"blur": 0.02}).trust.by
    'error'
    """

    name: str
    """A word of ``DISTILLERS``, or ``package.module:Name`` for a Distiller of your own."""
    weight: float = Field(default=1.0, ge=0, description="By which the loss is multiplied.")
    trust: TrustSettings = TrustSettings()
    """How much each of the teacher's images or votes counts; a word stands for ``{by: word}``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The loss's own settings."""
    phase: Literal["whole", "first"] = "whole"
    """``first``: the student begins with nothing but such losses, without labels; what they have taught is then frozen,
    and the rest is trained by the labels and all other losses (Saputra et al., ICCV 2019)."""
    silent: ClassVar[frozenset[str]] = frozenset({"phase"})

    @field_validator("trust", mode="before")
    @classmethod
    def _word(cls, trust: Any) -> Any:
        return {"by": trust} if isinstance(trust, str) else trust


class FormSettings(Settings):
    """Settings of a loss with several forms: an option that does nothing beside the others is refused."""

    def in_use(self) -> tuple[str, set[str]]:
        """What kind of loss these settings ask for, in words, and all options it has."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        kind, options = self.in_use()
        if idle := self.model_fields_set - options:
            raise ValueError(f"{kind} has no use for {listed(idle)}; it has {listed(options)}")
        return self


@dataclass(frozen=True)
class Example:
    """What a distiller may look at before training starts.

    Attributes:
        student, teacher: the predictions of both on ``batch``, without gradients.
        training_pictures: yields the teacher's prediction on each once, not augmented, batch by batch.
        picture_count: how many those are, told before any is seen; 0 where there are none.
    """

    student: Prediction
    teacher: Prediction
    batch: Batch
    training_pictures: Callable[[], Iterator[tuple[Prediction, Batch]]]
    picture_count: int = 0


class Distiller(nn.Module):
    """A loss between a student's and a teacher's Prediction on the same batch.

    A subclass names its ``Settings``, the views it ``needs``, and computes an unweighted scalar in ``forward``. Whoever
    trains multiplies it by ``weight``. No gradient reaches the teacher. Parameters a subclass makes in ``prepare``
    (adapters, projectors) are trained with the student's and saved in its checkpoints; its buffers are saved too.

    Votes, embeddings, regressions, logits, trust and poses are per instance, feature maps per picture. A loss that
    mixes both indexes the pictures' side by ``batch.picture``.
    """

    Settings: ClassVar[type[BaseModel]]
    needs: frozenset[str] = frozenset()
    """The views that both predictions must offer."""
    needs_teacher: frozenset[str] | None = None
    """The views the teacher's must offer where they are others: none for a loss that looks at labels alone."""
    maps: frozenset[str] | None = None
    """Names of the teacher's ``features`` that it looks at; all where None."""

    def __init__(self, spec: DistillSpec, settings: Any) -> None:
        super().__init__()
        self.name = spec.name
        self.weight = spec.weight
        self.trust = spec.trust
        self.phase = spec.phase
        self.settings = settings

    def prepare(self, example: Example) -> None:
        """Build what is learned or stored, in the shapes of both networks; called once, before the optimizer is made.

        Raises:
            RecipeError: the two predictions do not fit together for this loss.
        """

    def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
        """The loss, a scalar: a mean over its own count, so that its weight holds for any batch size."""
        raise NotImplementedError


def build_distiller(spec: DistillSpec, offers_student: frozenset[str], offers_teacher: frozenset[str]) -> Distiller:
    """Build the loss a recipe names, for a student and a teacher that offer these views.

    Raises:
        RecipeError: the name leads to no Distiller, an option is unknown or bad, or a needed view is not on offer.
    """
    kind = find_distiller(spec.name)
    distiller = kind(spec, _settings(spec, kind))
    of_teacher = distiller.needs if distiller.needs_teacher is None else distiller.needs_teacher
    for side, offers, needs in (("student", offers_student, distiller.needs), ("teacher", offers_teacher, of_teacher)):
        if missing := needs - offers:
            found = f"a {side} that offers {listed(offers)}"
            expected = f"views {listed(needs)} ({listed(missing)} missing)"
            raise RecipeError(describe("recipe", f"distill.{spec.name}", found, expected))
    return distiller


def paired_votes(name: str, student: Prediction, teacher: Prediction) -> tuple[Votes, Votes]:
    """The votes of both sides for the same keypoints, the teacher's detached.

    Raises:
        RecipeError: a side has no votes, or they are votes of different things.
    """
    if student.votes is None or teacher.votes is None:
        side = "student" if student.votes is None else "teacher"
        raise RecipeError(describe("recipe", f"distill.{name}", f"a {side} prediction without votes", "votes"))
    ours, theirs = same_keypoints(student.votes, teacher.votes)
    if len(ours.values) != len(theirs.values) or ours.values.shape[2:] != theirs.values.shape[2:]:
        found = f"student votes {list(ours.values.shape)}, teacher votes {list(theirs.values.shape)}"
        expected = "equal counts of images, keypoints and dimensions ([B, N, K, D])"
        raise RecipeError(describe("recipe", f"distill.{name}", found, expected))
    return ours, Votes(theirs.values.detach(), theirs.weights.detach(), theirs.mask, theirs.cells, theirs.errors)


def same_keypoints(ours: Votes, theirs: Votes) -> tuple[Votes, Votes]:
    """Votes of both sides without the centre of the box, where only one side has it in front of the eight corners.

    Of codes (one value of more than three dimensions), which are nested, the bits that both have.

    >>> import torch
    >>> nine, eight = (Votes(torch.zeros(1, 2, k, 2), torch.ones(1, 2), torch.ones(1, 2)) for k in (9, 8))
    >>> [tuple(votes.values.shape) for votes in same_keypoints(nine, eight)]
    [(1, 2, 8, 2), (1, 2, 8, 2)]
    """
    counts = ours.values.shape[2], theirs.values.shape[2]
    bits = min(ours.values.shape[3], theirs.values.shape[3])
    if counts == (1, 1) and bits > 3:
        ours, theirs = (replace(votes, values=votes.values[..., :bits]) for votes in (ours, theirs))
    if sorted(counts) != [8, 9]:
        return ours, theirs
    return (_without_first(ours), theirs) if counts[0] == 9 else (ours, _without_first(theirs))


def _without_first(votes: Votes) -> Votes:
    return Votes(votes.values[:, :, 1:], votes.weights, votes.mask, votes.cells)


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of ``values [B]`` where ``counted [B]`` is True; 0, still differentiable, where nothing is counted.

    >>> import torch
    >>> mean_over(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    return values.where(counted, 0).sum() / counted.sum().clamp(min=1)


def find_distiller(name: str) -> type[Distiller]:
    """The class that a recipe means by a name; ``RecipeError`` where there is none."""
    target = DISTILLERS.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        expected = f"one of {listed(DISTILLERS)}, or package.module:Name"
        raise RecipeError(describe("recipe", "distill.name", name, expected))
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(describe("recipe", "distill.name", f"{name} ({error})", "a Distiller to import")) from None
    if not (isinstance(kind, type) and issubclass(kind, Distiller)):
        raise RecipeError(describe("recipe", "distill.name", f"{name}, {kind!r}", "a subclass of Distiller"))
    return kind


def _settings(spec: DistillSpec, kind: type[Distiller]) -> BaseModel:
    try:
        return kind.Settings.model_validate(spec.options)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = key_of(["distill", spec.name, *fault["loc"]])
            expected = expectation(fault, kind.Settings.model_fields)
            faults.append(describe("recipe", key, repr(fault["input"]), expected))
        raise RecipeError("\n".join(faults)) from None


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, for messages."""
    return ", ".join(sorted(names)) or "nothing"
