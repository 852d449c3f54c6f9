"""CategoryDataset: pictures of things of named categories, each with a box and a viewpoint, whatever format it was."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.files import read_text, write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.viewpoint import viewpoint_rotation

_NOVEL = """bed bookshelf calculator cellphone computer door filing_cabinet guitar iron knife microwave pen pot rifle
shoe slipper stove toilet tub wheelchair"""
_ROUND = """ashtray basket bottle bucket can cap cup fire_extinguisher fish_tank flashlight helmet jar paintbrush pen
pencil plate pot road_pole screwdriver toothbrush trash_bin trophy"""
OBJECTNET_NOVEL = frozenset(_NOVEL.split())
"""The 20 of ObjectNet3D's 100 categories that no network of the zero-shot protocol sees (Zhou et al., ECCV 2018)."""
PASCAL_NOVEL = frozenset({"bus", "motorbike"})
"""The pair that is held out of PASCAL3D+."""
ROUND = frozenset(_ROUND.split())
"""Categories whose shape hardly tells a turn about the upright axis: their frame is never turned (PoseFromShape)."""


@dataclass(frozen=True, eq=False)
class AnnotatedView:
    """One annotated object in a picture.

    Attributes:
        image: the file. category: its name. shape: of the CAD model, empty where none is named.
        viewpoint: ``[3]`` azimuth, elevation, in-plane rotation, degrees; see ``geometry.viewpoint``.
        box: left, upper, right, lower, pixels; None for the whole picture.
        number: of the object in its picture. split: ``train`` or ``val`` (some sets: ``test``).
        truncated, occluded, difficult, keypoints: what the annotation says; keypoints where it says nothing.
    """

    image: Path
    category: str
    viewpoint: Array
    shape: str = ""
    box: tuple[float, float, float, float] | None = None
    number: int = 0
    split: str = "train"
    truncated: bool = False
    occluded: bool = False
    difficult: bool = False
    keypoints: bool = True

    def edges(self, size: tuple[float, float]) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of its box in a picture of that size (width, height)."""
        return self.box or (0.0, 0.0, *size)

    @property
    def clean(self) -> bool:
        """Whole, in front, and judged by its keypoints."""
        return self.keypoints and not self.truncated and not self.occluded


@dataclass(frozen=True, eq=False)
class CategoryDataset:
    """The annotated objects of a data set.

    Attributes:
        root: its folder, from which names count. views: the objects, one at least.
    """

    root: Path
    views: tuple[AnnotatedView, ...]

    def __post_init__(self) -> None:
        if not self.views:
            raise DataError(describe(self.root, "annotations", "no usable object", "at least one"))

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[AnnotatedView]:
        return iter(self.views)

    @property
    def category(self) -> tuple[str, ...]:
        """Of each object."""
        return tuple(view.category for view in self.views)

    @property
    def categories(self) -> tuple[str, ...]:
        """All that occur, in alphabetical order."""
        return tuple(sorted(set(self.category)))

    @property
    def viewpoint(self) -> Array:
        """``[N, 3]`` degrees."""
        return np.stack([view.viewpoint for view in self.views])

    @property
    def R(self) -> Array:
        """``[N, 3, 3]`` category to camera."""
        return viewpoint_rotation(self.viewpoint)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each object: its picture from the root on, and its number where that is not the picture's first."""
        paths = [Path(os.path.relpath(view.image, self.root)).as_posix() for view in self.views]
        return tuple(f"{path}#{view.number}" if view.number else path for path, view in zip(paths, self, strict=True))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "CategoryDataset":
        """The data set of some of the objects; ``DataError`` where there is none."""
        return replace(self, views=tuple(self.views[int(row)] for row in rows))

    def of_split(self, split: str, *, clean: bool = False) -> "CategoryDataset":
        """The objects of a split by the rules that published figures follow.

        Seen from straight above, or called difficult: never. ``clean`` asks for a whole, unhidden object with
        keypoints, as every published test does.

        Raises:
            DataError: nothing is left.
        """
        rows = [
            row
            for row, view in enumerate(self.views)
            if view.split == split and view.viewpoint[1] != 90 and not view.difficult and (view.clean or not clean)
        ]
        if not rows:
            found = ", ".join(f"{count} of {name}" for name, count in Counter(view.split for view in self).items())
            kind = f"clean objects of split {split}" if clean else f"objects of split {split}"
            raise DataError(describe(self.root, "split", f"no {kind} (there are {found})", "at least one"))
        return self.take(rows)

    def of_categories(self, wanted: Collection[str]) -> "CategoryDataset":
        """The objects of some categories.

        Raises:
            DataError: a category of which there is no object.
        """
        known = set(self.category)
        if missing := sorted(set(wanted) - known):
            expected = f"categories that it has ({', '.join(sorted(known))})"
            raise DataError(describe(self.root, "categories", f"no object of {', '.join(missing)}", expected))
        return self.take([row for row, view in enumerate(self.views) if view.category in wanted])

    def few(self, count: int, seed: int) -> "CategoryDataset":
        """``count`` objects of each category, drawn without replacement: the same for the same seed and data.

        A category's draw depends on the category and the seed alone, so that more categories change none of the others.

        Raises:
            DataError: a category with fewer.
        """
        rows: list[int] = []
        for category in self.categories:
            own = np.array([row for row, view in enumerate(self.views) if view.category == category])
            if len(own) < count:
                expected = f"at least {count}, one for each shot"
                raise DataError(describe(self.root, f"shots of {category}", f"{len(own)} objects", expected))
            draw = np.random.default_rng([seed, *category.encode()]).permutation(len(own))[:count]
            rows += sorted(own[draw].tolist())
        return self.take(rows)

    def listed(self, path: Path) -> "CategoryDataset":
        """The objects whose names a text file holds, one a line, as :meth:`write_list` wrote them.

        Raises:
            DataError: no such file, or a name of no object.
        """
        rows = {name: row for row, name in enumerate(self.names)}
        wanted = [line.strip() for line in read_text(path, "names of objects, one a line").splitlines() if line.strip()]
        if missing := [name for name in wanted if name not in rows]:
            found = f"{len(missing)} unknown names, the first {missing[0]!r}"
            raise DataError(describe(path, "names", found, f"names of objects in {self.root}"))
        return self.take([rows[name] for name in wanted])

    def write_list(self, path: Path) -> None:
        """Write the names of all objects, one a line."""
        write_file(path, "\n".join(self.names) + "\n")
