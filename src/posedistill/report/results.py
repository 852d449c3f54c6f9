"""Read what the stages of a run left in its folder. Whatever is missing or damaged becomes a note, never a failure."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.report.metrics import HEADLINE_METRICS

VARIANTS = ("teacher", "student", "distilled", "exported")
"""The order in which a report names the models; a variant of another name comes after them."""

REFERENCES = {
    "constant pose": "mean of the training poses",
    "nearest image": "retrieval by the teacher's features",
    "nearest position": "looks at the truth: a mark, no method",
}
"""Trivial answers that every table of cameras is read against, and what they are; they stand below the networks."""


@dataclass(frozen=True)
class Places:
    """Where cameras stand and were thought to stand, metres in the world's frame.

    Attributes:
        truth, estimate: ``[N, 3]``, an image a row; an estimate that was not found is nan.
        train: ``[M, 3]`` of the training images, M may be 0.
        up: ``[3]`` where the upper edges of the images point in the mean; None where they point all about, or unknown.
    """

    truth: Array
    estimate: Array
    train: Array
    up: Array | None = None

    @property
    def errors(self) -> Array:
        """``[N]`` distances, metres; nan without an estimate."""
        distances: Array = np.linalg.norm(self.estimate - self.truth, axis=1)
        return distances


@dataclass(frozen=True)
class Evaluation:
    """One model, of one seed, measured on one data set with one source of boxes.

    Attributes:
        scores: metric name to a value in the unit that its name tells, else in 0..1.
        per_object: object id to its scores.
        curves: name to ``(x, y)``; for ``add``, x is the tolerated error as a fraction of the diameter, y the recall.
            Of errors in metres or degrees, x is the tolerated error.
        outcomes: metric name to one value a target, likewise; targets in the same order for every variant.
        parameters, megabytes, gmacs, seconds_per_image: what the model costs; None where unknown.
        places: of cameras, None for objects.
    """

    variant: str
    seed: int = 0
    boxes: str = ""
    dataset: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    per_object: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    outcomes: dict[str, list[float]] = field(default_factory=dict)
    parameters: float | None = None
    megabytes: float | None = None
    gmacs: float | None = None
    seconds_per_image: float | None = None
    places: Places | None = None


@dataclass(frozen=True)
class Overlay:
    """A drawn case: what it shows, and the picture."""

    variant: str
    kind: str
    """``best`` or ``worst``."""
    caption: str
    image: Path


@dataclass
class RunResults:
    """Everything a run folder holds that a report can show.

    ``histories`` maps variant, then seed folder (``""`` where there is none), then quantity to ``{step: value}``.
    """

    folder: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    bench: list[dict[str, Any]] = field(default_factory=list)
    histories: dict[str, dict[str, dict[str, dict[int, float]]]] = field(default_factory=dict)
    overlays: list[Overlay] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    notes: list[str] = field(default_factory=list)

    def groups(self) -> dict[tuple[str, str], list[Evaluation]]:
        """Evaluations by ``(dataset, boxes)``: ground-truth and detector boxes are never averaged together."""
        groups: dict[tuple[str, str], list[Evaluation]] = {}
        for evaluation in self.evaluations:
            groups.setdefault((evaluation.dataset, evaluation.boxes), []).append(evaluation)
        return groups

    def main_group(self) -> list[Evaluation]:
        """The group with the most variants (the first of equals), which the headline and the plots speak of."""
        return max(self.groups().values(), key=lambda group: len({item.variant for item in group}), default=[])


def load_run(folder: str | Path) -> RunResults:
    """Read a run folder; every file is optional and ``notes`` says what could not be shown and why."""
    run = RunResults(Path(folder))
    for item in _records(run, "evaluation.json", "result tables, accuracy plots and recall curves"):
        try:
            run.evaluations.append(evaluation_of(item))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            run.notes.append(f"evaluation.json: a record was left out: {type(error).__name__} {error}")
    run.evaluations.sort(key=lambda item: (variant_rank(item.variant), item.seed))
    run.bench = [item for item in _records(run, "bench.json", "the speed table") if "variant" in item]
    run.bench.sort(key=lambda item: variant_rank(str(item["variant"])))
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


def variant_rank(variant: str) -> tuple[int, str]:
    """Sort key: teacher, student, distilled, exported, then the rest by name, the trivial answers last.

    >>> sorted(["nearest image", "constant pose", "zebra", "distilled", "teacher"], key=variant_rank)
    ['teacher', 'distilled', 'zebra', 'constant pose', 'nearest image']
    """
    if variant in REFERENCES:
        return (len(VARIANTS) + 1, variant)
    return (VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant)


def scores_of(group: Sequence[Evaluation], variant: str, metric: str) -> list[float]:
    """Scores of a variant, a seed each, as far as they were measured."""
    return [item.scores[metric] for item in group if item.variant == variant and metric in item.scores]


def headline_metric(group: list[Evaluation]) -> str | None:
    """The metric to lead with: by ``HEADLINE_METRICS``, else whichever was measured first, else None."""
    measured = [metric for item in group for metric in item.scores]
    order = ("AR", *HEADLINE_METRICS) if group and group[0].boxes == "detector" else HEADLINE_METRICS
    return next((metric for metric in order if metric in measured), measured[0] if measured else None)


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


def _number(value: object) -> float | None:
    """A finite float, or None for everything that is none (null, NaN, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _numbers(mapping: Mapping[str, Any] | None) -> dict[str, float]:
    pairs = {str(key): _number(value) for key, value in (mapping or {}).items()}
    return {key: value for key, value in pairs.items() if value is not None}


def _points(xs: list[Any], ys: list[Any]) -> tuple[list[float], list[float]]:
    """The points of a curve whose both coordinates are numbers."""
    pairs = [(_number(x), _number(y)) for x, y in zip(xs, ys, strict=True)]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in points], [y for _, y in points]


