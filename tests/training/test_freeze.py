"""Layers that stay as they begin."""

import json
from collections.abc import Callable

import pytest
import torch
from tests.training.helpers import interrupted_after, load, train

from posedistill.errors import RecipeError
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training.run import first_network
from posedistill.training.teaching.build import check_networks

MakeRecipe = Callable[..., Recipe]
FROZEN = ["backbone.stage1", "backbone.stage2.unit1"]
SCHEDULE = {"steps": 4, "batch_size": 4, "lr": 0.05, "weight_decay": 0.1, "precision": "float32", "ema": 0.5}


def freezing(recipe: MakeRecipe, *more: str) -> Recipe:
    return recipe(f"student.freeze={json.dumps(FROZEN)}", f"student.train={json.dumps(SCHEDULE)}", *more)


def changed(recipe: Recipe, name: str) -> set[str]:
    """Which tensors of the network a training has changed, norms' statistics among them."""
    stage = Stage(recipe, name, 0)
    torch.manual_seed(0)
    start = first_network(open_task(recipe), stage).network.state_dict()
    end = load(recipe, name)[0].network.state_dict()
    return {key for key, value in start.items() if not torch.equal(value, end[key])}


def test_frozen_layers_stay_and_all_others_learn(recipe: MakeRecipe) -> None:
    loaded = freezing(recipe)
    train(loaded, "student")
    moved = changed(loaded, "student")
    assert not [name for name in moved if name.startswith(tuple(f"{layer}." for layer in FROZEN))]
    assert any(name.startswith("backbone.stage3") and "running_mean" in name for name in moved)
    assert any(name.startswith("head") and name.endswith("weight") for name in moved)


def test_they_stay_under_a_teacher_in_two_phases(recipe: MakeRecipe) -> None:
    losses = [{"name": "feature", "phase": "first"}, {"name": "match", "weight": 0.5}]
    loaded = freezing(recipe, f"distill={json.dumps(losses)}", "first_phase=0.5")
    train(loaded, "teacher")
    train(loaded, "distilled")
    moved = changed(loaded, "distilled")
    assert moved and not [name for name in moved if name.startswith(tuple(f"{layer}." for layer in FROZEN))]


def test_an_interrupted_training_goes_on_exactly(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = freezing(recipe, "name=whole"), freezing(recipe, "name=parts")
    train(whole, "student")
    with interrupted_after(2, monkeypatch):
        train(parts, "student")
    train(parts, "student")
    expected = load(whole, "student")[0].state_dict()
    for name, value in load(parts, "student")[0].state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["backbone.stage9"], r"'freeze': found backbone.stage9, expected one of backbone\.\{stage1, .*, stage5\}$"),
        (["trunk"], r"'freeze': found trunk, expected one of \{backbone, pyramid, head\}$"),
        (["backbone.stage1.unit1.conv.weight"], r"expected backbone\.stage1\.unit1\.conv, which has no parts$"),
        (["backbone..stage1"], r"expected one of backbone\.\{stage1, .*\}$"),
        (["backbone", "pyramid", "head"], r"expected layers that leave others to train$"),
    ],
)
def test_what_cannot_be_frozen_is_refused(recipe: MakeRecipe, layers: list[str], expected: str) -> None:
    loaded = recipe(f"student.freeze={json.dumps(layers)}")
    with pytest.raises(RecipeError, match=expected):
        check_networks(loaded, open_task(loaded).stand_ins)


@pytest.mark.parametrize(
    ("first", "frozen", "expected"),
    [
        ({"name": "match"}, ["backbone.stage1"], "losses that teach the whole network"),
        ({"name": "feature"}, ["backbone", "pyramid"], "losses of frozen layers alone"),
        ({"name": "feature", "options": {"form": "attention_transfer"}}, ["backbone", "pyramid"], "of frozen layers"),
    ],
)
def test_a_first_phase_must_teach_something_and_leave_something(
    recipe: MakeRecipe, first: dict, frozen: list[str], expected: str
) -> None:
    losses = [first | {"phase": "first"}, {"name": "match", "weight": 0.5}]
    loaded = recipe(
        f"student.freeze={json.dumps(frozen)}", f"distill={json.dumps(losses)}", "first_phase=0.5", "train.steps=4"
    )
    train(loaded, "teacher")
    with pytest.raises(RecipeError, match=expected):
        train(loaded, "distilled")


@pytest.mark.parametrize("section", ["checkpoint=a.safetensors", 'ensemble=["a.safetensors", "b.safetensors"]'])
def test_of_finished_weights_nothing_is_frozen(recipe: MakeRecipe, section: str) -> None:
    with pytest.raises(RecipeError, match="found freeze"):
        recipe(f"teacher.{section}", 'teacher.freeze=["backbone"]')


def test_it_belongs_to_the_signature_where_it_is_set(recipe: MakeRecipe) -> None:
    plain, frozen = (Stage(loaded, "student", 0).signature for loaded in (recipe(), freezing(recipe)))
    assert plain["network"] != frozen["network"] and "freeze" not in recipe().student.model_dump()
