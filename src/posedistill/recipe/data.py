"""The data sections of a recipe: crops of objects, photographs of a scene, or things of named categories."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from posedistill.data.formats.viewpoint.categories import OBJECTNET_NOVEL, PASCAL_NOVEL
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.picture_view import PictureSettings, PictureSize
from posedistill.data.loading.scene_view import ViewSettings
from posedistill.data.packs.novel_views import NovelViewSettings
from posedistill.data.render.dataset import RenderSettings
from posedistill.data.settings import Settings
from posedistill.geometry.cameras import Calibration
from posedistill.geometry.viewpoint import Symmetry

Boxes = Literal["gt", "detector"]


TESTED = {"test", "test_split", "measured", "negatives"}
"""Fields of the data that training never reads: another test leaves what is trained as it is."""


class BopSource(Settings):
    """Frames of a BOP folder."""

    bop: Path = Field(description="The BOP folder.")
    split: str = Field("test", description="Its split: a folder of scenes.")
    scenes: list[int] | None = Field(None, description="Numbers of the scenes that are used; null: all.")
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

    models: Path = Field(description="Folder of meshes, or code.")
    objects: list[int] | None = Field(None, description="Rendered objects; default: the learned ones. More occlude.")
    count: int = Field(gt=0, description="Images to render.")
    seed: int = Field(0, description="Another seed, other images.")
    settings: RenderSettings = Field(RenderSettings(), description="How they are rendered.")


def _source_kind(source: Any) -> str:
    for kind, key, settings in (("as bop", "bop", BopSource), ("as labels", "labels", LabelSource)):
        if key in source if isinstance(source, dict) else isinstance(source, settings):
            return kind
    return "as render"


Source = Annotated[
    Annotated[BopSource, Tag("as bop")]
    | Annotated[LabelSource, Tag("as labels")]
    | Annotated[RenderSource, Tag("as render")],
    Discriminator(_source_kind),
]
"""Told by ``bop`` or ``labels``, any other is rendered: a mistake in one is not explained by another's keys."""


class TestSource(Settings):
    """The test split, read by ``evaluate`` alone."""

    source: Source = Field(description="Frames of a BOP folder, of labels, or rendered.")
    boxes: Boxes = Field("gt", description="Where crops come from: true boxes, or a detector's.")
    detections: Path | None = Field(None, description="BOP json of detections, needed by boxes: detector.")
    sizes: list[PictureSize] = Field(
        [], description="Other sizes of whole pictures at which networks are measured besides."
    )
    silent: ClassVar[frozenset[str]] = frozenset({"sizes"})

    @model_validator(mode="after")
    def _detector_needs_detections(self) -> "TestSource":
        if self.boxes == "detector" and self.detections is None:
            raise ValueError("found boxes: detector without detections, expected detections: FILE (BOP json)")
        return self


class DataSettings(Settings):
    """What is trained on, validated on and tested on."""

    task: ClassVar[str] = "objects"
    objects: list[int] = Field(min_length=1, description="BOP object ids; their order is the class order.")
    train: list[Source] = Field(min_length=1, description="The sources that are trained on, any number.")
    shares: list[float] | None = Field(None, description="Share of each source in a batch; default: by size.")
    test: TestSource = Field(description="What is measured.")
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training frames kept for model selection.")
    crop_size: int = Field(256, ge=32, multiple_of=32, description="Of families that look at crops.")
    backgrounds: Path | None = Field(
        None, description="Folder of photographs to put behind objects in crops; made in code where null."
    )
    negatives: Path | None = Field(
        None,
        description="Folder of photographs without the objects, for the score threshold; default: the backgrounds.",
    )
    augment: AugmentSettings = Field(AugmentSettings(), description="How crops are varied in training.")
    picture: PictureSettings = Field(PictureSettings(), description="Of families that look at whole pictures.")
    min_visible: float = Field(0.1, ge=0, le=1, description="Instances seen less than this share are not trained on.")
    silent: ClassVar[frozenset[str]] = frozenset({"picture", "negatives"})

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
    calibration: Calibration | None = Field(
        None, description="Of 7-Scenes: depth (as recorded), or colour; default: what the networks need."
    )
    poses: Path | None = Field(
        None, description="csv or json of poses by name that train in place of the scene's own, and nothing else does."
    )
    min_score: float = Field(0.0, description="Poses of the json below it are left out.")
    short_side: int = Field(256, ge=32, description="To which photographs are scaled, pixels.")
    squeeze: bool = Field(False, description="Scale to 455x256 whatever the aspect, as was published.")
    crop: int | tuple[int, int] | None = Field(224, description="Side, or [height, width]; null: whole frames.")
    views: ViewSettings = Field(ViewSettings(), description="How photographs are varied in training.")
    novel_views: NovelViewSettings | None = Field(
        None, description="Pictures from places beside the photographs', made by a network that knows the scene."
    )
    mean_image: bool = Field(False, description="Subtract the mean training image, as was published.")
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training frames kept for model selection.")
    gap: int = Field(5, ge=0, description="Frames beside each block of these that are used for nothing.")
    silent: ClassVar[frozenset[str]] = frozenset(
        {"metres_per_unit", "test_split", "calibration", "poses", "min_score", "novel_views"}
    )

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


