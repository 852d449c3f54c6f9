"""A whole run of surface codes: drawn frames, small networks, a few steps; the teacher's codes are deeper and finer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from posedistill.data.codes import code_path
from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import read_image
from posedistill.decode import ZebraPoseDecoder
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.export import export_onnx
from posedistill.errors import RecipeError
from posedistill.geometry.codes import build_tree, is_folded, save_tree
from posedistill.geometry.objects import box_corners
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.recipe.stages import students_of, teacher_of
from posedistill.runtime.predictor import Predictor
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors
from posedistill.training.networks import load_network
from posedistill.training.run import run, train_stage
from posedistill.training.step import TrainingStep
from posedistill.training.teaching.build import check_networks

FACES = np.array([(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)])
NETWORK = {"backbone": "darknet_tiny_q", "width": 16, "bits": 8}


@pytest.fixture(scope="module")
def folder(drawn_data: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended. Read-only."""
    root = tmp_path_factory.mktemp("codes")
    schedule = {"steps": 4, "batch_size": 4, "precision": "float32", "validate_every": 2, "validation_crops": 4}
    recipe = {
        "name": "codes",
        "data": drawn_data,
        "teacher": {"family": "zebrapose", "settings": NETWORK | {"bits": 10, "stride": 2}, "cache": True},
        "student": {"family": "zebrapose", "settings": NETWORK | {"decoder": "dense"}},
        "distill": [
            {"name": "align", "options": {"unit": "code", "bit_decay": 0.7, "place_weight": 4.0, "reach": 0.5}},
            {"name": "match", "options": {"form": "bits", "heads": ["code"], "mask": "mask"}, "weight": 0.1},
            {"name": "feature", "options": {"layers": ["p3"], "region": "object"}},
        ],
        "train": schedule | {"checkpoint_every": 2, "log_every": 1, "lr": 1e-3},
        "runs": str(root / "runs"),
    }
    path = root / "codes.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(load_recipe(path))
    return root / "runs" / "codes"


def test_every_stage_is_trained_measured_and_shipped(folder: Path) -> None:
    steps = [json.loads(line) for line in (folder / "distilled/seed0/metrics.jsonl").read_text().splitlines()]
    assert {f"loss/{name}" for name in ("code", "mask", "align", "match", "feature")} <= steps[0].keys()
    records = {entry["stage"]: entry for entry in json.loads((folder / "evaluation.json").read_text())}
    assert records.keys() == {"teacher", "student", "distilled", "exported"}
    assert (folder / "report.html").exists() and (folder / "bench.json").exists()
    for name in ("teacher", "exported"):
        pictures = sorted((folder / "cases").glob(f"{name}_votes_*.jpg"))
        assert len(pictures) == 3 and read_image(pictures[0]).shape == (320, 3 * 320 + 12, 3)
    assert "true codes" in (folder / "report.html").read_text()
    assert {"bit_error/1", "bit_error/8", "effective_bits"} <= steps[0].keys()
    assert "Wrong bits, %" in (folder / "report.html").read_text()
    parity = json.loads((folder / "model.parity.json").read_text())
    assert parity["outputs"]["logits"] < 0.01
    assert len(list((folder.parent / "cache").glob("codes-*.npz"))) == 2  # one for each object, shared by all networks


def test_other_codes_of_teacher_and_student_are_refused_before_anything_trains(recipe, tmp_path: Path) -> None:
    tree = build_tree(box_corners(-np.ones(3), np.ones(3)), FACES, bits=8)
    for name, scale in (("ours", 1), ("copy", 1), ("theirs", 2)):
        (tmp_path / name).mkdir()
        for obj_id in (1, 2):
            save_tree(replace(tree, points=scale * tree.points), code_path(tmp_path / name, obj_id))

    def checked(student: dict, teacher: dict) -> Recipe:
        raw = recipe().model_dump(mode="json")
        raw["student"] |= {"family": "zebrapose", "settings": NETWORK | student}
        raw["teacher"] |= {"family": "zebrapose", "settings": NETWORK | {"bits": 10} | teacher}
        raw["distill"] = [{"name": "match", "options": {"form": "bits", "heads": ["code"]}}]
        chosen = Recipe.model_validate(raw)
        check_networks(chosen, open_task(chosen).stand_ins)
        return chosen

    ours, copy, theirs = ({"codes": str(tmp_path / name)} for name in ("ours", "copy", "theirs"))
    checked({}, {})
    checked({"fold": True}, {"fold": True})
    for student, teacher, found in (
        ({}, {"fold": True}, "found codes of the meshes, folded, expected codes of the meshes, as the student's"),
        (ours, theirs, r"found codes \w{12} of a folder, expected codes \w{12} of a folder"),
        (ours, {}, "found codes of the meshes, expected codes"),
    ):
        with pytest.raises(RecipeError, match=rf"'teacher\.settings': {found}"):
            checked(student, teacher)
    stage = students_of(checked(ours, copy))[0]
    signed = stage.signature["codes"]
    save_tree(tree.cut(7), code_path(tmp_path / "ours", 1))
    assert replace(stage).signature["codes"] != signed


