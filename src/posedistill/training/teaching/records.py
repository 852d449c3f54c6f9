"""Records: named tensors of every training step, a safetensors file each, given back as they were to the last bit."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from posedistill.errors import TrainingError
from posedistill.files import write_file


def write_record(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Store tensors with their memory format; dimensions that only repeat are stored once.

    Raises:
        TrainingError: no room on the disk; an older file is kept.
    """
    stored, layouts = {}, {}
    for name, tensor in tensors.items():
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
        layouts[name] = {"shape": list(tensor.shape), "order": order}
        for axis, stride in enumerate(strides):
            if stride == 0:
                tensor = tensor.narrow(axis, 0, 1)
        stored[name] = tensor.detach().cpu().permute(order).contiguous()
    about = {"layouts": json.dumps(layouts), "checksum": str(_checksum(stored))}
    write_file(path, save(stored, about), TrainingError)


def read_record(path: Path, check: bool = True) -> dict[str, Tensor] | None:
    """What :func:`write_record` stored; None where there is no file, or a damaged one.

    Without ``check`` the contents are not read to compare them with their checksum: they stay on the disk until
    somebody looks at them.
    """
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata()
        if check and int(about["checksum"]) != _checksum(stored):
            return None
        layouts = json.loads(about["layouts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return {name: _restored(stored[name], **layout) for name, layout in layouts.items()}


def _restored(tensor: Tensor, shape: list[int], order: list[int]) -> Tensor:
    return tensor.permute(np.argsort(order).tolist()).expand(shape)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
