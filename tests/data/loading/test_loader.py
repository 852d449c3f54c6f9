import threading
import time

import pytest
import torch
from tests.data.loading.made_packs import load, make_pack, same

from posedistill.errors import RecipeError


def test_a_step_is_a_pure_function(pack, objects):
    first, second = load(pack, objects), load(pack, objects, threads=1)
    batches = [first.batch(step) for step in range(6)]
    assert same(second.batch(4), batches[4]), "a resumed run, other threads"
    assert same(second.batch(1), batches[1]), "in any order"
    assert not torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(load(pack, objects, seed=4).batch(0).images, batches[0].images)


def test_every_instance_once_an_epoch(pack, objects):
    loader = load(pack, objects, batch_size=5)
    ids = torch.cat([loader.batch(step).ids for step in range(12)]).tolist()
    assert len(loader) == 12 and loader.steps == 3
    epochs = [ids[start : start + 12] for start in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_the_global_batch(pack, objects):
    whole = load(pack, objects, batch_size=6).batch(2)
    parts = [load(pack, objects, batch_size=6, rank=rank, world_size=2).batch(2) for rank in range(2)]
    for name in ("images", "K", "R", "t", "label", "score", "ids"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), atol=1e-5, rtol=0)
    for name, values in whole.targets.items():
        torch.testing.assert_close(torch.cat([part.targets[name] for part in parts]), values, atol=1e-5, rtol=0)
    with pytest.raises(RecipeError, match="batch_size"):
        load(pack, objects, batch_size=5, world_size=2)


def test_several_packs_in_given_shares(objects):
    packs = [make_pack(objects, 1, frames=2), make_pack(objects, 2, frames=20)]
    loader = load(packs, objects, shares=[3.0, 1.0], batch_size=16)
    shares = [(loader.batch(step).ids < 4).sum().item() for step in range(10)]
    assert all(abs(count - 12) <= 1 for count in shares)
    assert same(loader.batch(3), load(packs, objects, shares=[3.0, 1.0], batch_size=16).batch(3))
    ids = torch.cat([loader.batch(step).ids for step in range(20)])
    assert set(ids.tolist()) <= set(range(44)) and len(set(ids.tolist())) > 30
    for bad in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(RecipeError, match="shares"):
            load(packs, objects, shares=bad)


def test_prefetch_makes_the_same_batches(pack, objects):
    loader = load(pack, objects)
    ahead = list(loader.prefetch(2, 6))
    assert len(ahead) == 4
    assert all(same(batch, loader.batch(step)) for batch, step in zip(ahead, range(2, 6), strict=True))
    assert list(loader.prefetch(3, 3)) == []


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_fault_in_the_background_is_raised(pack, objects):
    loader = load(pack, objects, augment=False)
    batches = loader.prefetch(1, 9)
    next(batches), next(batches)
    with pytest.raises(IndexError, match="step 3"):
        next(batches)
    assert not batch_threads()


def test_closing_ends_the_thread(pack, objects):
    batches = load(pack, objects).prefetch(0, 1000)
    next(batches)
    time.sleep(0.05)
    assert batch_threads()
    batches.close()
    assert not batch_threads()


def test_torch_keeps_its_threads(pack, objects):
    before = torch.get_num_threads()
    loader = load(pack, objects)
    list(loader.prefetch(0, 2))
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before and counts == [before]
