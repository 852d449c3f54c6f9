"""Threshold: the score under which a search reports nothing, chosen on pictures with and without the objects."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Threshold:
    """A score, and what it was chosen on.

    Attributes:
        score: poses that a search finds with a lower score are not reported.
        kept: share of the true objects that are found in the right place with this score or a higher one.
        false: share of the searches in photographs without the object that report it all the same.
        objects, photographs: how many searches of either kind it was chosen on.
        source: what these were, in words.
    """

    score: float
    kept: float
    false: float
    objects: int
    photographs: int
    source: str = ""

    def __str__(self) -> str:
        """In words.

        >>> print(Threshold(0.35, 0.95, 0.02, 63, 50, "validation frames, backgrounds"))
        score threshold 0.35: keeps 95 % of 63 objects, reports one in 2 % of 50 photographs without (validation \
frames, backgrounds)
        """
        told = f"keeps {100 * self.kept:.0f} % of {self.objects} objects, reports one in {100 * self.false:.0f} % of "
        about = f" ({self.source})" if self.source else ""
        return f"score threshold {self.score:.2f}: {told}{self.photographs} photographs without{about}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """``KeyError``, ``TypeError`` or ``ValueError`` for what ``to_json`` did not give."""
        found = cls(**value)
        numbers = (found.score, found.kept, found.false)
        if not all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers):
            raise ValueError(f"score, kept and false are {numbers}, expected numbers in 0..1")
        return found


def choose_threshold(true: ArrayLike, false: ArrayLike, source: str = "") -> Threshold:
    """The score that best tells objects from photographs without them: by F1, both kinds of searches weighing alike.

    ``F1 = 2 kept / (1 + kept + false)``. Between two scores that occurred every threshold is equally good: the widest
    of the best gaps is taken, and its middle, as far as possible from both.

    Args:
        true: ``[N]`` scores of the objects that were searched for, 0 where nothing was found in the right place.
        false: ``[M]`` scores of what was found where no object is, 0 for nothing.

    Raises:
        ValueError: one of them is empty.

    >>> choose_threshold([0.9, 0.8, 0.7, 0.2], [0.1, 0.3, 0.0]).score
    0.5
    """
    found, wrong = (np.asarray(scores, dtype=np.float64) for scores in (true, false))
    if not len(found) or not len(wrong):
        raise ValueError(f"found {len(found)} objects and {len(wrong)} photographs, expected some of each")
    edges = np.unique(np.concatenate([[0.0, 1.0], found, wrong]))
    cuts = (edges[1:] + edges[:-1]) / 2
    kept, reported = ((scores[:, None] >= cuts).mean(axis=0) for scores in (found, wrong))
    quality = (2 * kept / (1 + kept + reported)).round(12)
    best = max(range(len(cuts)), key=lambda place: (quality[place], edges[place + 1] - edges[place]))
    score, right, false_share = (float(value) for value in (cuts[best], kept[best], reported[best]))
    return Threshold(score, right, false_share, len(found), len(wrong), source)
