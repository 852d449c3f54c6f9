"""CheckReport: what a data set holds and everything that is wrong with it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from posedistill.data.faults import Fault, FaultKind

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
"""Messages kept for each kind of fault; all are counted."""


@dataclass
class Summary:
    """What a split holds.

    Attributes:
        head: its kind and parts, in words. frames: annotated images, or photographs with a pose.
        lines: what else there is to say of it.
        checked: frames whose files were decoded. sizes: ``width x height`` -> images.
    """

    head: str
    frames: int
    lines: list[str]
    checked: int = 0
    sizes: Counter[str] = field(default_factory=Counter)

    def text(self, name: str) -> list[str]:
        """The lines of the report, under the split's name."""
        sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common(3)) or "no images"
        first = f"  {name}: {self.head}, {self.frames} frames ({self.checked} decoded; {sizes})"
        return [first, *(f"    {line}" for line in self.lines)]


@dataclass
class CheckReport:
    """The result of ``check_dataset``; ``add`` collects faults as an ``OnFault``.

    Attributes:
        counts: kind -> number of faults. messages: kind -> its first messages, each with file, key, found, expected.
        splits: split -> what it holds. overlay: the picture, where one was asked for and could be made.
        warnings: what is allowed and yet looks wrong, or was mended, one sentence each. files: those with a fault.
    """

    root: Path
    counts: Counter[FaultKind] = field(default_factory=Counter)
    messages: dict[FaultKind, list[str]] = field(default_factory=dict)
    splits: dict[str, Summary] = field(default_factory=dict)
    overlay: Path | None = None
    warnings: list[str] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)

    def add(self, found: Fault) -> None:
        """Count a fault and keep its message if it is one of the first of its kind; once, if splits share its file."""
        message = str(found)
        if message in self._told:
            return
        self._told.add(message)
        self.counts[found.kind] += 1
        self.files.add(found.file)
        if self.counts[found.kind] <= SHOWN:
            self.messages.setdefault(found.kind, []).append(message)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not self.counts

    def text(self) -> str:
        """The report as plain text: what is there, then each kind of fault, most frequent first, then the verdict."""
        lines = [f"{self.root}"]
        for name, split in self.splits.items():
            lines += split.text(name)
        for kind, count in self.counts.most_common():
            lines.append(f"FAULT  {kind.value}: {count}")
            lines += [f"         {message}" for message in self.messages[kind]]
            if count > len(self.messages[kind]):
                lines.append(f"         ... and {count - len(self.messages[kind])} more")
        lines += [f"WARN   {warning}" for warning in self.warnings]
        if self.overlay is not None:
            lines.append(f"overlay: {self.overlay}")
        lines.append("no faults found" if self.ok else f"{self.counts.total()} faults found")
        return "\n".join(lines)

    __str__ = text

    def render(self, console: "Console") -> None:
        """Print the report; faults in red, the verdict in green where there is none."""
        for line in self.text().split("\n"):
            style = "bold red" if line.startswith("FAULT") or line.endswith("faults found") else None
            style = "yellow" if line.startswith("WARN") else style
            style = "bold green" if line == "no faults found" else style
            console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
