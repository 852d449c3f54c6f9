"""The data sections of a recipe: crops of objects, or photographs of a scene."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.picture_view import PictureSettings
from posedistill.data.loading.scene_view import ViewSettings
from posedistill.data.render.dataset import RenderSettings
from posedistill.recipe.networks import Settings as Settings

Boxes = Literal["gt", "detector"]


TESTED = {"test", "test_split"}
"""Fields of the data that training never reads: another test leaves what is trained as it is."""


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


class LabelSource(Settings):
    """Frames of folders with 21-number labels (YOLO6D), as a .data file names them."""

    labels: Path = Field(description="The .data file.")
    split: str = Field("train", description="Its list: train, valid, or of several objects valid5.")
    ids: dict[int, int] | None = Field(None, description="Object id of each class of the labels; default: class + 1.")


class RenderSource(Settings):
    """Frames rendered from CAD models: a folder of meshes, or ``code`` for the objects made in code."""

    models: Path
    objects: list[int] | None = Field(None, description="Rendered objects; default: the learned ones. More occlude.")
    count: int = Field(gt=0)
    seed: int = 0
    settings: RenderSettings = RenderSettings()


KINDS = ("as bop", "as render", "as scene", "as objects", "as labels")
"""Which of several sections a mapping stands for; pydantic puts these words into the place of a fault."""


def _source_kind(source: Any) -> str:
    for kind, key, settings in ((KINDS[0], "bop", BopSource), (KINDS[4], "labels", LabelSource)):
        if key in source if isinstance(source, dict) else isinstance(source, settings):
            return kind
    return KINDS[1]


Source = Annotated[
    Annotated[BopSource, Tag(KINDS[0])]
    | Annotated[LabelSource, Tag(KINDS[4])]
    | Annotated[RenderSource, Tag(KINDS[1])],
    Discriminator(_source_kind),
]
"""Told by ``bop`` or ``labels``, any other is rendered: a mistake in one is not explained by another's keys."""


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

    task: ClassVar[str] = "objects"
    objects: list[int] = Field(min_length=1, description="BOP object ids; their order is the class order.")
    train: list[Source] = Field(min_length=1)
    shares: list[float] | None = Field(None, description="Share of each source in a batch; default: by size.")
    test: TestSource
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training frames kept for model selection.")
    crop_size: int = Field(256, ge=32, multiple_of=32, description="Of families that look at crops.")
    backgrounds: Path | None = None
    augment: AugmentSettings = AugmentSettings()
    picture: PictureSettings = Field(PictureSettings(), description="Of families that look at whole pictures.")
    min_visible: float = Field(0.1, ge=0, le=1)
    silent: ClassVar[frozenset[str]] = frozenset({"picture"})

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

    def input_size(self, view: str) -> int | tuple[int, int]:
        """Of a network that looks at crops the side, pixels; of one that looks at whole pictures height and width."""
        return self.picture.shape if view == "picture" else self.crop_size


class SceneSettings(Settings):
    """Photographs of one known scene, in which networks learn where the camera stands."""

    task: ClassVar[str] = "scene"
    scene: Path = Field(description="Folder of 7-Scenes, Cambridge Landmarks, transforms.json or COLMAP.")
    test: Path | None = Field(None, description="Folder whose test split is measured; default: the scene's own.")
    test_split: Literal["test", "all"] = Field("test", description="Of the test folder: its test split, or all of it.")
    metres_per_unit: float | None = Field(None, gt=0, description="Of a reconstruction, which knows no metres itself.")
    short_side: int = Field(256, ge=32, description="To which photographs are scaled, pixels.")
    squeeze: bool = Field(False, description="Scale to 455x256 whatever the aspect, as was published.")
    crop: int | tuple[int, int] | None = Field(224, description="Side, or [height, width]; null: whole frames.")
    views: ViewSettings = ViewSettings()
    mean_image: bool = Field(False, description="Subtract the mean training image, as was published.")
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training frames kept for model selection.")
    gap: int = Field(5, ge=0, description="Frames beside each block of these that are used for nothing.")
    silent: ClassVar[frozenset[str]] = frozenset({"metres_per_unit", "test_split"})

    @model_validator(mode="after")
    def _tested_on_others(self) -> "SceneSettings":
        if self.test_split == "all" and self.test is None:
            raise ValueError("found test_split all, expected a folder of its own for it (test): these frames train")
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> "SceneSettings":
        shortest = 256 if self.squeeze else self.short_side
        sides = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if sides is not None and (min(sides) < 32 or min(sides) > shortest):
            expected = f"sides of 32 to {shortest} pixels, the shorter one of a photograph"
            raise ValueError(f"found crop {self.crop}, expected {expected}")
        return self

    def input_size(self, view: str) -> int:
        """Shorter side of the network's input, pixels."""
        if self.crop is None:
            return 256 if self.squeeze else self.short_side
        return self.crop if isinstance(self.crop, int) else min(self.crop)


def _data_kind(data: Any) -> str:
    is_scene = "scene" in data if isinstance(data, dict) else hasattr(data, "scene")
    return KINDS[2] if is_scene else KINDS[3]


Data = Annotated[
    Annotated[SceneSettings, Tag(KINDS[2])] | Annotated[DataSettings, Tag(KINDS[3])], Discriminator(_data_kind)
]
"""Data that says ``scene`` is photographs, any other is crops of objects."""
