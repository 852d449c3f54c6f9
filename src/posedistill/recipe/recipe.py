"""The recipe: the typed, validated configuration of one experiment."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from posedistill.data.loading.picture_view import PictureSize
from posedistill.data.settings import Settings
from posedistill.distill import DistillSpec
from posedistill.errors import RecipeError, describe, expectation, key_of
from posedistill.estimators.registry import FAMILIES
from posedistill.files import read_text
from posedistill.recipe.data import KINDS, Data, DataSettings
from posedistill.recipe.networks import NetworkSettings, StudentSettings, TeacherSettings, TrainSettings
from posedistill.recipe.places import keys_at

Checked = TypeVar("Checked", bound=BaseModel)


class Recipe(Settings):
    """One experiment: data, a teacher, a student, the distillation losses and a schedule."""

    name: str = Field(
        pattern=r"^[\w.-]+$", description="Folder of the run, in runs: letters, digits and the signs _ . -"
    )
    expected: str = Field("", description="What this recipe should give, in words.")
    seed: int = Field(0, description="Seeds the split, the order of batches, augmentation and the first weights.")
    seeds: int = Field(1, ge=1, description="How many seeds of student and distilled are trained: seed, seed + 1, ...")
    data: Data = Field(description="What is trained, validated and tested on: its keys tell which kind it is.")
    teacher: TeacherSettings = Field(
        TeacherSettings(), description="The network, networks or csv that teaches; unused without losses."
    )
    student: StudentSettings = Field(description="The network that is trained alone and under the teacher.")
    distill: list[DistillSpec] = Field(
        [], description="The losses under the teacher, added with their weights; none: the student learns alone."
    )
    first_phase: float = Field(0.5, gt=0, lt=1, description="Share of the steps for losses with phase: first.")
    train: TrainSettings = Field(TrainSettings(), description="The schedule of every network without its own.")
    runs: Path = Field(Path("runs"), description="Where run folders are made.")
    silent: ClassVar[frozenset[str]] = frozenset({"first_phase"})
    cache: Path | None = Field(None, description="Rendered and decoded frames; default: cache in runs.")

    @model_validator(mode="before")
    @classmethod
    def _csv_labels_the_sources(cls, raw: Any) -> Any:
        """Let the teacher's csv stand in for the annotations of every BOP folder that names no poses itself."""
        try:
            csv, train = raw["teacher"]["csv"], raw["data"]["train"]
            labelled = [
                source | {"poses": source.get("poses") or csv} if csv and "bop" in source else source
                for source in train
            ]
        except (TypeError, KeyError, AttributeError):
            return raw  # no csv; or a fault that is named when its own section is read
        if csv and labelled == train and not any("bop" in source for source in train):
            raise ValueError(
                f"found teacher.csv {csv}, expected a training source with images that it can label (bop: DIR)"
            )
        return raw | {"data": raw["data"] | {"train": labelled}}

    @model_validator(mode="after")
    def _student_is_trained(self) -> "Recipe":
        if self.student.checkpoint is not None:
            raise ValueError(f"found student.checkpoint {self.student.checkpoint}, expected a student to train")
        return self

    @model_validator(mode="after")
    def _families_of_the_data(self) -> "Recipe":
        task = self.data.task
        taught = self.has_teacher and self.teacher.csv is None
        sections: dict[str, NetworkSettings] = {"teacher": self.teacher} if taught else {}
        sections |= {"student": self.student}
        sections |= {f"teacher.ensemble.{place}": member for place, member in enumerate(self.teacher.members)}
        for place, network in sections.items():
            if FAMILIES[network.family].task != task:
                fitting = sorted(family for family, estimator in FAMILIES.items() if estimator.task == task)
                learned = {"objects": "poses of objects", "scene": "poses of cameras", "categories": "viewpoints"}[task]
                wanted = f"{' or '.join(fitting)}, which learns {learned}, as data asks"
                raise ValueError(f"found {place}.family {network.family}, expected {wanted}")
        if task != "objects" and self.teacher.csv is not None:
            expected = "a network: a BOP csv holds poses of objects"
            raise ValueError(f"found teacher.csv with data of a {task}, expected {expected}")
        return self

    @model_validator(mode="after")
    def _families_of_one_view(self) -> "Recipe":
        if self.has_teacher and self.teacher.csv is None:
            for teacher in self.teacher.members or (self.teacher,):
                if (view := FAMILIES[teacher.family].view) != self.view and not self.cuts_crops:
                    found = f"teacher.family {teacher.family}, which looks at a {view}"
                    finished = ", or a finished teacher of crops" if self.view == "picture" else ""
                    raise ValueError(
                        f"found {found}, expected a {self.view}, as the {self.student.family} student does{finished}"
                    )
        return self

    @property
    def has_teacher(self) -> bool:
        """Whether anything is learned of the teacher: by losses, its layers, or the labels of its csv."""
        return bool(self.distill) or self.student.inherit is not None or self.teacher.csv is not None

    @property
    def shipped(self) -> str:
        """The training whose network a run exports: ``distilled``, or where there are no losses ``student``."""
        return "distilled" if self.distill else "student"

    @property
    def cuts_crops(self) -> bool:
        """Whether the teacher, finished and of crops, cuts these out of the student's whole pictures."""
        views = {FAMILIES[teacher.family].view for teacher in self.teacher.members or (self.teacher,)}
        return bool(self.teacher.files) and self.teacher.csv is None and views == {"crop"} and self.view == "picture"

    @property
    def view(self) -> str:
        """What its networks look at: a ``crop``, a whole ``picture``, a ``scene`` or a ``category``."""
        return FAMILIES[self.student.family].view

    @property
    def input_size(self) -> int | tuple[int, int]:
        """Of its networks, pixels: a side, or of whole pictures height and width."""
        return self.data.input_size(self.view)

    @model_validator(mode="after")
    def _something_to_inherit(self) -> "Recipe":
        if self.student.inherit is not None:
            if not self.teacher.is_network:
                found = "teacher.csv" if self.teacher.csv is not None else "teacher.ensemble"
                raise ValueError(f"found student.inherit with {found}, expected one network to inherit layers from")
            if self.teacher.family != self.student.family:
                found = f"a teacher of the family {self.teacher.family}"
                raise ValueError(f"found student.inherit with {found}, expected {self.student.family}, the student's")
        return self

    @model_validator(mode="after")
    def _sizes_of_pictures(self) -> "Recipe":
        if isinstance(self.data, DataSettings) and self.data.test.sizes and self.view != "picture":
            family = self.student.family
            raise ValueError(f"found data.test.sizes, expected none: {family} looks at a {self.view}, not at pictures")
        return self

    def at_size(self, size: PictureSize) -> "Recipe":
        """The same recipe for whole pictures of another size."""
        assert isinstance(self.data, DataSettings)
        picture = self.data.picture.model_copy(update={"size": size})
        return self.model_copy(update={"data": self.data.model_copy(update={"picture": picture})})

    @property
    def folder(self) -> Path:
        """Where everything of this recipe lands."""
        return self.runs / self.name

    @property
    def cache_folder(self) -> Path:
        """Where rendered and decoded frames are kept, for every recipe that asks for the same."""
        return self.cache or self.runs / "cache"

    @property
    def switch(self) -> int:
        """The step at which the losses of the first phase end; 0 where there are none."""
        if all(spec.phase == "whole" for spec in self.distill):
            return 0
        return max(1, round(self.first_phase * self.schedule(self.student).steps))

    def schedule(self, network: NetworkSettings) -> TrainSettings:
        """The schedule of a network: its own, or the recipe's."""
        return network.train or self.train


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``key=value`` overrides, expand ``${VARIABLES}`` and validate.

    Raises:
        RecipeError: naming the file, the key, what was found and what was expected.
    """
    path = Path(path)
    raw = read_sections(path)
    for override in overrides:
        apply_override(raw, override, path)
    return validated(raw, path, Recipe)


def read_sections(path: Path) -> dict[str, Any]:
    """A YAML file as the mapping of sections that it holds.

    Raises:
        RecipeError: there is no such file, it is no YAML, or it holds no mapping.
    """
    try:
        raw = yaml.safe_load(read_text(path, "a YAML recipe", RecipeError))
    except yaml.YAMLError as error:
        raise RecipeError(describe(path, "recipe", f"not YAML ({error})", "a YAML recipe")) from None
    if not isinstance(raw, dict):
        raise RecipeError(describe(path, "recipe", type(raw).__name__, "a mapping of sections"))
    return _unshared(raw)


def validated(raw: dict[str, Any], path: Path, kind: type[Checked]) -> Checked:
    """The sections of ``path`` with every ``${VARIABLE}`` filled in, as a recipe (or another file's settings).

    Raises:
        RecipeError: naming the file, the key, what was found and what was expected.
    """
    expanded = _expand(raw, path, ())
    try:
        return kind.model_validate(expanded)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(path, fault, kind) for fault in error.errors())) from None
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def fingerprint(*parts: Any) -> str:
    """A short hash of anything JSON can hold; tells whether a finished stage still belongs to the recipe."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _unshared(node: Any) -> Any:
    """A copy in which what YAML anchors made one object is many: an override changes one place."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def apply_override(raw: dict[str, Any], override: str, path: Path) -> None:
    """Set what a ``key=value`` word names in the sections of ``path``, in place.

    Raises:
        RecipeError: it is no such word, or the sections have no such place.
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(describe(path, override, "no '='", "an override as key=value, e.g. train.steps=2000"))
    *parents, last = key.split(".")
    node: Any = raw
    try:
        for parent in parents:
            if isinstance(node, list):
                node = node[int(parent)]
            else:
                if node.get(parent) is None:
                    node[parent] = {}
                node = node[parent]
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise RecipeError(describe(path, key, "no such place in the recipe", "a dotted key")) from None


def _expand(node: Any, path: Path, key: tuple[str, ...]) -> Any:
    if isinstance(node, dict):
        return {name: _expand(value, path, (*key, str(name))) for name, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, path, (*key, str(index))) for index, value in enumerate(node)]
    if not isinstance(node, str):
        return node

    def variable(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise RecipeError(describe(path, ".".join(key), f"${{{match[1]}}}, which is not set", "the variable set"))
        return value

    return re.sub(r"\$\{(\w+)\}", variable, node)


def _explain(path: Path, fault: Any, kind: type[BaseModel]) -> str:
    key = key_of(part for part in fault["loc"] if part not in KINDS)
    if fault["type"] == "extra_forbidden":
        return describe(path, key, "an unknown key", expectation(fault, keys_at(kind, fault["loc"])))
    if fault["type"] == "value_error":  # from a check of ours, which says both
        return f"{path}: '{key or 'recipe'}': {fault['ctx']['error']}"
    return describe(path, key, repr(fault["input"])[:120], expectation(fault))
