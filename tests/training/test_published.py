"""The commands of single-shot pose's repositories: recipes out of .data and .cfg files, run as any recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.training.helpers import export, load
from typer.testing import CliRunner

from posedistill import cli
from posedistill.backbones.cfg.description import read_cfg
from posedistill.backbones.cfg.library import shipped_text
from posedistill.backbones.cfg.network import CfgNetwork
from posedistill.backbones.cfg.weights import Header, read_weights, write_weights
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.writer import write_labels
from posedistill.errors import CheckpointError, DataError, RecipeError
from posedistill.estimators.yolo6d import YOLO6DSettings
from posedistill.recipe import published
from posedistill.recipe.published import training_recipe, unused_keys
from posedistill.recipe.recipe import load_recipe
from posedistill.training.published.single_shot import train_published, valid_published
from posedistill.training.schedule import learning_rate

SHORT = ["train.steps=2", "train.batch_size=2", "train.precision=float32", "train.validation_crops=2"]


@pytest.fixture
def datacfg(bop, tmp_path) -> Path:
    write_labels(BopDataset(bop, "test"), tmp_path / "box", split="valid", obj_ids=[1])
    return write_labels(BopDataset(bop, "train"), tmp_path / "box", obj_ids=[1]).data


@pytest.fixture
def modelcfg(tmp_path) -> Path:
    """YOLO-LITE for pictures of 96 x 64."""
    text = shipped_text("yolo_lite_bn").replace("width=416", "width=96\nbatch=4\nmax_epochs=30\nlearning_rate=0.002")
    path = tmp_path / "lite.cfg"
    path.write_text(text.replace("height=416", "height=64"))
    return path


@pytest.fixture
def weightfile(modelcfg, tmp_path) -> Path:
    """Darknet's weights of that network, untrained."""
    network = CfgNetwork(read_cfg(modelcfg))
    path = tmp_path / "model.weights"
    write_weights(path, network.cfg, Header(0, 1, 0, 0), network.state_dict())
    return path


