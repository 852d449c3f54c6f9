"""The text of Darknet's ``.cfg`` files: sections of ``key=value``, read strictly."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from posedistill.errors import RecipeError, describe

Number = TypeVar("Number", int, float)
_TRAINING_KEYS: Final = frozenset({"stopbackward", "dontload", "dontloadscales"})
"""Keys of layers that say nothing about the network."""


@dataclass
class Section:
    """One ``[name]`` of a file with its keys as text; a getter reads a key and notes that it is known."""

    file: str
    name: str
    line: int
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def error(self, key: str, found: object, expected: object) -> RecipeError:
        """A fault in words, with the line it is in."""
        return RecipeError(describe(f"{self.file}, line {self.lines.get(key, self.line)}", key, found, expected))

    def text(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of ``choices``."""
        self.known.add(key)
        if (value := self.values.get(key, default)) not in choices:
            raise self.error(key, repr(value), f"one of {', '.join(choices)}")
        return value

    def integer(self, key: str, default: int, least: int = 1) -> int:
        """A whole number from ``least`` on."""
        numbers = self._numbers(key, int, "a whole number")
        if len(numbers) > 1 or (numbers and numbers[0] < least):
            raise self.error(key, self.values[key], f"one whole number from {least} on")
        return numbers[0] if numbers else default

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        numbers = self.numbers(key)
        if len(numbers) > 1:
            raise self.error(key, self.values[key], "one number")
        return numbers[0] if numbers else default

    def integers(self, key: str) -> list[int]:
        """Whole numbers between commas."""
        return self._numbers(key, int, "whole numbers between commas")

    def numbers(self, key: str) -> list[float]:
        """Finite numbers between commas."""
        return self._numbers(key, float, "numbers between commas")

    def _numbers(self, key: str, kind: Callable[[str], Number], expected: str) -> list[Number]:
        self.known.add(key)
        words = self.values.get(key, "").split(",") if self.values.get(key) else []
        try:
            numbers = [kind(word) for word in words]
        except ValueError:
            raise self.error(key, repr(self.values[key]), expected) from None
        if not all(-math.inf < number < math.inf for number in numbers):
            raise self.error(key, repr(self.values[key]), expected)
        return numbers

    def check_keys(self) -> None:
        """Refuse keys that nothing asked for."""
        for key in self.values.keys() - self.known - _TRAINING_KEYS:
            raise self.error(key, f"an unknown key of [{self.name}]", f"one of {', '.join(sorted(self.known))}")


def split_sections(text: str, name: str = "cfg") -> list[Section]:
    """The sections of a text, in order. Lines that begin with ``#`` or ``;`` are comments. Raises RecipeError."""
    sections: list[Section] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            sections.append(Section(name, line[1:-1].strip(), number))
            continue
        key, separator, value = map(str.strip, line.partition("="))
        if not separator or not key or "=" in value or not sections:
            expected = "[section], then lines of key=value"
            raise RecipeError(describe(f"{name}, line {number}", "line", repr(line[:60]), expected))
        if key in sections[-1].values:
            raise sections[-1].error(key, f"it again in line {number}", "each key once in a section")
        sections[-1].values[key], sections[-1].lines[key] = value, number
    if not sections:
        raise RecipeError(describe(name, "section", "none", "a Darknet .cfg file, which begins with [net]"))
    return sections


def join_sections(sections: Sequence[Section]) -> str:
    """The text of sections, without the comments."""
    blocks = ("\n".join([f"[{s.name}]", *(f"{key}={value}" for key, value in s.values.items())]) for s in sections)
    return "\n\n".join(blocks) + "\n"
