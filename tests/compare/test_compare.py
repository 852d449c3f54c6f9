"""Comparisons in miniature: drawn boxes, networks of 50,000 parameters, a few steps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from posedistill.compare import costs
from posedistill.compare.compare import check, compare
from posedistill.distill import Distiller
from posedistill.distill.match import MatchSettings
from posedistill.errors import CheckpointError, PoseDistillError, RecipeError, TrainingError
from posedistill.recipe.comparison import load_comparison
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training import jobs
from posedistill.training.checkpoints import load_tensors
from posedistill.training.trial import Trial
from posedistill.training.worker import carry_out

VARIANTS = {
    "student": {"distill": []},
    "match": {"distill": [{"name": "match", "weight": 0.4}]},
    "broken": {"distill": [{"name": "losses_of_a_test:Broken"}]},
}
SWEEP = {"values": [0.5, 1.0], "steps": 2, "openings": 0, "seed": 9}
DEAR = {"student": 1.0, "match": 2.0}
"""Seconds a step, as the wall-clock table is told."""


class Here:
    """Stands in for a trial's process: the same work in this one, which saves the seconds of its start."""

    started: ClassVar[list[str]] = []

    def __init__(self, trial: Trial, slot: int, jobs: int) -> None:
        Here.started.append(trial.title)
        self.trial, self.child, self.message = trial, self, None
        try:
            recipe = load_recipe(trial.recipe.folder / "recipe.yaml")  # what a process would read
            carry_out(Trial(trial.title, Stage(recipe, trial.stage.name, trial.stage.seed), trial.tested))
        except PoseDistillError as error:
            self.message = str(error)

    def poll(self) -> int:
        return 0

    def failure(self) -> str | None:
        return self.message


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Trials in this process, steps timed by decree, and a loss that is NaN."""

    class Broken(Distiller):
        Settings = MatchSettings

        def forward(self, student, teacher, batch):
            return student.votes.values.sum() * torch.nan

    losses = types.ModuleType("losses_of_a_test")
    losses.Broken = Broken

    def probe(what: str, networks: dict, jobs: int) -> dict[str, float]:
        return {name: DEAR[name] if what == "time" else 50.0 for name in networks if name in DEAR}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "losses_of_a_test", losses)
        patch.setattr(jobs, "_Running", Here)
        patch.setattr(costs, "_probe", probe)
        yield


@pytest.fixture(scope="module")
def finished(drawn_data: dict, tmp_path_factory: pytest.TempPathFactory, smallest: dict) -> Path:
    """A comparison file whose comparison has ended, its output beside it. Read-only: ``copied`` may be changed."""
    root = tmp_path_factory.mktemp("compare")
    schedule = {"steps": 4, "batch_size": 4, "precision": "float32", "validate_every": 2, "validation_crops": 4}
    recipe = {
        "name": "mini",
        "data": drawn_data,
        "teacher": {"settings": smallest, "cache": True},
        "student": {"settings": smallest | {"score_threshold": 0.0}},
        "distill": [{"name": "align"}],
        "train": schedule | {"checkpoint_every": 1, "log_every": 1},
        "runs": "runs",
    }
    (root / "mini.yaml").write_text(yaml.safe_dump(recipe))
    path = root / "compared.yaml"
    content = {"name": "compared", "recipe": "mini.yaml", "variants": VARIANTS, "sweep": SWEEP}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="5 of its parts failed"):
        patch.chdir(root)
        compare([path], seeds=2, baseline=None)
    return path


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The comparison file of a copy of the finished comparison, in the working folder, which may be changed."""
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Here.started.clear()
    return tmp_path / "compared.yaml"


def content_of(path: Path) -> dict[str, Any]:
    return json.loads((path.parent / "runs" / "compared" / "comparison.json").read_text())


def again(path: Path, *overrides: str, seeds: int = 2, **options: Any) -> None:
    try:
        compare([path], overrides, seeds=seeds, baseline=None, **options)
    except TrainingError as error:  # of the broken variant
        assert "broken" in str(error)


