"""Cameras from recipe to record: a made scene, small regressors, naive baselines beside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.data.room import Room
from tests.data.room_writer import write_made_scene
from tests.training.helpers import export, load, measure, train

from posedistill.compare.compare import kept_baselines
from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.images import read_image
from posedistill.data.packs.novel_views import Depths
from posedistill.data.packs.pack import Pack
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.export import torch_predictor
from posedistill.errors import CheckpointError, DataError, RecipeError
from posedistill.geometry.cameras import cell_centers
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.relocalisation import constant_pose, position_errors
from posedistill.poses import Poses
from posedistill.recipe.comparison import load_comparison
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.recipe.stages import Stage, teacher_of
from posedistill.report.evaluations import Group
from posedistill.report.headline import headline
from posedistill.report.trajectory import maps
from posedistill.runtime import Predictor
from posedistill.tasks import scene as scene_task
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import evaluate_run, measure_baselines
from posedistill.training.networks import build_network
from posedistill.training.run_folder import write_recipe
from posedistill.training.trial import Trial

POSENET = {"family": "posenet", "settings": {"backbone": "mobilenetv3_small_050", "hidden": 32, "dropout": 0.0}}


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three walks of 30 frames through a made room; the last is the test split."""
    root = tmp_path_factory.mktemp("scenes") / "room"
    write_made_scene(root, "7-Scenes", sequences=3, frames=30)
    return root


@pytest.fixture
def raw(scene: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "room",
        "data": {"scene": str(scene), "short_side": 64, "crop": 64, "gap": 1, "validation": 0.2},
        "teacher": POSENET,
        "student": POSENET,
        "distill": [{"name": "relate"}, {"name": "match", "options": {"form": "regression"}}],
        "train": {"steps": 4, "batch_size": 8, "precision": "float32", "validate_every": 2, "checkpoint_every": 2},
        "runs": str(tmp_path / "runs"),
    }


@pytest.fixture
def recipe(raw: dict[str, Any], tmp_path: Path):
    """``recipe("data.crop=48")``: the recipe of the room with overrides."""
    path = tmp_path / "room.yaml"
    path.write_text(yaml.safe_dump(raw))
    return lambda *overrides: load_recipe(path, overrides)


