"""Making batches ahead of the step that wants them, and keeping torch to one thread where a pool shares a batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
_one_at_a_time = threading.Lock()


def prefetch(make: Callable[[int], T], start: int, stop: int, device: torch.device, depth: int = 2) -> Iterator[T]:
    """``make(start)`` to ``make(stop - 1)``, made in a background thread, ``depth`` of them beside the next.

    What goes wrong there is raised here; closing the iterator ends the thread.
    """
    # On an accelerator both threads use the device's default stream, so its work keeps the order of the queue.
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        if device.type == "cuda":
            pool.submit(torch.cuda.set_device, device).result()
        steps = iter(range(start, stop))
        ahead = deque(pool.submit(make, step) for step in islice(steps, depth + 1))
        while ahead:
            item = ahead.popleft().result()
            ahead.extend(pool.submit(make, step) for step in islice(steps, 1))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


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
