"""The commands of 3DAug-Pose's repository (teacher, distiller, tester) under their own options."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posedistill.errors import PoseDistillError

if TYPE_CHECKING:
    from posedistill.recipe.published_viewpoint import Options

viewpoint_app = typer.Typer(
    no_args_is_help=True, help="Train, distil and test viewpoints by the options of 3DAug-Pose."
)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any field of the recipe: teacher.settings.backbone=resnet18 train.steps=200")
]
Dataset = Annotated[str, typer.Option("--dataset", help="ObjectNet3D or Pascal3D; test: also Pix3D.")]
Root = Annotated[Path, typer.Option("--root", help="Folder that holds the data sets' folders.")]
Shape = Annotated[str, typer.Option("--shape", help="PointCloud, MultiView, or None for pictures alone.")]
ShapeDir = Annotated[
    str | None,
    typer.Option("--shape_dir", help="Folder of shapes in the data set's; default: pointcloud or Renders_semi_sphere."),
]
ShapeWidth = Annotated[
    int | None,
    typer.Option("--shape_feature_dim", min=1, help="Width of a cloud's feature (1024), or of a view's (256)."),
]
BinSize = Annotated[float, typer.Option("--bin_size", help="Degrees.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate.")]
Decrease = Annotated[int, typer.Option("--decrease", min=1, help="Epoch from which on the rate is a tenth.")]
Epochs = Annotated[int, typer.Option("--n_epoch", min=1, help="Epochs, which become steps.")]
Batch = Annotated[int, typer.Option("--batch_size", min=2, help="Crops a step.")]
Keypoint = Annotated[bool, typer.Option("--keypoint", help="ObjectNet3D: train on clean objects alone.")]
Novel = Annotated[bool, typer.Option("--novel", help="Train on none of the test's categories.")]
Shot = Annotated[int | None, typer.Option("--shot", min=1, help="Objects of each category that train.")]
Every = Annotated[int, typer.Option("--print_freq", min=1, help="Steps between two lines of the log.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Changes nothing: one thread makes batches ahead.")]
Views = Annotated[int | None, typer.Option("--view_num", min=1, help="MultiView: renderings of a shape; default: 12.")]
Tour = Annotated[int | None, typer.Option("--tour", min=1, max=3, help="MultiView: rings of them; default: 2.")]
PresetName = Annotated[str, typer.Option("--preset", help="released, paper or plus: which reading of the method.")]
Runs = Annotated[Path, typer.Option("--output_dir", help="Folder for recipe, weights and logs.")]


@viewpoint_app.command()
def train(
    dataset: Dataset,
    overrides: Overrides = None,
    root: Root = Path("data"),
    shape: Shape = "PointCloud",
    shape_dir: ShapeDir = None,
    shape_feature_dim: ShapeWidth = None,
    img_feature_dim: Annotated[
        int, typer.Option("--img_feature_dim", min=1, help="Width of the image feature.")
    ] = 1024,
    view_num: Views = None,
    tour: Tour = None,
    bin_size: BinSize = 15.0,
    lr: Rate = 1e-4,
    decrease: Decrease = 130,
    n_epoch: Epochs = 200,
    batch_size: Batch = 16,
    workers: Workers = None,
    print_freq: Every = 50,
    model: Annotated[Path | None, typer.Option("--model", help="Weights to start from (few-shot).")] = None,
    novel: Novel = False,
    keypoint: Keypoint = False,
    shot: Shot = None,
    random: Annotated[bool, typer.Option("--random", help="Turn the frames of shapes.")] = False,
    random_range: Annotated[int | None, typer.Option("--random_range", help="0: 40, 1: 85, 2: 180 degrees.")] = None,
    preset: PresetName = "plus",
    output_dir: Runs = Path("runs"),
) -> None:
    """Train the teacher, which sees photograph and shape: makes a recipe, says which, and runs it."""
    from posedistill.recipe.published_viewpoint import training_sections
    from posedistill.training.published import train_sections

    options = _options(locals())
    raw = training_sections(
        options,
        img_feature_dim=img_feature_dim,
        shape_feature_dim=shape_feature_dim,
        model=model,
        random=random,
        random_range=random_range,
    )
    idle = _inert("--random_range", random_range is not None and not random, "without --random")
    _tell([*options.notes(), *idle, *_inert_of_shapes(shape, view_num, tour, workers)])
    train_sections(raw, "teacher", overrides or [], "train")


@viewpoint_app.command()
def distill(
    dataset: Dataset,
    teacher_model: Annotated[Path, typer.Option("--teacher_model", help="The finished teacher's weights.")],
    overrides: Overrides = None,
    root: Root = Path("data"),
    shape: Shape = "PointCloud",
    shape_dir: ShapeDir = None,
    shape_feature_dim: ShapeWidth = None,
    img_feature_dim: Annotated[int, typer.Option("--img_feature_dim", min=1, help="Of the student.")] = 2048,
    view_num: Views = None,
    tour: Tour = None,
    bin_size: BinSize = 15.0,
    lr: Rate = 1e-4,
    decrease: Decrease = 44,
    n_epoch: Epochs = 60,
    batch_size: Batch = 12,
    workers: Workers = None,
    print_freq: Every = 50,
    student_model: Annotated[
        Path | None, typer.Option("--student_model", help="Weights the student starts from.")
    ] = None,
    pretrain_backbone: Annotated[
        Path | None, typer.Option("--pretrain_backbone", help="Weights its trunk starts from.")
    ] = None,
    novel: Novel = False,
    keypoint: Keypoint = False,
    shot: Shot = None,
    random: Annotated[bool, typer.Option("--random", help="Changes nothing: no picture tells a turned frame.")] = False,
    random_range: Annotated[int | None, typer.Option("--random_range", help="Changes nothing either.")] = None,
    contrast: Annotated[bool, typer.Option("--contrast", help="Refused: no code came with it.")] = False,
    crd: Annotated[bool, typer.Option("--crd", help="Compare embeddings too.")] = False,
    stage: Annotated[int, typer.Option("--stage", help="Without --crd: 2, logits alone.")] = 1,
    tau: Annotated[float | None, typer.Option("--tau", help="Temperature of the contrast.")] = None,
    weighting: Annotated[
        str | None, typer.Option("--weighting", help="linear, sqrt, square, sin or sinsin: negatives by pose.")
    ] = None,
    preset: PresetName = "plus",
    output_dir: Runs = Path("runs"),
) -> None:
    """Distil a student, which sees the photograph alone, under a finished teacher."""
    from posedistill.recipe.published_viewpoint import distilling_sections
    from posedistill.training.published import train_sections

    if contrast:
        raise PoseDistillError("--contrast: the published code names a routine that it lacks; expected --crd")
    if not crd and stage != 2:
        raise PoseDistillError(
            f"--stage {stage} without --crd: the published code breaks off there; expected --crd, or --stage 2"
        )
    options = _options(locals())
    raw = distilling_sections(
        options,
        teacher_model,
        img_feature_dim=img_feature_dim,
        shape_feature_dim=shape_feature_dim,
        student_model=student_model,
        pretrain_backbone=pretrain_backbone,
        crd=crd,
        tau=tau,
        weighting=weighting,
    )
    why = "without --crd" if not crd else "in the preset released, which has no contrast"
    without = not crd or preset == "released"
    idle = [
        *_inert("--tau", without and tau is not None, why),
        *_inert("--weighting", without and weighting is not None, why),
        *_inert("--stage", crd and stage != 1, "with --crd"),
        *_inert("--random", random or random_range is not None, "here: a student is taught on shapes as they are"),
    ]
    _tell([*options.notes(), *idle, *_inert_of_shapes(shape, view_num, tour, workers)])
    train_sections(raw, "distilled", overrides or [], "distill")


@viewpoint_app.command("test")
def measure(
    dataset: Dataset,
    model: Annotated[Path, typer.Option("--model", help="Weights (.safetensors) of teacher or student.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for predictions and the log.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Any setting of the network: backbone=resnet18")] = None,
    root: Root = Path("data"),
    shape: Annotated[
        str, typer.Option("--shape", help="PointCloud or MultiView (a teacher), or None (a student).")
    ] = "None",
    shape_dir: ShapeDir = None,
    shape_feature_dim: ShapeWidth = None,
    img_feature_dim: Annotated[
        int | None, typer.Option("--img_feature_dim", min=1, help="Default: 1024 of teachers, 2048 of students.")
    ] = None,
    view_num: Views = None,
    tour: Tour = None,
    bin_size: BinSize = 15.0,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Crops at a time.")] = 16,
    workers: Workers = None,
    random_model: Annotated[
        bool, typer.Option("--random_model", help="Show a teacher another shape of the category.")
    ] = False,
    preset: PresetName = "plus",
) -> None:
    """Measure weights on the clean objects of the split val: scores, and predictions_CATEGORY.npy of label angles."""
    from posedistill.recipe.published_viewpoint import is_faithful
    from posedistill.training.published.viewpoint import measure_published

    if random_model and shape != "PointCloud":
        raise PoseDistillError(f"--random_model: found --shape {shape}, expected PointCloud: shapes to replace")
    _tell(_inert_of_shapes(shape, view_num, tour, workers))
    measure_published(
        dataset,
        model,
        output_dir,
        root=root,
        shape=shape,
        shape_dir=shape_dir,
        shape_features=shape_feature_dim,
        view_num=view_num,
        tour=tour,
        settings={"bin_size": bin_size, "faithful": is_faithful(preset)}
        | ({} if img_feature_dim is None else {"features": img_feature_dim}),
        overrides=overrides or [],
        batch=batch_size,
        swapped=random_model,
    )


def _options(given: dict[str, Any]) -> "Options":
    """What trainer and distiller share, of a command's arguments."""
    from dataclasses import fields

    from posedistill.recipe.published_viewpoint import Options

    shared = {field.name: given[field.name] for field in fields(Options) if field.name != "runs"}
    return Options(**shared, runs=given["output_dir"])


def _inert_of_shapes(shape: str, view_num: int | None, tour: int | None, workers: int | None) -> list[str]:
    """What is to be told of the options that all three commands have."""
    unseen, why = shape != "MultiView", f"with --shape {shape}"
    return [
        *_inert("--view_num", unseen and view_num is not None, why),
        *_inert("--tour", unseen and tour is not None, why),
        *_inert("--workers", workers is not None, "as one thread makes batches ahead"),
    ]


def _inert(option: str, given: bool, why: str) -> list[str]:
    return [f"{option} changes nothing {why}"] if given else []


def _tell(notes: list[str]) -> None:
    from posedistill.log import console

    for note in notes:
        console.print(f"[yellow]{note}", highlight=False)
