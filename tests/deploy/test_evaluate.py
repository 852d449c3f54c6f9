import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.data.category_writer import write_categories
from tests.data.room_writer import write_made_scene
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.writer import write_labels
from posedistill.decode import WDRNetDecoder
from posedistill.deploy.detection import detect_csv, detect_file, every_box
from posedistill.deploy.estimate import estimate
from posedistill.deploy.evaluate import boxes_for, open_bop, score_csv
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.errors import DataError, PoseDistillError
from posedistill.geometry.cameras import project
from posedistill.metrics import find_cases, score_estimates
from posedistill.poses import Poses
from posedistill.runtime import Predictor, Record

CROP, STRIDES = 64, (8, 16)


@pytest.fixture
def dataset(bop: Path) -> BopDataset:
    return BopDataset(bop, split="test")


@pytest.fixture
def decoder(dataset: BopDataset) -> WDRNetDecoder:
    return WDRNetDecoder(objects=dataset.objects(), crop_size=CROP, strides=STRIDES)


class Oracle(Predictor):
    """Votes for the true pose in every crop: of frames as they are asked for, one instance an object."""

    def __init__(self, decoder: WDRNetDecoder, dataset: BopDataset, queries) -> None:
        super().__init__(self.answer, decoder)
        self.frames = iter([dataset.frame(query.scene_id, query.im_id) for query in queries])

    def predict_many(self, requests):
        for request in requests:
            self.frame, self.prepared = next(self.frames), self.decoder.prepare(request)
            yield from super().predict_many([request])

    def answer(self, inputs):
        truths = {instance.obj_id: instance for instance in self.frame.instances}
        votes = []
        for label, K, turn in zip(self.prepared.labels, self.prepared.K, self.prepared.rotation, strict=True):
            R, t = truths[label].R, truths[label].t
            keypoints = self.decoder.objects.keypoints[self.decoder.objects.index(label)]
            votes.append(project(keypoints, turn @ R, turn @ t, K))
        cells = self.decoder.cells
        logits = np.where(np.linalg.norm(cells.centers - CROP / 2, axis=1) < CROP / 4, 3.0, -6.0)
        votes = np.repeat(np.array(votes, dtype=np.float32)[:, None], len(cells), axis=1)
        return {"logits": np.tile(logits.astype(np.float32), (len(votes), 1)), "votes": votes}


def detections_file(folder: Path, entries: list[tuple[int, int, float, list[float]]]) -> Path:
    """``(im_id, obj_id, score, box)`` in the BOP json form."""
    keys = ("image_id", "category_id", "score", "bbox")
    path = folder / "detections.json"
    path.write_text(json.dumps([{"scene_id": 1, **dict(zip(keys, e, strict=True)), "time": 0.1} for e in entries]))
    return path


def true_boxes(dataset: BopDataset) -> list[tuple[int, int, float, list[float]]]:
    wanted = boxes_for(dataset, dataset.objects(), "gt", None)
    pairs = [(entry.im_id, *pair) for entry in wanted for pair in zip(entry.labels, entry.boxes, strict=True)]
    return [(im_id, obj_id, 0.9, box.tolist()) for im_id, obj_id, box in pairs]


def test_ground_truth_boxes_hold_the_whole_object(dataset):
    wanted = boxes_for(dataset, dataset.objects(), "gt", None)
    assert [(entry.im_id, entry.labels, entry.scores.tolist()) for entry in wanted] == [
        (im_id, [1, 2], [1.0, 1.0]) for im_id in range(3)
    ]
    for entry in wanted:
        for box, instance in zip(entry.boxes, dataset.frame(entry.scene_id, entry.im_id).instances, strict=True):
            np.testing.assert_allclose(box, instance.bbox_obj, atol=1.5)  # pixels of its mask, within rounding


def test_true_votes_score_one(dataset, decoder):
    wanted = boxes_for(dataset, dataset.objects(), "gt", None)
    estimates = estimate(Oracle(decoder, dataset, wanted), wanted)
    scores = score_estimates(estimates, dataset)
    assert len(estimates) == scores.targets == 6
    assert scores.scores["AR"] == scores.scores["add_0.02d"] == scores.scores["cmdeg_5_5"] == 1.0
    assert (estimates.seconds > 0).all() and (estimates.score > 0.9).all()
    for im_id in range(3):  # the time is the image's
        assert len(set(estimates.seconds[estimates.im_id == im_id])) == 1


