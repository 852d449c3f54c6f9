"""Figures of viewpoints as SVG: errors over azimuth, true against found azimuth, maps of embeddings."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.viewpoint import MEDIAN, OPPOSITE
from posedistill.report.evaluations import Group
from posedistill.report.plots import COLORS, GRID, INK, RC, add_legend, line_style, new_figure, to_svg

SECTORS = 12
"""Into which azimuths are divided."""
_LEAST = 3
"""Targets of a sector, for a median to mean anything."""
_TICKS = [0, 90, 180, 270, 360]


def figures(group: Group) -> list[Markup]:
    """All that can be drawn of a group's evaluations; none where they are of something else."""
    shown = group.first_of_stages(lambda item: None if item.turns is None else item)
    if not shown:
        return []
    return [error_over_azimuth(group), *(azimuths(name, item) for name, item in shown.items()), *_maps(shown)]


def error_over_azimuth(group: Group) -> Markup:
    """Median error of each model over the true azimuth, all seeds together."""
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.9, 3.2)
        for name in group.names:
            found = [item for item in group.of(name) if item.turns is not None and MEDIAN.name in item.outcomes]
            if not found:
                continue
            azimuth = np.concatenate([item.turns.truth[:, 0] for item in found if item.turns is not None])
            errors = np.concatenate([item.outcomes[MEDIAN.name] for item in found])
            axes.plot(*sector_medians(azimuth, errors), **line_style(name), marker=".")
        axes.set(xlabel="true azimuth, °", ylabel="median error, °", xlim=(0, 360), ylim=(0, None), xticks=_TICKS)
        add_legend(axes)
        return to_svg(figure, "median error over azimuth")


def sector_medians(azimuth: Array, errors: Array) -> tuple[Array, Array]:
    """Middles of the sectors of azimuth with three targets or more, and the median error in each.

    >>> middles, medians = sector_medians(np.array([1.0, 2.0, 3.0, 359.0]), np.array([4.0, 6.0, 9.0, 50.0]))
    >>> middles.tolist(), medians.tolist()
    ([15.0], [6.0])
    """
    sector = (azimuth % 360 // (360 / SECTORS)).astype(int)
    known = [place for place in range(SECTORS) if (sector == place).sum() >= _LEAST]
    middles = np.array([(place + 0.5) * 360 / SECTORS for place in known])
    return middles, np.array([float(np.median(errors[sector == place])) for place in known])


def azimuths(name: str, item: Evaluation) -> Markup:
    """True against found azimuth of one model's targets, with the lines of right and of opposite views.

    The share in its title is the score, up to the symmetries of the categories.
    """
    assert item.turns is not None
    truth, found = item.turns.truth[:, 0], item.turns.estimate[:, 0]
    opposite = OPPOSITE.quantity(item.scores[OPPOSITE.name])
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.2, 3.2)
        for shift, style in ((0, "-"), (180, "--"), (-180, "--")):
            axes.plot([0, 360], [shift, 360 + shift], color=INK if shift == 0 else GRID, linestyle=style, linewidth=1)
        axes.plot(truth, found, ".", color=COLORS.get(name, COLORS["other"]), markersize=4)
        axes.set(xlabel="true azimuth, °", ylabel="found azimuth, °", xlim=(0, 360), ylim=(0, 360))
        axes.set(xticks=_TICKS, yticks=_TICKS, title=f"{name}: {opposite} opposite")
        return to_svg(figure, f"true and found azimuth of {name}")


def _maps(shown: dict[str, Evaluation]) -> Iterator[Markup]:
    for name, item in shown.items():
        turns = item.turns
        assert turns is not None
        labels = np.array(item.labels)[turns.mapped] if item.labels else np.zeros(0, str)
        for method, points in (("PCA", turns.pca), ("t-SNE", turns.tsne)):
            if len(points):
                yield embedding_map(f"{name}: {method} by azimuth", points, azimuth=turns.truth[turns.mapped, 0])
                if len(set(labels.tolist())) > 1:
                    yield embedding_map(f"{name}: {method} by category", points, categories=labels)


def embedding_map(
    title: str, points: Array, *, azimuth: Array | None = None, categories: NDArray[np.str_] | None = None
) -> Markup:
    """Points ``[N, 2]``, coloured by azimuth round the circle, or by category with a legend."""
    with mpl.rc_context(RC):
        figure, axes = new_figure(3.2, 3.2)
        if azimuth is not None:
            colors = mpl.colormaps["hsv"](azimuth % 360 / 360)
            axes.scatter(points[:, 0], points[:, 1], s=9, c=colors, linewidths=0)
            _colour_key(axes)
        for place, name in enumerate(sorted(set([] if categories is None else categories.tolist()))):
            own = categories == name
            axes.scatter(
                points[own, 0], points[own, 1], s=9, color=mpl.colormaps["tab20"](place % 20), label=name, linewidths=0
            )
        axes.set(title=title, xticks=[], yticks=[])
        add_legend(axes)
        return to_svg(figure, title)


def _colour_key(axes: Axes) -> None:
    """Names of the colours of four azimuths."""
    for place, words in enumerate(("0° front", "90°", "180° rear", "270°")):
        axes.scatter([], [], s=16, color=mpl.colormaps["hsv"](place / 4), label=words)
