import io
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from posedistill import log


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(log, "LINE_SECONDS", 0.05)


def test_a_log_file_is_told_how_far_it_is(hasty, capsys):
    """No bar moves there: lines with count, time left and note."""
    with log.progress_bar() as bar:
        task = bar.add_task("train teacher", total=1000, note="")
        bar.add_task("not begun", total=3, note="", visible=False)
        for step in range(1, 7):
            bar.update(task, completed=step, note=f"loss {step}")
            time.sleep(0.03)
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 1000, " in line]
    assert len(lines) >= 2
    assert lines[-1].startswith("train teacher: ") and " left, loss " in lines[-1]


def test_a_terminal_sees_a_bar_alone(hasty, monkeypatch, capsys):
    monkeypatch.setattr(log.console, "_force_terminal", True)
    with log.progress_bar() as bar:
        bar.add_task("train", total=10, note="")
        time.sleep(0.2)
    assert " of 10" not in capsys.readouterr().err


def test_a_long_note_leaves_the_numbers_whole(monkeypatch):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(log, "console", console)
    with log.progress_of("check", "/a/long/path" * 5) as progress:
        progress(16, 16)
    last = console.file.getvalue().split("check ")[-1]
    assert " 16/16 0:00:0" in last and last.count("\u2026") == 1 and "/a/lo" in last


def test_no_line_after_the_end(hasty, capsys):
    with log.progress_bar() as bar:
        bar.add_task("train", total=10, note="")
    capsys.readouterr()
    time.sleep(0.2)
    assert not capsys.readouterr().err


def test_openmp_threads_sleep_while_they_wait():
    """Set before anything can load an OpenMP library, unless the user has chosen."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import posedistill, os, sys; assert 'torch' not in sys.modules; print(*map(os.environ.get, {names}))"
    others = {name: value for name, value in os.environ.items() if name not in names}
    cases = {(): "PASSIVE 2000", ("ACTIVE",): "ACTIVE None", ("PASSIVE", "0"): "PASSIVE 0"}
    for given, found in cases.items():
        environment = others | dict(zip(names, given, strict=False))
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == found, done.stderr
