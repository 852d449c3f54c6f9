"""The console that all messages go to, and the progress of everything that takes long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

LINE_SECONDS = 25.0
"""Between two lines of progress in a log file."""

console = Console(stderr=True)


class ProgressBar(Progress):
    """Bars in a terminal; in a log file, where nobody sees a bar move, a line every half minute."""

    def start(self) -> None:
        """Show the bars, or begin to print lines."""
        super().start()
        self._stopped = threading.Event()
        if not self.console.is_terminal:
            threading.Thread(target=self._print_lines, daemon=True).start()

    def stop(self) -> None:
        """Leave the bars as they are now."""
        self._stopped.set()
        super().stop()

    def _print_lines(self) -> None:
        while not self._stopped.wait(LINE_SECONDS):
            for task in self.tasks:
                if task.visible and not task.finished:
                    self.console.print(progress_line(task), highlight=False, markup=False, soft_wrap=True)


def progress_line(task: Task) -> str:
    """How far a task is, in one line: ``teacher seed 0: 200 of 1000, 0:01:40 left, loss 0.31``."""
    words = [f"{task.completed:g}" + ("" if task.total is None else f" of {task.total:g}")]
    if task.speed and task.total is not None:
        words.append(f"{timedelta(seconds=round(task.remaining / task.speed))} left")  # type: ignore[operator]
    return f"{task.description}: " + ", ".join([*words, *filter(None, [task.fields.get("note")])])


def progress_bar() -> ProgressBar:
    """The progress of a long stage: what, how far, how long still; ``note`` is a task's text at the end."""
    return ProgressBar(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(overflow="ellipsis")),  # a long path shrinks first
        console=console,
    )


@contextmanager
def progress_of(title: str, note: str = "") -> Iterator[Callable[[int, int], None]]:
    """The bar of one stage; yields what the stage calls with how much is done, and of how much."""
    with progress_bar() as bar:
        task = bar.add_task(title, total=None, note=note)
        yield lambda done, total: bar.update(task, completed=done, total=total)