@pytest.fixture(scope="module")
def trained(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Teacher and distilled student after a few steps. Read-only."""
    folder = tmp_path_factory.mktemp("trained")
    schedule = {"steps": 120, "batch_size": 16, "lr": 3e-3, "precision": "float32", "ema": 0.9, "validate_every": 60}
    raw = {
        "name": "room",
        "data": {
            "scene": str(scene),
            "short_side": 64,
            "crop": 64,
            "gap": 1,
            "validation": 0.2,
            "views": dict.fromkeys(("reach", "roll", "colour", "gamma", "blur", "motion", "noise"), 0),
        },
        "teacher": POSENET,
        "student": POSENET,
        "distill": [{"name": "relate"}],
        "train": schedule,
        "runs": str(folder / "runs"),
    }
    (folder / "room.yaml").write_text(yaml.safe_dump(raw))
    loaded = load_recipe(folder / "room.yaml")
    for variant in ("teacher", "distilled"):
        train(loaded, variant, 0)
    return loaded


def test_a_few_steps_beat_a_constant_pose(trained: Recipe, scene: Path) -> None:
    """On the frames it was trained on: a hundred steps tell nothing about another walk."""
    task = open_task(trained)
    seen = open_scene(scene, "train")
    truth = Poses.of_cameras(seen.R, seen.t)
    found = estimate(torch_predictor(*task.deployed(load(trained, "teacher")[0])), queries_of(seen))
    ours, constant = (
        np.median(position_errors(poses, truth)) for poses in (found, constant_pose(task.training_set.poses, len(seen)))
    )
    assert ours < 0.6 * constant, ours / constant


def test_a_measured_network(trained: Recipe) -> None:
    task = open_task(trained)
    split, record = task.test_set, measure(trained, "teacher")
    assert record["dataset"] == "room/test"
    assert len(record["places"]["truth"]) == len(record["places"]["estimate"]) == len(split) == 30
    assert len(record["places"]["train"]) == len(task.training_set.train)
    found = Poses.from_csv(trained.folder / "teacher" / "seed0" / "results.csv")
    assert found.name[0] == "seq-03/frame-000000.color.png"
    errors = position_errors(found, Poses.of_cameras(split.R, split.t))
    np.testing.assert_allclose(record["outcomes"]["position_m"], errors, atol=1e-5)


def test_targets_are_fitted_before_training(trained: Recipe) -> None:
    prepared = open_task(trained).training_set
    network = load(trained, "distilled")[0].network
    centers = prepared.poses.centers
    np.testing.assert_allclose(network.center.numpy(), centers.mean(axis=0), atol=1e-5)
    spread = float(np.sqrt(((centers - centers.mean(axis=0)) ** 2).sum(axis=1).mean()))
    assert float(network.radius) == pytest.approx(spread, rel=1e-5) and spread > 0.3


def test_an_evaluation_is_not_made_twice(trained: Recipe, monkeypatch) -> None:
    first = measure(trained, "distilled")
    monkeypatch.setattr("posedistill.training.evaluate.estimate", None)
    assert measure(trained, "distilled") == first


def test_naive_baselines_beside_the_networks(trained: Recipe) -> None:
    evaluate_run(open_task(trained))
    records = {record["stage"]: record for record in json.loads((trained.folder / "evaluation.json").read_text())}
    assert list(records) == ["teacher", "distilled", "constant pose", "nearest image", "nearest position"]
    assert records["teacher"]["parameters"] > 200_000 and records["teacher"]["gmacs"] > 0
    position = {name: record["scores"]["position_m"] for name, record in records.items()}
    assert position["nearest position"] < min(position["nearest image"], position["constant pose"])
    assert "parameters" not in records["constant pose"]


def test_the_exported_file_is_the_network(trained: Recipe, scene: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "room.onnx"
    parity = export(trained, "distilled", path)
    assert parity["rows"] == 8 and parity["shift"] < 1e-4
    task, ours = open_task(trained), measure(trained, "distilled")
    theirs = task.score(estimate(Predictor.from_onnx(path), task.queries)).to_dict()
    assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-4)
    record = Predictor.from_onnx(path).record
    assert record.places is not None and record.places.shape == (60, 3)
    assert record.training.startswith("room: distilled, seed 0, step") and record.decoder.shape == (64, 64)
    scores = evaluate_file(Asked(path, scene, csv=tmp_path / "a.csv", json=tmp_path / "a.json"))
    assert scores.scores["position_m"] == pytest.approx(ours["scores"]["position_m"], abs=1e-4)
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["targets"] == 30 and (tmp_path / "a.csv").exists()
    for name, poses in task.baselines(None).items():  # the same as in a report
        assert written["baselines"][name] == pytest.approx(task.score(poses).to_dict()["scores"])
    with pytest.raises(DataError, match="'split': found 'val', expected one of train, test, all"):
        evaluate_file(Asked(path, scene, "val"))
    with pytest.raises(DataError, match=r"--frames: 'option': found few\.txt, expected none"):
        evaluate_file(Asked(path, scene, frames=Path("few.txt")))


@pytest.mark.parametrize("overrides", [("data.mean_image=true",), ("data.crop=[48, 96]",), ("data.crop=null",)])
def test_the_runtime_sees_what_validation_sees(recipe, overrides: tuple[str, ...]) -> None:
    """Middle crops of the pack, with and without a mean image, are the runtime's pictures of the photographs."""
    loaded = recipe(*overrides)
    task = open_task(loaded)
    torch.manual_seed(0)
    estimator = build_network(loaded, loaded.student, task.objects).eval()
    estimator.fit_targets(task.training_set.poses.R, task.training_set.poses.t)
    rows = task.training_set.validation[:4]
    loader = task.loader(rows, seed=0, device="cpu", batch_size=4, augment=False)
    with torch.no_grad():
        expected = estimator.network(loader.batch(0).images)[0].numpy()
    network, decoder = task.deployed(estimator)
    assert (network is estimator.network) == (not loaded.data.mean_image)
    predictor = torch_predictor(network, decoder)
    photographs = open_scene(loaded.data.scene, "train").take(rows)
    found = [predictor.predict(read_image(frame.image))[0].center for frame in photographs]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert decoder.shape == loader.shape


def test_a_mean_image_is_that_of_the_training_frames(recipe) -> None:
    task = open_task(recipe("data.mean_image=true", "data.crop=48"))
    prepared = task.training_set
    frames = prepared.packs[0].frames[prepared.train][..., :3]
    np.testing.assert_allclose(task.mean, frames.mean(axis=0), atol=1e-2)
    top, left = (64 - 48) // 2, (task.mean.shape[1] - 48) // 2
    crop = task.view(prepared.train).mean_crop()
    np.testing.assert_array_equal(crop, task.mean[top : top + 48, left : left + 48])


def test_validation_frames_are_blocks_that_training_never_sees(recipe) -> None:
    prepared = open_task(recipe()).training_set
    assert not set(prepared.train) & set(prepared.validation) and len(prepared.validation) == 12
    assert min(abs(int(a) - int(b)) for a in prepared.train for b in prepared.validation) > 1
    assert prepared.fingerprint != open_task(recipe("seed=1")).training_set.fingerprint


def test_validation_scores_rise_with_precision(recipe) -> None:
    loaded = recipe()
    task = open_task(loaded)
    validate = task.validation(torch.device("cpu"), 1000)
    estimator = build_network(loaded, loaded.student, task.objects).eval()
    estimator.fit_targets(task.training_set.poses.R, task.training_set.poses.t)
    answers, off = iter(validate.batches), 0.0

    class Off(torch.nn.Module):
        """Every answer off by so many metres; the rotation as it is."""

        reference = estimator.network.reference

        def forward(self, images):
            batch = next(answers)
            six = (batch.R @ self.reference.T)[:, :, :2].transpose(1, 2).flatten(1)
            return batch.camera_centers() + torch.tensor([off, 0.0, 0.0]), six

    estimator.network = Off()
    found = []
    for off in (2.0, 0.2, 0.0):  # noqa: B007 - Off looks at it
        answers = iter(validate.batches)
        found.append(validate(estimator))
    assert [round(scores["val/median_position"], 3) for scores in found] == [2.0, 0.2, 0.0]
    assert all(scores["val/median_orientation"] < 0.1 for scores in found)
    assert found[0]["val/score"] < found[1]["val/score"] < found[2]["val/score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.family=wdrnet", "student.settings={}"], "found student.family wdrnet, expected posenet"),
        (["data.crop=128"], "found crop 128, expected sides of 32 to 64 pixels"),
        (["data.objects=[1]"], "data.objects"),
        (["data.validation=0.001"], "found 0.001 of 60 frames, expected at least one frame"),
        (["data.scene=/nowhere"], "found no such folder"),
    ],
)
def test_recipes_that_cannot_be(recipe, overrides: list[str], message: str) -> None:
    with pytest.raises((RecipeError, DataError), match=message):
        open_task(recipe(*overrides)).check()


