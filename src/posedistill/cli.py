"""The command line. Heavy imports happen inside the commands, so that ``posedistill --help`` answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from posedistill import __version__
from posedistill.cli_data import data_app
from posedistill.cli_models import card, hub_app
from posedistill.cli_options import (
    Detection,
    Detections,
    FrameList,
    LegacyDiameters,
    Model,
    Overrides,
    RecipeFile,
    RunFolder,
    Scenes,
    ScoresFile,
    Seed,
    Split,
    Threads,
)
from posedistill.cli_viewpoint import viewpoint_app
from posedistill.cli_yolo6d import yolo6d_app
from posedistill.errors import PoseDistillError, describe
from posedistill.files import shipped


class _Commands(typer.core.TyperGroup):
    """Tells what to do after an interrupt, which typer would pass over in silence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            words = stop.args[0] if stop.args else "stopped; the same command begins again"
            print(f"posedistill: {words}", file=sys.stderr)
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Make a large 6-DoF pose estimator small: train a teacher, distil a student, measure both, ship the student.",
    epilog="Start with: posedistill run quickstart",
)
app.add_typer(data_app, name="data")
app.add_typer(yolo6d_app, name="yolo6d")
app.add_typer(viewpoint_app, name="viewpoint")
app.add_typer(hub_app, name="hub")
app.command()(card)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(help="Networks trained at the same time (several fit one GPU).")] = 1,
) -> None:
    """Walk all stages: data, teacher, student, distilled, evaluate, export, bench, report.

    Finished stages are skipped and an interrupted one resumes, so the same command goes on after a kill. A recipe
    without losses trains its student alone.
    """
    from posedistill.training.run import run as run_stages

    run_stages(_recipe(recipe, overrides), jobs)


@app.command()
def compare(
    recipes: Annotated[
        list[str], typer.Argument(help="Comparison files or recipes, then key=value for all.", show_default=False)
    ],
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of each variant; default: the recipe's.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Compared with; default: the student alone.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Networks trained at the same time.")] = 1,
) -> None:
    """Compare variants on the same batches and seeds, at equal steps and equal wall-clock, with intervals.

    Each variant's loss weights are tuned on the validation split first. Goes on after a kill like `run`.
    """
    from posedistill.compare.compare import compare as compare_variants

    words = [Path(word) for word in recipes if "=" not in word]
    paths = [
        shipped(path, "recipes" if path.parent.name == "recipes" else "recipes/compare", ".yaml") for path in words
    ]
    overrides = [word for word in recipes if "=" in word]
    page = compare_variants(paths, overrides, seeds=seeds, baseline=baseline, jobs=jobs)
    print((page.parent / "comparison.md").read_text())
    print(f"page: {page}")


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    network: Annotated[str, typer.Option(help="teacher, or student (the baseline without distillation).")] = "teacher",
    seed: Seed = -1,
) -> None:
    """Train the recipe's teacher, or its student without a teacher."""
    if network not in ("teacher", "student"):
        raise PoseDistillError(f"--network: found {network!r}, expected 'teacher' or 'student'")
    _train(_recipe(recipe, overrides), network, seed)


