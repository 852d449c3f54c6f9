"""A student begins with the layers that it shares with its teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.helpers import load, train
from torch import nn

from posedistill.errors import CheckpointError, RecipeError
from posedistill.recipe.comparison import load_comparison
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage, teacher_of
from posedistill.tasks.registry import open_task
from posedistill.training.run import run
from posedistill.training.teaching.build import check_networks, teacher_so_far

MakeRecipe = Callable[..., Any]


def tensors(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if key.startswith(prefix)}


class TestRecipe:
    def test_a_pair_that_shares_nothing_is_refused_before_anything_trains(self, recipe: MakeRecipe) -> None:
        settings = {"backbone": "mobilenetv3_small_050", "width": 64, "strides": [8, 16]}
        loaded = recipe("student.inherit=teacher", f"teacher.settings={json.dumps(settings)}")
        with pytest.raises(RecipeError, match="shares no layer"):
            run(loaded)
        assert not (loaded.folder / "teacher").exists()

    @pytest.mark.parametrize(
        ("teacher", "expected"),
        [
            ({"csv": "poses.csv"}, "found student.inherit with teacher.csv, expected one network"),
            ({"ensemble": ["a.safetensors", "b.safetensors"]}, "found student.inherit with teacher.ensemble, expected"),
        ],
    )
    def test_no_network_no_layers(self, recipe: MakeRecipe, teacher: dict, expected: str) -> None:
        with pytest.raises(RecipeError, match=expected):
            recipe("student.inherit=teacher", f"teacher={json.dumps(teacher)}")

    def test_another_family_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "scene.yaml"
        path.write_text("name: a\n")
        with pytest.raises(RecipeError, match=r"'student.inherit': found .*'father'.*teacher"):
            path.write_text(
                "{name: a, data: {scene: x}, teacher: {family: posenet}, student: {family: posenet, inherit: father}, "
                "distill: [{name: match}]}"
            )
            load_recipe(path)

    def test_a_teacher_inherits_nothing(self, recipe: MakeRecipe) -> None:
        with pytest.raises(RecipeError, match=r"teacher\.inherit"):
            recipe("teacher.inherit=teacher")

    def test_it_belongs_to_the_signature(self, recipe: MakeRecipe, tmp_path: Path) -> None:
        def signature(*overrides: str, stage: str = "student") -> dict:
            return Stage(recipe(*overrides), stage, 0).signature

        plain, inherits = signature(), signature("student.inherit=teacher")
        assert plain != inherits and "inherited" not in plain
        assert inherits != signature("student.inherit=narrowed_teacher")
        assert inherits != signature("student.inherit=teacher", "teacher.train.steps=7")
        assert signature(stage="teacher") == signature("student.inherit=teacher", stage="teacher")
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"one")
        given = ("student.inherit=teacher", f"teacher.checkpoint={weights}")
        first = signature(*given)
        weights.write_bytes(b"two")
        assert signature(*given)["inherited"] != first["inherited"]

    def test_both_trainings_begin_with_the_teacher(
        self, recipe: MakeRecipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        schedule = {"steps": 1, "batch_size": 4, "lr": 1e-9, "precision": "float32", "ema": 0, "validation_crops": 4}
        changes = ("student.settings.strides=[16, 32]", f"student.train={json.dumps(schedule)}")
        loaded = recipe(*changes, "student.inherit=teacher")
        with pytest.raises(CheckpointError, match="no such file"):
            train(loaded, "student")
        train(loaded, "teacher")
        theirs = tensors(load(loaded, "teacher")[0].network.backbone)
        for stage in ("student", "distilled"):
            train(loaded, stage)
            for name, value in tensors(load(loaded, stage)[0].network.backbone).items():
                if name.endswith("weight"):
                    torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)
            told = json.loads((Stage(loaded, stage, 0).folder / "inherited.json").read_text())
            assert "backbone.stage1.unit1.conv" in told["layers"] and told["parameters"] > 20_000
            assert len([name for name in told["layers"] if name.startswith("backbone")]) == 30
            assert f"{stage} seed 0: begins with layers of its teacher: backbone 30 of 30" in capsys.readouterr().err
        with pytest.raises(CheckpointError, match=r"inherited.*found a network of another recipe"):
            train(recipe(*changes), "student")
        assert teacher_of(loaded).finished

    def test_the_comparison_of_starts_can_be_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its students are their teacher's backbone cut earlier; the losses find what they compare."""
        monkeypatch.setenv("POSEDISTILL_DATA", "/data")
        comparison = load_comparison([Path(__file__).parents[2] / "recipes/compare/linemod_cat_starts.yaml"])
        assert (comparison.baseline, comparison.alone) == ("imagenet", "random")
        objects = open_task(comparison.base).stand_ins
        teacher = teacher_so_far(comparison.base, objects)
        for variant in comparison.variants.values():
            check_networks(variant.recipe, objects, teacher)
            assert (variant.recipe.student.inherit is not None) == variant.name.startswith("inherit")

    def test_compare_varies_it(self, recipe_file: Path, tmp_path: Path) -> None:
        path = tmp_path / "compare.yaml"
        variants = {
            "inherit": {"distill": [], "student": {"inherit": "teacher"}},
            "both": {"student": {"inherit": "teacher"}},
        }
        path.write_text(json.dumps({"recipe": recipe_file.name, "variants": variants}))
        comparison = load_comparison([path])
        assert list(comparison.variants) == ["student", "inherit", "both"]
        assert comparison.baseline == comparison.alone == "student" and comparison.variants["inherit"].alone
        recipe = comparison.recipe_of(comparison.variants["inherit"])
        assert Stage(recipe, "student", 0).inherits
        assert not Stage(comparison.recipe_of(comparison.variants["student"]), "student", 0).inherits
