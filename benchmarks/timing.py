"""How the benchmarks time work on processors and accelerators alike."""

import time
from collections.abc import Callable

import torch


def milliseconds(work: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Milliseconds of one call, from an idle device until it has done all that it was given."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def processor_milliseconds(work: Callable[[], object]) -> float:
    """Milliseconds of processor time, of all threads, that one call takes: others on the machine hardly change it."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def rate(make: Callable[[], int], seconds: float, device: str | torch.device = "cpu") -> tuple[float, float]:
    """Things a second, and a second of processor time, of ``make``, which makes some and says how many."""
    make()
    count, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        count += make()
    synchronize(device)
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def synchronize(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