def change(path: Path, edit: Callable[[dict], object]) -> None:
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_one_teacher_and_every_variant_and_seed(finished):
    runs = finished.parent / "runs"
    assert {path.parent.name for path in runs.rglob("teacher/seed*/last.safetensors")} == {"seed0"}
    tables = content_of(finished)["tables"]
    for variant, stage in {"student": "student", "match": "distilled"}.items():
        for seed in (0, 1):
            folder = runs / "compared" / tables["equal_steps"][variant][str(seed)]
            assert folder == runs / "compared" / variant / stage / f"seed{seed}"
            record = json.loads((folder / "evaluation.json").read_text())
            assert record["seed"] == seed and record["targets"] > 0 and record["gmacs"] > 0
            assert load_recipe(runs / "compared" / variant / "recipe.yaml").teacher.checkpoint == Path(
                "runs/mini/teacher/seed0/model.safetensors"
            )


def test_the_weights_of_the_tables_are_the_best_of_the_sweep(finished):
    content = content_of(finished)
    scores = content["sweep"]["scores"]
    assert set(scores["student"]) == {"0"} and set(scores["match"]) == {"0.5", "1"}
    factor = max(sorted(scores["match"]), key=lambda key: scores["match"][key])
    recipe = load_recipe(finished.parent / "runs" / "compared" / "match" / "recipe.yaml")
    assert recipe.distill[0].weight == pytest.approx(0.4 * float(factor))
    assert content["variants"]["match"]["distill"][0]["weight"] == recipe.distill[0].weight
    sweep = finished.parent / "runs" / "compared" / "sweep"
    assert not list(sweep.rglob("results.csv")) and not list(sweep.rglob("evaluation.json"))  # no test frame was read
    for factor in ("0.5", "1"):
        _, about = load_tensors(sweep / f"match_x{factor}" / "distilled" / "seed9" / "model.safetensors", names=())
        assert about["scores"]["val/score"] == scores["match"][factor] and about["signature"]["train"]["steps"] == 2


def test_stored_outputs_of_the_teacher_last_until_the_comparison_is_finished(copied, capsys):
    stored = copied.parent / "runs" / "compared" / "teacher_cache"
    assert {path.name for path in stored.iterdir()} == {"seed0", "seed1", "seed9"}  # a part has failed
    change(copied, lambda content: content["variants"].pop("broken"))
    compare([copied], seeds=2, baseline=None)
    told = " ".join(capsys.readouterr().err.split())
    assert "B for 2 seeds, removed when the comparison is finished" in told and "B removed" in told
    assert not stored.exists()


def test_dearer_losses_make_fewer_steps_in_equal_time(finished):
    content = content_of(finished)
    assert {name: cost["equal_time_steps"] for name, cost in content["costs"].items()} == {"student": 4, "match": 2}
    places = content["tables"]["equal_time"]
    assert places["student"] == content["tables"]["equal_steps"]["student"]  # the same training, not done twice
    folder = finished.parent / "runs" / "compared" / places["match"]["1"]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 2 and (folder / "evaluation.json").exists()
    assert content["costs"]["match"]["peak_memory_mb"] == 50.0


def test_what_fails_is_reported_and_the_others_go_on(finished):
    content = content_of(finished)
    titles = {"broken seed 0", "broken seed 1", "sweep of broken x 0.5", "sweep of broken x 1"}
    assert set(content["failures"]) == titles | {"costs of broken"}
    assert "NaN" in content["failures"]["broken seed 0"]
    assert content["sweep"]["scores"]["broken"] == {"0.5": None, "1": None}
    page = (finished.parent / "runs" / "compared" / "comparison.html").read_text()
    assert "broken seed 0" in page and "NaN" in page
    assert "| match" in (finished.parent / "runs" / "compared" / "comparison.md").read_text()


def test_variants_see_the_same_batches(finished):
    """The loss on labels of the first step, before anything was learned, is the same in every variant."""
    folder = finished.parent / "runs" / "compared"
    first = [
        json.loads((folder / place / "seed0" / "metrics.jsonl").read_text().splitlines()[0])
        for place in ("student/student", "match/distilled")
    ]
    assert first[0]["loss/votes"] == first[1]["loss/votes"] and "loss/match" in first[1]


def test_what_is_finished_is_not_run_again(copied):
    again(copied)
    assert Here.started and all("broken" in title for title in Here.started)


def test_a_variant_that_is_added_is_trained_alone(copied):
    change(copied, lambda content: content["variants"].update(align={"distill": [{"name": "align"}]}))
    DEAR["align"] = 1.0
    again(copied, seeds=1)
    fresh = [title for title in Here.started if "broken" not in title]
    assert fresh == ["sweep of align x 0.5", "sweep of align x 1", "align seed 0"]
    assert set(content_of(copied)["tables"]["equal_time"]) == {"student", "match", "align"}


