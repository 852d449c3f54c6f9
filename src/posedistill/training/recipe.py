"""The recipe: the typed, validated configuration of one experiment."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from posedistill.data.augment import AugmentSettings
from posedistill.data.render import RenderSettings
from posedistill.distill import DistillSpec
from posedistill.errors import RecipeError, describe
from posedistill.training.network_settings import NetworkSettings as NetworkSettings
from posedistill.training.network_settings import Settings as Settings
from posedistill.training.network_settings import TeacherSettings as TeacherSettings
from posedistill.training.network_settings import TrainSettings as TrainSettings

Checked = TypeVar("Checked", bound=BaseModel)
Boxes = Literal["gt", "detector"]


class BopSource(Settings):
    """Frames of a BOP folder."""

    bop: Path
    split: str = "test"
    scenes: list[int] | None = None
    frames: Path | None = Field(None, description="Text file with one image id a line; relative to the BOP folder.")
    poses: Path | None = Field(None, description="BOP csv whose poses stand in for the folder's annotations.")
    min_score: float = Field(0.0, description="Poses of the csv below it are left out.")
    ignore_unknown: bool = Field(False, description="Leave out the csv's poses of unknown images and objects.")
    silent: ClassVar[frozenset[str]] = frozenset({"poses", "min_score", "ignore_unknown"})


class RenderSource(Settings):
    """Frames rendered from CAD models: a folder of meshes, or ``code`` for the objects made in code."""

    models: Path
    objects: list[int] | None = Field(None, description="Rendered objects; default: the learned ones. More occlude.")
    count: int = Field(gt=0)
    seed: int = 0
    settings: RenderSettings = RenderSettings()


KINDS = ("as bop", "as render")


def _kind(source: Any) -> str:
    is_bop = "bop" in source if isinstance(source, dict) else isinstance(source, BopSource)
    return KINDS[0] if is_bop else KINDS[1]


Source = Annotated[Annotated[BopSource, Tag(KINDS[0])] | Annotated[RenderSource, Tag(KINDS[1])], Discriminator(_kind)]
"""A source that says ``bop`` is read, any other is rendered: a mistake in one is not explained by the other's keys."""


class TestSource(Settings):
    """The test split, read by ``evaluate`` alone."""

    source: Source
    boxes: Boxes = "gt"
    detections: Path | None = Field(None, description="BOP json of detections, needed by boxes: detector.")

    @model_validator(mode="after")
    def _detector_needs_detections(self) -> "TestSource":
        if self.boxes == "detector" and self.detections is None:
            raise ValueError("found boxes: detector without detections, expected detections: FILE (BOP json)")
        return self


class DataSettings(Settings):
    """What is trained on, validated on and tested on."""

    objects: list[int] = Field(min_length=1, description="BOP object ids; their order is the class order.")
    train: list[Source] = Field(min_length=1)
    shares: list[float] | None = Field(None, description="Share of each source in a batch; default: by size.")
    test: TestSource
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training frames kept for model selection.")
    crop_size: int = Field(256, ge=32, multiple_of=32)
    backgrounds: Path | None = None
    augment: AugmentSettings = AugmentSettings()
    min_visible: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _one_share_a_source(self) -> "DataSettings":
        if self.shares is not None and len(self.shares) != len(self.train):
            raise ValueError(f"found {len(self.shares)} shares, expected one for each of {len(self.train)} sources")
        return self

    @model_validator(mode="after")
    def _one_class_an_object(self) -> "DataSettings":
        if len(set(self.objects)) != len(self.objects):
            raise ValueError(f"found objects {self.objects}, expected each once")
        return self


class Recipe(Settings):
    """One experiment: data, a teacher, a student, the distillation losses and a schedule."""

    name: str = Field(pattern=r"^[\w.-]+$")
    expected: str = Field("", description="What this recipe should give, in words.")
    seed: int = 0
    seeds: int = Field(1, ge=1, description="How many seeds of student and distilled are trained: seed, seed + 1, ...")
    data: DataSettings
    teacher: TeacherSettings
    student: NetworkSettings
    distill: list[DistillSpec] = Field(min_length=1)
    train: TrainSettings = TrainSettings()
    runs: Path = Path("runs")
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

    @property
    def folder(self) -> Path:
        """Where everything of this recipe lands."""
        return self.runs / self.name

    @property
    def cache_folder(self) -> Path:
        """Where rendered and decoded frames are kept, for every recipe that asks for the same."""
        return self.cache or self.runs / "cache"

    def schedule(self, network: NetworkSettings) -> TrainSettings:
        """The schedule of a network: its own, or the recipe's."""
        return network.train or self.train


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``key=value`` overrides, expand ``${VARIABLES}`` and validate.

    Raises:
        RecipeError: naming the file, the key, what was found and what was expected.
    """
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
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RecipeError(describe(path, "recipe", "no such file", "a YAML recipe")) from None
    except OSError as error:
        raise RecipeError(describe(path, "recipe", error.strerror, "a YAML recipe")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        raise RecipeError("\n".join(_explain(path, fault) for fault in error.errors())) from None
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


def _explain(path: Path, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"] if part not in KINDS)
    if fault["type"] == "extra_forbidden":
        return describe(path, key, "an unknown key", "a key of the recipe (see docs/recipes.md)")
    if fault["type"] == "value_error":  # from a check of ours, which says both
        return f"{path}: '{key or 'recipe'}': {fault['ctx']['error']}"
    return describe(path, key, repr(fault["input"])[:120], fault["msg"])