@app.command()
def distill(recipe: RecipeFile, overrides: Overrides = None, seed: Seed = -1) -> None:
    """Train the recipe's student under its finished teacher."""
    _train(_recipe(recipe, overrides), "distilled", seed)


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="A run folder (runs/NAME), an exported model.onnx, or the name of one that comes along."),
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="BOP folder, .data file, scene or viewpoints; default: the run's.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="Split folder in the BOP folder; train, test or all of a scene; of viewpoints test is val."),
    ] = "test",
    scene: Scenes = None,
    frames: FrameList = None,
    boxes: Annotated[str, typer.Option(help="gt (boxes from ground truth) or detector.")] = "gt",
    detections: Detections = None,
    csv: Annotated[Path | None, typer.Option(help="Where to write the poses (objects: BOP csv).")] = None,
    json: ScoresFile = None,
    legacy_diameters: LegacyDiameters = False,
    metres_per_unit: Annotated[
        float | None,
        typer.Option(help="Of a scene reconstructed without a scale, as in training."),
    ] = None,
    detection: Detection = False,
    threads: Threads = 0,
) -> None:
    """Measure a run or an exported file on its own test data, or on any BOP folder, scene or viewpoints.

    With --detection it estimates a pose in every box of --detections.
    """
    from posedistill.deploy.evaluators.base import Asked
    from posedistill.deploy.evaluators.files import evaluate_file

    if model.is_dir() and dataset is None:
        from posedistill.log import console
        from posedistill.report.error_tables import model_error_table
        from posedistill.report.results import load_run
        from posedistill.report.tables import result_table
        from posedistill.tasks.registry import open_task
        from posedistill.training.evaluate import evaluate_run
        from posedistill.training.run_folder import recipe_of

        about: dict[str, Any] = {"--split": split != "test", "--scene": scene, "--frames": frames, "--csv": csv}
        about |= {"--boxes": boxes != "gt", "--detections": detections, "--json": json, "--threads": threads}
        about |= {"--legacy-diameters": legacy_diameters, "--metres-per-unit": metres_per_unit}
        about |= {"--detection": detection}
        if given := [option for option, value in about.items() if value]:
            raise PoseDistillError(f"{', '.join(given)}: a run is measured as its recipe says, or on a --dataset")
        evaluate_run(open_task(recipe_of(model)))
        console.print(result_table(model))
        if errors := model_error_table(load_run(model).main_group()):
            console.print(errors)
        return
    if dataset is None:
        raise PoseDistillError(
            "--dataset: found nothing, expected a BOP folder, scene or viewpoints (a file knows no test data)"
        )
    file = model / "model.onnx" if model.is_dir() else shipped(model, "models", ".onnx")
    asked = Asked(
        file,
        dataset,
        split,
        frames,
        boxes,
        detections,
        csv,
        json,
        scenes=scene or None,
        legacy_diameters=legacy_diameters,
        metres_per_unit=metres_per_unit,
    )
    if detection:
        from posedistill.deploy.detection import detect_file

        if legacy_diameters or metres_per_unit is not None:
            raise PoseDistillError(
                "--detection: found --legacy-diameters or --metres-per-unit beside it, expected neither"
            )
        detect_file(asked, threads)
        return
    evaluate_file(asked, threads)


@app.command()
def recipe(
    explain: Annotated[
        list[str] | None,
        typer.Option(help="Keys, dotted or their last words: data.train.0.count, distance.", show_default=False),
    ] = None,
) -> None:
    """Explain keys of a recipe: kind, default and meaning; without --explain all of them."""
    from posedistill.recipe.explain import explain as explained
    from posedistill.recipe.explain import sections

    keys = explain or [entry.name for section in sections() for entry in section.keys]
    for key in keys:
        print(explained(key))


@app.command()
def score(
    results: Annotated[Path, typer.Argument(help="A BOP csv: scene_id,im_id,obj_id,score,R,t,time.")],
    dataset: Annotated[Path, typer.Option(help="BOP folder (or .data file) with ground truth and models.")],
    split: Split = "test",
    scene: Scenes = None,
    frames: FrameList = None,
    json: ScoresFile = None,
    vsd: Annotated[bool, typer.Option(help="Also VSD (needs depth images).")] = False,
    legacy_diameters: LegacyDiameters = False,
    detection: Detection = False,
) -> None:
    """Score anybody's BOP csv: average recall over MSSD, MSPD (and VSD), and ADD(-S), per object."""
    from posedistill.deploy.evaluate import score_csv

    if detection:
        from posedistill.deploy.detection import detect_csv

        if vsd or legacy_diameters:
            raise PoseDistillError("--detection: found --vsd or --legacy-diameters beside it, expected neither")
        detect_csv(results, dataset, split, frames, json, scene or None)
        return

    score_csv(results, dataset, split, frames, json, vsd=vsd, legacy_diameters=legacy_diameters, scenes=scene or None)


