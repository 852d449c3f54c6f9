"""Figures of a report as inline SVG that follows the page's light or dark theme.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables; text stays text. A model has the
same colour (Okabe and Ito's colour-blind safe set) and the same marker in every figure.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from posedistill.geometry.cameras import Array
from posedistill.metrics.evaluation import Curve, Metric
from posedistill.metrics.statistics import Difference, summarise
from posedistill.report.error_tables import visible_ranges
from posedistill.report.evaluations import Group
from posedistill.report.results import History

INK, GRID = "#010203", "#040506"
_CSS = {INK: "var(--ink)", GRID: "var(--grid)"}
_MARKERS = {"teacher": "s", "student": "o", "distilled": "D", "exported": "^"}
COLORS = {name: f"#0a0b{index:02x}" for index, name in enumerate([*_MARKERS, "other"])}
_CSS |= {color: f"var(--{name})" for name, color in COLORS.items()}
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_BASELINES = ((1, 1.5), (4, 2), (8, 2, 1, 2))
"""Dashes of naive baselines, in turn."""
_LEAST = 5
"""Matched targets of a range of visible shares, for quartiles to mean anything."""
_MAX_POINTS = 240
_FEW = 20
"""Up to so many points of a curve are marked; a line alone would hide that there are few, or one."""


def accuracy_over_cost(group: Group, metric: Metric, costs: Mapping[str, float], label: str) -> Markup | None:
    """A metric of each model over a cost on a logarithmic axis, bars of one standard deviation over seeds.

    Errors stand on a logarithmic axis too, with the naive baselines as dashed lines.

    Args:
        costs: model to a positive number. label: what it is, with its unit.

    Returns:
        SVG, or None when fewer than two models have both numbers.
    """
    shown = [name for name in group.names if costs.get(name, 0) > 0 and group.scores(name, metric)]
    if len(shown) < 2:
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2)
        for name in shown:
            summary = summarise([metric.scaled(value) for value in group.scores(name, metric)])
            error = None if np.isnan(summary.std) else summary.std
            axes.errorbar(costs[name], summary.mean, yerr=error, capsize=3, markersize=9, **_style(name))
        axes.set(xscale="log", xlabel=label, ylabel=metric.axis)
        axes.margins(x=0.15, y=0.2)
        _plain_log(axes.xaxis)
        if metric.lower_is_better:
            axes.set_yscale("log")
            _draw_baselines(axes, group, metric)
            low, high = axes.get_ylim()
            _plain_log(axes.yaxis, few=high / low < 8)
        else:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0.0), min(high, 102.0))  # no share is negative or above 100 %
        add_legend(axes)
        return to_svg(figure, f"{metric.label} over {label}")


def _draw_baselines(axes: Axes, group: Group, metric: Metric) -> None:
    """A dashed line for each naive baseline that was measured, named at alternating ends."""
    for place, name in enumerate(group.baselines):
        for value in group.scores(name, metric):
            axes.axhline(value, **line_style(name, place) | {"label": None}, zorder=1)
            end = ("right", 0.99) if place % 2 == 0 else ("left", 0.01)
            axes.annotate(
                name, (end[1], value), xycoords=axes.get_yaxis_transform(), xytext=(0, 2),
                textcoords="offset points", ha=end[0], va="bottom", fontsize=9, color=_color(name),
            )  # fmt: skip


def _plain_log(axis: Axis, few: bool = False) -> None:
    """Ticks of a logarithmic axis as plain numbers; evenly spaced where it spans so little that it is hardly curved."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if few else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def error_curves(group: Group, metric: Metric) -> Markup | None:
    """Share of the targets within an error: mean over seeds, the band of its seeds, naive baselines dashed."""
    baselines = list(group.baselines)
    curves = {
        name: [item.curves[metric.name] for item in group.of(name) if metric.name in item.curves]
        for name in [*group.names, *baselines]
    }
    curves = {name: found for name, found in curves.items() if found}
    if not curves:
        return None
    about = next(iter(curves.values()))[0]
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2)
        ranges = {}
        for name, found in curves.items():
            ranges[name] = _draw_curves(
                axes, found, line_style(name, baselines.index(name) if name in baselines else None)
            )
        # Naive baselines may be far better or worse: the networks are what is to be told apart.
        shown = [ranges[name] for name in group.names if name in ranges] or list(ranges.values())
        axes.set(xlabel=about.label, ylabel="targets within it, %", ylim=(0, 102))
        if about.log:
            axes.set_xscale("log")
            axes.set_xlim(min(low for low, _ in shown), max(high for _, high in shown))
            _plain_log(axes.xaxis)
        else:
            axes.set_xlim(0, about.x[-1])
        add_legend(axes)
        return to_svg(figure, f"share within {about.label}")