def test_a_recipe_about_objects_wants_families_that_know_them(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["data"] = {"objects": [1], "train": [{"models": "code", "count": 2}], "test": {"source": {"bop": "x"}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"found teacher\.family posenet, expected wdrnet"):
        load_recipe(tmp_path / "a.yaml")


def test_a_csv_of_objects_cannot_teach_cameras(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["teacher"] = {"csv": "poses.csv"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"found teacher\.csv with data of a scene"):
        load_recipe(tmp_path / "a.yaml")


def test_baselines_of_a_comparison_are_kept(trained: Recipe, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "room.yaml"
    path.write_text(yaml.safe_dump(trained.model_dump(mode="json")))
    comparison = load_comparison([path], ["name=versus", f"runs={tmp_path}"])
    task = open_task(trained)
    assert [answer["stage"] for answer in kept_baselines(comparison, task, None)] == [
        "constant pose",
        "nearest position",
    ]
    teacher = Trial("teacher", teacher_of(trained))
    teacher.record.write_text("{}")
    made = kept_baselines(comparison, task, teacher)
    assert [answer["stage"] for answer in made] == ["constant pose", "nearest image", "nearest position"]
    monkeypatch.setattr(scene_task.SceneTask, "baselines", None)
    assert kept_baselines(comparison, task, teacher) == made


def test_poses_of_other_photographs_are_not_scored(trained: Recipe) -> None:
    """A csv newer than network and recipe, while a photograph of the test split has become another one."""
    first = measure(trained, "teacher")
    csv = trained.folder / "teacher" / "seed0" / "results.csv"
    kept = Poses.from_csv(csv)
    Poses.of_cameras(kept.R, 2 * kept.t, name=kept.name, seconds=kept.seconds).to_csv(csv)
    assert measure(trained, "teacher")["scores"] != first["scores"]  # what is newer than all is taken as it is
    image = open_scene(trained.data.scene, "test").frames[0].image
    image.write_bytes(image.read_bytes() + b" ")
    assert measure(trained, "teacher")["scores"] == pytest.approx(first["scores"])


def test_a_capture_by_its_relative_path(tmp_path: Path, scene: Path, monkeypatch) -> None:
    """Images that lie beside the folder which names them."""
    frames = open_scene(scene, "test").frames[:2]
    root = tmp_path / "poses"
    (root / "here").mkdir(parents=True)
    from_inside = CameraDataset(Path("poses"), "test", tuple(frames))
    monkeypatch.chdir(tmp_path)
    assert [Path(tmp_path / "poses" / name).resolve() for name in from_inside.names] == [
        frame.image.resolve() for frame in frames
    ]


def test_an_ensemble_of_cameras_says_the_mean(trained: Recipe) -> None:
    members = [str(trained.folder / variant / "seed0" / "model.safetensors") for variant in ("teacher", "distilled")]
    raw = trained.model_dump(mode="json")
    raw["teacher"] = POSENET | {"ensemble": members}
    raw["name"], raw["distill"] = "ensemble", [{"name": "match", "options": {"form": "regression"}}]
    path = trained.runs.parent / "ensemble.yaml"
    path.write_text(yaml.safe_dump(raw))
    loaded = load_recipe(path)
    write_recipe(loaded)
    record = measure(loaded, "teacher")
    single = [measure(trained, name)["places"]["estimate"] for name in ("teacher", "distilled")]
    np.testing.assert_allclose(record["places"]["estimate"], np.mean(single, axis=0), atol=1e-3)
    assert record["parameters"] == 2 * 281_833
    answers = measure_baselines(open_task(loaded), teacher_of(loaded))
    assert [answer.stage for answer in answers] == ["constant pose", "nearest position"]


def test_a_teacher_that_measures_in_other_units_is_refused(trained: Recipe) -> None:
    """A metre of one is a spread of the other."""
    raw = trained.model_dump(mode="json")
    raw["student"]["settings"]["normalise"] = False
    raw["teacher"]["checkpoint"] = str(trained.folder / "teacher" / "seed0" / "model.safetensors")
    raw["name"], raw["distill"] = "units", [{"name": "match", "options": {"form": "regression"}}]
    path = trained.runs.parent / "units.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match="off for the same poses, expected the student's units"):
        train(load_recipe(path), "distilled", 0)


def test_a_first_phase_that_leaves_nothing_to_train_is_refused(trained: Recipe) -> None:
    raw = trained.model_dump(mode="json")
    raw["teacher"]["checkpoint"] = str(trained.folder / "teacher" / "seed0" / "model.safetensors")
    raw["name"] = "nothing_left"
    raw["distill"] = [{"name": "match", "phase": "first", "options": {"form": "regression"}}]
    path = trained.runs.parent / "nothing_left.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match="teach the whole network"):
        train(load_recipe(path), "distilled", 0)


def test_a_reconstruction_without_a_scale(recipe, trained: Recipe, scene: Path, tmp_path: Path, capsys) -> None:
    """The same scene in units of 4 m: told as such, or in metres where the recipe says what a unit is."""
    folder = tmp_path / "capture"
    folder.mkdir()
    for split in ("train", "test"):
        frames = [
            {
                "file_path": str(frame.image),
                "transform_matrix": np.block(
                    [[frame.R.T * (1, -1, -1), frame.center[:, None] / 4], [np.zeros((1, 3)), 1]]
                ).tolist(),
            }
            for frame in open_scene(scene, split).frames
        ]
        K, size = open_scene(scene, split).K[0], (114, 64)
        camera = {
            "fl_x": K[0, 0],
            "fl_y": K[1, 1],
            "cx": K[0, 2] + 0.5,
            "cy": K[1, 2] + 0.5,
            "w": size[0],
            "h": size[1],
        }
        (folder / f"transforms_{split}.json").write_text(json.dumps(camera | {"frames": frames}))

    def constant(loaded: Recipe) -> dict[str, Any]:
        task = open_task(loaded)
        return task.score(task.baselines(None)["constant pose"]).to_dict()

    original = constant(trained)
    unscaled = recipe(f"data.scene={folder}")
    metres, units = constant(recipe(f"data.scene={folder}", "data.metres_per_unit=4")), constant(unscaled)
    model = build_network(unscaled, unscaled.student, NO_OBJECTS)
    assert not open_task(unscaled).deployed(model)[1].metric
    assert metres["scores"] == pytest.approx(original["scores"], rel=1e-3)
    assert units["scores"]["position_m"] == pytest.approx(original["scores"]["position_m"] / 4, rel=1e-3)
    units_metric = next(metric for metric in units["metrics"] if metric["name"] == "position_m")
    assert units_metric["unit"] == "units" and "units" in units["curves"]["position_m"]["label"]
    group = Group([Evaluation.from_dict(units | {"stage": "distilled"})])
    assert " units in median position" in headline(group)[0] and maps(group).unit == "units"
    assert metres["dataset"] == "capture/test"
    assert units["dataset"] == "capture/test, no metres are known, positions are in the scene's own units"
    path = tmp_path / "room.onnx"
    export(trained, "distilled", path)
    assert Predictor.from_onnx(path).decoder.metric
    told = evaluate_file(Asked(path, folder, metres_per_unit=4.0))
    printed = capsys.readouterr().err
    assert "no metres are known" not in printed
    train, test = (open_scene(scene, split) for split in ("train", "test"))
    middle = constant_pose(Poses.of_cameras(train.R, train.t), len(test))
    median = np.median(position_errors(middle, Poses.of_cameras(test.R, test.t)))
    position = next(line for line in printed.splitlines() if "median position" in line)
    assert "constant pose" in printed and f"{median:.3f} m" in position
    untold = evaluate_file(Asked(path, folder))
    printed = capsys.readouterr().err
    assert "no metres are known" in printed
    assert " m " not in "".join(line for line in printed.splitlines() if "median position" in line)
    for wrong in (0.0, -2.0, float("nan")):
        with pytest.raises(DataError, match=r"metres per unit.*expected a positive number"):
            evaluate_file(Asked(path, folder, metres_per_unit=wrong))
    known = evaluate_file(Asked(path, scene))
    assert told.scores["position_m"] == pytest.approx(known.scores["position_m"], rel=1e-3)
    assert told.scores["position_m"] != untold.scores["position_m"]
    capsys.readouterr()
    evaluate_file(Asked(path, scene, "all"))
    assert "the model was trained on 60 of the 90 photographs" in " ".join(capsys.readouterr().err.split())


def test_a_recording_that_is_all_for_testing(recipe, scene: Path) -> None:
    part, whole = recipe(f"data.test={scene}"), recipe(f"data.test={scene}", "data.test_split=all")
    assert (len(open_task(part).test_set), len(open_task(whole).test_set)) == (30, 90)
    assert Stage(whole, "student", 0).signature == Stage(recipe(), "student", 0).signature, (
        "what is tested trains nothing"
    )
    with pytest.raises(RecipeError, match="expected a folder of its own for it"):
        recipe("data.test_split=all")


NOVEL = "data.novel_views={points: known.onnx, distance: 0.3, count: 3, share: 0.5}"


@pytest.fixture
def known_room(monkeypatch) -> None:
    """Depths are those of the made room, cast for each photograph's pixels."""
    room = Room()

    def cast(frame: CameraFrame) -> Depths:
        pixels = cell_centers(frame.height, frame.width, 1)
        points = room.points(pixels, frame.K, frame.R, frame.t) @ frame.R.T + frame.t
        return Depths(1.0 / points[:, 2].reshape(frame.height, frame.width), frame.K)

    monkeypatch.setattr(scene_task, "SceneDepths", lambda file, calibration: cast)


@pytest.fixture
def novel(recipe, known_room, tmp_path: Path, monkeypatch):
    """``novel("data.crop=48")``: the recipe with novel views by a file of points in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("known.onnx").write_bytes(b"points")
    return lambda *overrides: recipe(NOVEL, *overrides)


def test_training_sees_places_beside_the_photographs(recipe, novel) -> None:
    loaded = novel("train.steps=8")
    assert open_task(recipe()).cameras == "depth" and open_task(loaded).cameras == "colour"
    task = open_task(loaded)
    prepared = task.training_set
    assert [len(pack) for pack in prepared.packs] == [60, 180] and prepared.train.max() < 60
    assert read_image(prepared.packs[1].folder / "views.jpg").shape == (6 * 64, 4 * 114, 3)
    assert prepared.fingerprint != open_task(recipe("data.calibration=colour")).training_set.fingerprint
    held = task.held_back(torch.device("cpu"), 400).batch(0)
    np.testing.assert_allclose(held.camera_centers(), centers_of(prepared.packs[0])[prepared.validation], atol=1e-5)
    train(loaded, "student")
    assert measure(loaded, "student")["scores"]["position_m"] > 0


def centers_of(pack: Pack) -> np.ndarray:
    return -np.einsum("nji,nj->ni", pack.instances.R, pack.instances.t)


@pytest.mark.parametrize("zoom", ["[1.0, 1.0]", "[0.8, 1.2]"])
def test_every_novel_view_of_the_training_photographs_is_seen(novel, zoom: str) -> None:
    task = open_task(novel(f"data.views.zoom={zoom}"))
    prepared = task.training_set
    loader = task.loader(prepared.train, seed=0, device="cpu", batch_size=40)
    batches = [loader.batch(step) for step in range(20)]
    ids = torch.cat([batch.ids for batch in batches]).numpy()
    places = torch.cat([batch.camera_centers() for batch in batches]).numpy()
    own, others = (centers_of(pack) for pack in prepared.packs)
    moved = np.linalg.norm(places - own[ids], axis=1) > 1e-3
    assert 0.45 < moved.mean() < 0.55 and not np.isin(ids, prepared.validation).any()
    views = 3 * ids[moved, None] + np.arange(3)
    found = np.linalg.norm(others[views] - places[moved, None], axis=2)
    assert found.min(axis=1).max() < 1e-4
    assert np.bincount(found.argmin(axis=1), minlength=3).min() > 0.25 * moved.sum()
    focals = torch.cat([batch.K for batch in batches])[:, 0, 0].numpy()
    assert (np.ptp(focals) > 5) == (zoom != "[1.0, 1.0]")


def test_a_finished_run_needs_the_points_no_more(novel, capsys) -> None:
    first = open_task(novel()).training_set
    Path("known.onnx").rename("elsewhere.onnx")
    again = open_task(novel()).training_set
    assert again.fingerprint == first.fingerprint and "known.onnx is gone" in capsys.readouterr().err


def test_novel_views_are_for_regressors(recipe) -> None:
    loaded = recipe(NOVEL, "distill=[]", "student={family: scene_coordinates}")
    with pytest.raises(RecipeError, match=r"novel_views.*points of the scene.*tell a pose at once"):
        open_task(loaded).training_set  # noqa: B018


@pytest.mark.parametrize(
    ("novel_views", "message"),
    [
        ("{points: nowhere.onnx, distance: 0.3}", "nowhere.onnx"),
        ("{points: nowhere.onnx}", "novel_views.distance"),
        ("{points: nowhere.onnx, distance: 0}", "novel_views.distance.*found 0, expected more than 0"),
        ("{points: nowhere.onnx, distance: 0.3, turn: 90}", "novel_views.turn.*found 90, expected at most 60"),
    ],
)
def test_novel_views_that_cannot_be(recipe, novel_views: str, message: str) -> None:
    with pytest.raises((RecipeError, CheckpointError), match=message):
        open_task(recipe(f"data.novel_views={novel_views}")).training_set.fingerprint  # noqa: B018
