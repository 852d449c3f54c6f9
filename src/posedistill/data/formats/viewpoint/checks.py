"""What viewpoints and boxes must be like, whatever format they come from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, fault
from posedistill.geometry.viewpoint import in_range


@contextmanager
def entry_of(path: Path, key: str, expected: str) -> Iterator[None]:
    """Make a fault of whatever an entry raises that lacks a part, or holds something else in its place."""
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise fault(FaultKind.POSE, path, key, found, expected) from None


def checked_viewpoint(angles: list[float]) -> np.ndarray:
    """Azimuth in 0..360, elevation as it is, in-plane rotation in -180..180; ``ValueError`` for what cannot be."""
    azimuth, elevation, inplane = angles
    if not all(map(math.isfinite, angles)):
        raise ValueError(f"angles {angles}, not all of them numbers")
    if abs(elevation) > 90:
        raise ValueError(f"elevation {elevation:g}, beyond -90..90 degrees: are columns swapped?")
    if abs(inplane) > 360 or abs(azimuth) > 720:
        raise ValueError(f"azimuth {azimuth:g}, in-plane rotation {inplane:g}, beyond a turn of 360 degrees")
    return in_range(np.array(angles))


def checked_box(box: Any) -> tuple[float, float, float, float] | None:
    """Left, upper, right, lower; ``ValueError`` for an empty box."""
    if box is None:
        return None
    left, upper, right, lower = box
    if not (math.isfinite(left + upper + right + lower) and left < right and upper < lower):
        raise ValueError(f"a box of left {left:g}, upper {upper:g}, right {right:g}, lower {lower:g}: it is empty")
    return left, upper, right, lower
