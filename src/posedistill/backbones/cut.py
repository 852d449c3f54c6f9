"""Maps by their strides, and cut trunks: ``NAME@STRIDE`` is a backbone's first layers, up to that stride's map.

``NAME@STRIDE:COUNT`` ends after so many blocks of that stride.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from posedistill.errors import RecipeError, describe

FINEST_STRIDE = 8
"""Of the maps that a backbone gives out, where nothing else is asked for."""


def split_cut(name: str) -> tuple[str, int | None]:
    """The network's own name, and the stride it is cut at where it is.

    >>> split_cut("tf_efficientnet_lite0@16"), split_cut("resnet18")
    (('tf_efficientnet_lite0', 16), ('resnet18', None))
    """
    network, _, stride = name.rpartition("@")
    return (network, int(stride)) if network and stride.isdecimal() else (name, None)


def split_blocks(name: str) -> tuple[str, int | None]:
    """The network's name as far as the stride it is cut at, and how many blocks of that stride are kept.

    >>> split_blocks("tf_efficientnet_lite0@16:4"), split_blocks("timm:resnet18@16")
    (('tf_efficientnet_lite0@16', 4), ('timm:resnet18@16', None))
    """
    network, _, count = name.rpartition(":")
    return (network, int(count)) if "@" in network and count.isdecimal() else (name, None)


def level_name(stride: int) -> str:
    """What the map of a stride, a power of two, is called in views and recipes.

    >>> level_name(8)
    'p3'
    """
    return f"p{stride.bit_length() - 1}"


def check_cut(name: str, cut: int | None, strides: Collection[int]) -> None:
    """Refuse a cut at a stride that the network ``name`` has no map of.

    Raises:
        RecipeError: naming the cuts that can be made.
    """
    if cut is not None and cut not in strides:
        expected = f"one of {', '.join(f'{name}@{stride}' for stride in strides)}"
        raise RecipeError(describe("recipe", "backbone", repr(f"{name}@{cut}"), expected))


def refuse_unused(name: str, network: nn.Module, forward: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """Refuse a cut network that holds parameters on which none of its maps depends.

    Args:
        network: on the meta device, where this costs nothing. forward: its pass from pictures to maps.

    Raises:
        RecipeError: naming the first of them.
    """
    network.eval()
    parameters = dict(network.named_parameters())
    maps = forward(torch.empty(1, 3, 224, 224, device="meta"))
    reached = torch.autograd.grad([level.sum() for level in maps], list(parameters.values()), allow_unused=True)
    unused = [key for key, gradient in zip(parameters, reached, strict=True) if gradient is None]
    if unused:
        found = f"{name!r}, of which {len(unused)} parameters serve no map, such as {unused[0]}"
        raise RecipeError(describe("recipe", "backbone", found, "a network that can be cut there"))
