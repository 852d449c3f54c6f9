"""Choosing and storing the threshold of an exported file, and what predict makes of it."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.data.formats.bop import BopDataset
from posedistill.decode import Pose
from posedistill.deploy import threshold
from posedistill.deploy.predict import objects as predict_objects
from posedistill.deploy.predict.objects import Box, ObjectPresenter
from posedistill.deploy.threshold import Shown, photographs_in, shown_in, store_threshold, threshold_of
from posedistill.errors import CheckpointError, DataError
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Record
from posedistill.runtime.threshold import Threshold

K = np.array([[570.0, 0.0, 160.0], [0.0, 570.0, 120.0], [0.0, 0.0, 1.0]])
CHOSEN = Threshold(0.5, 1.0, 0.0, 3, 3)


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor.from_onnx(exported, threads=1)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    rng, paths = np.random.default_rng(0), [tmp_path / "photos" / f"{place}.jpg" for place in range(4)]
    paths[0].parent.mkdir()
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    return paths


def pose(x: float, score: float, obj_id: int = 6) -> Pose:
    return Pose(np.eye(3), np.array([x, 0.0, 900.0]), obj_id, score)


def shown(x: float) -> Shown:
    return Shown(np.zeros((240, 320, 3), np.uint8), K, 6, np.eye(3)[None], np.array([[x, 0.0, 900.0]]))


def test_what_is_found_in_a_wrong_place_counts_as_missed(predictor, photographs, monkeypatch):
    """Of three objects one is found in place, one elsewhere, one not at all; photographs are searched in turn."""
    answers = iter([pose(3.0, 0.8), pose(90.0, 0.9), None, *(pose(0.0, score) for score in (0.3, 0.1, 0.2, 0.1))])
    searched = []
    monkeypatch.setattr(threshold, "search", lambda *asked: (searched.append(asked[3]), next(answers))[1])
    found = threshold_of(predictor, [shown(0.0), shown(0.0), shown(0.0)], photographs, "made")
    assert found == Threshold(pytest.approx(0.55), pytest.approx(1 / 3), 0.0, 3, 4, "made")
    assert searched == [6, 6, 6, 6, 9, 6, 9]


def test_some_of_each_kind_are_needed(predictor, photographs, monkeypatch):
    monkeypatch.setattr(threshold, "search", lambda *_: None)
    with pytest.raises(DataError, match="threshold: 'objects': found none, expected frames that show one"):
        threshold_of(predictor, [], photographs)
    with pytest.raises(DataError, match="threshold: 'photographs': found none, expected some without"):
        threshold_of(predictor, [shown(0.0)], [])


def test_photographs_are_drawn_from_a_folder(photographs, tmp_path):
    folder = photographs[0].parent
    assert photographs_in(folder) == photographs
    assert len(photographs_in(folder, 2)) == 2 and photographs_in(folder, 2) == photographs_in(folder, 2)
    (tmp_path / "empty").mkdir()
    for name, found in (("empty", "none"), ("gone", "no such folder")):
        with pytest.raises(DataError, match=f"{name}: 'negatives': found {found}, expected photographs without"):
            photographs_in(tmp_path / name)


def test_pictures_of_a_data_set_hold_all_poses_of_one_object(bop: Path):
    dataset = BopDataset(bop, split="test")
    found = list(shown_in(dataset, [1, 2]))
    assert sorted(item.obj_id for item in found) == [1, 1, 1, 2, 2, 2]
    assert all(item.image.ndim == 3 and item.R.shape == (1, 3, 3) and item.t.shape == (1, 3) for item in found)
    assert len(list(shown_in(dataset, [2], count=2))) == 2
    with pytest.raises(DataError, match=r"test: 'objects': found none, expected frames that show one of \[3, 7\]"):
        list(shown_in(dataset, [7, 3]))


def test_storing_changes_the_record_alone(exported, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    store_threshold(path, CHOSEN)
    before, after = onnx.load(exported), onnx.load(path)
    assert after.graph.SerializeToString() == before.graph.SerializeToString()
    records = [Predictor.from_onnx(file, threads=1).record for file in (exported, path)]
    assert records[1].threshold == CHOSEN and records[0].threshold is None
    assert replace(records[1], threshold=None).to_properties() == records[0].to_properties()
    path.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        store_threshold(path, CHOSEN)


def stated(predictor: Predictor, record: Record) -> Predictor:
    return Predictor(predictor.run, predictor.decoder, record=record)


def test_a_search_asks_the_model_s_threshold_and_boxes_do_not(predictor, monkeypatch, capsys):
    image, path = np.zeros((240, 320, 3), np.uint8), Path("photo.jpg")
    monkeypatch.setattr(predict_objects, "search", lambda *asked: pose(0.0, 0.4, asked[3]))

    def found(record: Record, **options) -> int:
        return len(ObjectPresenter(stated(predictor, record), K=K, **options).poses(image, path, (0, 0)))

    bare = Record(predictor.decoder)
    assert found(bare) == 2 and "score threshold 0.1: the file states none" in capsys.readouterr().err
    own = replace(bare, threshold=CHOSEN)
    assert found(own) == 0 and "score threshold 0.50: keeps 100 % of 3 objects" in capsys.readouterr().err
    assert found(own, threshold=0.3) == 2 and found(own, threshold=0.45) == 0
    box = [Box(6, (100.0, 80.0, 60.0, 50.0))]
    assert found(own, boxes=box) == 1 and found(own, boxes=box, threshold=1.0) == 0


def test_contours_of_a_folder_of_meshes(predictor, bop, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for name, obj_id in (("obj_000001.ply", 6), ("obj_000002.ply", 9)):
        (models / f"obj_{obj_id:06d}.ply").write_bytes((bop / "models" / name).read_bytes())
    image, poses = np.zeros((240, 320, 3), np.uint8), [pose(0.0, 0.9)]
    plain = ObjectPresenter(predictor, K=K, threshold=0.0).picture(image, poses)
    drawn = ObjectPresenter(predictor, K=K, threshold=0.0, models=models).picture(image, poses)
    assert (drawn != plain).any()
    (models / "obj_000009.ply").unlink()
    with pytest.raises(DataError, match="'object 9': found no such file, expected a mesh"):
        ObjectPresenter(predictor, K=K, models=models)


def test_the_command_stores_what_it_prints(exported, bop, photographs, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    monkeypatch.setattr(threshold, "open_bop", lambda *_: BopDataset(bop, split="test"))
    monkeypatch.setattr(threshold, "shown_in", lambda *_: [shown(0.0)])
    monkeypatch.setattr(threshold, "search", lambda *asked: pose(0.0, 0.8 if asked[1].shape[0] == 240 else 0.2))
    words = ["threshold", str(path), "--negatives", str(photographs[0].parent), "--dataset", str(bop)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "score threshold 0.50: keeps 100 % of 1 objects" in result.stdout
    assert Predictor.from_onnx(path, threads=1).record.threshold.score == pytest.approx(0.5)