@app.command()
def export(
    run_folder: RunFolder,
    stage: Annotated[
        str | None,
        typer.Option("--stage", "--variant", help="teacher, student or distilled; default: what the run ships."),
    ] = None,
    seed: Seed = -1,
    out: Annotated[Path | None, typer.Option(help="Default: model.onnx in the run folder.")] = None,
    shapes: Annotated[bool, typer.Option(help="Put coarse object surfaces into the file, for contours.")] = True,
) -> None:
    """Write a network as one ONNX file that holds all the runtime needs, and check that it agrees."""
    from posedistill.recipe.stages import Stage
    from posedistill.tasks.registry import open_task
    from posedistill.training.evaluate import export_stage
    from posedistill.training.run_folder import recipe_of

    recipe = recipe_of(run_folder)
    chosen = Stage(recipe, stage or recipe.shipped, recipe.seed if seed < 0 else seed)
    export_stage(open_task(recipe), chosen, out or run_folder / "model.onnx", shapes)


@app.command()
def report(run_folder: RunFolder) -> None:
    """Write report.html of a run and print its table."""
    from posedistill.log import console
    from posedistill.report.page import build_report
    from posedistill.report.results import refuse_no_run
    from posedistill.report.tables import result_table

    refuse_no_run(run_folder)
    console.print(result_table(run_folder))
    print(build_report(run_folder))


