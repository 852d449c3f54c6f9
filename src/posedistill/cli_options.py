"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path, typer.Argument(help="The recipe (YAML), or the name of one that comes along: quickstart.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Any field of the recipe: train.steps=2000 student.settings.backbone=darknet_tiny"),
]
Seed = Annotated[int, typer.Option(help="Seed of this network; default: the recipe's.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="A run folder: runs/NAME.")]
Model = Annotated[
    Path, typer.Argument(help="An exported model.onnx, or the name of one that comes along: linemod_cat.")
]
Split = Annotated[str, typer.Option(help="Split folder in the BOP folder.")]
Scenes = Annotated[list[int] | None, typer.Option(help="Scene number; default: all.")]
FrameList = Annotated[Path | None, typer.Option(help="Text file with one image id a line.")]
Detections = Annotated[Path | None, typer.Option(help="BOP json of detections.")]
LegacyDiameters = Annotated[bool, typer.Option(help="LINEMOD diameters of older papers.")]
Detection = Annotated[
    bool, typer.Option(help="Score 6D detection instead (BOP-24): average precision of all estimates, no targets told.")
]
ScoresFile = Annotated[Path | None, typer.Option(help="Where to write the scores.")]
Threads = Annotated[int, typer.Option(help="Processor threads; 0 for all.")]
