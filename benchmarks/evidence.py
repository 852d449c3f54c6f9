"""Draws docs/pictures/evidence.svg and writes the tables of docs/evidence.md, both out of docs/evidence.csv.

    python benchmarks/evidence.py

A row of the csv is one difference to the same student alone, as `posedistill compare` or `run` gave it, with its 95 %
interval. The plot shows differences of all units on one axis: as the share of the student's error that goes. The error
of a rate in percent is what misses to a hundred.
"""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
COLOURS = {"equal steps": "#00695c", "equal time": "#c25e00"}


@dataclass(frozen=True)
class Row:
    """One difference to the student alone: positive and negative as measured, in the metric's unit."""

    family: str
    data: str
    student: str
    targets: str
    seeds: int
    variant: str
    budget: str
    metric: str
    better: str
    alone: float
    difference: float
    low: float
    high: float

    @property
    def shares(self) -> tuple[float, float, float]:
        """Difference and interval (lower end first) as shares of the student's error that go, in percent."""
        error, sign = (100 - self.alone, 1) if self.better == "higher" else (self.alone, -1)
        middle, low, high = (sign * 100 * value / error for value in (self.difference, self.low, self.high))
        return middle, min(low, high), max(low, high)

    @property
    def group(self) -> str:
        """Rows of one data set and one student stand together."""
        return f"{self.data}: {self.student}"


def read(path: Path) -> list[Row]:
    """The rows of the csv, in its order."""
    with path.open() as file:
        return [
            Row(
                **{k: v for k, v in line.items() if k not in ("seeds", "alone", "difference", "low", "high")},
                seeds=int(line["seeds"]),
                **{key: float(line[key]) for key in ("alone", "difference", "low", "high")},
            )
            for line in csv.DictReader(file)
        ]


def table(rows: list[Row]) -> str:
    """A markdown table for each family, data set, student and metric."""
    parts = []
    for (group, _), members in groupby(rows, key=lambda row: (row.group, row.metric)):
        of = list(members)
        first = of[0]
        seeds = "one seed" if first.seeds == 1 else f"{first.seeds} seeds"
        parts.append(f"**{group}** ({first.family}; {first.targets}, {seeds}; alone {first.metric} {first.alone:g})\n")
        parts.append("| what was added | budget | difference, 95 % interval | error that goes |")
        parts.append("| --- | --- | ---: | ---: |")
        for row in of:
            sure = " *" if row.low * row.high > 0 else ""
            interval = f"{row.difference:+g} [{row.low:+g}, {row.high:+g}]{sure}"
            parts.append(f"| {row.variant} | {row.budget} | {interval} | {row.shares[0]:+.0f} % |")
        parts.append("")
    return "\n".join(parts)


def plot(rows: list[Row], path: Path) -> None:
    """Every row as a point with its interval; to the right of zero the student is better than alone."""
    groups = [(group, list(members)) for group, members in groupby(rows, key=lambda row: row.group)]
    figure = Figure(figsize=(9, 0.24 * (len(rows) + 1.6 * len(groups)) + 1), layout="constrained")
    axes, y, ticks, labels = figure.subplots(), 0.0, [], []
    for group, members in groups:
        y += 1.6
        seeds = "one seed" if members[0].seeds == 1 else f"{members[0].seeds} seeds"
        text = f"{group} ({seeds})"
        axes.text(0.01, y - 0.85, text, transform=axes.get_yaxis_transform(), fontsize=8, weight="bold", va="center")
        for row in members:
            middle, low, high = row.shares
            sure = low * high > 0
            axes.errorbar(
                middle,
                y,
                xerr=[[middle - low], [high - middle]],
                fmt="o",
                markersize=5,
                capsize=2,
                color=COLOURS[row.budget],
                markerfacecolor=COLOURS[row.budget] if sure else "white",
            )
            ticks.append(y)
            labels.append(row.variant)
            y += 1
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_ylim(y, 0)
    axes.set_xlabel("share of the same student's error alone that goes, % (95 % interval; filled: it excludes zero)")
    for budget, colour in COLOURS.items():
        axes.plot([], [], "o", color=colour, label=budget)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.set_canvas(FigureCanvasSVG(figure))
    # Letters as letters: a third of the size. The salt makes the same rows the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "evidence"}):
        figure.savefig(path, metadata={"Date": None}, facecolor="white", bbox_inches="tight")


def main() -> None:
    rows = read(DOCS / "evidence.csv")
    plot(rows, DOCS / "pictures" / "evidence.svg")
    page = DOCS / "evidence.md"
    head, rest = page.read_text().split(BEGIN)
    page.write_text(head + BEGIN + "\n" + table(rows) + END + rest.split(END)[1])
    print(f"{len(rows)} differences in {page} and in the plot beside it")


if __name__ == "__main__":
    main()