@app.command()
def predict(
    model: Model,
    images: Annotated[
        list[str],
        typer.Argument(help="Photographs, folders, patterns ('*.jpg'), videos, webcam, webcam:1, or rtsp:// streams."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    box: Annotated[list[str] | None, typer.Option(help="obj_id:x,y,w,h; can be repeated.")] = None,
    detections: Detections = None,
    camera: Annotated[
        str,
        typer.Option(
            help="fx,fy,cx,cy in pixels, then the lens (k1,k2,p1,p2), as data camera prints it; default: the model's."
        ),
    ] = "",
    obj: Annotated[list[int] | None, typer.Option(help="Object id to search for; default: all.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Report no pose of a lower score; default: the model's; for a scene 0.1."),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder of obj_XXXXXX meshes to draw contours of; default: those in the model.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of json for each picture.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Frames of a video or camera at most.")] = None,
    track: Annotated[
        bool | None, typer.Option(help="Look first where an object was last; default: in videos.", show_default=False)
    ] = None,
    threads: Threads = 0,
) -> None:
    """Find objects in pictures, tell where a camera stood, or how a thing is turned. Needs no PyTorch.

    A model of objects writes overlays with axes and box, a contour where it holds a surface or --models has a mesh,
    and a BOP csv; without boxes the whole image is searched, which is slower and misses more than a detector. A model
    of a scene writes poses.csv and a picture of the trajectory, one of categories poses.csv of what fills each picture.
    """
    import json as json_module
    import time

    from posedistill.deploy.predict.base import predict_images
    from posedistill.deploy.predict.presenters import PRESENTERS
    from posedistill.interrupts import told
    from posedistill.runtime import Predictor

    predictor = Predictor.from_onnx(shipped(model, "models", ".onnx"), threads=threads or None)
    options: dict[str, Any] = {"--box": box, "--detections": detections, "--camera": camera, "--obj": obj}
    options |= {"--threshold": threshold, "--models": models}
    presenter = PRESENTERS[predictor.decoder.task].from_options(predictor, options)

    def tell(entry: Any) -> None:
        lines = [json_module.dumps(presenter.as_json(entry))] if json else presenter.in_words(entry)
        for line in lines:
            print(line, flush=True)

    started = time.perf_counter()
    with told(lambda: f"stopped; what was found before is in {out}"):
        found = predict_images(presenter, images, out, limit, tell, track)
    count, rate = sum(len(entry.poses) for entry in found), len(found) / (time.perf_counter() - started)
    about = f" in {len(found)} pictures, {rate:.1f} a second" if len(found) > 1 else ""
    told_of = f"{count} pose{'s' * (count != 1)}{about}; {presenter.writes} in {out}"
    print(told_of, file=sys.stderr if json else sys.stdout)


@app.command()
def threshold(
    model: Annotated[Path, typer.Argument(help="An exported model.onnx of objects; the threshold is stored in it.")],
    negatives: Annotated[Path, typer.Option(help="Folder of photographs that show none of its objects.")],
    dataset: Annotated[Path, typer.Option(help="BOP folder of frames that show them; no test frames.")],
    split: Annotated[str, typer.Option(help="Split folder in the BOP folder.")] = "train",
    scene: Scenes = None,
    frames: FrameList = None,
    threads: Threads = 0,
) -> None:
    """Choose the score under which predict reports nothing, on photographs of your own.

    `run` does this for the models that it exports, on validation frames and on data.negatives.
    """
    from posedistill.deploy.threshold import threshold_of_file

    print(threshold_of_file(model, negatives, dataset, split, scene or None, frames, threads or None))


@app.command()
def bench(
    model: Model,
    threads: Threads = 0,
    repeats: Annotated[int, typer.Option(help="Timed calls.")] = 100,
    batch: Annotated[int, typer.Option(help="Crops or photographs a call.")] = 1,
    poses: Annotated[bool, typer.Option(help="Time poses, not just the outputs of the network.")] = True,
    image: Annotated[Path | None, typer.Option(help="A photograph to look at.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Time an exported file: p50, p90, p99, first call, memory. Needs no PyTorch."""
    import json as json_module
    from dataclasses import asdict

    from posedistill.deploy.bench import bench as run_bench
    from posedistill.files import write_file

    result = run_bench(shipped(model, "models", ".onnx"), threads or None, repeats, batch, poses, image)
    print(result.table())
    if json is not None:
        write_file(json, json_module.dumps(asdict(result), indent=1))


@app.command()
def quantise(
    model: Annotated[Path, typer.Argument(help="An exported model.onnx; with photographs that of a scene.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Training photographs, a hundred or so, for 8 bits.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: model.half.onnx or model.int8.onnx beside it.")] = None,
) -> None:
    """Write an exported model in fewer bits: without photographs with 16-bit weights, half the size, as fast.

    With photographs, for models of scenes, it computes in 8-bit numbers: a quarter of the size, and faster where
    convolutions are large. The ranges of its activations are measured on them, and on every fourth how far that moves
    the poses.
    """
    from posedistill.deploy.quantise import halve, quantise_for

    out = out or model.with_suffix(".int8.onnx" if images else ".half.onnx")
    if images:
        told = f"{quantise_for(model, out, images)}"
    else:
        told = ", ".join(f"{name} by {value:.1e}" for name, value in halve(model, out).items())
        told = f"outputs move at most: {told}"
    before, after = (path.stat().st_size / 2**20 for path in (model, out))
    print(told)
    print(f"{out}: {after:.2f} MiB instead of {before:.2f}; compare their speed with posedistill bench")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Darknet's .weights, .safetensors, or .onnx.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The same kinds.", show_default=False)],
    cfg: Annotated[
        str | None, typer.Option(help="A .cfg, or a network's name; default: beside the .weights, or in the file.")
    ] = None,
) -> None:
    """Convert the weights of a Darknet network: .cfg and .weights, safetensors, ONNX, in any direction.

    ONNX files are compared with the network in PyTorch before they are written.
    """
    from posedistill.backbones.cfg.convert import convert as convert_weights
    from posedistill.backbones.cfg.description import layer_table

    network, told = convert_weights(source, target, cfg)
    print(layer_table(network))
    print(f"{target}: {told}")


def _train(recipe: Any, stage: str, seed: int) -> None:
    from posedistill.training.run import train_one

    train_one(recipe, stage, recipe.seed if seed < 0 else seed)


def _recipe(path: Path, overrides: list[str] | None) -> Any:
    from posedistill.recipe.recipe import load_recipe

    return load_recipe(shipped(path, "recipes", ".yaml"), overrides or [])


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: a mistake of the user ends with one clear message."""
    try:
        app()
        return
    except PoseDistillError as error:
        told = str(error)
    except OSError as error:  # wherever it shows first that a folder cannot be written to
        expected = "a readable file, or a writable folder with free space"
        told = describe(error.filename or "disk", "file", error.strerror, expected)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("posedistill"):
            raise
        extra = {"ray": "scale", "huggingface_hub": "hub"}.get(str(error.name).partition(".")[0], "train")
        told = f"this needs more than the light install: pip install 'posedistill[{extra}]' (found no {error.name})"
    print(f"posedistill: {told}", file=sys.stderr)
    sys.exit(2)
