"""Checkpoints: safetensors written atomically and loaded strictly; no pickle is ever loaded."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from posedistill.errors import CheckpointError, TrainingError, describe


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata atomically (temporary file, fsync, rename).

    The temporary name is fixed, so what a killed process left behind is replaced by the next save.

    Raises:
        TrainingError: the disk is full or not writable; the file that was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"posedistill": json.dumps(metadata)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(describe(path, "save", error, "a disk with room; the old file is kept")) from None


def load_tensors(path: Path, names: Sequence[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (some by ``names``, or all) and metadata.

    Raises:
        CheckpointError: the file is missing, truncated, no safetensors file or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except FileNotFoundError:
        raise CheckpointError(describe(path, "checkpoint", "no such file", "a safetensors checkpoint")) from None
    except (SafetensorError, OSError, RuntimeError) as error:  # the last where the file changes while it is opened
        raise CheckpointError(describe(path, "checkpoint", f"unreadable ({error})", "a safetensors file")) from None
    if "posedistill" not in metadata:
        raise CheckpointError(describe(path, "metadata", "none of posedistill's", "a checkpoint of posedistill"))
    return tensors, json.loads(metadata["posedistill"])


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict; names and shapes must agree to the last one.

    Raises:
        CheckpointError: listing what is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in own]
    faults += [
        f"{name} {list(state[name].shape)} where the network has {list(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise CheckpointError(describe(path, "weights", shown, "the weights of this architecture"))
    module.load_state_dict(state)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: ``optimizer.<parameter index>.<entry>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The keys, in order, by which two signatures differ.

    >>> differing({"seed": 0, "stage": "student"}, {"seed": 1, "stage": "student", "distill": []})
    ['distill', 'seed']
    """
    return sorted(key for key in found.keys() | expected.keys() if found.get(key, ...) != expected.get(key, ...))


def section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it.

    >>> section({"model.a": 1, "average.a": 2}, "model.")
    {'a': 1}
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
