"""Figures of a report as inline SVG that follows the page's light or dark theme.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables; text stays text. A variant has the
same colour (Okabe and Ito's colour-blind safe set) and the same marker in every figure.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from posedistill.geometry.cameras import Array
from posedistill.report.metrics import Metric
from posedistill.report.results import REFERENCES, Evaluation, scores_of, variant_rank
from posedistill.report.statistics import summarise

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
_MAX_POINTS = 240


def accuracy_over_cost(group: Sequence[Evaluation], metric: str, costs: Mapping[str, float], label: str) -> str | None:
    """A metric of each variant over a cost on a logarithmic axis, bars of one standard deviation over seeds.

    Errors stand on a logarithmic axis too, with the trivial answers as dashed lines.

    Args:
        costs: variant to a positive number. label: what it is, with its unit.

    Returns:
        SVG, or None when fewer than two variants have both numbers.
    """
    about = Metric(metric)
    points = {name: scores_of(group, name, metric) for name, cost in costs.items() if cost > 0}
    points = {name: values for name, values in points.items() if values}
    if len(points) < 2:
        return None
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2 if about.lower_is_better else 2.9)
        for name, values in sorted(points.items(), key=lambda pair: variant_rank(pair[0])):
            summary = summarise([about.scaled(value) for value in values])
            axes.errorbar(
                costs[name],
                summary.mean,
                yerr=None if np.isnan(summary.std) else summary.std,
                capsize=3,
                markersize=9,
                **_style(name),
            )
        axes.set(xscale="log", xlabel=label, ylabel=about.axis)
        axes.margins(x=0.15, y=0.2)
        _plain_log(axes.xaxis)
        if about.lower_is_better:
            axes.set_yscale("log")
            _draw_references(axes, group, metric)
            low, high = axes.get_ylim()
            _plain_log(axes.yaxis, few=high / low < 8)
        add_legend(axes, below=about.lower_is_better)
        return to_svg(figure, f"{about.label} over {label}")


def _draw_references(axes: Axes, group: Sequence[Evaluation], metric: str) -> None:
    """A dashed line for each trivial answer that was measured, named at alternating ends."""
    for place, name in enumerate(REFERENCES):
        for value in scores_of(group, name, metric):
            axes.axhline(value, **_line(name) | {"label": None}, zorder=1)
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


def error_curves(group: Sequence[Evaluation], metric: str) -> str | None:
    """Share of images within an error on a logarithmic axis: mean over seeds, their band, trivial answers dashed."""
    variants = sorted({item.variant for item in group if metric in item.curves}, key=variant_rank)
    if not variants:
        return None
    about = Metric(metric)
    error = about.label.removeprefix("median ") + " error"
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2)
        ranges = {variant: _draw_curves(axes, group, variant, metric) for variant in variants}
        # Trivial answers may be far better or worse: the networks are what is to be told apart.
        shown = [ranges[name] for name in variants if name not in REFERENCES] or list(ranges.values())
        axes.set(xscale="log", xlabel=f"{error}, {about.unit}", ylabel="images within it, %", ylim=(0, 102))
        axes.set_xlim(min(low for low, _ in shown), max(high for _, high in shown))
        _plain_log(axes.xaxis)
        add_legend(axes, below=True)
        return to_svg(figure, f"images within a {error}")


def _draw_curves(axes: Axes, group: Sequence[Evaluation], variant: str, name: str) -> tuple[float, float]:
    """The curve of a variant in %, and the band of its seeds; returns between which x it rises."""
    curves = [item.curves[name] for item in group if item.variant == variant and name in item.curves]
    x = np.asarray(curves[0][0])
    shares = np.stack([100 * np.interp(x, *curve) for curve in curves])
    axes.plot(x, shares.mean(axis=0), **_line(variant))
    if len(curves) > 1:
        axes.fill_between(x, shares.min(axis=0), shares.max(axis=0), color=_color(variant), alpha=0.18, linewidth=0)
    rising = (shares.max(axis=0) >= 1) & (shares.min(axis=0) <= min(99.0, shares.max() - 1e-9))
    return (float(x[rising][0]), float(x[rising][-1])) if rising.any() else (float(x[0]), float(x[-1]))


def recall_curves(group: Sequence[Evaluation], name: str = "add") -> str | None:
    """Recall over the tolerated error, mean over seeds with the band between the lowest and the highest seed."""
    variants = sorted({item.variant for item in group if name in item.curves}, key=variant_rank)
    if not variants:
        return None
    label = "ADD(-S)" if name == "add" else name
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 2.9)
        for variant in variants:
            _draw_curves(axes, group, variant, name)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.set(xlabel=f"tolerated {label} error, % of the diameter", ylabel="recall, %", ylim=(0, 102))
        axes.set_xlim(left=0)
        add_legend(axes)
        return to_svg(figure, f"recall over tolerated {label} error")


def history_panels(histories: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]], prefix: str) -> list[str]:
    """One small figure for each logged quantity whose name starts with ``prefix``; seeds thin, their mean bold.

    Args:
        histories: variant, seed, quantity, ``{step: value}`` as in ``RunResults``.
    """
    names = (key for seeds in histories.values() for quantities in seeds.values() for key in quantities)
    quantities = [name for name in dict.fromkeys(names) if name.startswith(prefix)]
    return [_history_panel(histories, quantity) for quantity in quantities]


def _history_panel(histories: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]], quantity: str) -> str:
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.6, 2.5)
        everything: list[Array] = []
        for variant, seeds in histories.items():
            curves = [thinned(quantities[quantity]) for quantities in seeds.values() if quantities.get(quantity)]
            if not curves:
                continue
            everything += [values for _, values in curves]
            if len(curves) > 1:
                for steps, values in curves:
                    axes.plot(steps, values, color=_color(variant), linewidth=0.7, alpha=0.45)
            axes.plot(*mean_curve(curves), **_line(variant))
        values = np.concatenate(everything)
        if values.min() > 0 and values.max() > 20 * np.median(values):
            axes.set_yscale("log")
        axes.set(xlabel="step", title=quantity)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
        )
        add_legend(axes)
        return to_svg(figure, f"{quantity} over training steps")


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


def _color(variant: str) -> str:
    return COLORS.get(variant, COLORS["other"])


def _style(variant: str) -> dict[str, Any]:
    return {"color": _color(variant), "marker": _MARKERS.get(variant, "v"), "label": variant, "linestyle": "none"}


def _line(variant: str) -> dict[str, Any]:
    dashes = {"teacher": (0, (5, 2)), "exported": (0, (1, 1.5))}
    if variant in REFERENCES:
        pattern = [(1, 1.5), (4, 2), (8, 2, 1, 2)][list(REFERENCES).index(variant)]
        return {"color": _color(variant), "label": variant, "linewidth": 1.2, "linestyle": (0, pattern)}
    return {"color": _color(variant), "label": variant, "linewidth": 2.0, "linestyle": dashes.get(variant, "-")}


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


def add_legend(axes: Axes, below: bool = False) -> None:
    """A legend where there is something to name: where there is room for it, or below the figure."""
    count = len(axes.get_legend_handles_labels()[1])
    if count and below:
        assert isinstance(axes.figure, Figure)
        columns = 3 if count > 4 else 2
        axes.figure.legend(fontsize=9, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.2)
    elif count:
        axes.legend(fontsize=10, loc="best", handlelength=1.8)


def to_svg(figure: Figure, title: str) -> str:
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
    return svg
