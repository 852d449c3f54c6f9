"""Where cameras stand and were thought to stand, seen from above and from the side: what the templates draw as SVG."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.cameras import VIEWS, View, map_axes, map_views
from posedistill.metrics.evaluation import Evaluation, Places
from posedistill.report.evaluations import Group

SIZE, MARGIN = (560, 420), 28
"""The most that a panel covers, and room around what it shows, pixels."""
_MOST = 400
"""Dots of a kind in a figure; of more images every second, third ... is drawn."""
_STEPS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,))
"""Where colours change, within each power of ten: the finest that gives no more than ``_MOST_COLORS``."""
_MOST_COLORS = 12
_ENDS = (0.2, 0.86)
"""Of the colour map: dark for small errors, bright for large ones, and to be seen on a dark and on a light page."""


class Panel(NamedTuple):
    """A view in pixels, points as ``[x, y]``."""

    title: str
    view: View
    train: list[list[float]]
    truth: list[list[float]]
    path: list[list[list[float]]]
    """The way from image to image, a list of points for each recording."""
    estimates: list[tuple[list[float], list[float], str]]
    """The true and the estimated place, and the colour of the error."""


class Map(NamedTuple):
    """The panels of one stage; ``note`` says what they do not show."""

    stage: str
    note: str
    panels: list[Panel]


class Maps(NamedTuple):
    """Figures of one scale and one set of colours, so that they can be compared.

    ``bounds`` are errors in ``unit``, between which there are ``colors``, one more than bounds.
    """

    figures: list[Map]
    bounds: list[float]
    colors: list[str]
    unit: str


def maps(group: Group) -> Maps | None:
    """A figure for each of teacher, student and distilled (without it, exported), of the first seed of each."""
    shown = group.first_of_stages(_places)
    if not shown:
        return None
    errors = np.concatenate([places.errors for places in shown.values()])
    bounds = color_bounds(errors[np.isfinite(errors)])
    plasma = mpl.colormaps["plasma"](np.linspace(*_ENDS, len(bounds) + 1))
    colors = [mpl.colors.to_hex(color) for color in plasma]
    views = _views(list(shown.values()))
    figures = []
    for stage, places in shown.items():
        step = -(-len(places.truth) // _MOST)
        thin = Places(
            places.truth[::step], places.estimate[::step], places.train[:: -(-len(places.train) // _MOST) or 1]
        )
        marks = [colors[index] for index in np.searchsorted(bounds, thin.errors).clip(0, len(bounds))]
        panels = [_panel(title, view, thin, marks) for title, view in zip(VIEWS, views, strict=True)]
        figures.append(Map(stage, _note(thin, views, step), panels))
    unit = next((metric.unit for metric in group.metrics if metric.name == "position_m"), "m")
    return Maps(figures, bounds.tolist(), colors, unit)


def color_bounds(errors: Array) -> Array:
    """Round numbers around the 5th and the 95th percentile of errors, between which colours change.

    >>> color_bounds(np.linspace(0.12, 0.9, 50)).tolist()
    [0.15, 0.2, 0.3, 0.5, 0.7, 1.0]
    """
    low, high = np.maximum(np.percentile(errors, [5, 95]), 1e-4)
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    for steps in _STEPS:
        marks = np.array([float(f"{step * 10.0**decade:.3g}") for decade in decades for step in steps])
        first, last = np.searchsorted(marks, [low, high], side="right")
        chosen = marks[max(0, first - 1) : last + 1]
        if len(chosen) < _MOST_COLORS:
            break
    return chosen


def _places(item: Evaluation) -> Places | None:
    """Where there are any."""
    places = item.places
    return places if places is not None and np.isfinite(places.errors).any() else None


def _views(shown: list[Places]) -> list[View]:
    stands = np.concatenate([shown[0].truth, *(places.train for places in shown)])
    axes = map_axes(stands, next((places.up for places in shown if places.up is not None), None))
    known = stands @ axes.T
    low, high = known.min(axis=0), known.max(axis=0)
    # Estimates may lie outside, but one of them must not make all else small.
    reach = 0.5 * max(float((high - low).max()), 1e-3)
    found = np.concatenate([places.estimate for places in shown]) @ axes.T
    found = np.clip(found[np.isfinite(found).all(axis=1)], low - reach, high + reach)
    inside = np.concatenate([known, found]) @ axes
    views = []
    for view in map_views(axes, inside, SIZE, MARGIN):
        height = view.scale * np.ptp(inside @ view.up) + 2 * MARGIN
        views.append(view._replace(size=(SIZE[0], max(round(height), 4 * MARGIN))))
    return views


def _panel(title: str, view: View, places: Places, colors: list[str]) -> Panel:
    truth, estimate, train = (
        view.pixels(points).round(1).tolist() for points in (places.truth, places.estimate, places.train)
    )
    found = np.isfinite(places.errors).tolist()
    estimates = [pair for pair, there in zip(zip(truth, estimate, colors, strict=True), found, strict=True) if there]
    path = [view.pixels(part).round(1).tolist() for part in _recordings(places.truth)]
    return Panel(title, view, train, truth, path, estimates)


def _recordings(truth: Array) -> list[Array]:
    """The way from image to image, in parts where one recording ends and another begins."""
    steps = np.linalg.norm(np.diff(truth, axis=0), axis=1)
    if not len(steps):
        return [truth]
    return np.split(truth, np.flatnonzero(steps > 8 * np.median(steps)) + 1)


def _note(places: Places, views: list[View], step: int) -> str:
    """What a figure does not show."""
    outside = np.zeros(len(places.estimate), dtype=bool)
    for view in views:
        pixels = view.pixels(places.estimate)
        outside |= ((pixels < 0) | (pixels > view.size)).any(axis=1)
    parts = [f"1 image in {step}"] if step > 1 else []
    parts += [f"{outside.sum()} farther out"] if outside.any() else []
    return ", ".join(parts)
