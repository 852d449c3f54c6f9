"""The recipes of published scenes, run as their first lines say on made scenes in the same layout, and made small."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.room_writer import write_made_scene
from tests.training.helpers import train
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.errors import RecipeError
from posedistill.recipe.recipe import load_recipe
from posedistill.runtime import Predictor
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import evaluate_run
from posedistill.training.run_folder import write_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FRAMES = 10
SHORT = "{steps: 2, batch_size: 8, lr: 1e-3, precision: float32, validate_every: 2, checkpoint_every: 2}"
SMALL = [
    *("data.short_side=64", "data.crop=64", "data.gap=1", "seeds=1", f"train={SHORT}", f"teacher.train={SHORT}"),
    "teacher.settings.backbone=resnet18",  # whose layers have the names that the recipes use
]
"""Overrides: as little work as walks through every stage."""


def overrides(folder: Path, layout: str, *others: str) -> list[str]:
    """Make a scene, and say where it lies; no environment variable is needed then."""
    write_made_scene(folder / "scene", layout, sequences=2, frames=FRAMES)
    return [f"data.scene={folder / 'scene'}", f"runs={folder / 'runs'}", *SMALL, *others]


def records_of(folder: Path) -> dict[str, Any]:
    """What was measured, by variant."""
    records = {record["stage"]: record for record in json.loads((folder / "evaluation.json").read_text())}
    for record in records.values():
        assert 0 < record["scores"]["position_m"] < 20 and 0 < record["scores"]["orientation_deg"] < 180
        assert len(record["outcomes"]["position_m"]) == FRAMES
    return records


def test_a_published_scene_from_data_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSEDISTILL_DATA", raising=False)
    words = overrides(tmp_path, "7-Scenes", "name=7scenes_made")
    result = CliRunner().invoke(app, ["run", str(RECIPES / "seven_scenes.yaml"), *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "7scenes_made"
    records = records_of(folder)
    assert {"teacher", "student", "distilled", "exported", "constant pose", "nearest image"} <= records.keys()
    assert records["exported"]["scores"] == pytest.approx(records["distilled"]["scores"], rel=0.01)
    record = Predictor.from_onnx(folder / "model.onnx").record
    assert record.decoder.shape == (64, 64) and record.parameters == records["distilled"]["parameters"] < 1_100_000
    assert "MapNet" in (folder / "report.html").read_text(), "what the recipe says to expect"


def test_another_layout_and_sckds_student(tmp_path: Path) -> None:
    words = overrides(tmp_path, "Cambridge Landmarks")
    recipe = load_recipe(RECIPES / "kings_college.yaml", words)
    recipe.folder.mkdir(parents=True)
    write_recipe(recipe)
    for variant in ("teacher", "student", "distilled"):
        train(recipe, variant, recipe.seed)
    evaluate_run(open_task(recipe))
    records = records_of(recipe.folder)
    assert {"teacher", "student", "distilled", "constant pose", "nearest image", "nearest position"} == records.keys()
    assert records["distilled"]["parameters"] == 11_708_999 + 2 * 1024 + 2, "SCKD's ResNet-18, its rotation in 6D"


def test_scene_coordinates_of_a_room_from_data_to_report(tmp_path: Path) -> None:
    write_made_scene(tmp_path / "scene", "7-Scenes", sequences=2, frames=FRAMES)
    networks = [
        f"{side}.{key}"
        for side in ("teacher", "student")
        for key in ("pretrained=null", "settings.backbone=test_efficientnet@16", "settings.frozen=false")
    ]
    words = [f"data.scene={tmp_path / 'scene'}", f"runs={tmp_path / 'runs'}", "data.short_side=64", "data.gap=1"]
    words += [*networks, f"train={SHORT}", f"teacher.train={SHORT}"]
    result = CliRunner().invoke(app, ["run", str(RECIPES / "my_room.yaml"), *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "my_room"
    records = {record["stage"]: record for record in json.loads((folder / "evaluation.json").read_text())}
    assert {"teacher", "student", "distilled", "exported", "constant pose", "nearest image"} <= records.keys()
    assert len(records["exported"]["outcomes"]["position_m"]) == FRAMES
    assert (folder / "report.html").stat().st_size > 10_000
    assert Predictor.from_onnx(folder / "model.onnx").decoder.score_curve


def test_recipes_of_scenes_say_which_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSEDISTILL_DATA", raising=False)
    for name in ("seven_scenes", "kings_college"):
        with pytest.raises(RecipeError, match=r"'data.scene': found \$\{POSEDISTILL_DATA\}, which is not set"):
            load_recipe(RECIPES / f"{name}.yaml")
