"""A whole run of a family that looks at whole pictures: drawn frames, small networks, a few steps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import read_image
from posedistill.deploy.detection import detect_file
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.predict.base import predict_images
from posedistill.deploy.predict.objects import Box, ObjectPresenter
from posedistill.errors import DataError
from posedistill.estimators.yolo6d import YOLO6DNetwork
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.recipe.stages import Stage
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.search import search
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import measure_stage
from posedistill.training.run import run
from posedistill.training.run_folder import recipe_of

NETWORK = {"backbone": "darknet_tiny_q", "score_threshold": 0.0}


@pytest.fixture(scope="module")
def folder(drawn_data: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended. Read-only."""
    root = tmp_path_factory.mktemp("pictures")
    schedule = {"steps": 6, "batch_size": 4, "precision": "float32", "validate_every": 3, "validation_crops": 4}
    recipe = {
        "name": "pictures",
        "data": drawn_data
        | {
            "picture": {"size": [96, 128], "resolutions": [96, 128]},
            "test": drawn_data["test"] | {"sizes": [[128, 160], 96]},
        },
        "teacher": {"family": "yolo6d", "settings": {"backbone": "darknet_tiny_h"} | NETWORK},
        "student": {"family": "yolo6d", "settings": NETWORK | {"pretrain": 0.2}},
        "distill": [
            {"name": "align", "trust": "score"},
            {"name": "match", "options": {"form": "response", "faithful": True}, "weight": 0.1},
            {"name": "feature", "options": {"layers": ["p4"]}},
            {"name": "relate"},
        ],
        "train": schedule | {"checkpoint_every": 3, "log_every": 1, "lr": 1e-3},
        "runs": str(root / "runs"),
    }
    path = root / "pictures.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(load_recipe(path))
    return root / "runs" / "pictures"


def test_every_stage_is_trained_measured_and_shipped(folder: Path) -> None:
    steps = [json.loads(line) for line in (folder / "student/seed0/metrics.jsonl").read_text().splitlines()]
    assert "loss/confidence" not in steps[0] and any("loss/confidence" in entry for entry in steps)
    steps = [json.loads(line) for line in (folder / "distilled/seed0/metrics.jsonl").read_text().splitlines()]
    assert {f"loss/{name}" for name in ("points", "classes", "align", "match", "feature", "relate")} <= steps[0].keys()
    records = {entry["stage"]: entry for entry in json.loads((folder / "evaluation.json").read_text())}
    measured = {"teacher", "student", "distilled"}
    others = {f"{name} at {size}" for name in measured for size in ("128 x 160", "96 x 96")}
    assert records.keys() == measured | others | {"exported"}
    assert all(entry["boxes"] == "none" and entry["targets"] == 6 for entry in records.values())
    assert (folder / "report.html").exists() and (folder / "bench.json").exists()
    for name in ("teacher", "exported"):
        votes = sorted((folder / "cases").glob(f"{name}_votes_*.jpg"))
        assert len(votes) == 3 and read_image(votes[0]).shape == (120, 160, 3)
    assert "confidence of each cell" in (folder / "report.html").read_text()
    parity = json.loads((folder / "model.parity.json").read_text())
    assert parity["outputs"]["points (px)"] < 0.05


def test_networks_are_measured_at_other_sizes(folder: Path) -> None:
    """Of the pictures: as much is computed as they hold, and other poses come of it."""
    records = {entry["stage"]: entry for entry in json.loads((folder / "evaluation.json").read_text())}
    for name in ("teacher", "student", "distilled"):
        gmacs = [records[f"{name}{size}"]["gmacs"] for size in ("", " at 128 x 160", " at 96 x 96")]
        assert gmacs[1] / gmacs[0] == pytest.approx(5 / 3) and gmacs[2] / gmacs[0] == pytest.approx(3 / 4)
        files = [folder / name / "seed0" / f"results{size}.csv" for size in ("", "_128x160", "_96x96")]
        assert len({file.read_text() for file in files}) == 3


