"""Decoders: a network's outputs -> poses, one file a family. Imports no torch."""

from collections.abc import Callable

from posedistill.decode import wdrnet
from posedistill.decode.cells import CellLayout
from posedistill.decode.wdrnet import PoseCandidate, WDRNetDecoding

__all__ = ["CellLayout", "PoseCandidate", "WDRNetDecoding", "get_decoder"]

_DECODERS: dict[str, Callable[..., PoseCandidate | None]] = {"wdrnet": wdrnet.decode}


def get_decoder(name: str) -> Callable[..., PoseCandidate | None]:
    """The ``decode`` function of a family.

    Raises:
        KeyError: the name is unknown; the message lists those there are.
    """
    try:
        return _DECODERS[name]
    except KeyError:
        raise KeyError(f"decoder {name!r} is not one of {sorted(_DECODERS)}") from None
