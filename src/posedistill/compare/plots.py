"""Figures of a comparison: differences with their intervals, and every variant's curves beside the baseline's."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from posedistill.report.metrics import Metric
from posedistill.report.plots import COLORS, INK, RC, add_legend, mean_curve, new_figure, thinned, to_svg
from posedistill.report.statistics import Difference

BETTER, WORSE, UNDECIDED = COLORS["distilled"], COLORS["exported"], COLORS["other"]


def interval_plot(metric: str, rows: Mapping[str, Sequence[Difference | None]]) -> str | None:
    """Dots and 95 % intervals of differences in a metric, a row a variant; None when there is nothing to draw.

    Full colour where the interval excludes zero: green for better, pink for worse. The first of a row is
    filled, the second hollow.

    Args:
        rows: variant to its differences, as many for each.
    """
    about = Metric(metric)
    if not any(difference for row in rows.values() for difference in row):
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(4.6, 0.9 + 0.38 * len(rows))
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, row in enumerate(list(rows.values())[::-1]):
            shifts = [0.14, -0.14] if len(row) > 1 else [0.0]
            for kind, (difference, shift) in enumerate(zip(row, shifts, strict=True)):
                if difference is None:
                    continue
                side = BETTER if about.gain(difference.mean) > 0 else WORSE
                colour = side if difference.significant else UNDECIDED
                if not np.isnan(difference.low):
                    ends = [about.scaled(difference.low), about.scaled(difference.high)]
                    axes.plot(ends, [place + shift] * 2, color=colour, linewidth=2)
                mean, face = about.scaled(difference.mean), "none" if kind else colour
                axes.plot(mean, place + shift, "o", color=colour, markerfacecolor=face, markersize=6)
        axes.set_yticks(range(len(rows)), list(rows)[::-1])
        better = " (left is better)" if about.lower_is_better else ""
        axes.set(title=about.label, xlabel=f"{about.change_unit}{better}", ylim=(-0.6, len(rows) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))  # more labels of metres overlap
        axes.grid(axis="y", visible=False)
        return to_svg(figure, about.label)


def curve_panel(
    title: str, baseline: tuple[str, Sequence[Mapping[int, float]]], variant: tuple[str, Sequence[Mapping[int, float]]]
) -> str | None:
    """A quantity over steps: the baseline's seeds and a variant's, thin, with their means bold."""
    sides = [(*baseline, COLORS["student"]), (*variant, COLORS["distilled"])]
    sides = [(name, [seed for seed in seeds if seed], colour) for name, seeds, colour in sides]
    if not sides[1][1]:
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.6, 2.3)
        for name, seeds, colour in sides:
            curves = [thinned(seed) for seed in seeds]
            if not curves:
                continue
            for steps, values in curves if len(curves) > 1 else []:
                axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.45)
            marker = "." if max(len(steps) for steps, _ in curves) <= 20 else ""  # a line needs two points
            axes.plot(*mean_curve(curves), color=colour, linewidth=2.0, marker=marker, label=name)
        axes.set(title=title, xlabel="step")
        add_legend(axes)
        return to_svg(figure, title)
