"""The commands of single-shot pose's repositories (singleshotpose, singleshot6Dpose) under their own options."""

from pathlib import Path
from typing import Annotated

import typer

from posedistill.errors import PoseDistillError

yolo6d_app = typer.Typer(
    no_args_is_help=True, help="Start from the .data, .cfg and .weights files of single-shot pose."
)

DataFile = Annotated[Path, typer.Option("--datacfg", help="The .data file: lists, mesh, diameter, intrinsics.")]
ModelFile = Annotated[Path, typer.Option("--modelcfg", help="The .cfg file of the network.")]
Runs = Annotated[Path, typer.Option("--backupdir", help="Folder for recipe, weights and logs.")]


@yolo6d_app.command()
def train(
    datacfg: DataFile,
    modelcfg: ModelFile,
    overrides: Annotated[list[str] | None, typer.Argument(help="Any field of the recipe: train.steps=2000")] = None,
    initweightfile: Annotated[
        Path | None, typer.Option("--initweightfile", help="Darknet .weights (or a part of them) to start from.")
    ] = None,
    pretrain_num_epochs: Annotated[
        int | None,
        typer.Option(
            "--pretrain_num_epochs", min=0, help="Epochs without confidences; default: 15 (half of fewer than 30)."
        ),
    ] = None,
    backupdir: Runs = Path("runs"),
    distiled: Annotated[int, typer.Option("--distiled", help="1: learn from a teacher too.")] = 0,
    teachercfg: Annotated[Path | None, typer.Option("--teachercfg", help="The teacher's .cfg.")] = None,
    teacherweightfile: Annotated[
        Path | None, typer.Option("--teacherweightfile", help="The teacher's weights.")
    ] = None,
    backgrounds: Annotated[Path | None, typer.Option(help="Photographs to put behind; default: VOCdevkit's.")] = None,
    faithful: Annotated[bool, typer.Option(help="Published losses and augmentation, not the corrected ones.")] = False,
) -> None:
    """Train a network of a .cfg on 21-number labels: makes a recipe, says which, and runs it."""
    from posedistill.training.published.single_shot import train_published

    teacher = None
    if distiled:
        if teachercfg is None or teacherweightfile is None:
            expected = "--teachercfg FILE and --teacherweightfile FILE"
            raise PoseDistillError(f"--distiled: found no teacher, expected {expected}")
        teacher = teachercfg, teacherweightfile
    train_published(
        datacfg,
        modelcfg,
        initweightfile,
        teacher=teacher,
        overrides=overrides or [],
        pretrain_epochs=pretrain_num_epochs,
        backgrounds=backgrounds,
        runs=backupdir,
        faithful=faithful,
    )


@yolo6d_app.command()
def valid(
    datacfg: DataFile,
    modelcfg: ModelFile,
    weightfile: Annotated[Path, typer.Option("--weightfile", help="Darknet .weights, or .safetensors of a run.")],
    backupdir: Runs = Path("runs"),
) -> None:
    """Measure weights of a .cfg on each list `valid` (of several objects `valid1`, ...) of a .data file."""
    from posedistill.training.published.single_shot import valid_published

    valid_published(datacfg, modelcfg, weightfile, backupdir)
