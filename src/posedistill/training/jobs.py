"""Several networks trained at the same time, each by a process of its own: order, progress, faults and interrupts."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from posedistill.log import console, progress_bar
from posedistill.machine import cores
from posedistill.training.trial import Trial

Ended = Callable[[Trial, str | None], None]
"""Called when a trial has ended, with what went wrong if something did."""

STOP_SECONDS = 30.0
"""That a process gets to keep its last step before it is killed."""


def run_trials(trials: Sequence[Trial], jobs: int, ended: Ended, title: str = "train") -> None:
    """Run trials in their order, ``jobs`` at a time; finished ones are skipped, one that fails leaves the others be.

    An interrupt ends all processes before it goes on its way.

    Raises:
        CheckpointError: a trial's folder holds the network of another recipe; nothing was started.
    """
    for trial in trials:
        trial.prepare()
    pending = [trial for trial in trials if not trial.finished()]
    for trial in trials:
        if trial not in pending:
            ended(trial, None)
    if not pending:
        return
    running: dict[int, _Running] = {}
    with progress_bar() as bar:
        meter = _Meter(bar, title, pending)
        try:
            while pending or running:
                for slot in [slot for slot in range(jobs) if slot not in running][: len(pending)]:
                    running[slot] = _Running(pending.pop(0), slot, jobs)
                time.sleep(0.2)
                for slot, process in list(running.items()):
                    if process.child.poll() is not None:
                        del running[slot]
                        failure = process.failure()
                        meter.tell(process.trial, failure)
                        ended(process.trial, failure)
                meter.update([process.trial for process in running.values()])
        finally:
            _stop([process.child for process in running.values()])


def environment_of(slot: int, jobs: int) -> dict[str, str]:
    """The environment of one of ``jobs`` processes: its share of the cores, and one GPU where there are several."""
    threads = str(max(1, cores() // jobs))
    shared = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    if (gpus := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        shared["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]
    return os.environ | shared


def last_line(log: Path, start: int = 0) -> str:
    """The last line with something in it, of what was written from byte ``start`` on."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


class _Running:
    """A trial's process, its output in ``train.log`` beside the network."""

    def __init__(self, trial: Trial, slot: int, jobs: int) -> None:
        self.trial = trial
        self.log = trial.folder / "train.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(trial.command(), stdout=out, stderr=out, env=environment_of(slot, jobs))

    def failure(self) -> str | None:
        """What went wrong, once the process has ended."""
        code = self.child.returncode
        if code == 0:
            return None
        found = f"killed by signal {-code}" if code < 0 else last_line(self.log, self.start)
        return f"{found} (see {self.log})"


class _Meter:
    """Steps done of steps to do, and the time left by the speed since the start."""

    def __init__(self, bar: Any, title: str, trials: Sequence[Trial]) -> None:
        self.bar, self.trials, self.started = bar, list(trials), time.monotonic()
        self.first = self.done = sum(trial.steps_done() for trial in trials)
        self.total = sum(trial.steps for trial in trials)
        self.ended: dict[str, int] = {}
        self.task = bar.add_task(title, total=self.total, completed=self.done, note="")

    def update(self, running: Sequence[Trial]) -> None:
        waiting = [trial for trial in self.trials if trial.title not in self.ended]
        self.done = sum(self.ended.values()) + sum(trial.steps_done() for trial in waiting)
        note = f"{', '.join(trial.title for trial in running)}{self.left()}"
        self.bar.update(self.task, completed=self.done, note=note)

    def tell(self, trial: Trial, failure: str | None) -> None:
        self.ended[trial.title] = trial.steps  # a failed one will not be trained on
        self.update([])
        outcome = f"[red]failed: {escape(failure)}[/red]" if failure else "finished"
        count = f"{len(self.ended)} of {len(self.trials)}"
        console.print(f"{trial.title}: {outcome} ({count}{self.left()})", highlight=False)

    def left(self) -> str:
        if self.done <= self.first or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / (self.done - self.first) * (self.total - self.done)
        return f", about {seconds / 3600:.1f} h left" if seconds >= 5400 else f", about {seconds / 60:.0f} min left"


def _stop(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
