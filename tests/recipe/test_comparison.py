from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from posedistill.distill import build_distiller
from posedistill.errors import RecipeError
from posedistill.estimators.registry import FAMILIES
from posedistill.recipe.comparison import Comparison, load_comparison
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage

VARIANTS: dict[str, Any] = {"alone": {"distill": []}, "match": {"distill": [{"name": "match", "weight": 0.4}]}}
RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
Load = Callable[..., Comparison]


@pytest.fixture
def load(recipe_file: Path) -> Load:
    """``load(variants=..., sweep=...)``: a comparison file with these keys, read."""

    def make(*overrides: str, **content: Any) -> Comparison:
        path = recipe_file.parent / "compared.yaml"
        path.write_text(yaml.safe_dump({"recipe": recipe_file.name, "variants": VARIANTS} | content, sort_keys=False))
        return load_comparison([path], overrides)

    return make


def another(recipe_file: Path, raw: dict[str, Any], **changes: Any) -> Path:
    path = recipe_file.parent / f"{changes['name']}.yaml"
    path.write_text(yaml.safe_dump(raw | changes))
    return path


def test_variants_change_the_base_and_nothing_else(load, recipe):
    comparison = load()
    assert comparison.name == "compare_compared" and comparison.base == recipe()
    alone, match = comparison.variants.values()
    assert (alone.stage, match.stage) == ("student", "distilled")
    assert [spec.name for spec in match.recipe.distill] == ["match"]
    assert match.recipe.model_dump(exclude={"distill"}) == recipe().model_dump(exclude={"distill"})
    assert comparison.baseline == comparison.alone == "alone" and comparison.wall_clock and comparison.sweep is None


def test_the_student_alone_is_added_where_it_is_missing(load):
    assert list(load(variants={"match": VARIANTS["match"]}).variants) == ["student", "match"]


def test_the_baseline_comes_first(load, recipe_file):
    comparison = load(baseline="match")
    assert list(comparison.variants) == ["match", "alone"] and comparison.alone == "alone"
    assert load_comparison([recipe_file.parent / "compared.yaml"], baseline="alone").baseline == "alone"


def test_a_variant_may_have_another_student(load):
    changed = load(variants=VARIANTS | {"wide": {"student": {"settings": {"width": 64}}}}).variants["wide"].recipe
    assert changed.student.settings["width"] == 64 and changed.student.settings["head"] == "slim"


def test_all_trainings_of_a_seed_see_the_same_data(load):
    """What the signature of a network says of data and schedule is equal in every variant."""
    comparison = load()
    signatures = [
        Stage(comparison.recipe_of(variant), variant.stage, 3).signature for variant in comparison.variants.values()
    ]
    for key in ("data", "train", "seed", "network"):
        assert signatures[0][key] == signatures[1][key]


def test_a_training_lands_in_the_comparison_under_the_one_teacher(load, tmp_path):
    comparison = load("name=again")
    match = comparison.variants["match"]
    recipe = comparison.recipe_of(match, "sweep", name="match_x0.5", factor=0.5, steps=2)
    assert recipe.folder == tmp_path / "runs" / "again" / "sweep" / "match_x0.5"
    assert recipe.cache_folder == tmp_path / "runs" / "cache"
    assert recipe.teacher.checkpoint == tmp_path / "runs" / "mini" / "teacher" / "seed0" / "model.safetensors"
    assert recipe.distill[0].weight == 0.2 and recipe.schedule(recipe.student).steps == 2
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe  # as the training's process reads it


def test_finished_weights_of_a_teacher_are_kept(load):
    comparison = load("teacher.checkpoint=given.safetensors")
    assert comparison.recipe_of(comparison.variants["match"]).teacher.checkpoint == Path("given.safetensors")


def test_overrides_reach_the_comparison_or_the_recipe(load):
    comparison = load("sweep.steps=7", "wall_clock=false", "train.steps=9", sweep={"values": [1.0, 0.1]})
    assert comparison.sweep.steps == 7 and comparison.sweep.values == [0.1, 1.0] and not comparison.wall_clock
    assert comparison.base.train.steps == 9


def test_recipes_become_variants_named_after_them(recipe_file, raw_recipe):
    other = another(recipe_file, raw_recipe, name="other", distill=[{"name": "match"}])
    comparison = load_comparison([recipe_file, other], ["name=both", "sweep.steps=3"], seeds=2)
    assert list(comparison.variants) == ["student", "mini", "other"] and comparison.name == "both"
    assert comparison.seeds == (0, 1) and comparison.sweep.steps == 3
    assert comparison.variants["other"].recipe.distill[0].name == "match"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"seed": 1}, "'other: seed': found 1, expected 0, as in mini"),
        ({"train": {"steps": 5}}, "'other: train.steps': found 5, expected 4, as in mini"),
        ({"student": {"settings": {"backbone": "darknet_tiny"}}}, "'other: student.settings.backbone'"),
        ({"teacher": {"settings": {"backbone": "darknet_tiny"}}}, "'other: teacher.settings.backbone'"),
        ({"data": {"crop_size": 96}}, "'other: data.crop_size': found 96, expected 64"),
    ],
)
def test_recipes_that_differ_otherwise_are_refused(recipe_file, raw_recipe, changes, expected):
    merged = {key: raw_recipe[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
    other = another(recipe_file, raw_recipe, name="other", **merged)
    with pytest.raises(RecipeError, match=r"other\.yaml") as caught:
        load_comparison([recipe_file, other])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"variants": {}}, "'variants'"),
        ({"variants": {"teacher": {}}}, "'variants.teacher': found a name in use"),
        ({"variants": {"a/b": {}}}, "'variants.a/b': found 'a/b'"),
        ({"variants": {"short": {"train": {"steps": 2}}}}, "'variants.short.train': found a change of what all share"),
        ({"variants": {"typo": {"distil": []}}}, "'variants.typo.distil'"),
        ({"variants": {"odd": {"distill": [{"nam": "match"}]}}}, "(variants.odd): 'distill.0.name'"),
        ({"variants": {"slow": {"student": {"train": {"steps": 9}}}}}, "'slow: student.train.steps': found 9"),
        ({"variants": {"student": {"distill": [{"name": "match"}]}}}, "'variants.student': found losses"),
        ({"baseline": "nobody"}, "'baseline': found 'nobody', expected one of alone, match"),
        ({"sweep": {"values": [0.0, 1.0]}}, "expected different factors above 0"),
        ({"sweeps": {}}, "'sweeps': found an unknown key"),
        ({"recipe": "nowhere.yaml"}, "nowhere.yaml: 'file': found no such file"),
    ],
)
def test_faults_name_the_file_and_the_key(load, content, expected):
    with pytest.raises(RecipeError) as caught:
        load(**content)
    assert expected in str(caught.value)


def test_the_same_name_twice_is_refused(recipe_file):
    with pytest.raises(RecipeError, match=r"'variants\.mini': found a name in use"):
        load_comparison([recipe_file, recipe_file])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_comparisons_of_this_project_can_be_built(path, monkeypatch):
    """Their losses exist, take these options, and find their views."""
    monkeypatch.setenv("POSEDISTILL_DATA", "/data")
    comparison = load_comparison([path])
    for variant in comparison.variants.values():
        offers = FAMILIES[variant.recipe.student.family].offers
        for spec in variant.recipe.distill:
            build_distiller(spec, offers, FAMILIES[variant.recipe.teacher.family].offers)
    assert comparison.variants[comparison.baseline].alone and comparison.name != comparison.base.name
