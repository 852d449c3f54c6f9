import ctypes
import os
import subprocess
import sys

import pytest

from posedistill.machine import cores, processor


def test_cores_are_those_the_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)


def test_the_processor_has_a_name_without_its_key(monkeypatch):
    assert processor() and not processor().startswith("model name")

    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert processor()


FAULTS = """
import ctypes, resource, sys
import numpy as np
from posedistill.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_memory_is_used_again():
    """Arrays of 64 MB, made and freed in turn, ask the system for no new pages."""

    def count(word: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, check=True).stdout)

    assert count("keep") < count("default") / 10
