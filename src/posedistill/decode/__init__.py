"""Decoders: a network's outputs -> poses, one file a family. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import Any

from posedistill.decode import posenet, wdrnet
from posedistill.decode.cells import CellLayout
from posedistill.decode.posenet import CameraPose, PoseNetDecoding
from posedistill.decode.wdrnet import PoseCandidate, WDRNetDecoding

__all__ = [
    "CameraPose",
    "CellLayout",
    "PoseCandidate",
    "PoseNetDecoding",
    "WDRNetDecoding",
    "get_decoder",
    "get_settings",
]

_DECODERS: dict[str, Callable[..., Any]] = {"posenet": posenet.decode, "wdrnet": wdrnet.decode}
_SETTINGS: dict[str, Callable[..., Any]] = {"posenet": PoseNetDecoding, "wdrnet": WDRNetDecoding}


def get_decoder(name: str) -> Callable[..., Any]:
    """The ``decode`` function of a family: a ``PoseCandidate`` or None for an object, a ``CameraPose`` for a camera.

    Raises:
        KeyError: the name is unknown; the message lists those there are.
    """
    try:
        return _DECODERS[name]
    except KeyError:
        raise KeyError(f"decoder {name!r} is not one of {sorted(_DECODERS)}") from None


def get_settings(name: str, values: Mapping[str, Any]) -> Any:
    """The settings that a family's ``decode`` takes, from plain values such as those of an exported file.

    Raises:
        KeyError: the family is unknown. TypeError: it has no such setting.

    >>> get_settings("wdrnet", {"cells": 20}).cells
    20
    """
    get_decoder(name)
    return _SETTINGS[name](**values)
