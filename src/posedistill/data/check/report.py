"""CheckReport: what a data set holds and everything that is wrong with it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from posedistill.data.faults import Fault, FaultKind
from posedistill.errors import DataError, describe

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
"""Messages kept for each kind of fault; all are counted."""
VISIBILITY_BINS = 10


@dataclass
class Faults:
    """Collects faults; ``add`` has the signature of ``OnFault``."""

    counts: Counter[FaultKind] = field(default_factory=Counter)
    messages: dict[FaultKind, list[str]] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)

    def add(self, found: Fault) -> None:
        """Count a fault and keep its message if it is one of the first of its kind."""
        self.counts[found.kind] += 1
        self.files.add(found.file)
        if self.counts[found.kind] <= SHOWN:
            self.messages.setdefault(found.kind, []).append(str(found))


def require_some(root: Path, limit: int | None) -> None:
    """Refuse to look at no frame: the report would say that there are no faults."""
    if limit is not None and limit < 1:
        raise DataError(describe(root, "limit", limit, "at least 1 frame to decode"))


class Summary(Protocol):
    """What a split holds, of whichever kind the data set is."""

    def lines(self, name: str) -> list[str]:
        """For the report, under the split's name."""

    def to_dict(self) -> dict[str, Any]:
        """Plain json types."""


@dataclass
class SplitSummary:
    """What a split of a BOP data set holds.

    Attributes:
        frames: annotated images. checked: of these, the ones whose files were decoded.
        instances: object id -> count.
        visibility: instances with a visible share in tenths 0-0.1, ..., 0.9-1; those of unknown share in none.
        sizes: ``width x height`` -> images.
    """

    scenes: int = 0
    frames: int = 0
    checked: int = 0
    instances: Counter[int] = field(default_factory=Counter)
    visibility: list[int] = field(default_factory=lambda: [0] * VISIBILITY_BINS)
    sizes: Counter[str] = field(default_factory=Counter)

    def lines(self, name: str) -> list[str]:
        """Counts of frames, of objects, and of their visible shares."""
        objects = ", ".join(f"{obj_id}: {count}" for obj_id, count in sorted(self.instances.items()))
        counts = f"{self.scenes} scenes, {self.frames} frames ({self.checked} decoded; {shown_sizes(self.sizes)})"
        lines = [
            f"  {name}: {counts}, {sum(self.instances.values())} instances",
            f"    instances per object  {objects or 'none (no annotations)'}",
        ]
        if any(self.visibility):
            lines.append(f"    visible share, tenths  {' '.join(map(str, self.visibility))}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain json types."""
        return {
            "scenes": self.scenes,
            "frames": self.frames,
            "checked": self.checked,
            "instances": {str(obj_id): count for obj_id, count in sorted(self.instances.items())},
            "visibility": self.visibility,
            "sizes": dict(self.sizes),
        }


@dataclass
class CheckReport:
    """The result of ``check_dataset``.

    Attributes:
        counts: kind -> number of faults. messages: kind -> its first messages, each with file, key, found, expected.
        splits: split -> what it holds. overlay: the picture, where one was asked for and could be made.
        warnings: what is allowed and yet looks wrong, or was mended, one sentence each.
    """

    root: Path
    counts: dict[FaultKind, int]
    messages: dict[FaultKind, list[str]]
    splits: Mapping[str, Summary]
    overlay: Path | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not self.counts

    def to_dict(self) -> dict[str, Any]:
        """Plain json types."""
        return {
            "root": str(self.root),
            "ok": self.ok,
            "faults": {
                kind.name.lower(): {"count": count, "what": kind.value, "first": self.messages[kind]}
                for kind, count in self.counts.items()
            },
            "warnings": self.warnings,
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "overlay": None if self.overlay is None else str(self.overlay),
        }

    def text(self) -> str:
        """The report as plain text: what is there, then each kind of fault, most frequent first, then the verdict."""
        lines = [f"{self.root}"]
        for name, split in self.splits.items():
            lines += split.lines(name)
        for kind, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            lines.append(f"FAULT  {kind.value}: {count}")
            lines += [f"         {message}" for message in self.messages[kind]]
            if count > len(self.messages[kind]):
                lines.append(f"         ... and {count - len(self.messages[kind])} more")
        lines += [f"WARN   {warning}" for warning in self.warnings]
        if self.overlay is not None:
            lines.append(f"overlay: {self.overlay}")
        lines.append("no faults found" if self.ok else f"{sum(self.counts.values())} faults found")
        return "\n".join(lines)

    __str__ = text

    def render(self, console: "Console") -> None:
        """Print the report; faults in red, the verdict in green where there is none."""
        for line in self.text().split("\n"):
            style = "bold red" if line.startswith("FAULT") or line.endswith("faults found") else None
            style = "yellow" if line.startswith("WARN") else style
            style = "bold green" if line == "no faults found" else style
            console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def shown_sizes(sizes: Counter[str]) -> str:
    """The most frequent sizes of images.

    >>> shown_sizes(Counter({"640x480": 7}))
    '640x480 (7)'
    """
    return ", ".join(f"{size} ({count})" for size, count in sizes.most_common(3)) or "no images"
