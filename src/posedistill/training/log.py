"""What a training run tells: a progress bar with rate and time left, metrics.jsonl and TensorBoard."""

import json
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from posedistill.errors import TrainingError, describe
from posedistill.files import write_file
from posedistill.log import progress_bar

NOTE_SECONDS = 2.0
"""Between two looks at the loss for the progress: it waits for the device each time."""


class TrainingLog:
    """Writes one JSON line a call to ``metrics.jsonl``, the same to TensorBoard, and drives the progress bar.

    After a resume the lines past the resumed step are dropped, so the file reads as if nothing had happened.
    """

    def __init__(self, folder: Path, title: str, steps: int, start: int, quiet: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self.steps, self.step, self.quiet = steps, start, quiet
        self.clock, self.clock_step = time.perf_counter(), start
        self.noted, self.noted_step = self.clock, start
        if quiet:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._drop_lines_after(start)
        from torch.utils.tensorboard import SummaryWriter  # slow to import, only needed here

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self.bar = progress_bar()
        self.task = self.bar.add_task(title, total=steps, completed=start, note="")

    def __enter__(self) -> Self:
        if not self.quiet:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet:
            self.bar.stop()
            with suppress(OSError):  # a full disk, which has been told before or does not matter any more
                self.writer.close()

    def advance(self, step: int, loss: Tensor) -> None:
        """Move the bar to ``step`` finished steps, of which the last had this loss."""
        if self.quiet:
            return
        self.bar.update(self.task, completed=step)
        seconds = time.perf_counter() - self.noted
        if seconds > NOTE_SECONDS:
            rate = (step - self.noted_step) / seconds
            self.bar.update(self.task, note=f"loss {float(loss):.4f}  {rate:.1f} steps/s")
            self.noted, self.noted_step = time.perf_counter(), step

    def rate(self, step: int) -> float:
        """Steps a second since the last call."""
        now = time.perf_counter()
        rate = (step - self.clock_step) / max(now - self.clock, 1e-9)
        self.clock, self.clock_step = now, step
        return rate

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step (the number of finished steps)."""
        if self.quiet:
            return
        try:
            record = {"step": step} | {name: round(value, 6) for name, value in values.items()}
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        except OSError as error:
            expected = "a disk with room; the last checkpoint is kept"
            raise TrainingError(describe(self.path, "save", error.strerror, expected)) from None

    def _drop_lines_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                continue  # the line a kill cut short
        write_file(self.path, "".join(line + "\n" for line in kept), TrainingError)