def test_an_interrupted_training_of_codes_goes_on_to_the_bit(recipe, tmp_path: Path, monkeypatch) -> None:
    """Weights and the share of wrong bits, by which bits count."""
    kept, step_of = [], TrainingStep.__call__
    for stop in (None, 2):
        raw = recipe("train.steps=4", "train.ema=0").model_dump(mode="json") | {"runs": str(tmp_path / f"{stop}")}
        raw["student"] |= {"family": "zebrapose", "settings": NETWORK}
        chosen = Recipe.model_validate(raw)
        task, stage = open_task(chosen), students_of(chosen)[0]

        def stepping(self, batch, step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            return step_of(self, batch, step)

        with monkeypatch.context() as patch:
            patch.setattr(TrainingStep, "__call__", stepping)
            if stop is None:
                train_stage(task, stage)
            else:
                with pytest.raises(KeyboardInterrupt):
                    train_stage(task, stage)
        train_stage(task, stage)
        kept.append(load_tensors(stage.folder / "last.safetensors")[0])
    straight, resumed = kept
    assert straight.keys() == resumed.keys() and (straight["model.bit_errors"] > 0).any()
    assert not [name for name in straight if not torch.equal(straight[name], resumed[name])]


def test_a_csv_of_poses_teaches_codes(recipe, bop: Path, tmp_path: Path) -> None:
    rows = [(f, i) for f in BopDataset(bop, "train").frames for i in f.instances]
    ids = np.array([(f.scene_id, f.im_id, i.obj_id) for f, i in rows])
    R, t = np.stack([i.R for _, i in rows]), np.stack([i.t for _, i in rows])
    Poses(*ids.T, np.full(len(rows), 0.9), R, t, np.full(len(rows), -1.0)).to_bop_csv(tmp_path / "poses.csv")
    raw = recipe("train.steps=2").model_dump(mode="json", exclude={"teacher"})
    raw["teacher"] = {"csv": str(tmp_path / "poses.csv"), "supervise": False}
    raw["student"] |= {"family": "zebrapose", "settings": NETWORK}
    raw["distill"] = [
        {"name": "match", "options": {"form": "bits", "heads": ["code"], "mask": "mask"}},
        {"name": "align", "options": {"unit": "code", "reach": 0.5}},
    ]
    chosen = Recipe.model_validate(raw)
    task, stage = open_task(chosen), students_of(chosen)[-1]
    check_networks(chosen, task.stand_ins)
    train_stage(task, stage)
    steps = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(steps[0][f"loss/{name}"] > 0 for name in ("match", "align"))


def test_half_turns_are_folded_by_a_recipe_and_in_the_file(drawn_data: dict, tmp_path: Path) -> None:
    """Object 1 is said to have one, object 2 none."""
    root = tmp_path / "boxes"
    shutil.copytree(drawn_data["train"][0]["bop"], root)
    info = json.loads((root / "models/models_info.json").read_text())
    info["1"]["symmetries_discrete"] = [np.diag([-1.0, -1.0, 1.0, 1.0]).ravel().tolist()]
    (root / "models/models_info.json").write_text(json.dumps(info))
    bop = {"bop": str(root)}
    recipe = {
        "name": "folded",
        "data": drawn_data | {"train": [bop | {"split": "train"}], "test": {"source": bop | {"split": "test"}}},
        "teacher": {"family": "zebrapose", "settings": NETWORK | {"fold": True}},
        "student": {"family": "zebrapose", "settings": NETWORK | {"fold": True}},
        "distill": [{"name": "match", "options": {"form": "bits", "heads": ["code"]}}],
        "train": {"steps": 2, "batch_size": 4, "precision": "float32", "validation_crops": 4},
        "runs": str(tmp_path / "runs"),
    }
    path = tmp_path / "folded.yaml"
    path.write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(path)
    task, stage = open_task(loaded), teacher_of(loaded)
    train_stage(task, stage)
    network, decoder = task.deployed(load_network(stage, task.objects)[0])
    file = export_onnx(network, tmp_path / "model.onnx", decoder, "test")
    shipped = Predictor.from_onnx(file).decoder
    assert isinstance(shipped, ZebraPoseDecoder)
    assert [is_folded(radii) for radii in shipped.radii] == [True, False]


def test_the_file_holds_its_codes_and_is_scored_as_in_the_run(folder: Path, bop: Path, tmp_path: Path) -> None:
    decoder = Predictor.from_onnx(folder / "model.onnx").decoder
    assert decoder.family == "zebrapose" and len(np.unique(decoder.points[0], axis=0)) > 400  # type: ignore[attr-defined]
    csv = tmp_path / "again.csv"
    found = evaluate_file(Asked(folder / "model.onnx", bop, csv=csv))
    records = {entry["stage"]: entry for entry in json.loads((folder / "evaluation.json").read_text())}
    assert found.targets == records["exported"]["targets"]
    np.testing.assert_allclose(Poses.from_bop_csv(csv).t, Poses.from_bop_csv(folder / "results.csv").t, atol=1e-3)