def depth_by_visibility(group: Group) -> Markup | None:
    """Depth errors over the visible share of the targets: medians of all seeds, bars from quartile to quartile.

    None where no errors were kept. Ranges of fewer than five matched targets are left out.
    """
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2)
        axes.axhline(0, color=INK, linewidth=0.8)
        for place, name in enumerate(group.names):
            found = [item.errors for item in group.of(name) if item.errors]
            depth = np.concatenate([[], *(errors.depth for errors in found)])
            visible = np.concatenate([[], *(errors.visible for errors in found)])
            matched = ~np.isnan(depth)
            _draw_by_visibility(axes, 100 * depth[matched], 100 * visible[matched], name, place)
        if not axes.get_legend_handles_labels()[1]:
            return None
        axes.set(xlabel="visible share of the target, %", ylabel="depth error, % of the distance", xlim=(-3, 105))
        add_legend(axes)
        return to_svg(figure, "depth error by visible share")


def _draw_by_visibility(axes: Axes, depth: Array, visible: Array, name: str, place: int) -> None:
    """One model's quartiles of depth errors in each range of visible shares, both in %."""
    masks = [rows for _, _, rows in visible_ranges(visible / 100) if rows.sum() >= _LEAST]
    if not masks:
        return
    low, middle, high = np.array([np.percentile(depth[rows], [25, 50, 75]) for rows in masks]).T
    shift = 1.2 * place  # bars of several models beside each other
    x = [float(visible[rows].mean()) - shift for rows in masks]
    style = line_style(name) | {"marker": _style(name)["marker"], "capsize": 2, "elinewidth": 1.0, "markersize": 5}
    axes.errorbar(x, middle, yerr=[middle - low, high - middle], **style)


def _draw_curves(axes: Axes, curves: Sequence[Curve], line: Mapping[str, Any]) -> tuple[float, float]:
    """The curve of a model in %, and the band of its seeds; returns between which x it rises."""
    x = np.asarray(curves[0].x)
    shares = np.stack([100 * np.interp(x, curve.x, curve.y) for curve in curves])
    axes.plot(x, shares.mean(axis=0), **line)
    if len(curves) > 1:
        axes.fill_between(x, shares.min(axis=0), shares.max(axis=0), color=line["color"], alpha=0.18, linewidth=0)
    rising = (shares.max(axis=0) >= 1) & (shares.min(axis=0) <= min(99.0, shares.max() - 1e-9))
    return (float(x[rising][0]), float(x[rising][-1])) if rising.any() else (float(x[0]), float(x[-1]))


def history_panels(histories: Mapping[str, Mapping[str, History]], prefix: str) -> list[Markup | None]:
    """One small figure for each logged quantity whose name starts with ``prefix``.

    Args:
        histories: stage, seed, quantity, ``{step: value}`` as in ``RunResults``.
    """
    names = (key for seeds in histories.values() for quantities in seeds.values() for key in quantities)
    return [
        history_panel(
            name, {stage: [seed.get(name, {}) for seed in seeds.values()] for stage, seeds in histories.items()}
        )
        for name in dict.fromkeys(names)
        if name.startswith(prefix)
    ]


def history_panel(
    title: str, sides: Mapping[str, Sequence[Mapping[int, float]]], colors: Mapping[str, str] | None = None
) -> Markup | None:
    """A quantity over steps: the seeds of each side thin, their mean bold; None when there is nothing to draw.

    Args:
        sides: name to ``{step: value}`` of each seed. colors: name to the stage whose colour it has.
    """
    curves = {name: [thinned(seed) for seed in seeds if seed] for name, seeds in sides.items()}
    curves = {name: found for name, found in curves.items() if found}
    if not curves:
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.6, 2.6)
        for name, found in curves.items():
            line = line_style((colors or {}).get(name, name)) | {"label": name}
            for steps, values in found if len(found) > 1 else []:
                axes.plot(steps, values, color=line["color"], linewidth=0.7, alpha=0.45)
            longest = max(len(steps) for steps, _ in found)
            style = line | ({"linestyle": "none"} if longest <= 2 else {})  # two points are no curve
            axes.plot(*mean_curve(found), **style, marker="." if longest <= _FEW else "")
        values = np.concatenate([values for found in curves.values() for _, values in found])
        if values.min() > 0 and values.max() > 20 * np.median(values):
            axes.set_yscale("log")
        elif values.min() >= 0:
            axes.set_ylim(bottom=max(axes.get_ylim()[0], 0.0))
        axes.set(xlabel="step", title=title)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
        )
        add_legend(axes)
        return to_svg(figure, f"{title} over training steps")


