import json
import shutil

import numpy as np
import pytest
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene, scene_format
from posedistill.errors import DataError


def test_every_format_is_known_by_its_files(seven_scenes_root, cambridge_root, tmp_path):
    assert scene_format(seven_scenes_root) == "7-Scenes"
    assert scene_format(cambridge_root) == "Cambridge Landmarks"
    capture = tmp_path / "capture"
    shutil.copytree(cambridge_root / "seq1", capture / "images")
    frames = [{"file_path": f"images/{p.name}", "transform_matrix": np.eye(4).tolist()} for p in capture.rglob("*.png")]
    (capture / "transforms.json").write_text(json.dumps({"fl_x": 90, "frames": frames}))
    assert scene_format(capture) == scene_format(capture / "transforms.json") == "transforms.json"
    model = tmp_path / "colmap"
    shutil.copytree(cambridge_root / "seq1", model / "images")
    (model / "sparse").mkdir()
    (model / "sparse" / "cameras.txt").write_text("1 PINHOLE 114 64 90 90 57 32\n")
    (model / "sparse" / "images.txt").write_text("1 1 0 0 0 0 0 0 1 frame00001.png\n\n")
    assert scene_format(model) == "COLMAP"
    assert [len(open_scene(path, "all")) for path in (seven_scenes_root, cambridge_root, capture, model)] == [
        *(18, 18, 6, 1)
    ]
    assert len(open_scene(seven_scenes_root)) == 12


def test_anything_else_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"'scene': found files of another kind, expected 7-Scenes: TrainSplit.txt"):
        open_scene(tmp_path)
    with pytest.raises(DataError, match="found no such folder"):
        open_scene(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["7-Scenes", "Cambridge Landmarks"])
def test_both_layouts_hold_the_same_scene(tmp_path, layout):
    write_made_scene(tmp_path / "scene", layout, sequences=2, frames=3, preset="stairs")
    dataset = open_scene(tmp_path / "scene", "test")
    assert scene_format(tmp_path / "scene") == layout
    write_made_scene(tmp_path / "other", "7-Scenes", sequences=2, frames=3, preset="stairs")
    np.testing.assert_allclose(dataset.centers, open_scene(tmp_path / "other", "test").centers, atol=1e-6)
