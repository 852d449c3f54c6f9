"""A whole run in miniature: rendered test frames, drawn training frames, networks of 50,000 parameters, 4 steps."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests.training.helpers import export, load, train

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import CheckpointError, RecipeError, TrainingError
from posedistill.poses import Poses
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.threshold import Threshold
from posedistill.tasks.objects import ObjectsTask
from posedistill.tasks.registry import open_task
from posedistill.training import evaluate
from posedistill.training import run as running
from posedistill.training.checkpoints import load_tensors, save_tensors
from posedistill.training.run import run, train_all, train_one
from posedistill.training.run_folder import recipe_of, write_recipe

NETWORKS = ("teacher", "student", "distilled")
STUDENT = {f"student/seed0/{name}" for name in ("model.safetensors", "done.json", "results.csv")}
RENDERED = {
    "models": "code",
    "count": 2,
    "settings": {
        "width": 160, "height": 120, "distance": [400, 600], "objects_per_image": [2, 2], "distractors": [0, 0],
        "ambient_occlusion": False, "depth": False,
    },
}  # fmt: skip


def files(folder: Path) -> dict[str, int]:
    """Time of last change of everything that a stage makes."""
    names = ("model.safetensors", "done.json", "results.csv", "model.onnx", "bench.json", "recipe.yaml")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in names}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.fixture(scope="module")
def finished(drawn_data: dict, tmp_path_factory: pytest.TempPathFactory, smallest: dict) -> Path:
    """The recipe of a run that has ended, its output beside it. Read-only: ``copied`` may be changed."""
    root = tmp_path_factory.mktemp("stages")
    schedule = {"steps": 4, "batch_size": 4, "precision": "float32", "validate_every": 2, "validation_crops": 4}
    recipe = {
        "name": "mini",
        "data": drawn_data | {"test": {"source": RENDERED}},
        "teacher": {"settings": smallest | {"width": 64, "score_threshold": 0.0}},
        "student": {"settings": smallest | {"score_threshold": 0.0}},
        "distill": [{"name": "align"}, {"name": "match", "weight": 0.1}],
        "train": schedule | {"checkpoint_every": 2, "log_every": 1},
        "runs": str(root / "runs"),
    }
    path = root / "mini.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(load_recipe(path))
    return path


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The recipe of a copy of the finished run, which may be changed."""
    shutil.copytree(finished.parent / "runs", tmp_path / "runs")
    path = tmp_path / "mini.yaml"
    path.write_text(finished.read_text().replace(str(finished.parent / "runs"), str(tmp_path / "runs")))
    (tmp_path / "runs" / "mini" / "recipe.yaml").unlink()  # it names the folder it was made in
    write_recipe(load_recipe(path))
    age(tmp_path / "runs" / "mini")
    return path


def age(folder: Path) -> None:
    """Let the recipe be older than everything else, as after a run."""
    oldest = min(path.stat().st_mtime for path in folder.rglob("*.safetensors"))
    os.utime(folder / "recipe.yaml", (oldest - 1, oldest - 1))


@pytest.fixture
def folder(copied: Path) -> Path:
    return copied.parent / "runs" / "mini"


def test_the_exported_file_names_the_frames_it_was_trained_on(finished, bop):
    frames = Predictor.from_onnx(finished.parent / "runs" / "mini" / "model.onnx").record.frames
    shown = sorted((frame.scene_id, frame.im_id) for frame in BopDataset(bop, split="train").frames)
    assert frames is not None and list(frames) == [f"{bop.name}/train"]
    assert [tuple(row) for row in frames[f"{bop.name}/train"].tolist()] == shown


def test_calibrated_distances_travel_from_the_weights_into_the_exported_file(
    copied: Path, folder: Path, tmp_path: Path
):
    weights = folder / "student" / "seed0" / "model.safetensors"
    tensors, metadata = load_tensors(weights)
    assert metadata["calibration"] == {"distance": [1.0, 1.0]}  # too few crops were held back
    save_tensors(weights, tensors, metadata | {"calibration": {"distance": [0.9, 1.1]}})
    export(load_recipe(copied), "student", tmp_path / "calibrated.onnx")
    assert Predictor.from_onnx(tmp_path / "calibrated.onnx").decoder.distance == (0.9, 1.1)
    save_tensors(weights, tensors, {name: value for name, value in metadata.items() if name != "calibration"})
    export(load_recipe(copied), "student", tmp_path / "older.onnx")
    assert Predictor.from_onnx(tmp_path / "older.onnx").decoder.distance == ()


def again(path: Path, *overrides: str, jobs: int = 1) -> None:
    run(load_recipe(path, overrides), jobs)


