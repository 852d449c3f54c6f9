"""A small search for the weight of each variant's losses: short trainings, chosen by validation, test frames unread.

Through Ray Tune where it is installed and there is something to run at once (``pip install 'posedistill[scale]'``),
by processes of this machine otherwise.
"""

import importlib.util
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posedistill.machine import cores
from posedistill.recipe.comparison import Comparison, SweepSettings, Variant
from posedistill.recipe.stages import Stage
from posedistill.training.jobs import Ended, environment_of, last_line, run_trials
from posedistill.training.networks import validation_score
from posedistill.training.trial import Trial

SweepScores = dict[str, dict[float, float]]
"""Variant, factor, validation score in 0..1; nan where the training failed or has not ended."""


def sweep_trials(comparison: Comparison, settings: SweepSettings) -> dict[tuple[str, float], Trial]:
    """The short trainings by variant and factor; factor 0 is the student alone, which shows what any weight is worth.

    All have the sweep's own seed, so they see the same batches.
    """
    return {
        (variant.name, factor): _trial(comparison, settings, variant, factor)
        for variant in comparison.variants.values()
        for factor in ([0.0] if variant.alone else settings.values)
    }


def _trial(comparison: Comparison, settings: SweepSettings, variant: Variant, factor: float) -> Trial:
    name = f"{variant.name}_x{factor:g}"
    recipe = comparison.recipe_of(variant, "sweep", name=name, factor=factor or 1.0, steps=settings.steps)
    title = f"sweep of {variant.name} x {factor:g}" if factor else f"sweep of {variant.name}"
    return Trial(title, Stage(recipe, variant.stage, settings.seed), tested=False)


def sweep(comparison: Comparison, settings: SweepSettings, jobs: int, ended: Ended) -> SweepScores:
    """Try every factor, then open the range of each variant at an end where validation still rises.

    A best factor at the end of a range says that the range was too small. What is finished is not run again.
    """
    trials = sweep_trials(comparison, settings)
    run_sweep(list(trials.values()), jobs, ended)
    for _ in range(settings.openings):
        scores = read_scores(trials)
        further = {
            (name, factor): _trial(comparison, settings, variant, factor)
            for name, variant in comparison.variants.items()
            if (factor := next_factor(scores.get(name, {}))) is not None
        }
        if not further:
            break
        run_sweep(list(further.values()), jobs, ended)
        trials |= further
    return read_scores(trials)


def next_factor(scores: Mapping[float, float]) -> float | None:
    """The factor beyond the end of a range at which validation is best, at the range's own spacing there.

    None where the best lies inside, where a neighbour is as good, or where fewer than two factors were trained.

    >>> next_factor({0.1: 0.2, 0.3: 0.3, 1.0: 0.5})
    3.33333
    >>> next_factor({0.1: 0.4, 0.3: 0.5, 1.0: 0.2}) is None
    True
    """
    trained = sorted(factor for factor, score in scores.items() if not math.isnan(score))
    if len(trained) < 2:
        return None
    for end, inner, outermost in ((trained[0], trained[1], min(scores)), (trained[-1], trained[-2], max(scores))):
        if end == outermost and scores[end] > max(scores[factor] for factor in trained if factor != end):
            return float(f"{end * end / inner:.6g}")
    return None


def run_sweep(trials: Sequence[Trial], jobs: int, ended: Ended) -> None:
    """Run the short trainings at the same time, wherever there is room; what is finished is not run again."""
    clustered = jobs > 1 or "RAY_ADDRESS" in os.environ
    if clustered and importlib.util.find_spec("ray") is not None:
        _run_with_ray(trials, jobs, ended)
    else:
        run_trials(trials, jobs, ended, title="sweep")


def read_scores(trials: Mapping[tuple[str, float], Trial]) -> SweepScores:
    """Validation scores of what has been trained so far."""
    scores: SweepScores = {}
    for (variant, factor), trial in trials.items():
        scores.setdefault(variant, {})[factor] = validation_score(trial.stage) if trial.finished() else math.nan
    return scores


def best_factors(scores: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """The factor with the best validation score of each variant, of equals the smaller; none where all have failed.

    >>> best_factors({"match": {0.1: 0.2, 0.3: 0.4, 1.0: float("nan")}, "broken": {1.0: float("nan")}})
    {'match': 0.3}
    """
    trained = {
        name: {key: value for key, value in row.items() if not math.isnan(value)} for name, row in scores.items()
    }
    return {name: max(sorted(row), key=lambda key: row[key]) for name, row in trained.items() if row}


def _run_with_ray(trials: Sequence[Trial], jobs: int, ended: Ended) -> None:
    """The same trials as a grid of Ray Tune, on this machine or on the cluster that ``RAY_ADDRESS`` names.

    Workers start the same processes in this folder, which a cluster must share.
    """
    from ray import tune

    for trial in trials:
        trial.prepare()
    pending = [trial for trial in trials if not trial.finished()]
    root = Path.cwd()
    gpu = min(1.0, torch.cuda.device_count() / jobs)

    def train(config: dict[str, Any]) -> None:
        trial = pending[config["trial"]]
        log = root / trial.folder / "train.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            code = subprocess.run(
                trial.command(), cwd=root, stdout=out, stderr=out, env=environment_of(0, jobs), check=False
            ).returncode
        # A failure is a result like others: one trial must not end the grid.
        tune.report({"title": trial.title, "failure": f"{last_line(log)} (see {log})" if code else ""})

    if pending:
        sized = tune.with_resources(train, {"cpu": max(1, cores() // jobs), "gpu": gpu})
        tune.Tuner(sized, param_space={"trial": tune.grid_search(list(range(len(pending))))}).fit()
    for trial in trials:
        failure = None if trial.finished() else last_line(trial.folder / "train.log")
        ended(trial, failure)