def test_a_network_sees_each_test_frame_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its poses and its boxes together, and where the poses are there already, for the boxes alone."""
    shutil.copytree(folder, tmp_path / "pictures")
    recipe = recipe_of(tmp_path / "pictures")
    stage, task, calls = Stage(recipe, "student", 0), open_task(recipe), []
    (stage.folder / "results.csv").unlink()
    forward = YOLO6DNetwork.forward
    monkeypatch.setattr(YOLO6DNetwork, "forward", lambda self, images: (calls.append(1), forward(self, images))[1])
    records = []
    for _ in range(2):
        calls.clear()
        records.append(measure_stage(task, stage).to_dict())
        assert len(calls) == len(task.queries) + 1  # whose multiplications are counted
    assert records[0] == records[1] and "published_corner_px" in json.dumps(records[0])


def test_sizes_are_of_pictures(drawn_data: dict) -> None:
    network = {"family": "wdrnet"}
    data = drawn_data | {"test": drawn_data["test"] | {"sizes": [416]}}
    with pytest.raises(ValidationError, match=r"found data\.test\.sizes, expected none: wdrnet looks at a crop"):
        Recipe(name="x", data=data, teacher=network, student=network, distill=[{"name": "match"}])


def test_the_file_is_scored_as_in_the_run(folder: Path, bop: Path, tmp_path: Path) -> None:
    csv = tmp_path / "again.csv"
    found = evaluate_file(Asked(folder / "model.onnx", bop, csv=csv))
    records = {entry["stage"]: entry for entry in json.loads((folder / "evaluation.json").read_text())}
    assert found.boxes == "none" and found.targets == records["exported"]["targets"]
    np.testing.assert_allclose(Poses.from_bop_csv(csv).t, Poses.from_bop_csv(folder / "results.csv").t, atol=1e-3)


def test_a_model_of_whole_pictures_takes_no_boxes(folder: Path, bop: Path) -> None:
    with pytest.raises(DataError, match="--boxes: 'option': found detector, expected none: yolo6d finds objects"):
        evaluate_file(Asked(folder / "model.onnx", bop, boxes="detector"))
    with pytest.raises(DataError, match=r"--detections: 'option': found d\.json, expected none: yolo6d finds objects"):
        evaluate_file(Asked(folder / "model.onnx", bop, detections=Path("d.json")))
    with pytest.raises(DataError, match="'boxes': found some, expected none: yolo6d"):
        ObjectPresenter(Predictor.from_onnx(folder / "model.onnx"), [Box(1, (0, 0, 9, 9))])


def test_detection_asks_for_no_boxes(folder: Path, bop: Path, tmp_path: Path) -> None:
    model, csv = folder / "model.onnx", tmp_path / "poses.csv"
    found = detect_file(Asked(model, bop, csv=csv))
    assert found.images == 3 and found.estimates == len(Poses.from_bop_csv(csv)) and 0 <= found.scores["AP"] <= 1
    with pytest.raises(
        DataError, match="--detections: 'detections': found a file, expected none: yolo6d needs no boxes"
    ):
        detect_file(Asked(model, bop, detections=tmp_path / "boxes.json"))


def test_a_search_is_the_surest_pose_of_one_look(folder: Path, bop: Path) -> None:
    predictor, frame = Predictor.from_onnx(folder / "model.onnx"), BopDataset(bop, split="test").frames[0]
    image = read_image(frame.rgb)
    poses = predictor.predict(image, frame.K)
    for obj_id in (1, 2):
        found, scores = (
            search(predictor, image, frame.K, obj_id),
            [pose.score for pose in poses if pose.label == obj_id],
        )
        assert (None if found is None else found.score) == max(scores, default=None)


def test_predict_looks_for_all_objects_in_one_pass(folder: Path, bop: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_onnx(folder / "model.onnx")
    path = BopDataset(bop, split="test").frames[0].rgb
    calls = []
    network = predictor.run
    predictor.run = lambda arrays: (calls.append(arrays), network(arrays))[1]
    found = predict_images(ObjectPresenter(predictor), [path], tmp_path)
    assert len(calls) == 1 and {pose.label for pose in found[0].poses} <= {1, 2}
    only = predict_images(ObjectPresenter(predictor, obj_ids=[2]), [path])
    assert [pose.label for pose in only[0].poses] == [pose.label for pose in found[0].poses if pose.label == 2]
    assert (tmp_path / "results.csv").exists() and read_image(tmp_path / f"{path.stem}.png").shape == (120, 160, 3)
    with pytest.raises(DataError, match="7"):
        predict_images(ObjectPresenter(predictor, obj_ids=[7]), [path])
