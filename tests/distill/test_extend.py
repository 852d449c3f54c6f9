"""The example of docs/extend.md, as the page has it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, DistillSpec, Example, build_distiller
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
VIEWS = frozenset({"features"})


def block(language: str) -> str:
    """The first block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DistillSpec:
    """The loss as the page's recipe names it, its file where Python looks."""
    (tmp_path / "mylosses.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    (entry,) = yaml.safe_load(block("yaml"))["distill"]
    return DistillSpec.model_validate(entry)


def side(batch: Batch, channels: int, seed: int) -> Prediction:
    rng = torch.Generator().manual_seed(seed)
    maps = {name: torch.randn(len(batch), channels, size, size, generator=rng) for name, size in (("p3", 8), ("p4", 4))}
    return Prediction({}, features={name: values.requires_grad_() for name, values in maps.items()})


def test_the_example_learns(spec: DistillSpec, batch: Batch) -> None:
    distiller: Distiller = build_distiller(spec, VIEWS, VIEWS)
    student, teacher = side(batch, 4, 0), side(batch, 6, 1)
    distiller.prepare(Example(student, teacher, batch, lambda: iter(())))
    assert (distiller.weight, {name for name, _ in distiller.named_parameters()}) == (
        0.5,
        {"adapter.weight", "adapter.bias"},
    )
    optimizer = torch.optim.Adam([student.features["p3"], *distiller.parameters()], lr=0.05)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = distiller(student, teacher, batch)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]
    assert teacher.features["p3"].grad is None and student.features["p4"].grad is None  # the recipe says p3


@pytest.mark.parametrize(
    ("options", "offers", "told"),
    [
        ({"levle": "p4"}, VIEWS, "levle': found 'p4', expected one of level"),
        ({}, frozenset({"votes"}), r"found a student that offers votes, expected views features \(features missing\)"),
    ],
)
def test_it_is_checked_like_any_other(spec: DistillSpec, options: Any, offers: frozenset[str], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build_distiller(spec.model_copy(update={"options": options}), offers, offers)


def test_it_is_short() -> None:
    lines = [line for line in block("python").splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20
