"""Recipes out of the options of 3DAug-Pose's commands (Liu et al., ICMR 2022), with what of them means nothing told.

The options are those of its trainer, its distiller and its tester; epochs become steps, and the presets (see
docs/viewpoint.md) say which of the method's three readings is meant.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.formats.viewpoint.categories import OBJECTNET_NOVEL, PASCAL_NOVEL, CategoryDataset
from posedistill.errors import RecipeError, describe
from posedistill.estimators.contrast import Weighting

PRESETS = ("released", "paper", "plus")
WEIGHTINGS = get_args(Weighting)
TRAINED = {"ObjectNet3D": OBJECTNET_NOVEL, "Pascal3D": PASCAL_NOVEL}
"""What may be trained on, and the categories that ``--novel`` holds out of it."""
SHAPE_FOLDERS = {"PointCloud": "pointcloud", "MultiView": "Renders_semi_sphere"}
"""What ``--shape`` may ask for, and the folder that has it."""
VIEWS, TOUR = 12, 2
"""Renderings of a shape, and rings of them, as published."""
RANGES = {0: 40.0, 1: 85.0, 2: 180.0}
"""Degrees of ``--random_range``: 5 m with m up to 8, 17, or all round."""
_OFFSETS = ["azimuth_offset", "elevation_offset", "inplane_offset"]
_ANGLES = ["azimuth", "elevation", "inplane"]
_TRUST = {"by": "error", "limit": 0.75}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that trainer and distiller share; None where the command line says nothing."""

    dataset: str
    root: Path
    shape: str
    shape_dir: str | None
    bin_size: float
    lr: float
    decrease: int
    n_epoch: int
    batch_size: int
    print_freq: int
    novel: bool
    keypoint: bool
    shot: int | None
    preset: str
    runs: Path
    view_num: int | None = None
    tour: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            RecipeError: an unknown data set, shape or preset, or options that exclude each other.
        """
        self.shape_folder  # noqa: B018 - whose faults are found here
        if self.dataset not in TRAINED:
            told = "whose renders are no photographs with viewpoints of this layout" * (self.dataset == "ShapeNetCore")
            expected = " or ".join(TRAINED)
            raise _wrong("--dataset", " ".join(filter(None, [self.dataset, told])), expected)
        if self.keypoint and self.dataset != "ObjectNet3D":
            raise _wrong("--keypoint", f"{self.dataset}", "ObjectNet3D, which alone says so in every row")
        is_faithful(self.preset)  # whose faults are found here

    @property
    def shape_folder(self) -> Path | None:
        """The folder of shapes; None without."""
        return shape_folder(self.shape, self.shape_dir, self.root / self.dataset)

    @property
    def name(self) -> str:
        """Of the run."""
        parts = [self.dataset.lower(), "novel" * self.novel, f"{self.shot}shot" if self.shot else ""]
        return "-".join(filter(None, parts))

    def data(self) -> dict[str, Any]:
        """The recipe's section: what is trained on, and the published test of it."""
        held, folder = TRAINED[self.dataset], self.shape_folder
        about: dict[str, Any] = {"annotations": str(self.root / self.dataset), "clean": self.keypoint}
        if self.novel:
            about["novel"] = "objectnet" if self.dataset == "ObjectNet3D" else "pascal"
        elif self.dataset == "ObjectNet3D":
            about["measured"] = sorted(held)
        if self.shot is not None:
            about["shots"] = self.shot
        if self.shape == "MultiView":
            return about | {"renderings": str(folder), "view_count": self.view_num or VIEWS, "tour": self.tour or TOUR}
        return about | ({} if folder is None else {"shapes": str(folder)})

    def train(self) -> dict[str, Any]:
        """The recipe's schedule: one drop to a tenth, epochs as steps over the objects that train."""
        epoch = -(-len(self._learned()) // self.batch_size)
        return {
            "steps": self.n_epoch * epoch,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "schedule": "step",
            "drop": min(1.0, self.decrease / self.n_epoch),
            "weight_decay": 5e-4,
            "validate_every": epoch,
            "checkpoint_every": epoch,
            "log_every": self.print_freq,
        }

    def _learned(self) -> CategoryDataset:
        """The objects that train."""
        found = open_categories(self.root / self.dataset).of_split("train", clean=self.keypoint)
        if self.novel:
            found = found.of_categories(set(found.categories) - TRAINED[self.dataset])
        return found if self.shot is None else found.few(self.shot, 0)

    def notes(self) -> list[str]:
        """What the options do not do, or do otherwise than one may think."""
        found = []
        if self.dataset == "ObjectNet3D" and not self.novel:
            found.append("without --novel the 20 measured categories train too: supervised figures, not zero-shot ones")
        if self.decrease >= self.n_epoch:
            found.append(f"--decrease {self.decrease} is not reached in {self.n_epoch} epochs: the rate stays")
        return found


def training_sections(
    options: Options,
    *,
    img_feature_dim: int = 1024,
    shape_feature_dim: int | None = None,
    model: Path | None = None,
    random: bool = False,
    random_range: int | None = None,
) -> dict[str, Any]:
    """The recipe of the trainer: a teacher that sees shapes, or with ``--shape None`` pictures alone.

    Args:
        model: weights to start from, such as the zero-shot model's for ``--shot``. random: turn the shapes' frames.

    Raises:
        RecipeError: ``random`` without shapes, or an unknown range.
    """
    data = options.data()
    if random and options.shape != "PointCloud":
        raise _wrong("--random", f"--shape {options.shape}", "PointCloud: it turns the frames of clouds")
    if random_range is not None and random_range not in RANGES:
        raise _wrong("--random_range", random_range, "0, 1 or 2")
    teacher = _network(options, "resnet50", img_feature_dim)
    teacher["settings"] |= shape_settings(options.shape, shape_feature_dim, options.view_num)
    if random:
        teacher["settings"]["turned_frames"] = True
        data["turn_frames"] = RANGES[random_range or 0]
    if model is not None:
        teacher["start"] = str(model)
    student = _network(options, "resnet18", 2048)
    return _recipe(options, options.name, data, teacher, student, losses(options.preset, True, None, None))


def distilling_sections(
    options: Options,
    teacher_model: Path,
    *,
    img_feature_dim: int = 2048,
    shape_feature_dim: int | None = None,
    student_model: Path | None = None,
    pretrain_backbone: Path | None = None,
    crd: bool = False,
    tau: float | None = None,
    weighting: str | None = None,
) -> dict[str, Any]:
    """The recipe of the distiller: a student under finished weights; without ``crd`` by logits alone.

    Args:
        student_model: weights that the student starts from. pretrain_backbone: those that its trunk starts from.

    Raises:
        RecipeError: an unknown weighting.
    """
    teacher = _network(options, "resnet50", 1024) | {"checkpoint": str(teacher_model)}
    teacher["settings"] |= shape_settings(options.shape, shape_feature_dim, options.view_num)
    student = _network(options, "resnet18", img_feature_dim)
    if student_model is not None:
        student["start"] = str(student_model)
    if pretrain_backbone is not None:
        student["pretrained"] = str(pretrain_backbone)
    distill = losses(options.preset, crd, tau, weighting)
    return _recipe(options, f"{options.name}-distilled", options.data(), teacher, student, distill)


def is_faithful(preset: str) -> bool:
    """Whether a preset's network is the published one.

    Raises:
        RecipeError: an unknown preset.
    """
    if preset not in PRESETS:
        raise _wrong("--preset", preset, f"one of {', '.join(PRESETS)}")
    return preset != "plus"


def losses(preset: str, crd: bool, tau: float | None, weighting: str | None) -> list[dict[str, Any]]:
    """The losses of a preset, their weights relative to a supervised loss of weight 1.

    Args:
        crd: whether embeddings are compared too. tau, weighting: of the contrast; None for the preset's own.

    Raises:
        RecipeError: an unknown weighting.
    """
    if weighting is not None and weighting not in WEIGHTINGS:
        raise _wrong("--weighting", weighting, f"one of {', '.join(WEIGHTINGS)}")
    if preset == "plus":
        logits: dict[str, Any] = {"form": "logits", "heads": _ANGLES, "temperature": 2.0}
        contrast: dict[str, Any] = {"form": "crd", "weighting": weighting or "linear"}
        contrast |= {} if tau is None else {"temperature": tau}
        found: list[dict[str, Any]] = [
            {"name": "match", "options": logits, "trust": _TRUST},
            {"name": "match", "weight": 0.5, "options": {"form": "regression", "beta": 0.1}, "trust": _TRUST},
        ]
        return [*found, {"name": "contrast", "options": contrast}] if crd else found
    if preset == "released" and crd:
        return [{"name": "match", "weight": 3.0, "options": {"form": "logits"}}]
    plain: dict[str, Any] = {
        "name": "match",
        "weight": 3.0,
        "options": {"form": "logits", "heads": [*_ANGLES, *_OFFSETS]},
    }
    kind: dict[str, Any] = {"form": "info_nce", "faithful": True}
    kind = kind if weighting is None else {"form": "pose_weighted_info_nce", "weighting": weighting}
    contrast = kind | {"temperature": tau or 0.5, "teacher_side": "fixed"}
    return [plain, {"name": "contrast", "weight": 3.6, "options": contrast}] if crd else [plain]


def shape_settings(shape: str, features: int | None, views: int | None) -> dict[str, Any]:
    """What a network's settings say of shapes; ``features``: the width of a cloud's, or of each view's."""
    if shape == "MultiView":
        return {"shape": "views", "view_count": views or VIEWS, "view_features": features or 256}
    return {} if shape == "None" else {"shape": "cloud", "shape_features": features or 1024}


def shape_folder(shape: str, shape_dir: str | None, base: Path) -> Path | None:
    """The folder of a kind of shapes in a data set's; None for pictures alone.

    Raises:
        RecipeError: an unknown kind, or a folder of another kind.
    """
    if shape == "None":
        if shape_dir is not None:
            raise _wrong("--shape_dir", f"{shape_dir} with --shape None", "none: no shape is looked at")
        return None
    if shape not in SHAPE_FOLDERS:
        raise _wrong("--shape", shape, f"{', '.join(SHAPE_FOLDERS)} or None")
    if shape_dir in {folder for kind, folder in SHAPE_FOLDERS.items() if kind != shape}:
        raise _wrong("--shape_dir", f"{shape_dir} with --shape {shape}", SHAPE_FOLDERS[shape])
    return base / (shape_dir or SHAPE_FOLDERS[shape])


def _network(options: Options, backbone: str, features: int) -> dict[str, Any]:
    settings = {"backbone": backbone, "features": features, "bin_size": options.bin_size}
    return {"family": "viewpoint", "settings": settings | {"faithful": is_faithful(options.preset)}}


def _recipe(options: Options, name: str, data: Any, teacher: Any, student: Any, distill: Any) -> dict[str, Any]:
    return {
        "name": name,
        "data": data,
        "teacher": teacher,
        "student": student,
        "distill": distill,
        "train": options.train(),
        "runs": str(options.runs),
    }


def _wrong(option: str, found: object, expected: str) -> RecipeError:
    return RecipeError(describe(option, "option", found, expected))
