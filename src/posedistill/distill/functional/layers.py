"""Which feature maps of a student and a teacher meet: the option ``layers``, one vocabulary for every loss on maps."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from posedistill.errors import RecipeError, describe

Layers = Literal["all"] | Annotated[tuple[str, ...] | dict[str, str], Field(min_length=1)]
"""``all`` that both networks have, names that both have, or ``{student's name: teacher's name}``; fine to coarse."""


def paired_layers(layers: Layers, student: Iterable[str], teacher: Iterable[str], loss: str) -> dict[str, str]:
    """``{student's name: teacher's name}`` of the maps to compare.

    Args:
        layers: as the recipe states them. student, teacher: names of the maps that either side has.
        loss: name of the loss, for the message.

    >>> paired_layers("all", ["p3", "p4"], ["p4", "p5"], "feature")
    {'p4': 'p4'}
    >>> paired_layers(("p4",), ["p3", "p4"], ["p4", "p5"], "feature")
    {'p4': 'p4'}
    >>> paired_layers({"p3": "p5"}, ["p3", "p4"], ["p4", "p5"], "feature")
    {'p3': 'p5'}

    Raises:
        RecipeError: a wanted map does not exist, or nothing is shared; the message lists what either side has.
    """
    student, teacher = list(student), list(teacher)
    found = f"student maps {', '.join(student) or 'of no name'}; teacher maps {', '.join(teacher) or 'of no name'}"
    if isinstance(layers, str):
        if shared := {name: name for name in student if name in teacher}:
            return shared
        expected = "a name that both have, or layers: {student's name: teacher's name}"
        raise RecipeError(describe("recipe", f"distill.{loss}.layers", found, expected))
    pairs = layers if isinstance(layers, dict) else {name: name for name in layers}
    missing = ", ".join(f"{ours}: {its}" for ours, its in pairs.items() if ours not in student or its not in teacher)
    if missing:
        raise RecipeError(describe("recipe", f"distill.{loss}.layers", found, f"{missing} among them"))
    return dict(pairs)


def teacher_layers(layers: Layers) -> frozenset[str] | None:
    """The teacher's maps that ``layers`` names, or None where it names none: all may be looked at.

    >>> sorted(teacher_layers({"p3": "layer2", "p4": "layer3"}))
    ['layer2', 'layer3']
    """
    if isinstance(layers, str):
        return None
    return frozenset(layers.values() if isinstance(layers, dict) else layers)
