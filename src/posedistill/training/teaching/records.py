"""Records: named tensors of every training step, a safetensors file each, given back as they were to the last bit."""

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from posedistill.errors import TrainingError
from posedistill.files import in_bytes, write_file
from posedistill.log import console


class RecordStore:
    """A folder of records under a limit. What would not fit is not stored, and the training goes on.

    Args:
        what: is stored, in words. key: of a recipe, that sets ``limit``: gigabytes that the folder may hold.
        otherwise: what happens where there is no room, in words.
    """

    def __init__(self, what: str, folder: Path, key: str, limit: float, otherwise: str) -> None:
        self.what, self.folder, self.key, self.limit, self.otherwise = what, folder, key, limit, otherwise
        self._storing, self._told = True, False

    def tell_size(self, size: int, steps: int) -> None:
        """Say, once and before anything is stored, what ``steps`` of ``size`` bytes take; too much is not stored."""
        if self._told:
            return
        self._told, whole = True, size * steps
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        console.print(f"{self.what}: {in_bytes(whole)} for {steps} steps in {self.folder}")
        if whole > 1e9 * self.limit:
            self._give_up(f"{self.key} is {self.limit:g} GB")
        elif whole > free:
            self._give_up(f"{in_bytes(free)} are free")

    def write(self, records: Mapping[Path, Mapping[str, Tensor]]) -> None:
        """Store records, as long as there is room."""
        if not self._storing:
            return
        try:
            for path, tensors in records.items():
                write_record(path, tensors)
        except TrainingError as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self._storing = False
        console.print(f"{self.what}: no room ({reason}); {self.otherwise}")


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
    return {
        name: stored[name].permute(np.argsort(layout["order"]).tolist()).expand(layout["shape"])
        for name, layout in layouts.items()
    }


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
