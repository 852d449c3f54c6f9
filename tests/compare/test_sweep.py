import json
import math
import sys
import types
from pathlib import Path

import pytest
import yaml

from posedistill.compare import sweep as sweeping
from posedistill.compare.sweep import best_factors, next_factor, read_scores, run_sweep, sweep, sweep_trials
from posedistill.recipe.comparison import Comparison, load_comparison
from posedistill.training.checkpoints import save_tensors
from posedistill.training.trial import Trial


@pytest.fixture
def comparison(recipe_file: Path) -> Comparison:
    path = recipe_file.parent / "compared.yaml"
    variants = {"student": {"distill": []}, "both": {"distill": [{"name": "match"}, {"name": "align", "weight": 4}]}}
    settings = {"values": [0.5, 0.1], "steps": 2, "seed": 9}
    path.write_text(yaml.safe_dump({"recipe": recipe_file.name, "variants": variants, "sweep": settings}))
    return load_comparison([path], seeds=2)


def pretend(trial: Trial, score: float) -> None:
    """Leave what a finished training leaves."""
    save_tensors(trial.stage.weights, {}, {"scores": {"val/score": score}})
    (trial.folder / "done.json").write_text(json.dumps({"signature": trial.stage.signature}))


def test_each_variant_is_tried_with_every_factor_on_all_its_weights(comparison):
    trials = sweep_trials(comparison, comparison.sweep)
    assert list(trials) == [("student", 0.0), ("both", 0.1), ("both", 0.5)]
    weights = {key: [spec.weight for spec in trial.recipe.distill] for key, trial in trials.items()}
    assert weights["both", 0.1] == [0.1, 0.4] and weights["both", 0.5] == [0.5, 2.0]
    for trial in trials.values():
        assert trial.steps == 2 and trial.stage.seed == 9 not in comparison.seeds
        assert not trial.tested and "--tested" not in trial.command()  # no test frame is read
    assert len({trial.folder for trial in trials.values()}) == 3


def test_scores_are_of_the_validation_split(comparison):
    trials = sweep_trials(comparison, comparison.sweep)
    pretend(trials["both", 0.5], 0.25)
    scores = read_scores(trials)
    assert scores["both"][0.5] == 0.25 and math.isnan(scores["both"][0.1]) and math.isnan(scores["student"][0.0])


@pytest.mark.parametrize(
    ("peak", "tried"), [(0.3, [0.1, 0.5, 2.5]), (10.0, [0.1, 0.5, 2.5, 12.5, 62.5]), (1e9, [0.1, 0.5, 2.5, 12.5, 62.5])]
)
def test_a_range_is_opened_where_validation_still_rises(comparison, monkeypatch, peak, tried):
    """By the range's own spacing, until the best lies inside, and no more than three times."""

    def trained(trials, jobs, ended, title="sweep"):
        for trial in trials:
            losses = trial.recipe.distill
            pretend(trial, 1 / (1 + abs(math.log(losses[0].weight / peak))) if losses else 0.5)

    monkeypatch.setattr(sweeping, "run_trials", trained)
    scores = sweep(comparison, comparison.sweep, 1, lambda trial, failure: None)
    assert list(scores["student"]) == [0.0] and sorted(scores["both"]) == tried
    assert best_factors(scores)["both"] == min(tried, key=lambda factor: abs(math.log(factor / peak)))


def test_a_range_is_opened_towards_nothing_too():
    assert next_factor({0.1: 0.9, 1.0: 0.5, 10.0: 0.4}) == 0.01
    assert next_factor({0.1: 0.5, 1.0: 0.5}) is None  # level: a further factor promises nothing
    assert next_factor({0.1: math.nan, 1.0: 0.9, 10.0: 0.4}) is None  # the end has failed


def test_of_equal_scores_the_smaller_factor_is_chosen():
    assert best_factors({"a": {1.0: 0.3, 0.1: 0.3}, "b": {0.1: 0.2, 1.0: 0.3}}) == {"a": 0.1, "b": 1.0}


def test_without_ray_the_trials_run_here(comparison, monkeypatch):
    monkeypatch.setattr(sweeping.importlib.util, "find_spec", lambda name: None)
    called = []
    monkeypatch.setattr(sweeping, "run_trials", lambda trials, jobs, ended, title: called.append((trials, jobs)))
    run_sweep(["trials"], 2, lambda trial, failure: None)
    assert called == [(["trials"], 2)]


def test_with_ray_every_unfinished_trial_is_a_point_of_its_grid(comparison, monkeypatch):
    """Against a stand-in for Ray: what it is handed, and that a failing point is told."""
    grid, reported, sizes = {}, [], {}
    tune = types.ModuleType("ray.tune")
    tune.grid_search = lambda values: values
    tune.report = reported.append

    class Tuner:
        def __init__(self, train, param_space):
            grid.update(train=train, points=param_space["trial"])

        def fit(self):
            for point in grid["points"]:
                grid["train"]({"trial": point})

    tune.Tuner = Tuner
    tune.with_resources = lambda train, resources: (sizes.update(resources), train)[1]
    ray = types.ModuleType("ray")
    ray.tune = tune
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    monkeypatch.setattr(sweeping.importlib.util, "find_spec", lambda name: object())

    trials = sweep_trials(comparison, comparison.sweep)
    pretend(trials["student", 0.0], 0.1)

    def process(command, cwd, stdout, **_):
        assert cwd == Path.cwd()
        if "both_x0.1" in command[3]:
            pretend(trials["both", 0.1], 0.2)
            return types.SimpleNamespace(returncode=0)
        stdout.write(b"loss: found NaN\n")
        return types.SimpleNamespace(returncode=2)

    monkeypatch.setattr(sweeping.subprocess, "run", process)
    ended = {}
    run_sweep(list(trials.values()), 2, lambda trial, failure: ended.update({trial.title: failure}))
    assert grid["points"] == [0, 1] and sizes["cpu"] >= 1
    assert [row["failure"][:15] for row in reported] == ["", "loss: found NaN"]
    assert ended["sweep of student"] is None and ended["sweep of both x 0.1"] is None
    assert ended["sweep of both x 0.5"].startswith("loss: found NaN")
