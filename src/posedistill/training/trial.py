"""One training in a process of its own: how the process is started, how far it is, whether it has ended."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from posedistill.files import fresh
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.training.run_folder import refuse_other_recipe, write_recipe


@dataclass(frozen=True)
class Trial:
    """A stage that a process of its own trains, and measures on the test split where ``tested``.

    ``title`` is what it is called in progress and in failures.
    """

    title: str
    stage: Stage
    tested: bool = True

    @property
    def recipe(self) -> Recipe:
        """Of the stage."""
        return self.stage.recipe

    @property
    def folder(self) -> Path:
        """Where the network, its log and its scores lie."""
        return self.stage.folder

    @property
    def steps(self) -> int:
        """Length of its schedule."""
        return self.stage.schedule.steps

    @property
    def record(self) -> Path:
        """Its scores on the test split, as in ``evaluation.json`` of a run."""
        return self.folder / "evaluation.json"

    def prepare(self) -> None:
        """Note the recipe that the process will read.

        Raises:
            CheckpointError: the folder holds the network of another recipe.
        """
        refuse_other_recipe(self.stage)
        write_recipe(self.recipe)

    def finished(self) -> bool:
        """Whether nothing is left to do, as ``make`` decides."""
        weights = self.stage.weights
        trained = weights.exists() and self.stage.finished
        return trained and (not self.tested or fresh(self.record, weights, self.recipe.folder / "recipe.yaml"))

    def steps_done(self) -> int:
        """How far training has come, by its log."""
        if self.stage.finished:
            return self.steps
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, IndexError, KeyError, ValueError):  # nothing yet, or half a line
            return 0

    def command(self) -> list[str]:
        """What the process is started with."""
        words = [str(self.recipe.folder / "recipe.yaml"), self.stage.name, str(self.stage.seed)]
        return [sys.executable, "-m", "posedistill.training.worker", *words, *(["--tested"] if self.tested else [])]
