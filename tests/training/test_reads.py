"""Data flows one way and is read once: how often a whole run opens each annotation file."""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from tests.data.category_writer import write_categories
from tests.data.room_writer import write_made_scene

COUNT = """
import collections, json, sys
from pathlib import Path
counts = collections.Counter()

def count(event, args):
    if event == "open" and isinstance(args[0], (str, Path)) and args[1] in ("r", "rb", None):
        counts[str(args[0])] += 1

sys.addaudithook(count)
import torch
torch.set_num_threads(1)
from posedistill.recipe.recipe import load_recipe
from posedistill.training.run import run
run(load_recipe(Path(sys.argv[1])))
print(json.dumps(counts), file=open(sys.argv[2], "w"))
"""


def opened(recipe: Path, root: Path) -> dict[str, int]:
    """How often a run of a recipe opens each file below ``root`` that is no image."""
    out = recipe.with_name("counts.json")
    done = subprocess.run([sys.executable, "-c", COUNT, str(recipe), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {Path(path): count for path, count in json.loads(out.read_text()).items()}
    texts = {path: count for path, count in counts.items() if path.suffix in (".json", ".txt", ".csv")}
    return {path.relative_to(root).as_posix(): count for path, count in texts.items() if path.is_relative_to(root)}


def test_a_run_about_objects_opens_each_annotation_file_once(recipe_file, bop):
    counts = opened(recipe_file, bop)
    scenes = ("scene_gt.json", "scene_camera.json", "scene_gt_info.json")
    names = {f"{split}/000001/{name}" for split in ("train", "test") for name in scenes}
    assert set(counts) == names | {"models/models_info.json", "camera.json"}
    assert set(counts.values()) == {1}, counts


def test_a_run_about_a_scene_opens_each_file_of_poses_once(tmp_path):
    root, recipe = tmp_path / "room", tmp_path / "room.yaml"
    write_made_scene(root, "7-Scenes", sequences=2, frames=20, size=(57, 32))
    settings = {"backbone": "mobilenetv3_small_050", "hidden": 32, "dropout": 0.0}
    posenet = {"family": "posenet", "settings": settings}
    schedule = {"batch_size": 4, "precision": "float32", "validate_every": 2, "checkpoint_every": 2}
    sections = {
        "data": {"scene": str(root), "short_side": 32, "crop": 32, "gap": 1, "validation": 0.2},
        "distill": [{"name": "relate"}],
        "train": schedule | {"steps": 2},
    }
    about = {"name": "room", "teacher": posenet, "student": posenet, "runs": str(tmp_path / "runs")}
    recipe.write_text(yaml.safe_dump(sections | about))
    counts = opened(recipe, root)
    assert {"TrainSplit.txt", "TestSplit.txt", "camera-intrinsics.txt"} < set(counts)
    assert len(counts) == 2 * 20 + 3 and set(counts.values()) == {1}, counts


def test_a_run_about_categories_opens_its_annotations_once(tmp_path):
    root, recipe = write_categories(tmp_path / "made", count=8), tmp_path / "things.yaml"
    settings = {"backbone": "test_resnet", "width": 16, "features": 32}
    network = {"family": "viewpoint", "settings": settings}
    shown = {"settings": settings | {"shape": "cloud", "shape_features": 32}}
    sections = {
        "data": {"annotations": str(root), "crop_size": 32, "points": 16, "shapes": str(root / "shapes")},
        "distill": [{"name": "match", "options": {"form": "logits"}}],
        "train": {"steps": 2, "batch_size": 4, "precision": "float32", "validate_every": 2, "checkpoint_every": 2},
    }
    about = {"name": "things", "teacher": network | shown, "student": network, "runs": str(tmp_path / "runs")}
    recipe.write_text(yaml.safe_dump(sections | about))
    assert opened(recipe, root) == {"annotations.csv": 1}
