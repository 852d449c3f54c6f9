import json

import numpy as np
import pytest
import torch
import yaml
from tests.data.category_writer import write_categories
from tests.training.helpers import interrupted_after

from posedistill.data.formats.viewpoint.categories import OBJECTNET_NOVEL, ROUND
from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.images import write_image
from posedistill.errors import CheckpointError, DataError, RecipeError
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.viewpoint import viewpoint_rotation
from posedistill.poses import Poses
from posedistill.recipe.networks import NetworkSettings, StudentSettings
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage, teacher_of
from posedistill.runtime import Predictor
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors, save_tensors
from posedistill.training.networks import build_network, load_weights
from posedistill.training.run import check_given_teacher, first_network, run, train_stage

NETWORK = {"backbone": "test_resnet", "width": 16, "features": 32}
ALL = ("brick", "slab", "tower")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_categories(tmp_path_factory.mktemp("made") / "set", count=12, categories=ALL)


@pytest.fixture
def recipe_of(made, tmp_path):
    """``recipe_of(annotations=..., ...)``: a recipe over the made data, whose ``data`` has these keys too."""

    def make(**data):
        network = {"family": "viewpoint", "settings": NETWORK}
        shown = data.get("shapes")
        raw = {
            "name": "run",
            "runs": str(tmp_path),
            "data": {"annotations": str(made), "crop_size": 32, "points": 16, **data},
            "teacher": network | {"settings": NETWORK | ({"shape": "cloud", "shape_features": 32} if shown else {})},
            "student": network,
            "distill": [
                {"name": "match", "options": {"form": "logits"}, "trust": {"by": "error", "limit": 1.0}},
                {"name": "contrast", "options": {"form": "crd", "negatives": 8, "weighting": "sin"}},
            ],
            "train": {"steps": 4, "batch_size": 4, "validate_every": 2, "precision": "float32"},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        return load_recipe(path)

    return make


def test_splits_and_labels(recipe_of, made):
    task = open_task(recipe_of(shapes=str(made / "shapes")))
    assert len(task.learned) == 27 and len(task.test_set) == 9
    assert task.kinds == [Kind(category, "1") for category in ALL]
    assert task.clouds.shape == (3, 5000, 3)
    found = task.training_set
    assert len(found.train) + len(found.validation) == 27
    batch = task.loader(found.train, seed=0, device="cpu", batch_size=4).batch(0)
    assert batch.targets["clouds"].shape == (4, 16, 3)
    assert [query.name for query in task.queries] == list(task.test_set.names)


_BASE = """aeroplane ashtray backpack basket bench bicycle blackboard boat bottle bucket bus cabinet camera can cap car
chair clock coffee_maker comb cup desk_lamp diningtable dishwasher eraser eyeglasses fan faucet
fire_extinguisher fish_tank flashlight fork hair_dryer hammer headphone helmet jar kettle key keyboard laptop
lighter mailbox microphone motorbike mouse paintbrush pan pencil piano pillow plate printer racket
refrigerator remote_control road_pole satellite_dish scissors screwdriver shovel sign skate skateboard sofa
speaker spoon stapler suitcase teapot telephone toaster toothbrush train trash_bin trophy tvmonitor
vending_machine washing_machine watch"""
BASE = frozenset(_BASE.split())
"""The 80 of ObjectNet3D's 100 categories that the zero-shot protocol trains on."""


def test_the_zero_shot_split_of_objectnet_parts_80_categories_from_20(recipe_of, tmp_path):
    names = [*BASE, *OBJECTNET_NOVEL]
    rows = [f"{name}.jpg,{name},{number},5,{split}" for number, name in enumerate(names) for split in ("train", "val")]
    (tmp_path / "annotations.csv").write_text("\n".join(["image,category,azimuth,elevation,set", *rows]))
    task = open_task(recipe_of(annotations=str(tmp_path), novel="objectnet"))
    learned, measured = set(task.learned.category), set(task.test_set.category)
    assert (len(learned), len(measured), len(learned | measured)) == (80, 20, 100)
    assert learned == BASE and learned | measured >= ROUND


def test_novel_categories_are_measured_and_never_trained_on(recipe_of):
    task = open_task(recipe_of(novel=["slab"]))
    assert task.learned.categories == ("brick", "tower") and task.test_set.categories == ("slab",)
    assert [kind.category for kind in task.kinds] == ["brick", "tower", "slab"]  # those of training keep their numbers
    with pytest.raises(RecipeError, match=r"data\.novel.*every category"):
        _ = open_task(recipe_of(novel=list(ALL))).learned
    with pytest.raises(DataError, match=r"no object of chair"):
        _ = open_task(recipe_of(categories=["brick", "chair"])).learned
    with pytest.raises(DataError, match=r"no object of .*bed"):
        _ = open_task(recipe_of(novel="objectnet")).test_set


def test_shots_are_written_down_and_can_be_taken_up(recipe_of, tmp_path):
    first = open_task(recipe_of(shots=3, shot_seed=5)).learned
    assert len(first) == 9
    listed = tmp_path / "run" / "shots.txt"
    assert listed.read_text().splitlines() == list(first.names)
    assert open_task(recipe_of(listed=str(listed))).learned.names == first.names
    with pytest.raises(DataError, match=r"shots of brick.*9 objects.*at least 10"):
        _ = open_task(recipe_of(shots=10)).learned
    with pytest.raises(RecipeError, match=r"shots and listed"):
        recipe_of(shots=3, listed=str(listed))


def test_missing_shapes_are_named_or_stood_in_for(recipe_of, made, tmp_path):
    shapes = tmp_path / "shapes"
    for category in ALL:
        (shapes / category).mkdir(parents=True)
        np.save(shapes / category / "other.npy", np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(DataError, match=r"no shape '1' of category brick, of brick000\.png.*stand_ins: true"):
        _ = open_task(recipe_of(shapes=str(shapes))).kinds
    assert open_task(recipe_of(shapes=str(shapes), stand_ins=True)).kinds == [Kind(name, "other") for name in ALL]
    with pytest.raises(RecipeError, match=r"stand_ins without shapes"):
        recipe_of(stand_ins=True)


def test_symmetries_are_of_known_categories(recipe_of):
    for stated, orders in (({"tower": "quarter"}, [1, 1, 4]), ({}, [])):
        recipe = recipe_of(symmetries=stated)
        task = open_task(recipe)
        network = build_network(recipe, recipe.student, NO_OBJECTS)
        assert task.deployed(network)[1].orders.tolist() == orders  # a model file knows them too
    with pytest.raises(RecipeError, match=r"data\.symmetries.*found cone.*brick, slab, tower"):
        _ = open_task(recipe_of(symmetries={"cone": "full"})).orders
    with pytest.raises(RecipeError, match=r"symmetries\.tower"):
        recipe_of(symmetries={"tower": "third"})


def test_scores_and_baselines(recipe_of):
    task = open_task(recipe_of(symmetries={"tower": "half"}))
    test = task.test_set
    perfect = Poses.of_cameras(test.R, name=test.names)
    assert task.score(perfect).scores["acc_30"] == 1.0
    turned = np.add(test.viewpoint, [180.0, 0.0, 0.0])
    halves = task.score(Poses.of_cameras(viewpoint_rotation(turned)))
    assert halves.scores["acc_30"] == pytest.approx(1 / 3)
    assert halves.by_label(halves.metrics[0])["tower"] == 1.0
    baselines = task.baselines(None)
    assert set(baselines) == {"most frequent", "uniform"} and all(len(poses) == 9 for poses in baselines.values())
    assert task.score(None).dataset == "set/val"


def test_other_families_and_data_do_not_meet(recipe_of, tmp_path):
    recipe_of()
    raw = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    raw["student"] = {"family": "posenet"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"student\.family posenet, expected viewpoint, which learns viewpoints"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_teacher_of_shapes_needs_them(recipe_of):
    recipe = recipe_of(shapes="none")
    raw = recipe.model_copy(update={"data": recipe.data.model_copy(update={"shapes": None})})
    with pytest.raises(RecipeError, match=r"family: viewpoint.*the targets clouds"):
        run(raw)


def test_a_whole_run_ships_a_student_that_needs_no_shape(recipe_of, made, tmp_path):
    torch.set_num_threads(1)
    recipe = recipe_of(shapes=str(made / "shapes"))
    run(recipe)
    records = {record["stage"]: record for record in json.loads((tmp_path / "run/evaluation.json").read_text())}
    networks = {"teacher", "student", "distilled", "exported"}
    assert set(records) == networks | {"most frequent", "nearest image", "uniform"}
    assert all(np.isfinite(records[stage]["scores"]["median_deg"]) for stage in records)
    assert records["exported"]["scores"] == pytest.approx(records["distilled"]["scores"], abs=1e-3)
    page = (tmp_path / "run/report.html").read_text()
    assert "How things are turned" in page and "distilled: t-SNE by category" in page
    assert len(records["teacher"]["turns"]["tsne"]) == 9 and "tsne" not in records["uniform"]["turns"]
    cases = sorted(path.name for path in (tmp_path / "run/cases").glob("*.jpg"))
    assert len(cases) == 16 and cases[0] == "exported_best_00.jpg"
    predictor = Predictor.from_onnx(tmp_path / "run/model.onnx")
    assert list(predictor.decoder.inputs) == ["images"] and predictor.decoder.names[0] == "brick/1"
    (pose,) = predictor.predict(np.zeros((40, 60, 3), np.uint8))
    assert pose.R.shape == (3, 3) and np.isnan(pose.t).all()
    assert Poses.read(tmp_path / "run/results.csv").name.tolist() == list(open_task(recipe).test_set.names)


def test_a_split_without_a_category_is_named(recipe_of, made, tmp_path):
    rows = (made / "annotations.csv").read_text().splitlines()
    kept = [row for row in rows if not ("slab" in row and ",val," in row)]
    (tmp_path / "set.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(DataError, match=r"no object of slab.*brick, tower"):
        _ = open_task(recipe_of(annotations=str(tmp_path / "set.csv"), measured=["brick", "slab"])).test_set


def test_a_checkpoint_of_other_bins_is_refused(recipe_of, tmp_path):
    recipe = recipe_of()
    other = build_estimator("viewpoint", NO_OBJECTS, NETWORK | {"bin_size": 30.0}, 32)
    save_tensors(tmp_path / "other.safetensors", dict(other.state_dict()), {"objects": []})
    with pytest.raises(CheckpointError, match=r"other\.safetensors.*head\.logits\.azimuth"):
        load_weights(recipe, recipe.teacher, tmp_path / "other.safetensors", NO_OBJECTS)


def test_a_training_with_its_bank_goes_on_bit_for_bit(recipe_of, made, monkeypatch):
    torch.set_num_threads(1)
    recipe = recipe_of(shapes=str(made / "shapes"), symmetries={"tower": "half"})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoint_every": 1})})
    train_stage(open_task(recipe), teacher_of(recipe))
    straight = Stage(recipe, "distilled", 0)
    train_stage(open_task(recipe), straight)
    given = recipe.teacher.model_copy(update={"checkpoint": teacher_of(recipe).weights})
    again = Stage(recipe.model_copy(update={"name": "again", "teacher": given}), "distilled", 0)
    with interrupted_after(2, monkeypatch):
        train_stage(open_task(again.recipe), again)
    assert load_tensors(again.folder / "last.safetensors")[1]["step"] == 2
    train_stage(open_task(again.recipe), again)
    ours, theirs = (load_tensors(stage.folder / "last.safetensors")[0] for stage in (again, straight))
    assert ours.keys() == theirs.keys() and "distill.1.student.weight" in ours
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_teacher_of_other_categories_is_refused_and_one_of_fewer_told(recipe_of, tmp_path, capsys):
    torch.set_num_threads(1)
    recipe = recipe_of(categories=["brick", "slab"])
    train_stage(open_task(recipe), teacher_of(recipe))
    weights = teacher_of(recipe).weights
    assert load_tensors(weights)[1]["categories"] == ["brick", "slab"]

    def taught(categories):
        given = recipe_of(categories=categories)
        teacher = given.teacher.model_copy(update={"checkpoint": weights})
        return given.model_copy(update={"name": "other", "teacher": teacher})

    with pytest.raises(RecipeError, match=r"teacher.*found a network that has learned brick, slab, expected tower too"):
        run(taught(["tower"]))
    check_given_teacher(open_task(taught(["slab"])))
    assert "learned" not in capsys.readouterr().err
    check_given_teacher(open_task(taught(["slab", "tower"])))
    assert "learned brick, slab, expected tower too" in " ".join(capsys.readouterr().err.split())


def test_training_starts_from_finished_weights(recipe_of, tmp_path):
    """Few-shot from a zero-shot model: the first network is that one, and other contents are another training."""
    torch.set_num_threads(1)
    recipe = recipe_of()
    task = open_task(recipe)
    stage = Stage(recipe, "student", 0)
    zero = tmp_path / "zero.safetensors"
    save_tensors(zero, build_network(recipe, recipe.student, NO_OBJECTS).state_dict(), {})
    started = _started(recipe, zero)
    first = first_network(task, Stage(started, "student", 0))
    kept = load_weights(recipe, recipe.student, zero, NO_OBJECTS)[0].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in first.state_dict().items())
    before = Stage(started, "student", 0).signature
    assert "started" not in stage.signature and before["started"]
    save_tensors(zero, build_network(recipe, recipe.student, NO_OBJECTS).state_dict(), {})
    assert Stage(started, "student", 0).signature["started"] != before["started"]
    with pytest.raises(CheckpointError, match=r"no such file"):
        first_network(task, Stage(_started(recipe, tmp_path / "gone.safetensors"), "student", 0))
    with pytest.raises(ValueError, match=r"found start and checkpoint"):
        NetworkSettings(family="viewpoint", start=zero, checkpoint=zero)
    with pytest.raises(ValueError, match=r"found start and inherit"):
        StudentSettings(family="viewpoint", start=zero, inherit="teacher")


def _started(recipe, path):
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"start": path})})


