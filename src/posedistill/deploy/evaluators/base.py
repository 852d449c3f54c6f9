"""What a measurement of a file is asked for, the same for every task."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.log import console
from posedistill.metrics import Evaluation
from posedistill.runtime.predictor import Predictor


@dataclass(frozen=True)
class Asked:
    """A model, the data it is measured on, and the options of the command; see ``posedistill evaluate --help``."""

    model: Path
    dataset: Path
    split: str = "test"
    frames: Path | None = None
    boxes: str = "gt"
    detections: Path | None = None
    csv: Path | None = None
    json: Path | None = None
    scenes: list[int] | None = None
    legacy_diameters: bool = False
    metres_per_unit: float | None = None

    def refuse(self, options: Collection[str], expected: str) -> None:
        """``DataError`` where one of these options is given."""
        given: dict[str, Any] = {"--frames": self.frames, "--scene": self.scenes, "--detections": self.detections}
        given |= {"--boxes": self.boxes != "gt" and self.boxes, "--legacy-diameters": self.legacy_diameters}
        given |= {"--metres-per-unit": self.metres_per_unit}
        for option in options:
            if given[option] is not None and given[option] is not False:
                raise DataError(describe(option, "option", given[option], expected))


Evaluator = Callable[[Predictor, Asked], Evaluation]
"""Measures a model of one task, prints the tables, writes csv and json where asked."""
OF_OBJECTS = ("--frames", "--scene", "--detections", "--boxes", "--legacy-diameters")
"""Options that only objects have."""


def warn_of_training(predictor: Predictor, asked: Asked, folder: str, names: Collection[str]) -> None:
    """Say how many of the measured photographs the model was trained on, where its file knows."""
    trained = (predictor.record.frames or {}).get(folder, np.empty(0))
    if shared := len(set(names) & set(trained.tolist())):
        console.print(f"[yellow]{asked.dataset}: the model was trained on {shared} of the {len(names)} photographs")
