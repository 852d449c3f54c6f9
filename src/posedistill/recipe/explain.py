"""Every key of a recipe, with its kind, default and meaning, out of the settings themselves: docs/keys.md."""

import difflib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posedistill.distill.base import DISTILLERS, find_distiller
from posedistill.errors import RecipeError, describe
from posedistill.estimators.registry import SETTINGS
from posedistill.recipe.places import models_of
from posedistill.recipe.recipe import Recipe

_WORDS: dict[Any, str] = {
    int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null",
    Any: "anything",
}  # fmt: skip
_LIMITS = {"gt": "above {:g}", "ge": "at least {:g}", "lt": "below {:g}", "le": "at most {:g}"}
_LIMITS |= {"multiple_of": "a multiple of {:g}", "min_length": "{:g} or more", "max_length": "{:g} or fewer"}


class Key(NamedTuple):
    """A key of a recipe. In ``name`` N stands for a place in a list."""

    name: str
    kind: str
    default: str
    about: str

    def __str__(self) -> str:
        default = f"default {self.default}" if self.default else "no default"
        return f"{self.name}: {self.kind}; {default}" + (f"\n    {self.about}" if self.about else "")


class Section(NamedTuple):
    """The keys of one section; ``place`` is the dotted key of the section itself."""

    place: str
    title: str
    keys: list[Key]


@cache
def sections() -> tuple[Section, ...]:
    """All sections of a recipe, each kind once, where it first appears."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    found, known = [], set[type[BaseModel]]()
    while waiting:
        place, model = waiting.pop(0)
        if model in known:
            continue
        known.add(model)
        found.append(Section(place, _title(model), list(_keys(place, model))))
        for name, field in model.model_fields.items():
            waiting += [(_join(place, name, field), below) for below in models_of(field.annotation)]
    for family, settings in SETTINGS.items():
        place = "student.settings"
        found.append(Section(place, f"Settings of networks of the family {family}.", list(_keys(place, settings))))
    for name in DISTILLERS:
        place, options = "distill.N.options", find_distiller(name).Settings
        found.append(Section(place, f"Options of the loss {name}.", list(_keys(place, options))))
    return tuple(found)


def explain(key: str) -> str:
    """What is to be said of a key: of the whole dotted name, or of all that end so.

    Raises:
        RecipeError: there is no such key; it names the nearest.
    """
    wanted = ".".join("N" if part.isdigit() else part for part in key.split("."))
    keys = [entry for section in sections() for entry in section.keys]
    exact = [entry for entry in keys if entry.name == wanted]
    found = exact or [entry for entry in keys if f".{entry.name}".endswith(f".{wanted}")]
    found = found or [entry for entry in keys if wanted.endswith(f".{entry.name}")]  # teacher.train.steps: train.steps
    if not found:
        near = difflib.get_close_matches(wanted, {entry.name for entry in keys}, n=3, cutoff=0.5)
        last = wanted.rpartition(".")[2]
        near += difflib.get_close_matches(last, {entry.name.rpartition(".")[2] for entry in keys}, n=2)
        raise RecipeError(describe("recipe", key, "no such key", f"one like {', '.join(near)}" if near else "a key"))
    return "\n".join(map(str, found))


def keys_page() -> str:
    """docs/keys.md."""
    lines = [
        "# Every key of a recipe",
        "",
        "`posedistill recipe --explain KEY` prints them; `python -m posedistill.recipe.explain` makes this page.",
        "",
        "N stands for a place in a list. Lengths are millimetres, of scenes metres; angles degrees.",
    ]
    for section in sections():
        place = f"`{section.place}`: " if section.place else ""
        lines += [
            "",
            f"## {place}{section.title}",
            "",
            "| key | kind | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for entry in section.keys:
            cells = [f"`{entry.name}`", entry.kind, f"`{entry.default}`" if entry.default else "", entry.about]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _keys(place: str, model: type[BaseModel]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        name_ = f"{place}.{name}" if place else name
        about = " ".join((field.description or "").replace("``", "`").split())
        yield Key(name_, _kind(field), _default(field), about)


def _kind(field: FieldInfo) -> str:
    limits = [
        words.format(getattr(entry, limit))
        for entry in field.metadata
        for limit, words in _LIMITS.items()
        if hasattr(entry, limit)
    ]
    return ", ".join([_words(field.annotation), *limits])


def _words(annotation: Any) -> str:
    """A type in plain words.

    >>> _words(list[int] | None), _words(tuple[float, float]), _words(Literal["gt", "detector"])
    ('list of whole number, or null', '[number, number]', 'gt or detector')
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inside[0])
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(_words(one) for one in inside))
        return ", or ".join(words)
    if origin is Literal:
        return " or ".join(map(str, inside))
    if origin is tuple and Ellipsis not in inside:
        return f"[{', '.join(map(_words, inside))}]"
    if origin in (list, tuple):
        return f"list of {_words(inside[0])}"
    if origin is dict:
        return f"{_words(inside[0])} to {_words(inside[1])}" if inside[1] is not Any else "section"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS.get(annotation, str(getattr(annotation, "__name__", annotation)).lower())


def _default(field: FieldInfo) -> str:
    """The default as a recipe has it; empty where there is none, or a section with its own defaults."""
    value = field.get_default(call_default_factory=True) if not field.is_required() else ...
    if value is ... or isinstance(value, BaseModel) or value == {}:
        return ""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value) if isinstance(value, tuple) else value) or "''"


def _join(place: str, name: str, field: FieldInfo) -> str:
    many = "list" in str(field.annotation)
    return ".".join(filter(None, [place, name, "N" if many else ""]))


def _title(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or model.__name__).partition("\n\n")[0].replace("\n", " ").replace("``", "`")


if __name__ == "__main__":
    print(keys_page(), end="")
