"""Scene coordinates from recipe to record: a made scene, small networks, labels by a teacher."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from tests.data.room_writer import write_made_scene
from tests.training.helpers import export, load, measure, train

from posedistill.data.formats.open_scene import open_scene
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.export import torch_predictor
from posedistill.deploy.predict.scene import UNLIKELY
from posedistill.errors import DataError, RecipeError
from posedistill.estimators.base import FROZEN_MAPS
from posedistill.estimators.scene_coordinates import SceneCoordinatesNetwork
from posedistill.metrics.relocalisation import constant_pose, position_errors
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.recipe.stages import Stage
from posedistill.runtime import Predictor
from posedistill.tasks.calibration.score_curve import logistic_curve
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors
from posedistill.training.run import set_up
from posedistill.training.step import make_fabric
from posedistill.training.teaching.build import check_networks

NETWORK = {"family": "scene_coordinates", "settings": {"backbone": "test_efficientnet@16", "width": 64, "cells": 1024}}


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three walks of 30 frames through a made room; the last is the test split."""
    root = tmp_path_factory.mktemp("scenes") / "room"
    write_made_scene(root, "7-Scenes", sequences=3, frames=30)
    return root


def raw_recipe(scene: Path, runs: Path, **schedule: Any) -> dict[str, Any]:
    steps = {"steps": 4, "batch_size": 8, "precision": "float32", "validate_every": 2, "checkpoint_every": 2}
    return {
        "name": "room",
        "data": {
            "scene": str(scene),
            "short_side": 64,
            "crop": None,
            "gap": 1,
            "validation": 0.2,
            "views": dict.fromkeys(("reach", "roll", "colour", "gamma", "blur", "motion", "noise"), 0),
        },
        "teacher": NETWORK,
        "student": NETWORK,
        "distill": [{"name": "match", "trust": {"by": "error", "per": "vote"}, "options": {"unit": "crop"}}],
        "train": steps | schedule,
        "runs": str(runs),
    }


@pytest.fixture(scope="module")
def trained(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A teacher after some hundred steps, and a distilled student after a few. Read-only."""
    folder = tmp_path_factory.mktemp("trained")
    raw = raw_recipe(scene, folder / "runs", lr=3e-3, ema=0.9)
    raw["teacher"] = NETWORK | {"train": raw["train"] | {"steps": 600, "validate_every": 200}}
    (folder / "room.yaml").write_text(yaml.safe_dump(raw))
    loaded = load_recipe(folder / "room.yaml")
    for variant in ("teacher", "distilled"):
        train(loaded, variant, 0)
    return loaded


def test_some_hundred_steps_place_the_frames_they_have_seen(trained: Recipe, scene: Path) -> None:
    task, seen = open_task(trained), open_scene(scene, "train")
    truth = Poses.of_cameras(seen.R, seen.t)
    found = estimate(torch_predictor(*task.deployed(load(trained, "teacher")[0])), queries_of(seen))
    ours = float(np.median(position_errors(found, truth)))
    constant = float(np.median(position_errors(constant_pose(task.training_set.poses, len(seen)), truth)))
    assert ours < 0.4 * constant, (ours, constant)
    assert len(found) == len(seen) and 0 <= np.nanmin(found.score) <= np.nanmax(found.score) <= 1


def test_scores_are_calibrated_once_weights_are_finished(trained: Recipe) -> None:
    estimator, metadata = load(trained, "teacher")
    slope, _ = metadata["calibration"]["score_curve"]
    assert slope >= 0 and estimator.build_decoder(shape=(64, 114), short_side=64).score_curve[0] == slope


def test_a_distilled_student_is_measured_exported_and_shown(trained: Recipe, scene: Path, tmp_path: Path) -> None:
    task = open_task(trained)
    record = measure(trained, "distilled")
    assert record["dataset"] == "room/test" and len(record["places"]["estimate"]) == 30
    path = tmp_path / "model.onnx"
    assert export(trained, "teacher", path)["shift"] < 5e-3
    predictor = Predictor.from_onnx(path)
    assert predictor.decoder.calibration == "colour"  # this room states a camera of its own, and is taken at its word
    scores = evaluate_file(Asked(path, scene, csv=tmp_path / "poses.json"))
    poses = Poses.from_json(tmp_path / "poses.json")
    assert len(poses) == 30 and np.isfinite(poses.score).all()
    assert np.isfinite(scores.to_dict()["scores"]["position_m"])
    task.draw_votes(predictor, "teacher", tmp_path / "cases")
    shown = json.loads((tmp_path / "cases" / "teacher_votes_00.json").read_text())
    assert "cloud_teacher.ply" in shown["caption"]
    cloud = np.asarray(trimesh.load(tmp_path / "cloud_teacher.ply", process=False).vertices)
    low, high = np.percentile(cloud, [10, 90], axis=0)
    assert (low > -1).all() and (high < [7, 5, 4]).all()  # the room is 6 m long, 4 m wide and 2.8 m high


def test_where_nothing_is_recognised_every_photograph_is_missed(trained: Recipe) -> None:
    task, estimator = open_task(trained), load(trained, "teacher")[0]
    with torch.no_grad():
        estimator.network.head.confidence.bias.fill_(-30.0)
    found = estimate(torch_predictor(*task.deployed(estimator)), task.queries)
    assert len(found) == 30 and not found.found.any() and (found.score == 0).all()
    assert task.score(found).missed == 30


def test_a_teacher_labels_the_photographs_of_a_student(trained: Recipe, scene: Path, tmp_path: Path) -> None:
    """Poses by name stand in for the scene's own; photographs that are not named do not train."""
    seen = open_scene(scene, "train")
    table = Poses.of_cameras(seen.R, seen.t + 0.01, name=seen.names, score=np.linspace(0, 1, len(seen)))
    table.to_json(tmp_path / "labels.json")
    raw = raw_recipe(scene, tmp_path / "runs")
    posenet = {"family": "posenet", "settings": {"backbone": "mobilenetv3_small_050", "hidden": 32}}
    raw |= {"teacher": posenet, "student": posenet, "distill": [{"name": "relate"}]}
    raw["data"] |= {"poses": str(tmp_path / "labels.json"), "min_score": 0.5}
    (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw))
    task = open_task(load_recipe(tmp_path / "room.yaml"))
    assert len(task.photographs) == 30 and "30 of 60 photographs" in task.photographs.notes[-1]
    with pytest.raises(DataError, match=r"found 2 poses of 1 photographs, expected one of each"):
        seen.posed_by(Poses.of_cameras(seen.R[:2], seen.t[:2], name=[seen.names[0]] * 2), Path("labels.csv"))
    np.testing.assert_allclose(task.photographs.t, seen.t[30:] + 0.01)
    np.testing.assert_array_equal(task.test_set.t, open_scene(scene, "test").t)  # nobody labels what is measured


