"""Data flows one way and is read once: how often a whole run opens each annotation file."""

import json
import subprocess
import sys

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


def test_a_run_opens_each_annotation_file_once(recipe_file, bop, tmp_path):
    out = tmp_path / "counts.json"
    done = subprocess.run([sys.executable, "-c", COUNT, str(recipe_file), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {path: count for path, count in json.loads(out.read_text()).items() if path.startswith(str(bop))}
    names = ("scene_gt.json", "scene_camera.json", "scene_gt_info.json", "models_info.json")
    opened = {path: count for path, count in counts.items() if path.endswith(names)}
    assert len(opened) == 7 and set(opened.values()) == {1}, opened
