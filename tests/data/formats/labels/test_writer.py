"""Label folders that are written from the drawn boxes."""

import json
import shutil

from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.writer import write_labels


def test_progress_counts_frames_that_are_left_out(bop, tmp_path):
    root, told = shutil.copytree(bop, tmp_path / "bop"), []
    path = root / "train/000001/scene_gt_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"7": [entry | {"visib_fract": 0.01} for entry in info["7"]]}))
    counts = write_labels(BopDataset(root, "train"), tmp_path / "boxes", progress=lambda *done: told.append(done))
    assert (counts.frames, counts.hidden) == (7, 1)
    assert told == [(done, 8) for done in range(1, 9)]
