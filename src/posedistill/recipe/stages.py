"""The three trainings of a recipe: what each is made from, and where it lives in ``runs/<name>/``."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posedistill.data.codes import codes_digest
from posedistill.recipe.data import TESTED
from posedistill.recipe.networks import NetworkSettings, TrainSettings
from posedistill.recipe.recipe import Recipe, fingerprint

STAGES = ("teacher", "student", "distilled")
"""The student is trained twice: alone, and under the teacher."""
_LOOKING_ON = {"log_every", "checkpoint_every", "validate_every", "validation_crops"}
"""Of a schedule: what changes nothing of the steps."""
_ELSEWHERE = {"train", "checkpoint", "start"}
"""Of a network: what its signature tells by other keys, or what leaves nothing to train."""
_STORING = {"cache", "cache_limit"}
"""Of a teacher: whether its outputs are stored changes nothing of them."""


@dataclass(frozen=True)
class Stage:
    """One training: ``teacher``, ``student`` (alone) or ``distilled``, with one seed."""

    recipe: Recipe
    name: str
    seed: int

    @property
    def title(self) -> str:
        """What it is called in progress and in messages."""
        return f"{self.name} seed {self.seed}"

    @property
    def section(self) -> NetworkSettings:
        """The network, as the recipe describes it."""
        return self.recipe.teacher if self.name == "teacher" else self.recipe.student

    @property
    def schedule(self) -> TrainSettings:
        """Of the training."""
        return self.recipe.schedule(self.section)

    @property
    def given(self) -> bool:
        """Whether nothing is left to train: the recipe names a finished teacher."""
        return self.name == "teacher" and bool(self.recipe.teacher.files)

    @property
    def inherits(self) -> bool:
        """Whether it begins with layers of the teacher."""
        return self.name != "teacher" and self.recipe.student.inherit is not None

    @property
    def origin(self) -> str:
        """What a finished teacher's weights come from: what trains it, or the contents of the recipe's file."""
        return _contents(self.weights) if self.given else fingerprint(self.signature)

    @property
    def is_network(self) -> bool:
        """Whether it is one network; a teacher may be several, or a csv."""
        return self.name != "teacher" or self.recipe.teacher.is_network

    @property
    def folder(self) -> Path:
        """Where the network, its log and its poses lie."""
        return self.recipe.folder / self.name / f"seed{self.seed}"

    @property
    def files(self) -> tuple[Path, ...]:
        """What it consists of once it is finished: weights, or what the recipe names for the teacher."""
        return self.recipe.teacher.files if self.given else (self.folder / "model.safetensors",)

    @property
    def weights(self) -> Path:
        """The first of its files, which is the only one of a network."""
        return self.files[0]

    @property
    def done(self) -> Path:
        """The note that its training has ended."""
        return self.folder / "done.json"

    @property
    def finished(self) -> bool:
        """Whether its training has ended."""
        return self.given or self.done.exists()

    @cached_property
    def signature(self) -> dict[str, Any]:
        """What it depends on; a finished or interrupted training is only taken up by the same signature."""
        recipe = self.recipe
        signature = {
            "stage": self.name,
            "seed": self.seed,
            "data": fingerprint(recipe.data.model_dump(mode="json", exclude=TESTED)),
            "network": fingerprint(self.section.model_dump(mode="json", exclude={*_ELSEWHERE, *_STORING})),
            "train": self.schedule.model_dump(mode="json", exclude=_LOOKING_ON),
        }
        if self.name == "distilled":
            signature["distill"] = [spec.model_dump(mode="json") for spec in recipe.distill]
            if recipe.switch:
                signature["first_phase"] = recipe.first_phase
            signature["teacher"] = fingerprint(recipe.teacher.model_dump(mode="json", exclude=_STORING))
        if self.section.start is not None:
            signature["started"] = _contents(self.section.start)
        if codes := self.section.settings.get("codes"):
            signature["codes"] = codes_digest(Path(codes))
        if self.inherits:
            signature["inherited"] = teacher_of(recipe).origin
        return signature


def _contents(weights: Path) -> str:
    """A short hash of a file."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else "no file"


def teacher_of(recipe: Recipe) -> Stage:
    """The recipe's teacher, which has the recipe's own seed."""
    return Stage(recipe, "teacher", recipe.seed)


def students_of(recipe: Recipe) -> list[Stage]:
    """The student alone with every seed, then, where there are losses, distilled with every seed."""
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    names = STAGES[1:] if recipe.distill else ("student",)
    return [Stage(recipe, name, seed) for name in names for seed in seeds]


def stages_of(recipe: Recipe) -> list[Stage]:
    """The teacher, if there is one, and the students."""
    return [*([teacher_of(recipe)] if recipe.has_teacher else []), *students_of(recipe)]