class CategorySettings(Settings):
    """Pictures of things of named categories, in which networks learn how a thing is turned."""

    task: ClassVar[str] = "categories"
    annotations: Path = Field(description="Folder or file of annotated viewpoints: see docs/data.md.")
    test: Path | None = Field(None, description="Folder or file whose split val is measured; default: the same.")
    categories: list[str] | None = Field(None, min_length=1, description="Learned categories; default: all.")
    novel: list[str] | Literal["objectnet", "pascal"] | None = Field(
        None, description="Categories that nothing is trained on: a list, or those that the field holds out."
    )
    measured: list[str] | None = Field(None, description="Categories of the test; default: the novel ones, else all.")
    clean: bool = Field(False, description="Train on whole, unhidden objects with keypoints alone.")
    shots: int | None = Field(None, ge=1, description="Objects of each category that train; default: all.")
    shot_seed: int = Field(0, description="Of the draw of shots; teacher and student share it.")
    listed: Path | None = Field(None, description="Text file of the objects that train, one a line, as shots.txt.")
    shapes: Path | None = Field(None, description="Folder of point clouds or CAD models, for teachers that see them.")
    shapenet_frame: bool = Field(False, description="Shapes have ShapeNet's axes: y up, the front towards -x.")
    stand_ins: bool = Field(False, description="Where a thing's own shape is missing, take one of its category.")
    points: int = Field(2500, ge=8, description="Of a cloud, that a network sees.")
    renderings: Path | None = Field(None, description="Folder of renderings of shapes, for teachers that see views.")
    tour: Literal[1, 2, 3] = Field(2, description="Elevations of the renderings: 30; 0 and 30; 0, 30 and 60.")
    view_count: int = Field(12, ge=1, description="Renderings that a network sees, evenly around on each elevation.")
    view_size: int = Field(224, ge=32, multiple_of=32, description="Side of a rendering as a network sees it.")
    turn_frames: float = Field(0.0, ge=0, le=180, description="Largest turn of a shape's own frame, degrees.")
    symmetries: dict[str, Symmetry] = Field({}, description="Categories that look the same when turned upright.")
    crop_size: int = Field(224, ge=32, multiple_of=32, description="Side of the network's input, pixels.")
    pad: float = Field(1.1, ge=1, le=2, description="Side of a crop over the longer side of its box.")
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a mirrored crop.")
    augment: AugmentSettings = Field(
        AugmentSettings(shift=0.1, scale=0.1, turn=15.0, occlusion=0.2, background=0.0),
        description="How crops are varied in training.",
    )
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training pictures kept for model selection.")

    @model_validator(mode="after")
    def _one_choice_of_rows(self) -> "CategorySettings":
        if self.shots is not None and self.listed is not None:
            raise ValueError("found shots and listed, expected one of them: a list is a draw")
        of_shapes = ("stand_ins", "turn_frames")
        if self.shapes is None and (given := [key for key in of_shapes if getattr(self, key)]):
            raise ValueError(f"found {' and '.join(given)} without shapes, expected shapes: DIR")
        return self

    silent: ClassVar[frozenset[str]] = frozenset({"renderings", "tour", "view_count", "view_size"})

    @property
    def held_out(self) -> frozenset[str]:
        """Categories that nothing is trained on."""
        known = {"objectnet": OBJECTNET_NOVEL, "pascal": PASCAL_NOVEL}
        return known[self.novel] if isinstance(self.novel, str) else frozenset(self.novel or ())

    def input_size(self, view: str) -> int:
        """Side of the network's square input, pixels."""
        return self.crop_size


def _data_kind(data: Any) -> str:
    is_dict = isinstance(data, dict)
    for key, kind in (("scene", "as scene"), ("annotations", "as categories")):
        if key in data if is_dict else hasattr(data, key):
            return kind
    return "as objects"


Data = Annotated[
    Annotated[SceneSettings, Tag("as scene")]
    | Annotated[CategorySettings, Tag("as categories")]
    | Annotated[DataSettings, Tag("as objects")],
    Discriminator(_data_kind),
]
"""Data that says ``scene`` is photographs, ``annotations`` things of categories, any other is crops of objects."""

KINDS: dict[str, type[Settings]] = {
    "as bop": BopSource,
    "as labels": LabelSource,
    "as render": RenderSource,
    "as scene": SceneSettings,
    "as categories": CategorySettings,
    "as objects": DataSettings,
}
"""Which of several sections a mapping stands for; pydantic puts these words into the place of a fault."""
