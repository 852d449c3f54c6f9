"""What a comparison compares: variants of one recipe that share its data, its teacher and its schedule."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from posedistill.data.settings import Settings
from posedistill.errors import RecipeError, describe
from posedistill.recipe.recipe import Recipe, apply_override, load_recipe, read_sections, validated
from posedistill.recipe.stages import teacher_of

RESERVED = ("teacher", "sweep", "probe", "equal_time", "teacher_cache")
"""Folders of a comparison that no variant may be named after."""


class SweepSettings(Settings):
    """The small search for the weight of each variant's losses, on the validation split."""

    values: list[float] = Field([0.1, 0.3, 1.0], min_length=1, description="Factors on all weights of a variant.")
    steps: int = Field(1000, gt=0, description="A shortened schedule.")
    openings: int = Field(3, ge=0, description="Further factors beyond an end at which validation still rises.")
    seed: int = Field(100, description="Of its own, so that no seed of the tables has been chosen for.")

    @field_validator("values")
    @classmethod
    def _positive(cls, values: list[float]) -> list[float]:
        if any(value <= 0 for value in values) or len(set(values)) != len(values):
            raise ValueError(f"found {values}, expected different factors above 0 (0 is always tried)")
        return sorted(values)


class ComparisonSettings(Settings):
    """A comparison file: a base recipe, and what each variant changes in it."""

    name: str = Field(pattern=r"^[\w.-]+$")
    recipe: Path = Field(description="The base, relative to this file.")
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    baseline: str | None = None
    sweep: SweepSettings | None = None
    wall_clock: bool = True


@dataclass(frozen=True)
class Variant:
    """One way to train the student.

    Attributes:
        recipe: the base with the variant's changes.
    """

    name: str
    recipe: Recipe

    @property
    def alone(self) -> bool:
        """Whether nothing is distilled."""
        return not self.recipe.distill

    @property
    def stage(self) -> str:
        """The stage of a run that trains it."""
        return self.recipe.shipped

    @property
    def untaught(self) -> bool:
        """Whether it has nothing of the teacher: no losses, and no layers."""
        return self.alone and self.recipe.student.inherit is None


@dataclass(frozen=True)
class Comparison:
    """Variants in the order of their rows, and how they are compared.

    Attributes:
        base: the recipe whose teacher, data and schedule all share.
        baseline: the variant that all others are compared with.
        alone: the variant without distillation that sets the time of the wall-clock table.
    """

    name: str
    base: Recipe
    variants: dict[str, Variant]
    baseline: str
    alone: str
    seeds: tuple[int, ...]
    sweep: SweepSettings | None
    wall_clock: bool

    @property
    def folder(self) -> Path:
        """Where everything of this comparison lands."""
        return self.base.runs / self.name

    @property
    def teacher_cache(self) -> Path:
        """Where the teacher's outputs are stored until the comparison is finished, if the base recipe caches them."""
        return self.folder / "teacher_cache"

    def recipe_of(
        self, variant: Variant, place: str = "", *, name: str = "", factor: float = 1.0, steps: int | None = None
    ) -> Recipe:
        """The recipe of one of a variant's trainings, below the comparison's folder and under the one teacher.

        Args:
            place: folder in the comparison's. name: default: the variant's.
            factor: of the weights of all losses. steps: another length of the schedule.
        """
        recipe = variant.recipe
        distill = [spec.model_copy(update={"weight": float(f"{spec.weight * factor:.6g}")}) for spec in recipe.distill]
        teacher = recipe.teacher
        if self.base.teacher.is_network:
            teacher = teacher.model_copy(update={"checkpoint": teacher_of(self.base).weights})
        if teacher.cache is True:
            teacher = teacher.model_copy(update={"cache": self.teacher_cache})
        changes: dict[str, Any] = {
            "name": name or variant.name,
            "runs": self.folder / place,
            "cache": self.base.cache_folder,
            "teacher": teacher,
            "distill": distill,
        }
        if steps is not None:
            schedule = recipe.schedule(recipe.student).model_copy(update={"steps": steps})
            changes["student"] = recipe.student.model_copy(update={"train": schedule})
        return recipe.model_copy(update=changes)


