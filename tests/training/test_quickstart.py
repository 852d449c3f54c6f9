"""The quickstart's recipe can be trained with what `make quickstart` installs, and its networks are what it says."""

import re
from pathlib import Path

import pytest

from posedistill.backbones.weights import PACKAGES
from posedistill.recipe.comparison import load_comparison
from posedistill.recipe.data import RenderSource
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.tasks.registry import open_task
from posedistill.training.networks import build_network
from posedistill.training.teaching.build import check_networks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quickstart() -> Recipe:
    return load_recipe(ROOT / "recipes/quickstart.yaml")


def test_networks_and_losses_fit_together(quickstart: Recipe) -> None:
    """With the teacher's weights from the package."""
    check_networks(quickstart, open_task(quickstart).stand_ins)


def test_the_student_is_much_smaller_than_its_teacher(quickstart: Recipe) -> None:
    objects = open_task(quickstart).stand_ins
    teacher, student = (
        sum(weight.numel() for weight in build_network(quickstart, section, objects).network.parameters())
        for section in (quickstart.teacher, quickstart.student)
    )
    assert teacher > 2 * student


def test_nothing_is_downloaded_but_packages(quickstart: Recipe) -> None:
    assert all(isinstance(source, RenderSource) and str(source.models) == "code" for source in quickstart.data.train)
    assert str(quickstart.teacher.pretrained) in PACKAGES
    install = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line)
    assert re.search(r"\[train,imagenet\]", install)


def test_the_comparison_of_its_losses_can_be_built() -> None:
    comparison = load_comparison([ROOT / "recipes/compare/quickstart.yaml"])
    task = open_task(comparison.base)
    for variant in comparison.variants.values():
        check_networks(variant.recipe, task.stand_ins)