def recipe_of(raw, tmp_path, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_recipe(path, overrides)


def test_what_the_recipe_says(datacfg, modelcfg, weightfile, tmp_path):
    recipe = recipe_of(training_recipe(datacfg, modelcfg, weightfile, pretrain_epochs=6), tmp_path)
    assert recipe.name == "box" and recipe.view == "picture" and recipe.input_size == (64, 96)
    assert recipe.student.settings["pretrain"] == pytest.approx(6 / 30)
    assert recipe.train.steps == 30 * 2 and recipe.train.batch_size == 4 and recipe.train.lr == 0.002
    assert recipe.student.pretrained == weightfile and recipe.data.picture.resolutions is None
    faithful = recipe_of(training_recipe(datacfg, modelcfg, faithful=True), tmp_path)
    assert faithful.data.picture.resolutions == "published" and faithful.student.settings["faithful"]


def test_pretraining_fits_into_short_trainings(datacfg, modelcfg, tmp_path):
    with pytest.raises(RecipeError, match=r"lite\.cfg: '--pretrain_num_epochs': found 30, expected fewer than the 30"):
        training_recipe(datacfg, modelcfg, pretrain_epochs=30)
    modelcfg.write_text(modelcfg.read_text().replace("max_epochs=30", "max_epochs=10"))
    recipe = recipe_of(training_recipe(datacfg, modelcfg), tmp_path)
    assert recipe.student.settings["pretrain"] == 0.5


SCHEDULES = {
    "2018, and teachers": ("steps=-1,50,3000,6000", ".1,10,.1,.1", {0: 1e-4, 50: 1e-3, 3000: 1e-4, 6000: 1e-5}),
    "by epochs": ("max_epochs=4000\nsteps=-1,80,160", "0.1,0.1,0.1", {0: 1e-4, 80 * 2: 1e-5, 160 * 2: 1e-6}),
    "students": ("steps=400000,450000", ".1,.1", {0: 1e-3}),
}
"""Steps and scales of published files, and the rates from a batch on; an epoch has two here."""


@pytest.mark.parametrize(("steps", "scales", "rates"), SCHEDULES.values(), ids=SCHEDULES)
def test_published_learning_rates(datacfg, modelcfg, tmp_path, monkeypatch, steps, scales, rates):
    monkeypatch.setattr(published, "EPOCHS", 4000)
    net = f"learning_rate=0.001\nmomentum=0.8\ndecay=0.0002\n{steps}\nscales={scales}"
    modelcfg.write_text(modelcfg.read_text().replace("max_epochs=30\nlearning_rate=0.002", net))
    found = recipe_of(training_recipe(datacfg, modelcfg, faithful=True), tmp_path).train
    assert (found.optimizer, found.momentum, found.weight_decay) == ("sgd", 0.8, 0.0002) and found.steps == 8000
    assert found.schedule == "step" and found.ema == 0
    for (start, rate), end in zip(rates.items(), [*list(rates)[1:], 8000], strict=True):
        for step in (start, end - 1):
            assert learning_rate(step, 8000, found.lr, "step", drops=found.drops) == pytest.approx(rate)


def test_steps_without_scales_are_refused(datacfg, modelcfg):
    modelcfg.write_text(modelcfg.read_text().replace("max_epochs=30", "max_epochs=30\nsteps=10,20\nscales=.1"))
    with pytest.raises(
        RecipeError, match=r"lite\.cfg, line .*'steps': found \[10.0, 20.0\] and scales \[0.1\], expected"
    ):
        training_recipe(datacfg, modelcfg, faithful=True)
    assert training_recipe(datacfg, modelcfg)["train"]["steps"] == 60


def test_scales_of_losses_are_the_cfg_s_where_faithful(datacfg, modelcfg, tmp_path):
    modelcfg.write_text(
        modelcfg.read_text().replace("coord_scale=1", "coord_scale=2").replace("ect_scale=5", "ect_scale=4")
    )
    faithful, corrected = (
        recipe_of(training_recipe(datacfg, modelcfg, faithful=choice), tmp_path).student.settings
        for choice in (True, False)
    )
    assert YOLO6DSettings(**faithful).scales == (2, 4, 0.1, 1)
    assert YOLO6DSettings(**corrected).scales == YOLO6DSettings().scales


def test_what_is_not_used_of_a_cfg_is_told(datacfg, modelcfg, tmp_path, capsys):
    more = "max_epochs=30\nburn_in=1000\nsteps=400000\nscales=.1"
    text = modelcfg.read_text().replace("max_epochs=30", more)
    modelcfg.write_text(text.replace("num=1\n", "num=1\nthresh=.6\n"))
    train_published(datacfg, modelcfg, None, overrides=SHORT, runs=tmp_path / "runs")
    scales = "object_scale=5, noobject_scale=0.1, class_scale=1, coord_scale=1"
    told = f"lite.cfg: not used: [net] burn_in=1000, steps=400000, scales=.1; [region] thresh=.6, {scales}\n"
    assert told in capsys.readouterr().err
    assert unused_keys(modelcfg, faithful=True) == "[net] burn_in=1000; [region] thresh=.6"


def test_backgrounds_of_the_original(datacfg, modelcfg, tmp_path):
    assert training_recipe(datacfg, modelcfg)["data"]["backgrounds"] is None
    folder = tmp_path / "VOCdevkit/VOC2012/JPEGImages"
    folder.mkdir(parents=True)
    assert training_recipe(datacfg, modelcfg)["data"]["backgrounds"] == str(folder)


def test_train_then_valid(datacfg, modelcfg, weightfile, tmp_path, capsys):
    runs = tmp_path / "runs"
    weights = train_published(datacfg, modelcfg, weightfile, overrides=SHORT, runs=runs)
    told = capsys.readouterr().err
    assert (
        weights.exists()
        and f"recipe: {runs}/box.yaml; the same: posedistill train {runs}/box.yaml train.steps=2" in told
    )
    (found,) = valid_published(datacfg, modelcfg, weights, runs)
    assert found.targets == 3 and found.dataset == "box.data/valid" and found.boxes == "none"


def test_valid_of_darknet_s_weights(datacfg, modelcfg, weightfile, tmp_path):
    assert valid_published(datacfg, modelcfg, weightfile, tmp_path / "runs")[0].scores["published_corner_px"] > 0
    assert valid_published(datacfg, modelcfg, weightfile, tmp_path / "runs")[0].targets == 3, "measured again"
    weightfile.write_bytes(weightfile.read_bytes()[:-4000])
    with pytest.raises(CheckpointError, match=r"model.weights"):
        valid_published(datacfg, modelcfg, weightfile, tmp_path / "runs")


def test_a_teacher_in_the_original_s_files(datacfg, modelcfg, weightfile, tmp_path):
    weights = train_published(
        datacfg, modelcfg, None, teacher=(modelcfg, weightfile), overrides=SHORT, runs=tmp_path / "runs"
    )
    assert weights.parent.parent.name == "distilled" and weights.exists()


def test_every_list_of_several_objects_is_measured(bop, modelcfg, tmp_path, capsys):
    """The original numbers lists, meshes and diameters by object; a network of all of them is measured on each."""
    for number in (2, 1):
        datacfg = write_labels(BopDataset(bop, "test"), tmp_path / "two", split=f"valid{number}").data
    modelcfg.write_text(modelcfg.read_text().replace("filters=20", "filters=21").replace("classes=1", "classes=2"))
    network, path = CfgNetwork(read_cfg(modelcfg)), tmp_path / "two.weights"
    write_weights(path, network.cfg, Header(), network.state_dict())
    found = valid_published(datacfg, modelcfg, path, tmp_path / "runs")
    assert [evaluation.dataset for evaluation in found] == ["two.data/valid1", "two.data/valid2"]
    assert all(evaluation.targets == 6 for evaluation in found) and "two-valid2.yaml" in capsys.readouterr().err
    write_labels(BopDataset(bop, "train"), tmp_path / "two")
    assert training_recipe(datacfg, modelcfg)["data"]["test"]["source"]["split"] == "valid1"


def test_a_data_file_without_a_list_to_measure_on_is_refused(datacfg, modelcfg, weightfile, tmp_path):
    datacfg.write_text("".join(line for line in datacfg.open() if not line.startswith("valid")))
    with pytest.raises(DataError, match=r"box\.data: 'valid': found \['train'\], expected a list of images"):
        valid_published(datacfg, modelcfg, weightfile, tmp_path / "runs")


def test_darknet_s_weights_are_a_finished_teacher(datacfg, modelcfg, weightfile, tmp_path):
    """All of their numbers; a part, another network's, or a family with more layers than the .cfg's is refused."""
    raw = training_recipe(datacfg, modelcfg)
    raw["teacher"] = raw["teacher"] | {"checkpoint": str(weightfile)}
    recipe = recipe_of(raw, tmp_path)
    estimator, metadata = load(recipe, "teacher")
    expected = read_weights(weightfile, read_cfg(modelcfg))[1]
    assert metadata == {} and not estimator.training
    for name, values in expected.items():
        assert np.array_equal(estimator.network.grid.state_dict()[name], values)
    export(recipe, "teacher", tmp_path / "teacher.onnx")
    raw["teacher"]["settings"] = {"backbone": "yolo_lite_bn@16"}
    with pytest.raises(
        CheckpointError, match=r"model.weights: 'checkpoint': found Darknet's weights, expected a \.safet"
    ):
        load(recipe_of(raw, tmp_path), "teacher")
    raw["teacher"]["settings"] = {"backbone": "tiny_yolo"}
    with pytest.raises(CheckpointError, match=r"model\.weights: 'weights': found 547204 numbers \(.*expected 15760260"):
        load(recipe_of(raw, tmp_path), "teacher")


def test_the_published_distillation_learns_from_the_teacher_alone(datacfg, modelcfg, weightfile, tmp_path):
    """In its own form, at one resolution and with confidences from the start. By default labels teach too."""
    with pytest.raises(RecipeError, match="'--pretrain_num_epochs': found 3, expected none under a teacher alone"):
        training_recipe(datacfg, modelcfg, pretrain_epochs=3, faithful=True, taught=True)
    runs, teacher = tmp_path / "runs", (modelcfg, weightfile)
    weights = train_published(datacfg, modelcfg, None, teacher=teacher, overrides=SHORT, runs=runs, faithful=True)
    recipe = load_recipe(runs / "box.yaml")
    assert recipe.distill[0].options == {"form": "response", "faithful": True} and not recipe.teacher.supervise
    assert recipe.student.settings["pretrain"] == 0 and recipe.data.picture.resolutions is None
    entry = json.loads((weights.parent / "metrics.jsonl").read_text().splitlines()[0])
    assert {name for name in entry if name.startswith("loss/")} == {"loss/match"}
    mixed = recipe_of(training_recipe(datacfg, modelcfg, taught=True), tmp_path)
    assert mixed.distill[0].options == {"form": "response"} and mixed.teacher.supervise


def test_the_options_of_the_original(datacfg, modelcfg, weightfile, tmp_path):
    files = ["--datacfg", str(datacfg), "--modelcfg", str(modelcfg), "--backupdir", str(tmp_path / "runs")]
    more = ["--initweightfile", str(weightfile), "--pretrain_num_epochs", "3"]
    done = CliRunner().invoke(cli.app, ["yolo6d", "train", *files, *more, *SHORT])
    assert done.exit_code == 0, done.exception
    done = CliRunner().invoke(cli.app, ["yolo6d", "valid", *files, "--weightfile", str(weightfile)])
    assert done.exit_code == 0, done.exception
    refused = CliRunner().invoke(cli.app, ["yolo6d", "train", *files, "--distiled", "1"])
    assert "found no teacher, expected --teachercfg FILE" in str(refused.exception)


def test_missing_files_are_named(datacfg, modelcfg, tmp_path):
    with pytest.raises(DataError, match=r"no\.data"):
        training_recipe(tmp_path / "no.data", modelcfg)
    with pytest.raises(RecipeError, match=r"no\.cfg"):
        training_recipe(datacfg, tmp_path / "no.cfg")


def test_weights_of_another_head_are_not_measured_without_it(datacfg, modelcfg, weightfile, tmp_path):
    """Its layer would be left out, and a random one measured in its place."""
    other = tmp_path / "other.cfg"
    other.write_text(modelcfg.read_text().replace("filters=20", "filters=32").replace("classes=1", "classes=13"))
    said = r"other\.cfg: '\[region\]': found coords=18, classes=13, expected coords=18, classes=1"
    with pytest.raises(RecipeError, match=said):
        valid_published(datacfg, other, weightfile, tmp_path / "runs")
    with pytest.raises(RecipeError, match=said):
        train_published(datacfg, modelcfg, None, teacher=(other, weightfile), runs=tmp_path / "runs")
    for gone in ("no.weights", "no.safetensors"):
        with pytest.raises(CheckpointError, match=gone):
            valid_published(datacfg, modelcfg, tmp_path / gone, tmp_path / "runs")
        with pytest.raises(CheckpointError, match=gone):
            train_published(datacfg, modelcfg, None, teacher=(modelcfg, tmp_path / gone), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_folders_that_cannot_be_are_named(datacfg, modelcfg, tmp_path):
    with pytest.raises(CheckpointError, match="gone: '--initweightfile': found no such file"):
        training_recipe(datacfg, modelcfg, tmp_path / "gone")
    with pytest.raises(DataError, match="gone: '--backgrounds': found no such folder"):
        training_recipe(datacfg, modelcfg, backgrounds=tmp_path / "gone")
    with pytest.raises(DataError, match=r"lite\.cfg/box\.yaml: 'file': found Not a directory"):
        train_published(datacfg, modelcfg, None, runs=modelcfg)