def test_detector_boxes(dataset, decoder, tmp_path):
    """The best of each object, as many as there are instances; what shows nothing or is not sought is passed over."""
    good = true_boxes(dataset)
    others = [(im_id, obj_id, 0.3, [5.0, 5.0, 20.0, 20.0]) for im_id, obj_id, *_ in good]
    nothing = [(0, 1, 1.0, [10.0, 10.0, 0.0, 5.0]), (0, 1, 1.0, [-50.0, 0.0, 20.0, 20.0])]
    foreign = [(0, 7, 1.0, good[0][3]), (99, 1, 1.0, good[0][3])]
    path = detections_file(tmp_path, [*others, *nothing, *foreign, *good])
    wanted = boxes_for(dataset, dataset.objects(), "detector", path)
    assert [(entry.im_id, entry.labels) for entry in wanted] == [(im_id, [1, 2]) for im_id in range(3)]
    found = [box.tolist() for entry in wanted for box in entry.boxes]
    assert found == [box for *_, box in good]
    estimates = estimate(Oracle(decoder, dataset, wanted), wanted)
    assert score_estimates(estimates, dataset).scores["AR"] == 1.0


def test_boxes_beyond_the_image_are_counted(dataset, decoder, tmp_path, capsys):
    """No pose can be found there; the others of the image are sought all the same."""
    beyond = [(0, 2, 1.0, [5000.0, 10.0, 20.0, 20.0]), (1, 1, 1.0, [10.0, 5000.0, 20.0, 20.0])]
    boxes = detections_file(tmp_path, [*beyond, *true_boxes(dataset)])
    wanted = boxes_for(dataset, dataset.objects(), "detector", boxes)
    assert len(estimate(Oracle(decoder, dataset, wanted), wanted)) == 4
    told = " ".join(capsys.readouterr().err.split())
    assert "2 boxes begin right of or below their image and were left out, first in" in told
    assert wanted[0].path.name in told.replace(" ", "")


def test_a_box_s_score_counts(dataset, decoder, tmp_path):
    """Also where two objects were found in the same place."""
    box = true_boxes(dataset)[0][3]
    wanted = boxes_for(
        dataset, dataset.objects(), "detector", detections_file(tmp_path, [(0, 1, 0.5, box), (0, 2, 0.25, box)])
    )
    estimates = estimate(Oracle(decoder, dataset, wanted), wanted)
    assert estimates.obj_id.tolist() == [1, 2]
    np.testing.assert_allclose(estimates.score[0], 2 * estimates.score[1], rtol=1e-6)


def test_a_missing_detection_is_a_miss(dataset, decoder, tmp_path):
    """One object of image 0, and everything in image 1: three of six targets are missed, nothing fails."""
    kept = [entry for entry in true_boxes(dataset) if entry[0] != 1][1:]
    wanted = boxes_for(dataset, dataset.objects(), "detector", detections_file(tmp_path, kept))
    assert [len(entry.boxes) for entry in wanted] == [1, 0, 2]
    estimates = estimate(Oracle(decoder, dataset, wanted), wanted)
    scores = score_estimates(estimates, dataset)
    assert (len(estimates), scores.targets, scores.missed) == (3, 6, 3)
    assert scores.scores["add_0.1d"] == scores.scores["AR"] == 0.5
    missed = [(case.im_id, case.obj_id) for case in find_cases(estimates, dataset) if case.row < 0]
    assert missed == [(0, 1), (1, 1), (1, 2)]


def test_nothing_recognised_gives_an_empty_table(dataset, decoder):
    wanted = boxes_for(dataset, dataset.objects(), "gt", None)
    silent = replace(decoder, decoding=replace(decoder.decoding, always_answer=False, score_threshold=0.99))
    oracle = Oracle(silent, dataset, wanted)
    estimates = estimate(oracle, wanted)
    assert len(estimates) == 0 and score_estimates(estimates, dataset).scores["AR"] == 0.0