def test_every_stage_leaves_its_result(finished: Path, capsys):
    folder = finished.parent / "runs" / "mini"
    for variant in NETWORKS:
        network = folder / variant / "seed0"
        tensors, metadata = load_tensors(network / "model.safetensors")
        assert metadata["signature"]["stage"] == variant and "val/score" in metadata["scores"] and tensors
        steps = [json.loads(line) for line in (network / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in steps if "loss" in line] == [1, 2, 3, 4]
        assert [line["step"] for line in steps if "val/score" in line] == [2, 4]
        assert ("loss/align" in steps[0]) == (variant == "distilled") == ("loss/match" in steps[0])
        assert list((network / "tensorboard").glob("events*"))
    records = json.loads((folder / "evaluation.json").read_text())
    assert {record["stage"] for record in records} == {*NETWORKS, "exported"}
    for record in records:
        assert record["targets"] > 0 and record["boxes"] == "gt" and record["parameters"] > 10_000
        assert 0 <= record["scores"]["AR"] <= 1 and record["gmacs"] > 0
    sizes = {record["stage"]: record["parameters"] for record in records}
    assert sizes["teacher"] > sizes["student"] == sizes["distilled"] == sizes["exported"]
    bench = json.loads((folder / "bench.json").read_text())
    assert [entry["stage"] for entry in bench] == ["teacher", "exported"]
    assert all(0 < entry["p50_ms"] <= entry["p99_ms"] for entry in bench)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and "distilled seed 0" in environment["seconds"]
    page = (folder / "report.html").read_text()
    assert all(name in page for name in (*NETWORKS, "exported")) and "<svg" in page


def test_the_csv_scores_as_stated(finished: Path):
    """``results.csv`` is the exported file's, in BOP's form."""
    folder = finished.parent / "runs" / "mini"
    with (folder / "results.csv").open() as file:
        assert next(csv.reader(file)) == ["scene_id", "im_id", "obj_id", "score", "R", "t", "time"]
    estimates = Poses.from_bop_csv(folder / "results.csv")
    records = {record["stage"]: record for record in json.loads((folder / "evaluation.json").read_text())}
    assert len(estimates) == records["exported"]["targets"] - records["exported"]["missed"] > 0
    assert set(estimates.obj_id.tolist()) <= {1, 2}


def test_the_exported_file_is_the_distilled_student(finished: Path):
    folder = finished.parent / "runs" / "mini"
    predictor = Predictor.from_onnx(folder / "model.onnx", threads=1)
    estimator, _ = load(load_recipe(finished), "distilled", 0)
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    with torch.no_grad():
        expected = estimator.network(images, classes)
    found = predictor.run({"images": images.numpy(), "classes": classes.numpy()})
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-3, atol=1e-3)
    assert predictor.record.training.startswith("mini: distilled, seed 0, step")
    assert predictor.decoder.objects.obj_ids == (1, 2) and predictor.decoder.camera.width == 160
    parity = json.loads((folder / "model.parity.json").read_text())
    assert parity["rows"] > 0 and parity["outputs"]["votes (px)"] < 0.05


