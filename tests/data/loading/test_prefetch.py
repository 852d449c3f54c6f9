import threading

import pytest
import torch

from posedistill.data.loading.prefetch import one_torch_thread, prefetch

CPU = torch.device("cpu")


def test_items_come_in_order():
    assert list(prefetch(lambda step: step**2, 2, 6, CPU)) == [4, 9, 16, 25]


def test_faults_are_raised_where_the_item_is_wanted():
    def make(step):
        if step == 2:
            raise ValueError("damaged")
        return step

    items = prefetch(make, 0, 5, CPU)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        next(items)


def test_no_more_than_depth_is_made_ahead():
    made, gate = [], threading.Semaphore(0)

    def make(step):
        made.append(step)
        gate.release()
        return step

    items = prefetch(make, 0, 100, CPU, depth=2)
    assert next(items) == 0
    for _ in range(4):  # one taken, two waiting, one that waits for a place
        gate.acquire()
    items.close()
    assert len(made) <= 5


def test_one_thread_stays_one_threads_business():
    count = torch.get_num_threads()
    seen = []
    worker = threading.Thread(target=lambda: (one_torch_thread(), seen.append(torch.get_num_threads())))
    worker.start()
    worker.join()
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [1, count]