def test_a_changed_variant_does_not_overwrite_the_old(copied):
    change(copied, lambda content: content["variants"]["match"]["distill"][0].update(weight=3.0))
    with pytest.raises(CheckpointError, match="a network of another recipe"):
        compare([copied], seeds=2, baseline=None)
    assert Here.started == []


def test_another_test_split_is_only_measured_again(copied, monkeypatch):
    change(copied.parent / "mini.yaml", lambda recipe: recipe["data"]["test"]["source"].update(split="train"))
    before = (copied.parent / "runs/compared/match/distilled/seed0/model.safetensors").stat().st_mtime_ns
    again(copied)
    assert "match seed 0" in Here.started and "sweep of match x 1" not in Here.started
    assert (copied.parent / "runs/compared/match/distilled/seed0/model.safetensors").stat().st_mtime_ns == before
    record = json.loads((copied.parent / "runs/compared/match/distilled/seed0/evaluation.json").read_text())
    assert record["dataset"].endswith("/train")


def test_losses_that_do_not_fit_are_refused_before_anything_trains(copied):
    change(copied, lambda content: content["variants"]["match"]["distill"][0].update(name="nothing"))
    with pytest.raises(RecipeError, match=r"variant match: .*'distill\.name': found nothing"):
        compare([copied], seeds=2, baseline=None)
    assert Here.started == []


def test_a_student_alone_need_not_fit_the_losses_of_the_base(copied):
    """It learns by none of them; these ask for a rotation, which a network of votes does not say."""
    rotations = [{"name": "match", "options": {"form": "regression"}}]
    change(copied.parent / "mini.yaml", lambda recipe: recipe.update(distill=rotations))
    alone = {"student": {"distill": []}, "cut": {"distill": [], "student": {"settings": {"strides": [8]}}}}
    change(copied, lambda content: content.update(variants=alone, wall_clock=False, sweep=None))
    comparison = load_comparison([copied])
    check(comparison, open_task(comparison.base))
    change(copied, lambda content: content.update(variants=alone | {"taught": {}}))
    comparison = load_comparison([copied])
    with pytest.raises(RecipeError, match=r"variant taught: .*regression"):
        check(comparison, open_task(comparison.base))


def test_starts_are_compared_without_a_teacher(copied, monkeypatch):
    """Where nobody is taught none is trained."""
    monkeypatch.setitem(DEAR, "cut", 1.0)
    alone = {"student": {"distill": []}, "cut": {"distill": [], "student": {"settings": {"strides": [8]}}}}
    change(copied, lambda content: content.update(variants=alone, wall_clock=False, sweep=None))
    compare([copied], ["name=starts", "runs=others"], seeds=1, baseline=None)
    assert Here.started == ["student seed 0", "cut seed 0"]
    assert {path.parts[2] for path in Path("others").rglob("model.safetensors")} == {"student", "cut"}


def test_a_teacher_that_fails_ends_it_all(copied):
    shutil.rmtree(copied.parent / "runs" / "compared")
    with pytest.raises(TrainingError, match=r"^teacher: .*NaN"):
        compare([copied], ["teacher.train.lr=1e30", "teacher.train.clip=1e30", "runs=others"], seeds=1, baseline=None)
    assert Here.started == ["teacher"]


def test_killed_and_taken_up_again(copied):
    """For real: the comparison's process is ended politely in the middle of a training, and leaves none behind."""
    change(copied, lambda content: content.update(variants={"student": {"distill": []}}, wall_clock=False, sweep=None))
    teacher = "teacher.checkpoint=runs/mini/teacher/seed0/model.safetensors"
    words = ["runs=killed", teacher, "train.steps=150", "train.validate_every=150"]
    command = [sys.executable, "-m", "posedistill", "compare", str(copied), "--seeds", "1", *words]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    folder = copied.parent / "killed/compared/student/student/seed0"
    deadline = time.monotonic() + 200
    while not (folder / "last.safetensors").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said
    reached = load_tensors(folder / "last.safetensors", names=())[1]["step"]
    time.sleep(0.5)
    assert load_tensors(folder / "last.safetensors", names=())[1]["step"] == reached < 150  # nothing trains on

    compare([copied], words, seeds=1, baseline=None)
    assert Here.started[-1] == "student seed 0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 151))
    assert json.loads((folder / "evaluation.json").read_text())["targets"] > 0