def interval_plot(metric: Metric, rows: Mapping[str, Sequence[Difference | None]]) -> Markup | None:
    """Dots and 95 % intervals of differences in a metric, a row a variant; None when there is nothing to draw.

    Full colour where the interval excludes zero: green for better, pink for worse. The first of a row is
    filled, the second hollow.

    Args:
        rows: variant to its differences, as many for each.
    """
    if not any(difference for row in rows.values() for difference in row):
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(4.6, 0.9 + 0.38 * len(rows))
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, row in enumerate(list(rows.values())[::-1]):
            shifts = [0.14, -0.14] if len(row) > 1 else [0.0]
            for kind, (difference, shift) in enumerate(zip(row, shifts, strict=True)):
                if difference is not None:
                    _draw_interval(axes, metric, difference, place + shift, hollow=bool(kind))
        axes.set_yticks(range(len(rows)), list(rows)[::-1])
        better = " (left is better)" if metric.lower_is_better else ""
        axes.set(title=metric.label, xlabel=f"{metric.change_unit}{better}", ylim=(-0.6, len(rows) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))  # more labels of metres overlap
        axes.grid(axis="y", visible=False)
        return to_svg(figure, metric.label)


def _draw_interval(axes: Axes, metric: Metric, difference: Difference, place: float, hollow: bool) -> None:
    side = "distilled" if metric.gain(difference.mean) > 0 else "exported"
    color = COLORS[side if difference.significant else "other"]
    if not np.isnan(difference.low):
        axes.plot(
            [metric.scaled(difference.low), metric.scaled(difference.high)], [place] * 2, color=color, linewidth=2
        )
    face = "none" if hollow else color
    axes.plot(metric.scaled(difference.mean), place, "o", color=color, markerfacecolor=face, markersize=6)


def thinned(history: Mapping[int, float]) -> tuple[Array, Array]:
    """Steps and values, averaged over neighbours down to ``_MAX_POINTS``."""
    points = np.array(sorted(history.items()), dtype=np.float64)
    bins = np.array_split(points, min(len(points), _MAX_POINTS))
    steps, values = np.array([part.mean(axis=0) for part in bins]).T
    return steps, values


def mean_curve(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Mean over seeds at the longest seed's steps, over the stretch that every seed has reached."""
    steps = max((steps for steps, _ in curves), key=len)
    steps = steps[steps <= min(other[-1] for other, _ in curves)] if len(curves) > 1 else steps
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)


def _color(stage: str) -> str:
    return COLORS.get(stage, COLORS["other"])


def _style(stage: str) -> dict[str, Any]:
    return {"color": _color(stage), "marker": _MARKERS.get(stage, "v"), "label": stage, "linestyle": "none"}


def line_style(stage: str, baseline: int | None = None) -> dict[str, Any]:
    """How a model's line is drawn; ``baseline``: the place of a naive one among its like."""
    dashes: dict[str, Any] = {"teacher": (0, (5, 2)), "exported": (0, (1, 1.5))}
    about = {"color": _color(stage), "label": stage}
    if baseline is not None:
        return about | {"linewidth": 1.2, "linestyle": (0, _BASELINES[baseline % len(_BASELINES)])}
    return about | {"linewidth": 2.0, "linestyle": dashes.get(stage, "-")}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, to be drawn within ``mpl.rc_context(RC)``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.tick_params(which="both", length=0)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(axes: Axes) -> None:
    """A legend below the figure, where it hides nothing, if there is something to name."""
    if count := len(axes.get_legend_handles_labels()[1]):
        assert isinstance(axes.figure, Figure)
        columns = 2 if count in (2, 4) else 3
        axes.figure.legend(fontsize=9, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.2)


def to_svg(figure: Figure, title: str) -> Markup:
    """The figure as an ``<svg>`` element that scales with its container and can be read aloud."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):  # ids must differ between the figures of one page
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": title})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r'\1role="img"', svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)  # the page's own typeface
    svg = re.sub(r"font-family:[^;\"]*;? ?", "", svg)
    for placeholder, variable in _CSS.items():
        svg = svg.replace(placeholder, variable)
    return Markup(svg)
