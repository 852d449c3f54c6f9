"""A student that begins with its teacher's layers: those of the same name and shape, or wider ones made narrower."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from posedistill.backbones import FeaturePyramid
from posedistill.errors import RecipeError, TrainingError, describe
from posedistill.estimators.base import Estimator
from posedistill.files import write_file

Tensors = Mapping[str, Tensor]
Channels = dict[tuple[int, int], Tensor]
"""Which of the teacher's channels are kept, by the widths of teacher and student."""


@dataclass(frozen=True)
class Inheritance:
    """What a student has of its teacher.

    Attributes:
        layers: taken as they are, by their names in the student's network. narrowed: taken with some of their channels.
        left: layers of the student's that the teacher does not have, or not in this shape.
        parameters: how many were taken, of ``total``.
    """

    layers: tuple[str, ...]
    narrowed: tuple[str, ...]
    left: tuple[str, ...]
    parameters: int
    total: int

    def __str__(self) -> str:
        """Layers taken by the parts of the network, and parameters.

        >>> str(Inheritance(("trunk.a", "trunk.b"), (), ("head.c",), 90, 100))
        'trunk 2 of 2 layers, head 0 of 1 layers; 90 of 100 parameters'
        """
        taken = Counter(name.partition(".")[0] for name in (*self.layers, *self.narrowed))
        parts = taken + Counter(name.partition(".")[0] for name in self.left)
        narrowed = f", {len(self.narrowed)} of them narrowed" if self.narrowed else ""
        counts = ", ".join(f"{part} {taken[part]} of {count} layers" for part, count in parts.items())
        return f"{counts}{narrowed}; {self.parameters:,} of {self.total:,} parameters"

    def write(self, path: Path) -> None:
        """As JSON, with the name of every layer."""
        write_file(path, json.dumps(asdict(self), indent=1), TrainingError)


def inherit(student: Estimator, teacher: Estimator, narrow: bool = False) -> Inheritance:
    """Copy into the student's network, in place, the layers that it shares with the teacher's.

    A layer is a module with parameters of its own, together with its buffers. Student and teacher share it where its
    name, kind and shape are the same; a pyramid's layers go by their strides. So a trunk that is cut earlier shares all
    its layers with one that is cut later.

    Args:
        narrow: whether to take layers with more channels than the student's too. Wherever the teacher has n channels
            and the student m, the same m are kept, so that what one layer puts out is what the next one expects. They
            are those of the largest norm over all layers that put out n.

    Raises:
        RecipeError: nothing is shared.
    """
    ours, theirs = (dict(_layers(network)) for network in (student.network, teacher.network))
    pairs = {name: (layer, theirs[name]) for name, layer in ours.items() if _same_kind(layer, theirs.get(name))}
    tensors = {name: (_tensors(own), _tensors(other)) for name, (own, other) in pairs.items()}
    equal = {name: both for name, both in tensors.items() if _fit(*both)}
    wider = {name: both for name, both in tensors.items() if narrow and name not in equal and _can_narrow(*both)}
    channels = _largest_channels(wider.values())
    narrowed = {name: both for name, both in wider.items() if _narrowings(*both) <= channels.keys()}
    taken = equal | narrowed
    if not any(value.ndim > 1 for own, _ in taken.values() for value in own.values()):
        found = "a student that shares no layer with its teacher"
        expected = "a teacher with layers of the same names and shapes, such as the student's backbone cut later"
        raise RecipeError(describe("recipe", "student.inherit", found, expected))
    with torch.no_grad():
        for own, other in taken.values():
            for key, value in own.items():
                value.copy_(_selected(other[key], value, channels))
    return Inheritance(
        tuple(equal),
        tuple(narrowed),
        tuple(name for name in ours if name not in taken),
        sum(weight.numel() for name in taken for weight in ours[name].parameters(recurse=False)),
        sum(weight.numel() for weight in student.network.parameters()),
    )


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with parameters of their own, by name; a pyramid's by the stride they work for."""
    modules = dict(network.named_modules())
    pyramids = {f"{place}.": module for place, module in modules.items() if isinstance(module, FeaturePyramid)}
    for name, module in modules.items():
        if next(module.parameters(recurse=False), None) is not None:
            place = next((place for place in pyramids if name.startswith(place)), None)
            yield name if place is None else place + pyramids[place].purpose(name.removeprefix(place)), module


def _same_kind(own: nn.Module, other: nn.Module | None) -> bool:
    """Whether they could be the same layer but for their widths; depthwise convolutions are a kind of their own."""
    grouped = [getattr(layer, "groups", 1) > 1 for layer in (own, other)]
    return type(own) is type(other) and grouped[0] == grouped[1]


def _tensors(layer: nn.Module) -> Tensors:
    """A layer's own parameters and buffers, to be written to."""
    return {key: value for key, value in layer.state_dict(keep_vars=True).items() if "." not in key}


def _fit(own: Tensors, other: Tensors) -> bool:
    return own.keys() == other.keys() and all(value.shape == other[key].shape for key, value in own.items())


def _can_narrow(own: Tensors, other: Tensors) -> bool:
    """Whether every tensor of the student's layer is the teacher's with fewer channels."""
    if own.keys() != other.keys():
        return False
    shapes = [(value.shape, other[key].shape) for key, value in own.items()]
    return all(
        len(ours) == len(theirs) and ours[2:] == theirs[2:] and all(a <= b for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in shapes
    )


def _narrowings(own: Tensors, other: Tensors) -> set[tuple[int, int]]:
    """The widths, teacher's and student's, between which a layer is narrowed."""
    return {
        widths
        for key, value in own.items()
        for widths in zip(other[key].shape, value.shape, strict=True)
        if widths[0] != widths[1]
    }


def _largest_channels(pairs: Iterable[tuple[Tensors, Tensors]]) -> Channels:
    """The channels of the largest norm, in their order, for every width that is put out and narrowed.

    Norms of a layer count relative to its mean, so that no layer outweighs the others.
    """
    norms: dict[tuple[int, int], Tensor] = {}
    for own, other in pairs:
        for key, value in other.items():
            widths = (len(value), len(own[key])) if key.endswith("weight") else (0, 0)
            if widths[0] != widths[1]:
                norm = value.detach().flatten(1).norm(dim=1) if value.ndim > 1 else value.detach().abs()
                norms[widths] = norms.get(widths, torch.zeros_like(norm)) + norm / norm.mean().clamp(min=1e-12)
    return {widths: norm.topk(widths[1]).indices.sort().values for widths, norm in norms.items()}


def _selected(value: Tensor, like: Tensor, channels: Channels) -> Tensor:
    """The teacher's tensor with the student's channels."""
    for axis, widths in enumerate(zip(value.shape, like.shape, strict=True)):
        if widths[0] != widths[1]:
            value = value.index_select(axis, channels[widths])
    return value