def evaluation_of(item: dict[str, Any]) -> Evaluation:
    """A record of ``evaluation.json``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    curves = {str(name): _points(curve["x"], curve["y"]) for name, curve in (item.get("curves") or {}).items()}
    outcomes = item.get("outcomes") or {}
    if isinstance(outcomes, list):  # without a name, the outcomes are those of the usual threshold
        outcomes = {"add_0.1d": outcomes}
    return Evaluation(
        variant=str(item["variant"]),
        seed=int(item.get("seed") or 0),
        boxes=str(item.get("boxes") or ""),
        dataset=str(item.get("dataset") or ""),
        scores=_numbers(item.get("scores")),
        per_object={str(key): _numbers(value) for key, value in (item.get("per_object") or {}).items()},
        curves={name: curve for name, curve in curves.items() if curve[0]},
        outcomes={str(key): [_outcome(value) for value in values] for key, values in outcomes.items()},
        parameters=_number(item.get("parameters")),
        megabytes=_number(item.get("megabytes")),
        gmacs=_number(item.get("gmacs")),
        seconds_per_image=_number(item.get("seconds_per_image")),
        places=_places(item["places"]) if item.get("places") else None,
    )


def _outcome(value: float | None) -> float:
    """An outcome; json has no number for the error of a pose that was not found."""
    return math.inf if value is None else float(value)


def _places(item: dict[str, Any]) -> Places:
    truth, estimate = (np.array(item[key], dtype=np.float64) for key in ("truth", "estimate"))
    train = np.array(item.get("train") or np.zeros((0, 3)), dtype=np.float64)
    up = np.array(item.get("up") or np.zeros(3), dtype=np.float64)
    if truth.shape != estimate.shape or not all(array.ndim == 2 and array.shape[1] == 3 for array in (truth, train)):
        raise ValueError(f"places of shapes {truth.shape}, {estimate.shape}, {train.shape}, expected [N, 3]")
    return Places(truth, estimate, train, up if np.linalg.norm(up) > 0.5 else None)


def _histories(run: RunResults) -> dict[str, dict[str, dict[str, dict[int, float]]]]:
    files = sorted(run.folder.glob("*/metrics.jsonl")) + sorted(run.folder.glob("*/seed*/metrics.jsonl"))
    if not files:
        run.notes.append("No metrics.jsonl was found: loss curves are not shown.")
    histories: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    for path in files:
        variant, *seed = path.relative_to(run.folder).parts[:-1]
        histories.setdefault(variant, {})["".join(seed)] = read_history(run, path)
    return dict(sorted(histories.items(), key=lambda pair: variant_rank(pair[0])))


def read_history(run: RunResults, path: Path) -> dict[str, dict[int, float]]:
    """Quantities over steps. A step logged twice (a resumed run) keeps its later value."""
    history: dict[str, dict[int, float]] = {}
    faulty = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            step = int(record["step"])
            values = _numbers(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            faulty += bool(line.strip())
            continue
        for key, value in values.items():
            if key != "step":
                history.setdefault(key, {})[step] = value
    if faulty:
        run.notes.append(f"{path.relative_to(run.folder)}: {faulty} damaged line(s) were left out.")
    return {key: dict(sorted(values.items())) for key, values in history.items()}


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
        overlays.append(Overlay(str(case.get("variant")), str(case.get("kind")), str(case.get("caption", "")), image))
    if not overlays and not any(item.places for item in run.evaluations):
        run.notes.append("cases/ holds no overlays: best and worst cases are not shown.")
    return sorted(overlays, key=lambda item: (variant_rank(item.variant), item.kind))
