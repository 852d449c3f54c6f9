"""One network of a comparison: where it lives, whether it is finished, and the process that trains and measures it."""

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from posedistill.errors import PoseDistillError, TrainingError
from posedistill.files import fresh, write_file
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.tasks.registry import task_of
from posedistill.training.checkpoints import load_tensors
from posedistill.training.loop import SELECT
from posedistill.training.shipping import measure_network
from posedistill.training.stages import (
    VARIANTS,
    refuse_other_recipe,
    train_variant,
    variant_folder,
    weights_of,
    write_recipe,
)


@dataclass(frozen=True)
class Trial:
    """A network that a process of its own trains, and measures on the test split where ``tested``.

    Attributes:
        title: what it is called in progress and in failures.
        network: the stage of the recipe: teacher, student or distilled.
    """

    title: str
    recipe: Recipe
    network: str
    seed: int
    tested: bool = True

    @property
    def folder(self) -> Path:
        """Where the network, its log and its scores lie."""
        return variant_folder(self.recipe, self.network, self.seed)

    @property
    def steps(self) -> int:
        """Length of its schedule."""
        return self.recipe.schedule(self.recipe.teacher if self.network == "teacher" else self.recipe.student).steps

    @property
    def record(self) -> Path:
        """Its scores on the test split, as in ``evaluation.json`` of a run."""
        return self.folder / "evaluation.json"

    @property
    def weights(self) -> Path:
        """The network itself."""
        return weights_of(self.recipe, self.network, self.seed)

    def prepare(self) -> None:
        """Note the recipe that the process will read.

        Raises:
            CheckpointError: the folder holds the network of another recipe.
        """
        refuse_other_recipe(self.recipe, self.network, self.seed)
        write_recipe(self.recipe)

    def finished(self) -> bool:
        """Whether nothing is left to do, as ``make`` decides."""
        trained = self.weights.exists() and ((self.folder / "done.json").exists() or self._given())
        return trained and (not self.tested or fresh(self.record, self.weights, self.recipe.folder / "recipe.yaml"))

    def steps_done(self) -> int:
        """How far training has come, by its log."""
        if (self.folder / "done.json").exists() or self._given():
            return self.steps
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, IndexError, KeyError, ValueError):  # nothing yet, or half a line
            return 0

    def validation(self) -> float:
        """The validation score of the weights that were kept."""
        return float(load_tensors(self.weights, names=())[1]["scores"][SELECT])

    def command(self) -> list[str]:
        """What the process is started with."""
        words = [str(self.recipe.folder / "recipe.yaml"), self.network, str(self.seed)]
        return [sys.executable, "-m", "posedistill.compare.trial", *words, *(["--tested"] if self.tested else [])]

    def run(self) -> None:
        """Train and measure here and now."""
        train_variant(self.recipe, self.network, self.seed)
        if self.tested:
            record = measure_network(self.recipe, self.network, self.seed, task_of(self.recipe).split(self.recipe))
            write_file(self.record, json.dumps(record), TrainingError)

    def _given(self) -> bool:
        return self.network == "teacher" and self.recipe.teacher.checkpoint is not None


def end_with_parent() -> None:
    """End this process where the one that started it was killed: two must not train the same network."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def main() -> None:
    """Train one network of a recipe; a fault is the last line of what it prints."""
    parser = argparse.ArgumentParser(prog="posedistill.compare.trial", description=main.__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("network", choices=VARIANTS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--tested", action="store_true")
    words = parser.parse_args()
    end_with_parent()
    try:
        recipe = load_recipe(words.recipe)
        Trial(f"{words.network} seed {words.seed}", recipe, words.network, words.seed, words.tested).run()
    except PoseDistillError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
