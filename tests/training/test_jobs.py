"""Trials whose processes do next to nothing: what is asked of them is order, faults and interrupts."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from posedistill.interrupts import sigterm_interrupts
from posedistill.machine import cores
from posedistill.recipe.stages import students_of
from posedistill.training import jobs
from posedistill.training.jobs import environment_of, last_line, run_trials
from posedistill.training.trial import Trial


@dataclass(frozen=True)
class Scripted(Trial):
    """Runs a line of Python; ``done`` stands for a network that is there already."""

    script: str = ""
    place: Path = Path()
    done: bool = False

    @property
    def folder(self) -> Path:
        return self.place / self.title

    @property
    def steps(self) -> int:
        return 1

    def prepare(self) -> None:
        pass

    def finished(self) -> bool:
        return self.done

    def steps_done(self) -> int:
        return 0

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script]


@pytest.fixture
def scripted(tmp_path: Path, recipe):
    base = recipe()

    def make(title: str, script: str = "pass", done: bool = False) -> Trial:
        return Scripted(title, students_of(base)[0], script=script, place=tmp_path, done=done)

    return make


class Endings(list):
    """Titles and failures in the order in which trials ended."""

    def __call__(self, trial: Trial, failure: str | None) -> None:
        self.append((trial.title, failure))


def test_one_at_a_time_in_order(scripted, tmp_path):
    note = f"open({str(tmp_path / 'order')!r}, 'a').write(%r)"
    ended = Endings()
    run_trials([scripted(title, note % title) for title in "cab"], 1, ended)
    assert ended == [("c", None), ("a", None), ("b", None)]
    assert (tmp_path / "order").read_text() == "cab"


def test_two_at_a_time(scripted, tmp_path):
    """Each waits for the other, which one after the other never could."""
    wait = "import pathlib, time; p = pathlib.Path(%r); (p / %r).touch()\nwhile not (p / %r).exists(): time.sleep(0.01)"
    place, ended = str(tmp_path), Endings()
    run_trials([scripted("a", wait % (place, "1", "2")), scripted("b", wait % (place, "2", "1"))], 2, ended)
    assert sorted(ended) == [("a", None), ("b", None)]


def test_finished_ones_are_told_and_not_run(scripted):
    ended = Endings()
    run_trials([scripted("there", "raise SystemExit(1)", done=True), scripted("new")], 1, ended)
    assert ended == [("there", None), ("new", None)]


def test_a_failure_is_told_and_the_others_go_on(scripted, tmp_path):
    fails = "import sys; print('on its way'); print('loss: found NaN [so]\\n', file=sys.stderr); sys.exit(2)"
    ended = Endings()
    run_trials(
        [scripted("bad", fails), scripted("killed", "import os; os.kill(os.getpid(), 9)"), scripted("good")], 1, ended
    )
    log = tmp_path / "bad" / "train.log"
    assert ended[0] == ("bad", f"loss: found NaN [so] (see {log})")
    assert ended[1][1].startswith("killed by signal 9") and ended[2] == ("good", None)
    assert "on its way" in log.read_text()


def test_the_message_is_of_this_attempt(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("an older fault\n")
    start = log.stat().st_size
    assert last_line(log) == "an older fault" and last_line(log, start) == "no message"
    with log.open("a") as file:
        file.write("a new one\n  \n")
    assert last_line(log, start) == "a new one"


def test_an_interrupt_ends_the_processes(scripted, tmp_path, monkeypatch):
    processes: list[subprocess.Popen] = []
    begin = subprocess.Popen
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *a, **k: processes.append(begin(*a, **k)) or processes[-1])
    threading.Timer(1.0, lambda: os.kill(os.getpid(), 15)).start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        run_trials([scripted(title, "import time; time.sleep(60)") for title in "ab"], 2, Endings())
    assert time.monotonic() - before < 30
    assert len(processes) == 2 and all(process.poll() is not None for process in processes)


def test_processes_share_the_cores():
    assert environment_of(0, 1)["OMP_NUM_THREADS"] == str(cores())
    assert environment_of(0, 10 * cores())["OMP_NUM_THREADS"] == "1"


def test_processes_take_turns_with_gpus(monkeypatch):
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [environment_of(slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]