def test_a_teacher_of_views_teaches_a_student_without(recipe_of, made, tmp_path):
    torch.set_num_threads(1)
    folder = tmp_path / "renderings"
    for category in ALL:
        for azimuth in (0, 120, 240):
            image = np.full((30, 20, 3), 80 + azimuth // 2, np.uint8)
            write_image(folder / category / "01" / "crop" / f"rendering_030_{azimuth:03d}.png", image)
    data = {"renderings": str(folder), "tour": 1, "view_count": 3, "view_size": 32}
    recipe = recipe_of(**data)
    views = {"shape": "views", "view_backbone": "test_resnet", "view_count": 3, "view_features": 8}
    teacher = recipe.teacher.model_copy(update={"settings": NETWORK | views})
    recipe = recipe.model_copy(update={"teacher": teacher, "seeds": 1})
    run(recipe)
    records = {record["stage"]: record for record in json.loads((tmp_path / "run/evaluation.json").read_text())}
    assert np.isfinite(records["teacher"]["scores"]["median_deg"])
    assert list(Predictor.from_onnx(tmp_path / "run/model.onnx").decoder.inputs) == ["images"]
    shown = Predictor.from_onnx(tmp_path / "run/teacher.onnx").decoder
    assert shown.inputs["views"] == (3, 3, 32, 32) and shown.looks_at_shapes
    with pytest.raises(DataError, match=r"rendering_000_000\.png.*no such file"):
        _ = open_task(recipe_of(**data | {"tour": 2, "view_count": 6})).renderings
