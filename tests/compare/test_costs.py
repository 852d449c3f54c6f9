import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from posedistill.compare import costs
from posedistill.compare.costs import equal_time_steps, measure_costs, timing_note
from posedistill.errors import TrainingError
from posedistill.recipe.comparison import Comparison, load_comparison
from posedistill.recipe.stages import teacher_of
from posedistill.tasks.registry import open_task
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.trial import Trial
from posedistill.training.worker import carry_out

VARIANTS: dict[str, Any] = {
    "student": {"distill": []},
    "match": {"distill": [{"name": "match"}]},
    "misfit": {"distill": [{"name": "feature", "options": {"layers": {"p9": "p9"}}}]},
}


@pytest.fixture
def comparison(recipe_file: Path) -> Comparison:
    path = recipe_file.parent / "compared.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe_file.name, "variants": VARIANTS}))
    return load_comparison([path])


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What is asked of the measuring process, which answers at once: a step of match takes twice as long."""
    asked: list[tuple[str, list[str]]] = []

    def probe(what: str, networks: dict, jobs: int) -> dict[str, float]:
        asked.append((what, list(networks)))
        known = {"student": 0.1, "match": 0.2} if what == "time" else {"student": 800.0, "match": 900.0}
        return {name: known[name] for name in networks if name in known}

    monkeypatch.setattr(costs, "_probe", probe)
    return asked


def test_steps_are_taken_with_the_real_networks_and_losses(comparison, monkeypatch, capsys):
    """In this process, for what the two of its own would do; what does not fit is told and left out."""
    monkeypatch.setattr(costs, "ROUNDS", 2)
    monkeypatch.setattr(costs, "STEPS", 1)
    monkeypatch.setattr(costs, "MEMORY_STEPS", 1)
    carry_out(Trial("teacher", teacher_of(comparison.base), tested=False))
    recipes = {name: costs._probed(comparison, variant, {}) for name, variant in comparison.variants.items()}
    for recipe in recipes.values():
        costs.write_recipe(recipe)
    turns: list[str] = []
    run = costs._Stepper.run

    def noted(self: Any, steps: int) -> float:
        turns.append("match" if self.teaching else "student")
        return run(self, steps)

    monkeypatch.setattr(costs._Stepper, "run", noted)
    opened: list[str] = []
    monkeypatch.setattr(costs, "open_task", lambda recipe: opened.append(recipe.name) or open_task(recipe))

    pairs = [(recipe.folder / "recipe.yaml", comparison.variants[name].stage) for name, recipe in recipes.items()]
    seconds = costs._time(pairs)
    assert set(seconds) == {"student", "match"} and all(0 < value < 60 for value in seconds.values())
    assert turns == ["student", "match", "student", "match", "match", "student"]  # once to warm, then by turns
    assert "misfit" in capsys.readouterr().err and opened == ["student"]  # all share its data
    memory = costs._memory([pairs[1]])
    assert set(memory) == {"match"} and 50 < memory["match"] < 1e5


def test_views_that_come_again_are_paid_for_once(comparison, monkeypatch):
    """A step of stored views asks the teacher nothing; new ones count by their share of the schedule."""
    monkeypatch.setattr(costs, "ROUNDS", 2)
    monkeypatch.setattr(costs, "STEPS", 2)
    carry_out(Trial("teacher", teacher_of(comparison.base), tested=False))
    probed = costs._probed(comparison, comparison.variants["match"], {})
    schedule = probed.train.model_copy(update={"repeat_views": 1, "steps": 40})
    recipe = probed.model_copy(update={"train": schedule})
    costs.write_recipe(recipe)
    asked: list[int] = []
    predict = NetworkTeacher.predict
    monkeypatch.setattr(NetworkTeacher, "predict", lambda *words: asked.append(words[-1]) or predict(*words))
    made: dict[str, list[int]] = {"run": [], "run_again": []}
    for name in made:
        work = getattr(costs._Stepper, name)

        def noted(self: Any, steps: int, name: str = name, work: Any = work) -> float:
            before = len(asked)
            assert work(self, steps) > 0
            made[name].append(len(asked) - before)
            return {"run": 1.0, "run_again": 0.25}[name]

        monkeypatch.setattr(costs._Stepper, name, noted)
    period = math.ceil(len(open_task(recipe).training_set.train) / schedule.batch_size)
    assert 0 < period < 40
    seconds = costs._time([(recipe.folder / "recipe.yaml", "distilled")])["match"]
    assert seconds == pytest.approx(0.25 + 0.75 * period / 40)
    assert made["run"] == [1, 2, 2] and made["run_again"][-1] == 0, "one step to warm, then turns"
    once = costs._probed(comparison, comparison.variants["match"], {})
    assert costs._key(recipe, 1) != costs._key(once, 1)


def test_costs_are_kept_and_measured_again_for_another_recipe(comparison, probes):
    found = measure_costs(comparison, {}, jobs=1)
    assert set(found) == {"student", "match"}  # the misfit could not be measured
    assert found["match"]["seconds_per_step"] == 0.2 and found["match"]["alone_seconds_per_step"] == 0.1
    assert found["match"]["peak_memory_mb"] == 900.0
    del probes[:]
    assert measure_costs(comparison, {}, jobs=1) == found
    assert probes == [("time", ["student", "misfit"])]  # only what is not known, beside the student alone
    del probes[:]
    measure_costs(comparison, {"match": 0.5}, jobs=1)
    assert probes[0] == ("time", ["student", "match", "misfit"])


def test_another_number_of_jobs_has_other_threads(comparison, probes):
    measure_costs(comparison, {}, jobs=1)
    del probes[:]
    measure_costs(comparison, {}, jobs=2)
    assert probes[0] == ("time", ["student", "match", "misfit"])


def test_the_cache_of_a_teacher_is_not_timed(recipe_file, raw_recipe):
    raw_recipe["teacher"]["cache"] = True
    recipe_file.write_text(yaml.safe_dump(raw_recipe))
    comparison = load_comparison([recipe_file])
    assert comparison.base.teacher.cache
    assert not costs._probed(comparison, comparison.variants["mini"], {}).teacher.cache


@pytest.mark.parametrize("what", ["time", "memory"])
def test_a_process_that_fails_is_told(comparison, monkeypatch, tmp_path, what):
    """Without times there is no table of equal time; without memory there is one column less."""
    recipe = costs._probed(comparison, comparison.variants["student"], {})  # it was never written
    recipe.runs.mkdir(parents=True)
    monkeypatch.setattr(costs.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    if what == "memory":
        assert costs._probe(what, {"student": (recipe, "student")}, 1) == {}
        return
    with pytest.raises(TrainingError, match="time of a step of student: no room"):
        costs._probe(what, {"student": (recipe, "student")}, 1)


def test_steps_of_equal_time():
    def cost(seconds: float, same: bool = True) -> dict[str, Any]:
        return {"seconds_per_step": seconds, "alone_seconds_per_step": 0.2, "same_student": same}

    costs = {"student": cost(0.2), "dear": cost(0.5), "noise": cost(0.19), "smaller": cost(0.1, same=False)}
    assert equal_time_steps(costs, 1000) == {"student": 1000, "dear": 400, "noise": 1000, "smaller": 2000}


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(costs, "cores", lambda: 4)
    assert timing_note({"a": {"load": 3.9}, "b": {"load": math.nan}}) == ""
    assert "load average up to 9.5 on 4 cores" in timing_note({"a": {"load": 1.0}, "b": {"load": 9.5}})


def test_costs_are_a_file(comparison, probes):
    measure_costs(comparison, {}, jobs=1)
    written = json.loads((comparison.folder / "costs.json").read_text())
    assert set(written) == {"student", "match"} and written["match"]["same_student"]