def test_a_second_run_makes_nothing_again(copied: Path, folder: Path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("made again")

    made = ((running, "train"), (evaluate, "estimate"), (evaluate, "export_onnx"), (evaluate, "bench"))
    for module, name in made:
        monkeypatch.setattr(module, name, refuse)
    before, evaluation = files(folder), (folder / "evaluation.json").read_text()
    again(copied)
    assert files(folder) == before and (folder / "evaluation.json").read_text() == evaluation
    printed = capsys.readouterr()
    assert printed.out.strip().endswith(f"report: {folder / 'report.html'}")
    assert all(f"{name} seed 0: finished before, skipped" in printed.err for name in NETWORKS)
    assert "exported" in printed.err  # the table


@pytest.mark.parametrize(
    ("removed", "made"),
    [
        ("student/seed0", STUDENT),
        ("student/seed0/model.safetensors", STUDENT),
        ("student/seed0/results.csv", {"student/seed0/results.csv"}),
        ("results.csv", {"results.csv"}),
        ("bench.json", {"bench.json"}),
    ],
)
def test_only_what_is_missing_is_made_again(
    copied: Path, folder: Path, monkeypatch, capsys, removed: str, made: set[str]
):
    made_of = {"table": lambda self: ""}
    measured = dataclasses.make_dataclass("Measured", [("p50_ms", float)], namespace=made_of)(1.0)
    monkeypatch.setattr(evaluate, "bench", lambda *_, **__: measured)  # slow, and tested in its own room
    monkeypatch.setattr(evaluate, "export_stage", lambda *_, **__: {})
    before, weights = files(folder), load_tensors(folder / "student" / "seed0" / "model.safetensors")
    path = folder / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again(copied)
    assert changed(before, files(folder)) == made
    tensors, metadata = load_tensors(folder / "student" / "seed0" / "model.safetensors")
    if removed.endswith("model.safetensors"):  # the best weights are gone, those of the last step take their place
        assert metadata["step"] == load_tensors(folder / "student" / "seed0" / "last.safetensors", names=())[1]["step"]
        assert "model.safetensors was gone" in " ".join(capsys.readouterr().err.split())
        return
    assert metadata["scores"] == weights[1]["scores"]  # the same seed, the same network
    assert all(torch.equal(value, weights[0][name]) for name, value in tensors.items())


def test_an_exported_file_states_its_score_threshold(copied: Path, tmp_path: Path, monkeypatch, capsys):
    chosen = Threshold(0.4, 0.9, 0.1, 10, 20, "made")
    monkeypatch.setattr(ObjectsTask, "threshold", lambda self, predictor: chosen)
    export(load_recipe(copied), "student", tmp_path / "stated.onnx")
    assert Predictor.from_onnx(tmp_path / "stated.onnx").record.threshold == chosen
    assert "score threshold 0.40: keeps 90 % of 10 objects" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_stage_goes_on(copied: Path, folder: Path, monkeypatch):
    """Stopped in the middle of evaluation, a run evaluates what is left; nothing is trained or exported twice."""
    for name in ("evaluation.json", "results.csv", "distilled/seed0/results.csv", "report.html"):
        (folder / name).unlink()
    monkeypatch.setattr(running, "train", None)
    monkeypatch.setattr(evaluate, "export_onnx", None)
    again(copied)
    assert (folder / "report.html").exists()
    assert len(json.loads((folder / "evaluation.json").read_text())) == 4


@pytest.mark.parametrize("override", ["train.steps=5", "student.settings.width=64", "distill.0.weight=2"])
def test_a_changed_recipe_is_refused(copied: Path, folder: Path, override: str):
    before = files(folder)
    with pytest.raises(CheckpointError, match=r"done\.json: '\w+.*': found a network of another recipe, .*name=\.\.\."):
        again(copied, override)
    assert files(folder) == before


def test_a_changed_recipe_is_refused_for_a_network_just_begun(copied: Path, folder: Path):
    (folder / "teacher" / "seed0" / "done.json").unlink()
    before = files(folder)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: 'data': found a network of another recipe"):
        again(copied, "data.min_visible=0.2")
    assert files(folder) == before


def test_another_test_set_is_evaluated_anew(copied: Path, folder: Path, bop: Path):
    """What was trained stays; poses found in other frames do not count for these."""
    before = files(folder)
    again(copied, f"data.test.source={{bop: '{bop}', split: test}}")
    csvs = {f"{name}/seed0/results.csv" for name in NETWORKS} | {"results.csv"}
    assert changed(before, files(folder)) == csvs | {"recipe.yaml"}
    records = json.loads((folder / "evaluation.json").read_text())
    assert [record["targets"] for record in records] == [6] * 4


def test_views_that_are_not_on_offer_are_refused_before_anything_trains(recipe, tmp_path, monkeypatch):
    module = tmp_path / "needy.py"
    module.write_text(
        "from posedistill.distill.base import Distiller\nfrom pydantic import BaseModel\n"
        "class Options(BaseModel):\n    pass\n"
        "class Needy(Distiller):\n    Settings, needs = Options, frozenset({'regression'})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(running, "train", None)
    loaded = recipe("distill.0.name=needy:Needy")
    with pytest.raises(
        RecipeError, match=r"distill\.needy:Needy.*found a student that offers .*expected views regression"
    ):
        run(loaded)
    assert not loaded.folder.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [("student.settings.backbone=resnet_19", "resnet_19"), ("distill.0.name=nothing", r"distill\.name.*found nothing")],
)
def test_wrong_names_are_refused_before_anything_is_rendered(recipe, override, message):
    loaded = recipe("data.train=[{models: code, count: 1}]", override)
    with pytest.raises(RecipeError, match=message):
        run(loaded)
    assert not loaded.cache_folder.exists() and not loaded.folder.exists()


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_teacher_checkpoint_that_is_none_is_refused_before_anything_trains(recipe, tmp_path, monkeypatch, content):
    path = tmp_path / "teacher.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(running, "train", None)
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors: 'checkpoint': found"):
        run(recipe(f"teacher.checkpoint={path}"))


def test_a_student_needs_no_teacher_but_a_distilled_one_does(recipe):
    loaded = recipe("train.steps=1")
    path = train(loaded, "student", 3)
    assert path == loaded.folder / "student" / "seed3" / "model.safetensors"
    assert "loss/align" not in (path.parent / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"teacher/seed0/model\.safetensors: 'checkpoint': found no such file"):
        train(loaded, "distilled", 3)


def test_a_recipe_without_losses_trains_the_student_alone(recipe):
    loaded = recipe("train.steps=1", "distill=[]", "name=alone")
    run(loaded)
    made = files(loaded.folder)
    run(loaded)
    assert not changed(made, files(loaded.folder))
    assert not (loaded.folder / "teacher").exists() and not (loaded.folder / "distilled").exists()
    records = json.loads((loaded.folder / "evaluation.json").read_text())
    assert {record["stage"] for record in records} == {"student", "exported"}
    assert [entry["stage"] for entry in json.loads((loaded.folder / "bench.json").read_text())] == ["exported"]
    assert Predictor.from_onnx(loaded.folder / "model.onnx").record.training.startswith("alone: student, seed 0")
    assert "The exported model reaches" in (loaded.folder / "report.html").read_text()
    for name in ("teacher", "distilled"):
        with pytest.raises(
            RecipeError, match=f"'distill': found no losses, expected some: without them no {name} network"
        ):
            train_one(loaded, name, 0)


def test_a_finished_teacher_is_taken_from_elsewhere(recipe, tmp_path):
    """``teacher.checkpoint`` trains no teacher; a file of another architecture is refused."""
    teacher = train(recipe("train.steps=1", "name=other"), "teacher", 0)
    loaded = recipe("train.steps=1", f"teacher.checkpoint={teacher}")
    assert train(loaded, "teacher", 0) == teacher
    path = train(loaded, "distilled", 0)
    assert "loss/align" in (path.parent / "metrics.jsonl").read_text()
    assert not (loaded.folder / "teacher").exists()
    assert [stage.title for stage in evaluate.finished(loaded)] == ["teacher seed 0", "distilled seed 0"]
    with pytest.raises(CheckpointError, match="where the network has"):
        load(recipe(f"teacher.checkpoint={teacher}", "teacher.settings.width=64"), "teacher", 0)


def test_a_truncated_network_is_refused(copied: Path, folder: Path):
    weights = folder / "teacher" / "seed0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 'checkpoint': found unreadable"):
        again(copied)


