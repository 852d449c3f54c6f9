"""The sections of a recipe that say what is trained, and how: networks, teachers, schedules."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from posedistill.data.settings import Settings
from posedistill.errors import expectation, key_of
from posedistill.estimators.registry import SETTINGS

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0)]


class TrainSettings(Settings):
    """The schedule of one network."""

    steps: int = Field(10_000, gt=0, description="Length of the training.")
    batch_size: int = Field(16, gt=0, description="Crops a step, over all processes together.")
    lr: float = Field(1e-3, gt=0, description="Highest learning rate.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or gradient descent with momentum.")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: share of the last step in the next.")
    schedule: Literal["onecycle", "cosine", "step"] = Field(
        "onecycle", description="How the rate falls after warming up."
    )
    drop: float = Field(0.7, ge=0, le=1, description="step: share of the steps at the full rate; then a tenth of it.")
    drops: tuple[tuple[Share, Factor], ...] | None = Field(
        None, description="step: in place of drop any [share of the steps, factor of the rate from there on]."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(
        1e-4, ge=0, description="Of weights; biases, norms and learned loss weights do not decay."
    )
    clip: float = Field(1.0, gt=0, description="Largest global gradient norm.")
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights; 0 turns averaging off.")
    precision: Literal["auto", "bf16", "float32"] = Field(
        "auto", description="auto: bf16 where the processor computes in it, else float32."
    )
    validate_every: int = Field(1000, gt=0, description="Steps between two validations.")
    validation_crops: int = Field(512, gt=0, description="Pictures of each validation at most.")
    checkpoint_every: int = Field(
        1000, gt=0, description="Steps between two checkpoints; every two minutes there is one besides."
    )
    log_every: int = Field(50, gt=0, description="Steps between two lines of metrics.jsonl.")
    repeat_views: int = Field(
        0, ge=0, description="Epochs after which the same views come again, maps of a frozen trunk stored; 0: never."
    )
    maps_limit: float = Field(8.0, gt=0, description="Gigabytes that the stored maps of one training may take.")
    silent: ClassVar[frozenset[str]] = frozenset(
        {"drop", "drops", "optimizer", "momentum", "repeat_views", "maps_limit"}
    )


class NetworkSettings(Settings):
    """A teacher or a student: a pose family with its settings and schedule, or finished weights."""

    family: str = Field("wdrnet", description="The pose family: wdrnet, yolo6d, posenet, viewpoint, ...")
    settings: dict[str, Any] = Field(default_factory=dict, description="The family's own settings.")
    train: TrainSettings | None = Field(None, description="Its own schedule; default: the recipe's.")
    checkpoint: Path | None = Field(None, description="Finished weights; nothing is trained.")
    pretrained: Path | None = Field(
        None, description="State dict the backbone starts from, or lite0, lite1, lite2 (ImageNet, by package)."
    )
    start: Path | None = Field(
        None, description="Weights of this very network that training goes on from, such as a zero-shot model's."
    )
    freeze: tuple[str, ...] = Field((), description="Names of its layers that stay as they begin.")
    silent: ClassVar[frozenset[str]] = frozenset({"start", "freeze"})

    @model_validator(mode="after")
    def _trained_or_finished(self) -> "NetworkSettings":
        for name in ("start", "freeze"):
            if getattr(self, name) and self.checkpoint is not None:
                found = f"found {name} and checkpoint"
                raise ValueError(f"{found}, expected one of them: of a checkpoint nothing is trained")
        return self

    @model_validator(mode="after")
    def _settings_of_the_family(self) -> "NetworkSettings":
        if self.family not in SETTINGS:
            raise ValueError(f"found family {self.family!r}, expected one of {sorted(SETTINGS)}")
        try:
            SETTINGS[self.family].model_validate(self.settings)
        except ValidationError as error:
            known = SETTINGS[self.family].model_fields
            faults = [(key_of(f["loc"]), f["input"], expectation(f, known)) for f in error.errors()]
            shown = [f"settings.{key}: found {found!r}, expected {expected}" for key, found, expected in faults]
            raise ValueError("; ".join(shown)) from None
        return self


class StudentSettings(NetworkSettings):
    """What learns: the network that is trained alone and under the teacher, and what both trainings begin with."""

    inherit: Literal["teacher", "narrowed_teacher"] | None = Field(
        None, description="Begin with the layers shared with the teacher; narrowed: also the wider ones', in part."
    )
    silent: ClassVar[frozenset[str]] = NetworkSettings.silent | {"inherit"}

    @model_validator(mode="after")
    def _one_origin(self) -> "StudentSettings":
        if self.start is not None and self.inherit is not None:
            raise ValueError("found start and inherit, expected one of them")
        return self


class TeacherSettings(NetworkSettings):
    """What teaches: a network, trained or finished; several finished ones; or a csv of poses that anybody made."""

    ensemble: list[Path | NetworkSettings] | None = Field(
        None, min_length=2, description="Finished weights of these settings, or whole sections with a checkpoint each."
    )
    csv: Path | None = Field(None, description="BOP csv: labels the BOP folders trained on, and teaches as one vote.")
    supervise: bool = Field(
        True, description="Whether the distilled student also learns from the labels, or the csv's poses as such."
    )
    cache: bool | Path = Field(False, description="Store its outputs once and replay them: in the runs, or a folder.")
    cache_limit: float = Field(20.0, gt=0, description="Gigabytes that the stored outputs of one training may take.")
    silent: ClassVar[frozenset[str]] = NetworkSettings.silent | {"ensemble", "csv", "supervise", "cache", "cache_limit"}

    @model_validator(mode="after")
    def _one_kind(self) -> "TeacherSettings":
        kinds = [name for name in ("checkpoint", "ensemble", "csv") if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"found {' and '.join(kinds)}, expected one of them")
        if self.freeze and self.ensemble is not None:
            raise ValueError("found freeze beside ensemble, expected none: of finished weights nothing is trained")
        unfinished = [f"ensemble.{place}" for place, member in enumerate(self.members) if member.checkpoint is None]
        if unfinished:
            raise ValueError(f"found no checkpoint in {', '.join(unfinished)}, expected finished weights")
        if self.csv is not None:
            network = [*NetworkSettings.model_fields, "cache", "cache_limit"]
            if other := [
                key
                for key in network
                if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True)
            ]:
                raise ValueError(f"found {', '.join(other)} beside csv, expected nothing of a network's")
        return self

    @property
    def members(self) -> tuple[NetworkSettings, ...]:
        """The networks of an ensemble; none of any other teacher."""
        plain = {"family": self.family, "settings": self.settings}
        return tuple(
            member if isinstance(member, NetworkSettings) else NetworkSettings(**plain, checkpoint=member)
            for member in self.ensemble or ()
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """What it consists of, where nothing is left to train."""
        parts = [self.checkpoint, self.csv, *(member.checkpoint for member in self.members)]
        return tuple(path for path in parts if path is not None)

    @property
    def is_network(self) -> bool:
        """Whether it is one network, which can be exported and timed."""
        return self.csv is None and self.ensemble is None

    def given(self, weights: Path) -> "TeacherSettings":
        """The same teacher, finished: with these weights, where it is one that is trained."""
        return self if self.files else self.model_copy(update={"checkpoint": weights})