def test_photographs_that_nobody_has_placed_train_with_the_poses_of_a_table(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from the scene's folder on, or as seen from where the command ran; those of the test never train."""
    room = shutil.copytree(scene, tmp_path / "room")
    whole, test = open_scene(room, "train"), open_scene(room, "test")
    hidden = [name for name in whole.names if name.endswith(("2.color.png", "7.color.png"))]
    for name in hidden:
        (room / name.replace(".color.png", ".pose.txt")).unlink()
    with pytest.raises(DataError, match=r"'pose': found no frame-"):
        open_scene(room, "train")
    given = [f"room/{name}" if row % 2 else name for row, name in enumerate([*whole.names, *test.names])]
    R, t = np.concatenate([whole.R, test.R]), np.concatenate([whole.t, test.t])
    Poses.of_cameras(R, t, name=given).to_csv(tmp_path / "labels.csv")
    raw = raw_recipe(room, tmp_path / "runs")
    raw["data"]["poses"] = str(tmp_path / "labels.csv")
    (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    task = open_task(load_recipe(tmp_path / "room.yaml"))
    assert task.photographs.names == whole.names and task.photographs.sequences == whole.sequences
    np.testing.assert_allclose(task.photographs.t, whole.t, atol=1e-6)
    assert f"{len(hidden)} photographs more, without a pose in the scene" in task.photographs.notes[-1]
    assert f"{len(hidden)} images without a pose (first: frame-" in task.photographs.notes[-3]
    (room / test.names[0].replace(".color.png", ".pose.txt")).unlink()
    with pytest.raises(DataError, match=r"'pose': found no frame-"):
        _ = open_task(load_recipe(tmp_path / "room.yaml")).test_set
    assert (
        task.loader(task.training_set.train, seed=0, device=torch.device("cpu"), batch_size=4).batch(0).images.shape[0]
        == 4
    )


def test_photographs_without_a_pose_by_an_unknown_camera_are_left_out(scene: Path) -> None:
    seen = open_scene(scene, "train")
    first, *others = seen.frames
    zoomed = replace(first, K=first.K * [[1.1], [1.1], [1.0]])
    scenes = replace(seen, frames=(zoomed, *others[:9])), replace(seen, frames=tuple(others[:10]))
    table = Poses.of_cameras(seen.R, seen.t, name=seen.names)
    several, one = (some.posed_by(table, Path("labels.csv")) for some in scenes)
    assert len(several) == 10 and "50 photographs more, left out: the scene has no one camera" in several.notes[-1]
    assert len(one) == 60 and one.names == seen.names


def test_labels_of_other_photographs_are_refused(scene: Path, tmp_path: Path) -> None:
    Poses.of_cameras(np.eye(3)[None], np.zeros((1, 3)), name=["holiday.jpg"]).to_csv(tmp_path / "labels.csv")
    raw = raw_recipe(scene, tmp_path / "runs")
    raw["data"]["poses"] = str(tmp_path / "labels.csv")
    (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(
        DataError, match=r"labels.csv: 'name': found poses of 1 photographs, none of these \(first: hol"
    ):
        _ = open_task(load_recipe(tmp_path / "room.yaml")).photographs


@pytest.mark.parametrize(
    ("family", "stated", "expected"),
    [
        ("scene_coordinates", None, "colour"),
        ("posenet", None, "depth"),
        ("posenet", "colour", "colour"),
        ("scene_coordinates", "depth", "depth"),
    ],
)
def test_which_camera_of_7_scenes(scene: Path, tmp_path: Path, family: str, stated: str | None, expected: str) -> None:
    raw = raw_recipe(scene, tmp_path / "runs")
    network = NETWORK if family == "scene_coordinates" else {"family": family}
    raw |= {"teacher": network, "student": network, "distill": [{"name": "feature", "options": {"form": "hint"}}]}
    if stated is not None:
        raw["data"]["calibration"] = stated
    (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw))
    assert open_task(load_recipe(tmp_path / "room.yaml")).cameras == expected


def test_a_place_that_was_never_seen_is_not_claimed_to_be_known() -> None:
    """Even where all poses were right, a share of inliers of 0 means nothing is known."""
    slope, offset = logistic_curve(np.linspace(0.5, 0.9, 20), np.ones(20, dtype=np.bool_))
    likely = 1 / (1 + np.exp(-(slope * np.array([0.0, 0.7]) + offset)))
    assert likely[0] < UNLIKELY and likely[1] > 0.9
    assert logistic_curve(np.array([0.2, 0.4, 0.8]), np.array([True, True, False]))[0] >= 0


def test_a_student_of_views_that_come_again_learns_as_with_pictures(
    trained: Recipe, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trunk and teacher see each view once; where their outputs cannot be stored, weights become the same."""
    frozen = NETWORK["settings"] | {"frozen": True}
    looked: list[int] = []
    original = SceneCoordinatesNetwork.features
    monkeypatch.setattr(
        SceneCoordinatesNetwork, "features", lambda self, images: looked.append(len(images)) or original(self, images)
    )
    weights, passes = [], []
    for limit in (1.0, 1e-6):
        raw = raw_recipe(scene, tmp_path / f"runs{limit}", repeat_views=1, maps_limit=limit, steps=16)
        raw["train"] |= {"validate_every": 16, "checkpoint_every": 16}
        teacher = {"checkpoint": str(Stage(trained, "teacher", 0).weights), "cache_limit": limit}
        raw |= {"teacher": NETWORK | teacher, "student": NETWORK | {"settings": frozen}}
        (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw))
        looked.clear()
        weights.append(load_tensors(train(load_recipe(tmp_path / "room.yaml"), "distilled"))[0])
        passes.append(len(looked))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name])
    assert passes[0] < passes[1] - 20, passes  # eleven steps of each were replayed


def test_a_loss_on_what_is_not_stored_is_shown_pictures(trained: Recipe, scene: Path, tmp_path: Path) -> None:
    """Stored maps give a network no features and no embedding of its own to compare."""
    raw = raw_recipe(scene, tmp_path / "runs", repeat_views=1)
    raw |= {"teacher": NETWORK | {"checkpoint": str(Stage(trained, "teacher", 0).weights)}}
    raw |= {"student": NETWORK | {"settings": NETWORK["settings"] | {"frozen": True}}}
    stored = {}
    for name in ("match", "relate"):
        (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw | {"distill": [{"name": name}]}))
        recipe = load_recipe(tmp_path / "room.yaml")
        _, _, batches = set_up(open_task(recipe), Stage(recipe, "distilled", 0), make_fabric("float32"))
        stored[name] = FROZEN_MAPS in batches.batch(0).targets
    assert stored == {"match": True, "relate": False}


def test_cells_that_no_teacher_has_are_refused_before_anything_trains(scene: Path, tmp_path: Path) -> None:
    """A student's cells are as wide as its teacher's or twice as wide; else matching them would be 0 for ever."""
    for reduce, fits in ((2, True), (3, False)):
        student = NETWORK | {"settings": NETWORK["settings"] | {"reduce": reduce}}
        (tmp_path / "room.yaml").write_text(yaml.safe_dump(raw_recipe(scene, tmp_path / "runs") | {"student": student}))
        recipe = load_recipe(tmp_path / "room.yaml")
        with nullcontext() if fits else pytest.raises(RecipeError, match=r"stride 24.*stride 8 or 16"):
            check_networks(recipe, open_task(recipe).stand_ins)