def test_a_run_folder_may_move(copied: Path, folder: Path, tmp_path: Path):
    moved = shutil.move(folder, tmp_path / "elsewhere")
    loaded = recipe_of(moved)
    assert loaded.folder == moved.resolve()
    assert load(loaded, "student", 0)[1]["step"] in (2, 4)


def test_no_run_folder(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"recipe\.yaml: 'recipe': found no such file, expected a run folder"):
        recipe_of(tmp_path)


def test_seeds_trained_at_the_same_time(copied: Path, folder: Path):
    """``--jobs``: a process each; one that fails is named with its log."""
    shutil.rmtree(folder / "distilled")
    shutil.rmtree(folder / "student")
    recipe = load_recipe(copied)
    last = folder / "student" / "seed0" / "last.safetensors"
    save_tensors(last, {}, {"signature": Stage(recipe, "student", 0).signature, "step": 1, "best": 0.0})  # no weights
    with pytest.raises(TrainingError, match=r"student seed 0: .*'weights': found missing .*\(see .*train\.log\)$"):
        train_all(open_task(recipe), jobs=2)
    assert (folder / "distilled" / "seed0" / "done.json").exists()


def test_the_cost_is_counted_where_the_network_is(copied, network):
    """An evaluated network has moved to the accelerator; ``meta`` stands for one."""
    task = open_task(load_recipe(copied))
    assert evaluate._cost(task, network().to("meta")) == pytest.approx(evaluate._cost(task, network()))


@pytest.mark.parametrize("name", ["teacher", "student", "distilled"])
def test_a_single_training_builds_its_networks_before_anything_is_rendered(recipe, name):
    loaded = recipe("data.train=[{models: code, count: 1}]", "student.settings.backbone=resnet_19")
    with pytest.raises(RecipeError, match="resnet_19"):
        train_one(loaded, name, 0)
    assert not loaded.cache_folder.exists() and not loaded.folder.exists()


def test_a_run_that_another_process_is_at_work_in_is_refused(recipe):
    loaded = recipe()
    code = f"from pathlib import Path; from posedistill.files import occupied\nfolder = Path({str(loaded.folder)!r})\n"
    code += "with occupied(folder): print(flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        for work in (run, lambda recipe: train_one(recipe, "teacher", 0)):
            with pytest.raises(TrainingError, match=f"in use by pid {other.pid}, expected one process at a time"):
                work(loaded)
    finally:
        other.communicate(b"\n")
    assert [path.name for path in loaded.folder.iterdir()] == [".lock"]
