"""Table and Cell: a table as the page, the terminal and markdown print it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a detail to print smaller, and a 0..1 value where the page may colour it."""

    text: str
    detail: str = ""
    heat: float | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


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

    def to_rich(self) -> "RichTable":
        """The same for the terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table as RichTable

        caption = escape("\n".join(self.notes)) if self.notes else None
        table = RichTable(
            title=escape(self.title) or None, caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        for index, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if index else "left", no_wrap=not index, overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(f"{cell.text}\n{cell.detail}".strip()) for cell in row))
        return table