def test_box_modes_are_named(dataset, tmp_path):
    with pytest.raises(DataError, match="--boxes: 'boxes': found 'both', expected 'gt' or 'detector'"):
        boxes_for(dataset, dataset.objects(), "both", None)
    with pytest.raises(DataError, match="--detections: 'detections': found no file, expected a BOP json"):
        boxes_for(dataset, dataset.objects(), "detector", None)
    with pytest.raises(DataError, match=r"none\.json"):
        boxes_for(dataset, dataset.objects(), "detector", tmp_path / "none.json")
    path = detections_file(tmp_path, [(0, 7, 1.0, [0.0, 0.0, 9.0, 9.0])])
    with pytest.raises(
        DataError, match=r"detections\.json: 'detections': found 1 usable ones, none for the test images and objects"
    ):
        boxes_for(dataset, dataset.objects(), "detector", path)


@pytest.fixture
def model(dataset: BopDataset, decoder: WDRNetDecoder, tmp_path: Path) -> Path:
    """A file that votes, whatever it sees, for the true pose of object 1 in the first test frame's box."""
    wanted = boxes_for(dataset, dataset.objects(), "gt", None)
    oracle = Oracle(decoder, dataset, wanted)
    oracle.frame = next(oracle.frames)
    oracle.prepared = decoder.prepare(replace(wanted[0].request(), boxes=wanted[0].boxes[:1], labels=[1], scores=None))
    logits, votes = oracle.answer(oracle.prepared.inputs).values()
    constants = {"l": logits, "v": votes, "axes": np.array([1, 2, 3]), "no": np.zeros(1, np.float32)}
    constants |= {"flat": np.array([-1, 1])}
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "no"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "flat"], ["row"]),
        helper.make_node("Add", ["row", "l"], ["logits"]),
        helper.make_node("Add", ["nothing", "v"], ["votes"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, CROP, CROP])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "votes")]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "constant", [images], outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, Record(decoder).to_properties())
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_file_is_measured_on_any_folder(model, bop, tmp_path):
    csv, scores = tmp_path / "out" / "results.csv", tmp_path / "out" / "scores.json"
    found = evaluate_file(Asked(model, bop, csv=csv, json=scores), threads=1)
    assert (found.targets, found.missed) == (6, 0)
    written = json.loads(scores.read_text())
    first = next(case for case in written["cases"] if (case["im_id"], case["obj_id"]) == (0, 1))
    assert first["add_fraction"] < 0.01 and found.by_label(found.metrics[0])["1"] >= 1 / 3
    assert written["boxes"] == "gt" and written["targets"] == 6 and written["scores"] == found.scores
    low, high = written["intervals"]["AR"]
    assert low <= found.scores["AR"] <= high
    again = score_csv(csv, bop, "test", None, tmp_path / "again.json")
    assert again.scores == pytest.approx(found.scores)
    assert json.loads((tmp_path / "again.json").read_text())["boxes"] == ""  # nobody knows where these came from


def test_a_file_is_measured_with_a_detector_s_boxes(model, bop, dataset, tmp_path):
    path = detections_file(tmp_path, true_boxes(dataset)[:2])
    found = evaluate_file(Asked(model, bop, boxes="detector", detections=path), threads=1)
    assert (found.targets, found.missed) == (6, 4)
    assert found.by_label(found.metrics[0])["1"] == pytest.approx(1 / 3) and found.scores["add_0.1d"] <= 2 / 6


def test_only_the_frames_of_a_list(model, bop, tmp_path):
    frames = tmp_path / "list.txt"
    frames.write_text("000002\n")
    evaluate_file(Asked(model, bop, frames=frames, json=tmp_path / "scores.json"), threads=1)
    assert {case["im_id"] for case in json.loads((tmp_path / "scores.json").read_text())["cases"]} == {2}


