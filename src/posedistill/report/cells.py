"""Table and Cell: a table as the page, the terminal and markdown print it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP = 2
"""Characters between columns of the terminal."""


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, lines of detail to print smaller, and a 0..1 value where the page may colour it."""

    text: str
    detail: str = ""
    heat: float | None = None

    def __str__(self) -> str:
        return " ".join([self.text, *self.detail.split()]).strip()


@dataclass
class Table:
    """A table as the page, the terminal and markdown print it. The first column is left aligned, the rest right."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """GitHub markdown, title and notes included.

        >>> print(Table("", ["a", "b"], [[Cell("x"), Cell("1")]]).to_markdown())
        | a | b |
        | --- | ---: |
        | x | 1 |
        """
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("| --- |" + " ---: |" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join(lines + [f"\n{note}" for note in self.notes])

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """The same for a terminal: words stay whole, and columns for which there is no room are named below."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        widths = self._widths(options.max_width - 2)  # the box has an edge on either side
        hidden = self.columns[len(widths) :]
        table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for index, (column, width) in enumerate(zip(self.columns, widths, strict=False)):
            table.add_column(Text(column), justify="right" if index else "left", width=width, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(f"{cell.text}\n{cell.detail}".strip()) for cell in row[: len(widths)]))
        yield from [Text(self.title, "bold")] * bool(self.title)
        yield table
        yield from (Text(note, "dim") for note in self.notes)
        yield from [Text(f"Not shown for lack of room: {', '.join(hidden)}.", "dim")] * bool(hidden)

    def _widths(self, room: int) -> list[int]:
        """Characters for each column from the left, as far as they fit: texts in one line, all else by whole words."""
        least: list[int] = []
        wanted: list[int] = []
        for index, column in enumerate(self.columns):
            texts = [row[index].text for row in self.rows]
            details = [line for row in self.rows for line in row[index].detail.splitlines()]
            width = _longest([*texts, *column.split(), *(word for line in details for word in line.split())])
            if index > 1 and sum(least) + width + _GAP * index > room:
                break
            least.append(width)
            wanted.append(_longest([*texts, column, *details]))
        spare = max(room - sum(least) - _GAP * (len(least) - 1), 0)
        for index in [*range(1, len(least)), 0]:
            more = min(wanted[index] - least[index], spare)
            least[index], spare = least[index] + more, spare - more
        return least


def plain(value: object) -> str:
    """Three significant digits below 100, whole numbers above, a dash where there is no number.

    >>> plain(1234.5), plain(0.12345), plain(None)
    ('1,234', '0.123', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=0)
