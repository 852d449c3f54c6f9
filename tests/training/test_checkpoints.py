import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from posedistill.errors import CheckpointError, TrainingError
from posedistill.recipe.networks import TrainSettings
from posedistill.training import checkpoints
from posedistill.training.checkpoints import (
    load_strictly,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
)
from posedistill.training.step import make_optimizer

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "step": torch.ones(()),
}


def test_round_trip(tmp_path: Path):
    path = tmp_path / "new" / "a.safetensors"
    save_tensors(path, TENSORS, {"step": 3, "scores": {"val/score": 0.5}})
    tensors, metadata = load_tensors(path)
    assert metadata == {"step": 3, "scores": {"val/score": 0.5}}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype
    assert [entry.name for entry in path.parent.iterdir()] == ["a.safetensors"]


def test_channels_last_and_shared_memory_are_saved_as_values(tmp_path: Path):
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_tensors(tmp_path / "a.safetensors", {"image": image, "part": image[:, :1]}, {})
    tensors, _ = load_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["image"], image) and torch.equal(tensors["part"], image[:, :1])


def test_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors: 'checkpoint': found no such file"):
        load_tensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_file(tmp_path: Path, size: int):
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, {"step": 3})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: 'checkpoint': found unreadable"):
        load_tensors(path)


def test_a_folder_is_no_checkpoint(tmp_path: Path):
    with pytest.raises(CheckpointError, match="'checkpoint': found"):
        load_tensors(tmp_path)


def test_foreign_safetensors(tmp_path: Path):
    save_file(TENSORS, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"found none of posedistill's, expected a checkpoint of posedistill"):
        load_tensors(tmp_path / "foreign.safetensors")


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_pickle_is_ever_loaded(tmp_path: Path, legacy: bool):
    path = tmp_path / "renamed.safetensors"
    torch.save({"trap": Trap(tmp_path / "sprung")}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"renamed\.safetensors: 'checkpoint': found unreadable"):
        load_tensors(path)
    assert not (tmp_path / "sprung").exists()


def test_another_architecture_is_named(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    state = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Identity(), torch.nn.Linear(2, 2)).state_dict()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(module, state, tmp_path / "other.safetensors")
    message = str(caught.value)
    assert "other.safetensors: 'weights': found" in message
    assert "missing 1.weight" in message and "unexpected 2.weight" in message
    assert "0.weight [2, 4] where the network has [2, 3]" in message
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_many_faults_are_counted(tmp_path: Path):
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    with pytest.raises(CheckpointError, match=r"missing 0\.weight; .*; and 3 more, expected"):
        load_strictly(module, {}, tmp_path / "other.safetensors")


@pytest.mark.parametrize("limit", [0, 4096])
def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, full_disk, limit: int):
    path = tmp_path / "last.safetensors"
    save_tensors(path, TENSORS, {"step": 1})
    before = path.read_bytes()
    with full_disk(limit), pytest.raises(TrainingError, match=r"last\.safetensors: 'save': found .*room"):
        save_tensors(path, {"weight": torch.zeros(10_000)}, {"step": 2})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some file systems only say so when the data is flushed."""
    path = tmp_path / "last.safetensors"
    save_tensors(path, TENSORS, {"step": 1})

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", refuse)
    with pytest.raises(TrainingError, match="No space left on device"):
        save_tensors(path, TENSORS, {"step": 2})
    assert load_tensors(path)[1] == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_broken_off_save_is_cleaned_up_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kill between write and rename leaves a temporary file; it must not stay for good."""
    path = tmp_path / "last.safetensors"

    def killed(_: int) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(checkpoints.os, "fsync", killed)
        patch.setattr(checkpoints.os, "getpid", lambda: -1)  # not the process that goes on
        save_tensors(path, TENSORS, {"step": 1})
    assert len(list(tmp_path.iterdir())) == 1 and not path.exists()
    save_tensors(path, TENSORS, {"step": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimizer_round_trip(tmp_path: Path, kind: str):
    def train(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            (module(torch.full((1, 3), float(step))) ** 2).sum().backward()
            optimizer.step()

    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        settings = TrainSettings(optimizer=kind, momentum=0.8, lr=0.05, weight_decay=0.1)
        return module, make_optimizer(list(module.parameters()), settings, torch.device("cpu"))

    straight, optimizer = make()
    train(straight, optimizer, range(6))
    first, optimizer = make()
    train(first, optimizer, range(3))
    save_tensors(tmp_path / "last.safetensors", first.state_dict() | optimizer_tensors(optimizer), {})
    second, optimizer = make()
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    restore_optimizer(optimizer, tensors)
    second.load_state_dict({name: tensors[name] for name in second.state_dict()})
    train(second, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))


def test_momentum_carries_the_last_step_into_the_next():
    """By hand: two gradients of 1, a rate of 0.1, a momentum of 0.8, and decay of the weight alone."""
    weight, bias = torch.nn.Parameter(torch.ones(1, 1)), torch.nn.Parameter(torch.ones(1))
    settings = TrainSettings(optimizer="sgd", momentum=0.8, lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer([weight, bias], settings, torch.device("cpu"))
    for _ in range(2):
        weight.grad, bias.grad = torch.ones(1, 1), torch.ones(1)
        optimizer.step()
    assert bias.item() == pytest.approx(1 - 0.1 - 0.1 * 1.8)
    first = 1 - 0.1 * 1.5
    assert weight.item() == pytest.approx(first - 0.1 * (1 + 0.5 * first + 0.8 * 1.5))