def test_a_frame_list_may_lie_in_the_data_set(bop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (bop / "in_set.txt").write_text("000001\n")
    try:
        assert [frame.im_id for frame in open_bop(bop, "test", Path("in_set.txt"), None).frames] == [1]
        (tmp_path / "in_set.txt").write_text("000000\n")  # what lies beside the caller comes first
        assert [frame.im_id for frame in open_bop(bop, "test", Path("in_set.txt"), None).frames] == [0]
    finally:
        (bop / "in_set.txt").unlink()
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        open_bop(bop, "test", Path("nowhere.txt"), None)


def test_rows_that_cannot_count_are_told(dataset, bop, tmp_path, capsys):
    truths = [(frame, instance) for frame in dataset.frames for instance in frame.instances]
    ids = np.array([(1, frame.im_id, instance.obj_id) for frame, instance in truths])
    R, t = (np.stack([getattr(instance, name) for _, instance in truths]) for name in ("R", "t"))
    true = Poses(*ids.T, np.ones(6), R, t, np.full(6, 0.1))
    stray = replace(true.select(np.array([0])), im_id=np.array([77]))
    Poses.concatenate([true, stray]).to_bop_csv(tmp_path / "results.csv")
    scores = score_csv(tmp_path / "results.csv", bop, "test", None, None)
    assert scores.scores["AR"] == 1.0 and len(scores.notes) == 1 and "lines 8" in scores.notes[0]
    printed = capsys.readouterr().err
    assert "lines 8" in printed and "100.0" in printed


def test_from_the_command_line(model, bop, dataset, tmp_path):
    csv, scores, again = (tmp_path / name for name in ("results.csv", "scores.json", "again.json"))

    def invoke(*words: object):
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    invoke("evaluate", model, "--dataset", bop, "--csv", csv, "--json", scores, "--threads", 1)
    invoke("score", csv, "--dataset", bop, "--json", again)
    assert json.loads(scores.read_text())["scores"] == pytest.approx(json.loads(again.read_text())["scores"])
    path = detections_file(tmp_path, true_boxes(dataset)[:1])
    invoke("evaluate", model, "--dataset", bop, "--boxes", "detector", "--detections", path, "--json", scores)
    written = json.loads(scores.read_text())
    assert (written["boxes"], written["missed"]) == ("detector", 5)
    with pytest.raises(DataError, match="found 'both', expected 'gt' or 'detector'"):
        invoke("evaluate", model, "--dataset", bop, "--boxes", "both")


def test_frames_that_may_have_been_trained_on_are_told(model, bop, tmp_path, capsys):
    frames, targets = bop / "few.txt", bop / "test_targets_bop19.json"
    frames.write_text("000002\n")
    kept = targets.read_text() if targets.exists() else None
    try:
        targets.unlink(missing_ok=True)
        evaluate_file(Asked(model, bop), threads=1)
        told = " ".join(capsys.readouterr().err.split())
        assert (
            "3 frames are measured, all that 'test' holds" in told
            and "also those that the model was trained on" in told
        )
        assert "few.txt" in told
        evaluate_file(Asked(model, bop, frames=frames), threads=1)
        assert "trained on" not in capsys.readouterr().err
        rows = [{"scene_id": 1, "im_id": 0, "obj_id": 1, "inst_count": 1}]
        targets.write_text(json.dumps(rows))
        evaluate_file(Asked(model, bop), threads=1)
        assert "trained on" not in capsys.readouterr().err
    finally:
        frames.unlink()
        targets.unlink(missing_ok=True)
        if kept is not None:
            targets.write_text(kept)


def test_how_many_of_the_measured_frames_were_trained_on(model, bop, tmp_path, capsys):
    """By the frames that the file names: also under a list, and not where they lie in another split."""
    listed, record = tmp_path / "list.txt", Predictor.from_onnx(model).record
    listed.write_text("000001\n000002\n")
    clean = tmp_path / "clean.txt"
    clean.write_text("000002\n")

    def told(known, frames: Path | None) -> str:
        made = onnx.load(model)
        helper.set_model_props(made, replace(record, frames=known).to_properties())
        onnx.save(made, tmp_path / "known.onnx")
        evaluate_file(Asked(tmp_path / "known.onnx", bop, frames=frames), threads=1)
        return " ".join(capsys.readouterr().err.split())

    known = {f"{bop.name}/test": np.array([[1, 0], [1, 1], [2, 2]]), f"{bop.name}/train": np.array([[1, 2]])}
    whole = told(known, None)
    assert "the model was trained on 2 of the 3 measured frames; --frames takes a list" in whole
    assert "if any" not in whole
    assert "trained on 1 of the 2 measured frames" in told(known, listed)
    for silent in (told(known, clean), told({}, None)):
        assert "trained on" not in silent
    assert "trained on, if any" in told({"elsewhere/test": known[f"{bop.name}/test"]}, None)


def test_a_missing_mesh_is_told_before_anything_is_estimated(model, bop, monkeypatch):
    monkeypatch.setattr("posedistill.deploy.evaluators.objects.estimate", None)
    monkeypatch.setattr(BopDataset, "mesh_path", lambda *_, **__: bop / "gone.ply")
    with pytest.raises(DataError, match=r"gone\.ply"):
        evaluate_file(Asked(model, bop), threads=1)


def run_without(modules: str, *words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process in which some modules cannot be imported."""
    block = f"import sys\nfor name in {modules!r}.split(): sys.modules[name] = None\n"
    code = block + "from posedistill.cli import main\nmain()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


TRAIN_ONLY = "torch torchvision timm lightning_fabric embreex safetensors yaml jinja2 markupsafe matplotlib onnx psutil"
"""Modules of the [train] extra; pydantic is left out because typer itself may bring it."""


@pytest.fixture
def photo(dataset) -> Path:
    return dataset.frames[0].rgb


@pytest.mark.parametrize(
    "words",
    [
        "evaluate MODEL --dataset BOP --csv OUT/found.csv --threads 1",
        "evaluate CAMERA --dataset ROOM --threads 1",
        "evaluate models/cars.onnx --dataset VIEWS --threads 1",
        "predict MODEL PHOTO --box 1:40,30,60,50 --camera 100,100,80,60 --out OUT",
        "predict CAMERA PHOTO --out OUT",
        "predict models/cars.onnx PHOTO --out OUT",
        "card MODEL",
        "bench MODEL --repeats 2 --threads 1",
        "data check BOP --overlay OUT/check.jpg",
        "data check ROOM --split test --overlay OUT/check.jpg",
        "data check VIEWS --overlay OUT/check.jpg",
        "data anchors BOP",
        "score FOUND --dataset BOP",
    ],
)
def test_the_light_install_does_all_but_training(words, model, camera_file, dataset, bop, photo, tmp_path):
    write_made_scene(tmp_path / "room", sequences=1, frames=2, size=(160, 120))
    truths = [(frame, instance) for frame in dataset.frames for instance in frame.instances]
    ids = np.array([(1, frame.im_id, instance.obj_id) for frame, instance in truths])
    R, t = (np.stack([getattr(instance, name) for _, instance in truths]) for name in ("R", "t"))
    Poses(*ids.T, np.ones(6), R, t, np.full(6, 0.1)).to_bop_csv(tmp_path / "found.csv")
    names = {"MODEL": model, "CAMERA": camera_file, "BOP": bop, "ROOM": tmp_path / "room", "PHOTO": photo}
    names |= {"VIEWS": write_categories(tmp_path / "views", count=4) if "VIEWS" in words else ""}
    names |= {"OUT": tmp_path / "out", "FOUND": tmp_path / "found.csv"}
    for name, path in names.items():
        words = words.replace(name, str(path))
    done = run_without(TRAIN_ONLY, *words.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "run a.yaml",
        "data render code OUT",
        "quantise MODEL OUT",
        "report OUT",
        "export OUT",
        "threshold MODEL --negatives OUT --dataset OUT",
    ],
)
def test_what_needs_more_than_the_light_install_names_the_extra(words, model, tmp_path):
    (tmp_path / "recipe.yaml").write_text("{}")
    done = run_without(TRAIN_ONLY, *words.replace("MODEL", str(model)).replace("OUT", str(tmp_path)).split())
    expected = "posedistill: this needs more than the light install: pip install 'posedistill[train]' (found no "
    assert done.returncode == 2 and done.stderr.startswith(expected)


def test_the_extras_leave_out_what_the_light_install_has():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = [
        {re.split(r"[>=\[<]", entry)[0] for entry in group}
        for group in (project["dependencies"], project["optional-dependencies"]["train"])
    ]
    assert {"scipy", "trimesh", "pillow", "numpy"} < names[0] and not names[0] & names[1]


def test_a_csv_of_another_data_set_is_refused(dataset, bop, tmp_path):
    """Neither a warning and zeros, nor success: none of its rows can be meant."""
    pose = np.eye(3)[None], np.array([[0.0, 0.0, 500.0]])
    ids = np.array([[1, 77, 1], [9, 0, 2], [1, 0, 99]])
    foreign = Poses.concatenate([Poses(*row[:, None], np.ones(1), *pose, np.full(1, 0.1)) for row in ids])
    foreign.to_bop_csv(tmp_path / "other.csv")
    for scored in (score_csv, detect_csv):
        with pytest.raises(
            DataError, match=r"other\.csv: no row is of a target image and an object of .*test: .*lines 2"
        ):
            scored(tmp_path / "other.csv", bop, "test", None, None, *([None] if scored is detect_csv else []))


def test_every_box_of_a_detector_counts_for_detection(model, bop, dataset, decoder, tmp_path, capsys):
    """A file that always answers finds object 1 in one image, and sees it in every other box too."""
    boxes = detections_file(tmp_path, [*true_boxes(dataset), (0, 1, 0.2, [5.0, 5.0, 20.0, 20.0])])
    queries = every_box(dataset, decoder.objects, boxes)
    assert [entry.labels for entry in queries] == [[1, 2, 1], [1, 2], [1, 2]]
    csv, scores = tmp_path / "results.csv", tmp_path / "scores.json"
    found = detect_file(Asked(model, bop, detections=boxes, csv=csv, json=scores), threads=1)
    assert (found.images, found.instances, found.estimates) == (3, 6, 7)
    content = json.loads(scores.read_text())
    assert content["scores"] == found.scores and 0 < found.scores["AP"] < 0.5
    assert set(content["objects"]) == {"1", "2"} and set(content["intervals"]) == set(found.scores)
    text = capsys.readouterr().err
    assert "6D detection" in text and "AP everywhere" in text
    again = detect_csv(csv, bop, "test", None, None, None)
    assert again.scores == pytest.approx(found.scores)


def test_detection_needs_a_detector(model, bop):
    with pytest.raises(DataError, match="--detections: 'detections': found no file, expected a BOP json: true boxes"):
        detect_file(Asked(model, bop))


@pytest.mark.parametrize(
    "words",
    [
        ["score", "r.csv", "--vsd"],
        ["evaluate", "m.onnx", "--legacy-diameters"],
        ["score", "r.csv", "--legacy-diameters"],
    ],
)
def test_detection_is_scored_alone(words, tmp_path):
    result = CliRunner().invoke(app, [*words, "--dataset", str(tmp_path), "--detection"])
    assert isinstance(result.exception, PoseDistillError) and "--detection: found" in str(result.exception)


def test_label_folders_are_measured_too(bop, tmp_path):
    """True poses of a list of a .data file score one; a list is asked for by --split."""
    data = write_labels(BopDataset(bop, "test"), tmp_path / "boxes", split="valid").data
    frames = BopDataset(bop, "test").frames
    rows = [(f.scene_id, f.im_id, i.obj_id, 1.0, i.R, i.t, 0.1, "") for f in frames for i in f.instances]
    Poses(*map(np.array, zip(*rows, strict=True))).to_bop_csv(tmp_path / "truth.csv")
    found = score_csv(tmp_path / "truth.csv", data, "valid", None, None)
    assert found.targets == 6 and found.scores["add_0.1d"] == 1.0 and found.dataset == "boxes.data/valid"
    with pytest.raises(DataError, match=r"'test': found \['valid'\], expected a list of images of that name"):
        open_bop(data, "test", None, None)
    with pytest.raises(DataError, match=r"expected none: --split names a list"):
        open_bop(data, "valid", None, None, [1])
