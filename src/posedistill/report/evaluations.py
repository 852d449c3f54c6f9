"""Groups of evaluations that may be compared, and what a report asks of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.metrics.evaluation import Evaluation, Level, Metric
from posedistill.metrics.statistics import Difference, Summary, paired_difference, summarise

Part = TypeVar("Part")
STAGES = ("teacher", "student", "distilled", "exported")
"""The order in which a report names the models of a run; a model of another name comes after them."""
LEVELS: tuple[Level, ...] = get_args(Level)
BOXES = {"gt": "ground-truth boxes", "detector": "detector boxes", "none": "no boxes given"}
"""Words for the sources of boxes."""


@dataclass
class Group:
    """Evaluations on one data set with one source of boxes, of several models and seeds."""

    items: list[Evaluation] = field(default_factory=list)
    _differences: dict[tuple[str, str, str], Difference | None] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        """Models in the order of a report, without the naive baselines."""
        return sorted({item.stage for item in self.items if not item.baseline}, key=rank)

    @property
    def baselines(self) -> dict[str, str]:
        """The naive baselines that were measured, and what each of them does."""
        return {item.stage: item.baseline for item in self.items if item.baseline}

    @property
    def title(self) -> str:
        """On what was measured: data set and source of boxes."""
        if not self.items:
            return ""
        first = self.items[0]
        return ", ".join(part for part in (first.dataset, BOXES.get(first.boxes, first.boxes)) if part)

    @property
    def metrics(self) -> list[Metric]:
        """Every measured metric, the most prominent first."""
        declared = {metric.name: metric for item in self.items for metric in item.metrics if metric.name in item.scores}
        return sorted(declared.values(), key=lambda metric: LEVELS.index(metric.level))

    @property
    def main_metrics(self) -> list[Metric]:
        """The usual metrics that were measured, or whatever was."""
        return [metric for metric in self.metrics if metric.level != "detail"] or self.metrics

    @property
    def headline(self) -> list[Metric]:
        """The metrics that a page leads with."""
        return [metric for metric in self.metrics if metric.level == "headline"] or self.metrics[:1]

    def first_of_stages(self, part: Callable[[Evaluation], Part | None]) -> dict[str, Part]:
        """A part of each stage's first seed that has it; the exported file is the distilled network."""
        first: dict[str, Part] = {}
        for item in self.items:
            if item.stage in STAGES and (found := part(item)) is not None:
                first.setdefault(item.stage, found)
        return {stage: found for stage, found in first.items() if stage != "exported" or "distilled" not in first}

    def of(self, name: str) -> list[Evaluation]:
        """A model's evaluations, a seed each."""
        return [item for item in self.items if item.stage == name]

    def scores(self, name: str, metric: Metric) -> list[float]:
        """Scores of a model, a seed each, as far as they were measured."""
        return [item.scores[metric.name] for item in self.of(name) if metric.name in item.scores]

    def summary(self, name: str, metric: Metric) -> Summary:
        """Mean and deviation of a model's scores over its seeds."""
        return summarise(self.scores(name, metric))

    def cost(self, name: str, number: str) -> float:
        """``parameters``, ``megabytes`` or ``gmacs`` of a model, the mean over seeds; nan where unknown."""
        values = [getattr(item, number) for item in self.of(name)]
        return summarise([value for value in values if value is not None]).mean

    def difference(self, metric: Metric, name: str, baseline: str) -> Difference | None:
        """``name - baseline`` over the seeds both were run with; None when they share no seed.

        The outcomes of single targets are used when both have them and their statistic is the score.
        """
        key = metric.name, name, baseline
        if key not in self._differences:  # tables, figures and the headline ask for the same
            self._differences[key] = self._difference(metric, name, baseline)
        return self._differences[key]

    def outcomes(self, metric: Metric, name: str, seeds: Sequence[int]) -> Array:
        """``[S, T]`` outcomes of a model's seeds in a metric; ``[S, 0]`` where not all have as many."""
        of_seed = {item.seed: item.outcomes.get(metric.name, np.zeros(0)) for item in self.of(name)}
        rows = [of_seed[seed] for seed in seeds]
        same = len({len(row) for row in rows}) == 1
        return np.stack(rows) if same else np.zeros((len(seeds), 0))

    def seeds(self, metric: Metric, *names: str) -> list[int]:
        """The seeds for which every one of some models has a score."""
        found = [{item.seed for item in self.of(name) if metric.name in item.scores} for name in names]
        return sorted(set.intersection(*found))

    def categories(self, metric: Metric) -> tuple[str, ...]:
        """The category of each target, where the metric is a mean over categories."""
        return next((item.groups(metric) for item in self.items if metric.name in item.outcomes), ())

    def _difference(self, metric: Metric, name: str, baseline: str) -> Difference | None:
        seeds = self.seeds(metric, name, baseline)
        if not seeds:
            return None
        before, after = (self.outcomes(metric, one, seeds) for one in (baseline, name))
        if before.size and before.shape == after.shape:
            return paired_difference(before, after, statistic=metric.statistic, groups=self.categories(metric))
        of_seed = ({item.seed: item for item in self.of(one)} for one in (baseline, name))
        first, second = ([found[seed].scores[metric.name] for seed in seeds] for found in of_seed)
        return paired_difference(first, second)


def rank(stage: str) -> tuple[int, str]:
    """Sort key: teacher, student, distilled, exported, then the rest by name.

    >>> sorted(["zebra", "distilled", "teacher"], key=rank)
    ['teacher', 'distilled', 'zebra']
    """
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)
