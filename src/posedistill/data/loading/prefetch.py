"""Making batches ahead of the step that wants them, and keeping torch to one thread where a pool shares a batch."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
_one_at_a_time = threading.Lock()


def prefetch(make: Callable[[int], T], start: int, stop: int, device: torch.device, depth: int = 2) -> Iterator[T]:
    """``make(start)`` to ``make(stop - 1)``, made ahead in a background thread.

    What goes wrong there is raised here; closing the iterator ends the thread.
    """
    ready: queue.Queue[T | BaseException] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: T | BaseException) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            for step in range(start, stop):
                if closed.is_set():
                    return
                offer(make(step))
        except BaseException as error:
            offer(error)

    # On an accelerator both threads use the device's default stream, so its work keeps the order of the queue.
    thread = threading.Thread(target=produce, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def one_torch_thread() -> None:
    """Keep torch to this thread: a pool's threads share out a batch between them, in parts that fit a cache.

    Torch's thread count belongs to the thread that sets it, yet threads to come begin with the last one set by
    anybody; so another thread sets that back.
    """
    with _one_at_a_time:
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        restore = threading.Thread(target=torch.set_num_threads, args=(count,))
        restore.start()
        restore.join()
