"""Read what the stages of a run left in its folder. Whatever is missing or damaged becomes a note, never a failure."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posedistill.errors import DataError, describe
from posedistill.metrics.evaluation import Evaluation
from posedistill.report.evaluations import Group, rank

History = dict[str, dict[int, float]]
"""Quantity, step, value."""


@dataclass(frozen=True)
class Overlay:
    """A drawn case: what it shows, and the picture."""

    stage: str
    kind: str
    """``best`` or ``worst``."""
    caption: str
    image: Path


@dataclass
class RunResults:
    """Everything a run folder holds that a report can show.

    ``histories`` maps stage, then seed folder (``""`` where there is none), then quantity to ``{step: value}``.
    """

    folder: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    bench: list[dict[str, Any]] = field(default_factory=list)
    histories: dict[str, dict[str, History]] = field(default_factory=dict)
    overlays: list[Overlay] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    notes: list[str] = field(default_factory=list)

    def groups(self) -> list[Group]:
        """Evaluations by data set and source of boxes: ground-truth and detector boxes are never averaged together."""
        groups: dict[tuple[str, str], Group] = {}
        for evaluation in self.evaluations:
            groups.setdefault((evaluation.dataset, evaluation.boxes), Group()).items.append(evaluation)
        return list(groups.values())

    def main_group(self) -> Group:
        """The group with the most models (the first of equals), which the headline and the plots speak of."""
        return max(self.groups(), key=lambda group: len({item.stage for item in group.items}), default=Group())

    def read(self, file: str, records: Iterable[dict[str, Any]]) -> list[Evaluation]:
        """The evaluations of a file's records; one that is damaged is noted and left out."""
        found = []
        for record in records:
            try:
                found.append(Evaluation.from_dict(record))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.notes.append(f"{file}: a record was left out: {type(error).__name__} {error}")
        return found


def load_run(folder: str | Path) -> RunResults:
    """Read a run folder; every file is optional and ``notes`` says what could not be shown and why."""
    run = RunResults(Path(folder))
    records = _records(run, "evaluation.json", "result tables, accuracy plots and recall curves")
    run.evaluations = run.read("evaluation.json", records)
    run.evaluations.sort(key=lambda item: (rank(item.stage), item.seed))
    run.bench = [item for item in _records(run, "bench.json", "the speed table") if "stage" in item]
    run.bench.sort(key=lambda item: rank(str(item["stage"])))
    environment = _json(run, run.folder / "environment.json", "hardware, versions and seeds")
    run.environment = environment if isinstance(environment, dict) else {}
    recipe = run.folder / "recipe.yaml"
    if recipe.is_file():
        run.recipe = recipe.read_text(encoding="utf-8", errors="replace")
    else:
        run.notes.append("recipe.yaml is missing: the recipe is not shown.")
    run.histories = _histories(run)
    run.overlays = _overlays(run)
    return run


def refuse_no_run(folder: Path) -> None:
    """``DataError`` where a folder is none that ``posedistill run`` or another training has begun."""
    names = ("recipe.yaml", "evaluation.json", "bench.json")
    if not any((folder / name).is_file() for name in names):
        found = "none of " + ", ".join(names) if folder.is_dir() else "no such folder"
        raise DataError(describe(folder, "run", found, "a run folder, as `posedistill run` makes it"))


def _json(run: RunResults, path: Path, shows: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.notes.append(f"{path.relative_to(run.folder)} is missing: {shows} are not shown.")
    except (OSError, ValueError) as error:
        run.notes.append(f"{path.relative_to(run.folder)} cannot be read ({error}): {shows} are not shown.")
    return None


def _records(run: RunResults, name: str, shows: str) -> Iterator[dict[str, Any]]:
    content = _json(run, run.folder / name, shows)
    if content is not None and not isinstance(content, list):
        run.notes.append(f"{name}: found {type(content).__name__}, expected a list of records.")
    for item in content if isinstance(content, list) else []:
        if isinstance(item, dict):
            yield item
        else:
            run.notes.append(f"{name}: a record was left out: found {type(item).__name__}, expected an object.")


def _histories(run: RunResults) -> dict[str, dict[str, History]]:
    files = sorted(run.folder.glob("*/metrics.jsonl")) + sorted(run.folder.glob("*/seed*/metrics.jsonl"))
    if not files:
        run.notes.append("No metrics.jsonl was found: loss curves are not shown.")
    histories: dict[str, dict[str, History]] = {}
    for path in files:
        stage, *seed = path.relative_to(run.folder).parts[:-1]
        histories.setdefault(stage, {})["".join(seed)] = read_history(run, path)
    return dict(sorted(histories.items(), key=lambda pair: rank(pair[0])))


def read_history(run: RunResults, path: Path) -> History:
    """Quantities over steps. A step logged twice (a resumed run) keeps its later value."""
    history: History = {}
    faulty = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            step = int(record["step"])
            values = {key: float(value) for key, value in record.items() if _finite(value)}
        except (ValueError, KeyError, TypeError, AttributeError):
            faulty += bool(line.strip())
            continue
        for key, value in values.items():
            if key != "step":
                history.setdefault(key, {})[step] = value
    if faulty:
        run.notes.append(f"{path.relative_to(run.folder)}: {faulty} damaged line(s) were left out.")
    return {key: dict(sorted(values.items())) for key, values in history.items()}


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _overlays(run: RunResults) -> list[Overlay]:
    overlays = []
    for path in sorted((run.folder / "cases").glob("*.json")):
        case = _json(run, path, "this overlay's details")
        image = path.with_suffix(".jpg")
        if not isinstance(case, dict):
            continue
        if not image.is_file():
            run.notes.append(f"{image.relative_to(run.folder)} is missing: the overlay is not shown.")
            continue
        overlays.append(Overlay(str(case.get("stage")), str(case.get("kind")), str(case.get("caption", "")), image))
    if not overlays and not any(item.places for item in run.evaluations):
        run.notes.append("cases/ holds no overlays: best and worst cases are not shown.")
    return sorted(overlays, key=lambda item: (rank(item.stage), item.kind))