def load_comparison(
    paths: Sequence[Path], overrides: Sequence[str] = (), *, seeds: int | None = None, baseline: str | None = None
) -> Comparison:
    """Read comparison files, or plain recipes of which each becomes a variant named after it.

    Without a student alone among the variants one is added, as the baseline; one that inherits does not count, unless
    all do.

    Args:
        overrides: ``key=value`` of the comparison (``name=again sweep.steps=200``), all others of the base recipe.
        seeds: how many, from the recipe's seed on; default: the recipe's.

    Raises:
        RecipeError: an unknown or doubled variant, a bad key, or recipes that differ in what they must share.
    """
    about = [text for text in overrides if _of_comparison(text)]
    of_recipe = [text for text in overrides if not _of_comparison(text)]
    settings: ComparisonSettings | None = None
    base: Recipe | None = None
    variants: dict[str, Variant] = {}
    for path in paths:
        if "variants" in (raw := read_sections(path)):
            found = _settings(raw, path, about)
            settings = settings or found
            own = load_recipe(path.parent / found.recipe, of_recipe)
            made = [_variant(key, change, own, path) for key, change in found.variants.items()]
        else:
            own = load_recipe(path, of_recipe)
            made = [Variant(own.name, own)]
        base = base or own
        for variant in made:
            if variant.name in variants or variant.name in RESERVED:
                expected = f"another name than {', '.join([*RESERVED, *variants])}"
                raise RecipeError(describe(path, f"variants.{variant.name}", "a name in use", expected))
            _refuse_unlike(base, variant, path, student="variants" not in raw)
            variants[variant.name] = variant
    if base is None:
        raise RecipeError(describe("compare", "recipes", "none", "recipes or comparison files"))
    inherits = base.student.inherit is not None
    if not any(variant.untaught or (variant.alone and inherits) for variant in variants.values()):
        variants = _with_student(base, variants)
    settings = settings or _settings({"recipe": str(paths[0]), "variants": {base.name: {}}}, paths[0], about)
    alone = min(variants.values(), key=lambda variant: (not variant.untaught, not variant.alone)).name
    chosen = baseline or settings.baseline or alone
    if chosen not in variants:
        raise RecipeError(describe(paths[0], "baseline", repr(chosen), f"one of {', '.join(variants)}"))
    return Comparison(
        name=settings.name,
        base=base,
        variants={key: variants[key] for key in sorted(variants, key=lambda key: key != chosen)},
        baseline=chosen,
        alone=alone,
        seeds=tuple(range(base.seed, base.seed + (seeds or base.seeds))),
        sweep=settings.sweep,
        wall_clock=settings.wall_clock,
    )


def merged(base: Any, change: Any) -> Any:
    """``base`` with ``change`` laid over it: mappings key by key, anything else in its place.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": []})
    {'a': {'b': 3, 'c': 2}, 'd': []}
    """
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: merged(base.get(key), value) for key, value in change.items()}
    return change


def _of_comparison(override: str) -> bool:
    return override.partition("=")[0].partition(".")[0] in set(ComparisonSettings.model_fields) - {"recipe"}


def _settings(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> ComparisonSettings:
    for override in overrides:
        apply_override(raw, override, path)
    return validated({"name": f"compare_{path.stem}"} | raw, path, ComparisonSettings)


def _variant(name: str, change: dict[str, Any], base: Recipe, path: Path) -> Variant:
    """The base with a variant's changes; an empty list of losses stands for the student alone."""
    where = f"variants.{name}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise RecipeError(describe(path, where, repr(name), "a name of letters, digits, '_', '-' and '.'"))
    if foreign := sorted(set(change) - {"distill", "student"}):
        raise RecipeError(describe(path, f"{where}.{foreign[0]}", "a change of what all share", "distill or student"))
    raw = merged(base.model_dump(mode="json"), change)
    return Variant(name, validated(raw, Path(f"{path} ({where})"), Recipe))


def _with_student(base: Recipe, variants: dict[str, Variant]) -> dict[str, Variant]:
    if "student" in variants:
        expected = "none of either (distill: []), or another name"
        raise RecipeError(describe("compare", "variants.student", "losses or layers of the teacher", expected))
    return {"student": Variant("student", base.model_copy(update={"distill": []})), **variants}


def _refuse_unlike(base: Recipe, variant: Variant, path: Path, student: bool) -> None:
    """Refuse a variant that would not see the same batches, teacher and number of steps."""
    sections = ("data", "teacher", "seed", "train", "runs", *(["student"] if student else []))
    both = [recipe.model_dump(mode="json") for recipe in (base, variant.recipe)]
    ours, theirs = ({section: recipe[section] for section in sections} for recipe in both)
    if found := _first_difference(ours, theirs):
        key, expected, value = found
        raise RecipeError(describe(path, f"{variant.name}: {key}", value, f"{expected}, as in {base.name}"))
    shared = [recipe.schedule(recipe.student).model_dump() for recipe in (base, variant.recipe)]
    if found := _first_difference(shared[0], shared[1]):
        key, expected, value = found
        raise RecipeError(describe(path, f"{variant.name}: student.train.{key}", value, f"{expected}, as all others"))


def _first_difference(ours: Any, theirs: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The dotted key of the first value in which two trees differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            dotted = f"{key}.{name}" if key else str(name)
            if found := _first_difference(ours.get(name), theirs.get(name), dotted):
                return found
        return None
    return None if ours == theirs else (key, ours, theirs)
