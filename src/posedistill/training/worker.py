"""The process of a trial: it trains one network of a recipe, and measures it where asked."""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

from posedistill.errors import PoseDistillError, TrainingError
from posedistill.files import write_file
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import STAGES, Stage
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import measure_stage
from posedistill.training.run import train_stage
from posedistill.training.trial import Trial


def carry_out(trial: Trial) -> None:
    """Train and measure here and now."""
    task = open_task(trial.recipe)
    train_stage(task, trial.stage)
    if trial.tested:
        write_file(trial.record, json.dumps(measure_stage(task, trial.stage).to_dict()), TrainingError)


def end_with_parent() -> None:
    """End this process where the one that started it was killed: two must not train the same network."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def main() -> None:
    """Train one network of a recipe; a fault is the last line of what it prints."""
    parser = argparse.ArgumentParser(prog="posedistill.training.worker", description=main.__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("seed", type=int)
    parser.add_argument("--tested", action="store_true")
    words = parser.parse_args()
    end_with_parent()
    try:
        stage = Stage(load_recipe(words.recipe), words.stage, words.seed)
        carry_out(Trial(stage.title, stage, words.tested))
    except KeyboardInterrupt as stop:
        print(*stop.args, file=sys.stderr)
        sys.exit(130)
    except PoseDistillError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
