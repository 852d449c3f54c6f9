import os
import signal

import pytest

from posedistill.interrupts import told, waiting


def test_what_was_said_inside_stays():
    with pytest.raises(KeyboardInterrupt, match="outer"), told(lambda: "outer"):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="inner"), told(lambda: "outer"):
        raise KeyboardInterrupt("inner")


@pytest.fixture
def default_handlers():
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_and_handlers_come_back(default_handlers, number):
    with waiting() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait(default_handlers):
    with pytest.raises(KeyboardInterrupt), waiting():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # as the parent of a process sends it after the terminal's
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored(default_handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with waiting() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()
