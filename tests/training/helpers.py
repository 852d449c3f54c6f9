"""One stage of a recipe, trained, measured or exported as the command line does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from posedistill.data.loading.loader import Loader
from posedistill.estimators.base import Estimator
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import export_stage, measure_stage
from posedistill.training.networks import load_network
from posedistill.training.run import train_stage


def train(recipe: Recipe, name: str, seed: int = 0) -> Path:
    return train_stage(open_task(recipe), Stage(recipe, name, seed))


def load(recipe: Recipe, name: str, seed: int = 0) -> tuple[Estimator, dict[str, Any]]:
    return load_network(Stage(recipe, name, seed), open_task(recipe).objects)


def measure(recipe: Recipe, name: str, seed: int = 0) -> dict[str, Any]:
    return measure_stage(open_task(recipe), Stage(recipe, name, seed)).to_dict()


def export(recipe: Recipe, name: str, path: Path) -> dict[str, Any]:
    return export_stage(open_task(recipe), Stage(recipe, name, 0), path)


@contextmanager
def interrupted_after(steps: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The training within is interrupted after so many steps; pictures that are shown as they are do not count."""
    prefetch = Loader.prefetch

    def stop(self: Loader, start: int, end: int) -> Iterator[Any]:
        made = prefetch(self, start, end)
        if not self.view.varied:  # of a bank
            yield from made
            return
        for _ in range(steps):
            yield next(made)
        made.close()
        raise KeyboardInterrupt

    with patch.context() as within, pytest.raises(KeyboardInterrupt):
        within.setattr(Loader, "prefetch", stop)
        yield
