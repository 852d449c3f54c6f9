"""Interrupts: what a command says after one, and letting it wait until what was done can be kept."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told(words: Callable[[], str]) -> Iterator[None]:
    """Say of an interrupt in here what is then true of the work; what was said further inside stays.

    Raises:
        KeyboardInterrupt: with those words as its argument.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise (stop if stop.args else KeyboardInterrupt(words())) from None


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let a polite kill do what Ctrl-C does, so that the processes started here end with this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def waiting() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and a polite kill wait; yields what tells whether one does. A second Ctrl-C does not wait.

    A signal that this process ignores stays ignored, and in a thread nothing is changed.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in came
        came.append(number)
        if again:
            raise KeyboardInterrupt
        os.write(2, b"\nposedistill: stopping after this step; Ctrl-C again stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
