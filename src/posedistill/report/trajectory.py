"""Where cameras stand and were thought to stand, seen from above and in 3D, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from posedistill.geometry.cameras import Array
from posedistill.report import markup
from posedistill.report.plots import COLORS, GRID, INK, RC, new_figure, to_svg
from posedistill.report.results import VARIANTS, Evaluation, Places

_MOST = 400
"""Dots of a kind in a figure; of more images every second, third ... is drawn."""
_STEPS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,))
"""Where colours change, within each power of ten: the finest that gives no more than ``_MOST_COLORS``."""
_MOST_COLORS = 12
_ENDS = (0.2, 0.86)
"""Of the colour map: dark for small errors, bright for large ones, and to be seen on a dark and on a light page."""


@dataclass(frozen=True)
class _View:
    """What all figures share, so that they can be compared.

    Attributes:
        axes: ``[3, 3]`` rows: along the longer side of a map, along its shorter side, up. origin: ``[3]``.
        low, high: ``[3]`` ends of the axes, metres. colors, norm: of errors in metres.
    """

    axes: Array
    origin: Array
    low: Array
    high: Array
    colors: Colormap
    norm: BoundaryNorm

    def turned(self, places: Places) -> Places:
        """The places in the axes of the view, thinned."""
        truth, estimate, train = (
            (array - self.origin) @ self.axes.T for array in (places.truth, places.estimate, places.train)
        )
        step = -(-len(truth) // _MOST)
        return Places(truth[::step], estimate[::step], train[:: -(-len(train) // _MOST) or 1])


def render_places(group: Sequence[Evaluation]) -> str:
    """Two figures for each of teacher, student and distilled (without it, exported), of the first seed of each."""
    shown = _shown(group)
    if not shown:
        return ""
    view = _view(list(shown.values()))
    figures = []
    for variant, places in shown.items():
        turned = view.turned(places)
        note = _note(places, turned, view)
        figures.append(_from_above(f"{variant}, from above{note}", turned, view))
        figures.append(_in_space(f"{variant}, in space{note}", turned, view))
    return markup.figures(figures, "maps")


def _shown(group: Sequence[Evaluation]) -> dict[str, Places]:
    """Of each variant the first seed that has places."""
    first: dict[str, Places] = {}
    for item in group:
        if item.variant in VARIANTS and item.places is not None and np.isfinite(item.places.errors).any():
            first.setdefault(item.variant, item.places)
    if "distilled" in first:
        first.pop("exported", None)  # the same network
    return first


def _view(shown: Sequence[Places]) -> _View:
    stands = np.concatenate([shown[0].truth, *(places.train for places in shown)])
    ups = [places.up for places in shown if places.up is not None]
    axes, origin = map_axes(stands, ups[0] if ups else None), shown[0].truth.mean(axis=0)
    known = (stands - origin) @ axes.T
    low, high = known.min(axis=0), known.max(axis=0)
    # Estimates may lie outside, but one of them must not make all else small.
    margin = 0.5 * max(float((high - low).max()), 1e-3)
    found = np.concatenate([(places.estimate - origin) @ axes.T for places in shown])
    found = np.clip(found[np.isfinite(found).all(axis=1)], low - margin, high + margin)
    low, high = np.minimum(low, found.min(axis=0)), np.maximum(high, found.max(axis=0))
    pad = 0.04 * max(float((high - low).max()), 1e-3)
    errors = np.concatenate([places.errors for places in shown])
    bounds = color_bounds(errors[np.isfinite(errors)])
    count = len(bounds) + 1
    colors = ListedColormap(mpl.colormaps["plasma"](np.linspace(*_ENDS, count)))
    return _View(axes, origin, low - pad, high + pad, colors, BoundaryNorm(bounds, count, extend="both"))


def map_axes(stands: Array, up: Array | None) -> Array:
    """``[3, 3]`` rows of a right-handed frame for a map: its long side, its short side, up.

    Without ``up`` it is the direction in which the ``[N, 3]`` places vary least, for cameras are carried about at one
    height; then nobody knows whether the map is seen from above or from below.

    >>> map_axes(np.array([[0.0, 0, 0], [0, 0, 5], [1, 0, 2.5], [-1, 0, 2.5]]), np.array([0.0, -2, 0])) + 0
    array([[ 0.,  0.,  1.],
           [-1.,  0.,  0.],
           [ 0., -1.,  0.]])
    """
    offsets = stands - stands.mean(axis=0)
    height = _directions(offsets)[2] if up is None else up / np.linalg.norm(up)
    long = _directions(offsets - np.outer(offsets @ height, height))[0]
    long = long - (long @ height) * height
    length = np.linalg.norm(long)
    if length < 0.5:  # all stand above one another
        long = np.cross(height, np.eye(3)[np.abs(height).argmin()])
        length = np.linalg.norm(long)
    long = long / length * np.sign(long[np.abs(long).argmax()])
    return np.stack([long, np.cross(height, long), height])


def _directions(offsets: Array) -> Array:
    """``[3, 3]`` principal directions in rows, the longest first."""
    directions: Array = np.linalg.eigh(offsets.T @ offsets)[1].T[::-1]
    return directions


def color_bounds(errors: Array) -> Array:
    """Round numbers around the 5th and the 95th percentile of errors, between which colours change.

    >>> color_bounds(np.linspace(0.12, 0.9, 50)).tolist()
    [0.15, 0.2, 0.3, 0.5, 0.7, 1.0]
    """
    low, high = np.maximum(np.percentile(errors, [5, 95]), 1e-4)
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    for steps in _STEPS:
        marks = np.array([float(f"{step * 10.0**decade:.3g}") for decade in decades for step in steps])
        chosen = marks[
            max(0, np.searchsorted(marks, low, side="right") - 1) : np.searchsorted(marks, high, side="right") + 1
        ]
        if len(chosen) < _MOST_COLORS:
            break
    return chosen


def _from_above(title: str, places: Places, view: _View) -> str:
    with mpl.rc_context(RC):
        figure, axes = new_figure(5.2, 3.9)
        axes.plot(*places.train[:, :2].T, ".", color=GRID, markersize=3, zorder=1)
        axes.plot(*_path(places.truth)[:, :2].T, "-", color=INK, linewidth=0.6, alpha=0.5, zorder=2)
        axes.plot(*places.truth[:, :2].T, ".", color=INK, markersize=2.5, zorder=3)
        lines = np.stack([places.truth[:, :2], places.estimate[:, :2]], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=COLORS["other"], linewidths=0.6, alpha=0.6, zorder=2))
        across, along = places.estimate[:, :2].T
        axes.scatter(across, along, c=places.errors, cmap=view.colors, norm=view.norm, s=13, linewidths=0, zorder=4)
        axes.set(title=title, xlabel="m", ylabel="m", aspect="equal")
        axes.set_xlim(view.low[0], view.high[0])
        axes.set_ylim(view.low[1], view.high[1])
        _add_scale(figure, axes, view)
        return to_svg(figure, title)


def _in_space(title: str, places: Places, view: _View) -> str:
    with mpl.rc_context(RC):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(projection="3d")
        assert isinstance(axes, Axes3D)
        axes.patch.set_alpha(0.0)
        axes.plot(*places.train.T, ".", color=GRID, markersize=3)
        axes.plot(*_path(places.truth).T, "-", color=INK, linewidth=0.6, alpha=0.5)
        axes.plot(*places.truth.T, ".", color=INK, markersize=2.5)
        lines = np.stack([places.truth, places.estimate], axis=1)[np.isfinite(places.errors)]
        axes.add_collection3d(Line3DCollection(list(lines), colors=COLORS["other"], linewidths=0.6, alpha=0.6))
        axes.scatter(
            *places.estimate.T, c=places.errors, cmap=view.colors, norm=view.norm, s=13, linewidths=0, depthshade=False
        )
        lengths = view.high - view.low
        for axis, low, high in zip((axes.xaxis, axes.yaxis, axes.zaxis), view.low, view.high, strict=True):
            axis.set_major_locator(MaxNLocator(max(2, round(6 * (high - low) / lengths.max())), steps=[1, 2, 5, 10]))
            axis.pane.set_visible(False)
            axis.line.set_color(GRID)
            axis.set_tick_params(pad=-2, labelsize=9)
            axis.set_view_interval(low, high, ignore=True)
        axes.set_box_aspect(lengths, zoom=1.2)
        axes.set(title=title, xlabel="m", ylabel="m", zlabel="height, m")
        axes.view_init(elev=28, azim=-62)
        _add_scale(figure, axes, view)
        return to_svg(figure, title)


def _add_scale(figure: Figure, axes: Axes, view: _View) -> None:
    bar = figure.colorbar(
        ScalarMappable(view.norm, view.colors),
        ax=axes,
        label="error, m",
        location="bottom",
        shrink=0.85,
        aspect=36,
        extend="both",
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0, labelsize=9)
    bar.set_ticks(view.norm.boundaries.tolist(), labels=[f"{value:g}" for value in view.norm.boundaries])


def _path(truth: Array) -> Array:
    """The way from image to image, broken (nan) where one recording ends and another begins."""
    steps = np.linalg.norm(np.diff(truth, axis=0), axis=1)
    if len(steps) == 0:
        return truth
    return np.insert(truth, np.flatnonzero(steps > 8 * np.median(steps)) + 1, np.nan, axis=0)


def _note(places: Places, turned: Places, view: _View) -> str:
    """What a figure does not show."""
    step = -(-len(places.truth) // len(turned.truth))
    beyond = ((turned.estimate < view.low) | (turned.estimate > view.high)).any(axis=1)
    parts = [f"1 image in {step}"] if step > 1 else []
    parts += [f"{beyond.sum()} farther out"] if beyond.any() else []
    return f" ({', '.join(parts)})" if parts else ""
