"""Training processes that are killed or interrupted for real, through the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.training.helpers import train

from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.training.checkpoints import load_tensors

STEPS = "train.steps=60"


@pytest.fixture
def begin(recipe_file: Path, tmp_path: Path):
    """``begin(recipe)`` starts its teacher's training in a process; returns it once two steps are saved, or logged."""
    started: list[subprocess.Popen[str]] = []

    def start(recipe: Recipe, *overrides: str, logged: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "posedistill", "train", str(recipe_file), STEPS, *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell starts background jobs, and so perhaps this test, with the interrupt ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        folder = Stage(recipe, "teacher", 0).folder
        while not (steps_logged(folder) >= logged if logged else saved_steps(folder) >= 2):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def saved_steps(folder: Path) -> int:
    last = folder / "last.safetensors"
    return saved_step(last) if last.exists() else 0


def steps_logged(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    return sum("loss" in line for line in log.read_text().splitlines()) if log.exists() else 0


def saved_step(path: Path) -> int:
    """The step of a checkpoint that may be replaced at any moment (safetensors opens a file twice, this once)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(json.loads(header["__metadata__"]["posedistill"])["step"])


def test_killed_and_resumed_is_bit_equal_to_straight(begin, recipe):
    """The same weights, averages, optimiser state, chosen model and log, as if the kill had never happened."""
    killed, straight = recipe(STEPS), recipe(STEPS, "name=straight")
    process = begin(killed)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    folder = Stage(killed, "teacher", 0).folder
    assert not (folder / "done.json").exists() and saved_step(folder / "last.safetensors") < 60
    with (folder / "metrics.jsonl").open("a") as log:  # a line beyond the checkpoint, and one cut short by the kill
        log.write('{"step": 60, "loss": 0.0}\n{"step": 6')

    train(killed, "teacher", 0)
    train(straight, "teacher", 0)
    other = Stage(straight, "teacher", 0).folder
    for name in ("model.safetensors", "last.safetensors"):
        (found, about), (expected, expected_about) = load_tensors(folder / name), load_tensors(other / name)
        assert found.keys() == expected.keys() and about == expected_about
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert lines(folder) == lines(other)
    assert [line["step"] for line in lines(folder) if "loss" in line] == list(range(1, 61))


def test_a_polite_kill_keeps_the_step_whatever_the_schedule_says(begin, recipe, tmp_path):
    """No checkpoint was due before step 1,000: it is written because of the signal, and the next start tells of it."""
    loaded = recipe(STEPS, "train.checkpoint_every=1000")
    process = begin(loaded, "train.checkpoint_every=1000", logged=3)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopping after this step" in printed
    folder = Stage(loaded, "teacher", 0).folder
    step = saved_step(folder / "last.safetensors")
    assert 3 <= step < 60 and f"the same command goes on from its step {step}\n" in printed
    again = begin(loaded, "train.checkpoint_every=1000", logged=step + 1)
    again.kill()
    assert f"teacher seed 0: goes on from step {step} of 60\n" in again.communicate(timeout=60)[1]


def lines(folder: Path) -> list[dict[str, float]]:
    """The log without what the clock decides."""
    rates = ("steps_per_second", "images_per_second")
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name not in rates} for entry in entries]


def test_an_interrupt_says_what_to_do_and_can_be_resumed(begin, recipe):
    loaded = recipe(STEPS)
    process = begin(loaded)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    folder = Stage(loaded, "teacher", 0).folder
    step = saved_step(folder / "last.safetensors")
    assert f"posedistill: teacher seed 0 stopped; the same command goes on from its step {step}\n" in printed
    assert "Traceback" not in printed
    assert 2 <= step < 60 and not (folder / "done.json").exists()
    before = lines(folder)
    train(loaded, "teacher", 0)
    assert (folder / "done.json").exists() and saved_step(folder / "last.safetensors") == 60
    kept = [line for line in before if line["step"] <= step]
    assert lines(folder)[: len(kept)] == kept
