"""The commands of 3DAug-Pose: recipes out of their options, run as any recipe."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.data.category_writer import write_categories
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.images import write_image
from posedistill.errors import CheckpointError, PoseDistillError, RecipeError
from posedistill.geometry.viewpoint import label_angles
from posedistill.recipe.published_viewpoint import Options, distilling_sections, losses, training_sections
from posedistill.recipe.recipe import load_recipe

NAMES = {"brick": "car", "tower": "bus", "slab": "chair"}
"""Boxes under names of PASCAL3D+, of which the published split holds out the bus."""
SMALL = ["backbone=test_resnet", "width=16"]
RECIPE = [f"{side}.settings.{word}" for side in ("teacher", "student") for word in SMALL]
RECIPE += ["data.crop_size=32", "data.points=16", "train.steps=2", "train.precision=float32", "train.validate_every=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """``Pascal3D/Pascal3D.txt`` with 19 columns, and ``pointcloud``."""
    made = write_categories(tmp_path_factory.mktemp("made") / "set", count=12, categories=("brick", "tower", "slab"))
    folder = made.parent / "Pascal3D"
    shutil.move(made / "images", folder / "images")
    with (made / "annotations.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = "source,set,cat,im_name,object,cad_index,truncated,occluded,difficult,azimuth,elevation,inplane_rotation,"
    columns += "left,upper,right,lower,has_keypoints,distance,im_path"
    lines = [columns]
    for row in rows:
        angles, box = (
            [row[key] for key in keys.split()] for keys in ("azimuth elevation inplane", "left upper right lower")
        )
        head = ["made", row["split"], NAMES[row["category"]], Path(row["image"]).stem, "0", "1", "0", "0", "0"]
        lines.append(",".join([*head, *angles, *box, "1", "2.2", row["image"]]))
    (folder / "Pascal3D.txt").write_text("\n".join(lines) + "\n")
    for name, other in NAMES.items():
        (folder / "pointcloud" / other).mkdir(parents=True)
        for number in ("01", "02"):
            shutil.copy(made / "shapes" / name / "01.npy", folder / "pointcloud" / other / f"{number}.npy")
    return folder.parent


def options(root: Path, **changed) -> Options:
    about = {"dataset": "Pascal3D", "root": root, "shape": "PointCloud", "shape_dir": None, "bin_size": 15.0}
    about |= {"lr": 1e-4, "decrease": 20, "n_epoch": 30, "batch_size": 4, "print_freq": 50, "novel": False}
    about |= {"keypoint": False, "shot": None, "preset": "plus", "runs": root / "runs"}
    return Options(**about | changed)


def recipe_of(raw, tmp_path, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_recipe(path, overrides)


def invoke(*words):
    return CliRunner().invoke(cli.app, ["viewpoint", *map(str, words)])


def test_what_the_recipe_of_the_trainer_says(root, tmp_path):
    recipe = recipe_of(training_sections(options(root)), tmp_path)
    assert recipe.train.steps == 30 * 7 and recipe.train.drop == pytest.approx(2 / 3)  # 27 objects, four a step
    assert recipe.train.schedule == "step" and recipe.train.weight_decay == 5e-4
    assert recipe.teacher.settings["shape"] == "cloud" and recipe.data.shapes == root / "Pascal3D" / "pointcloud"
    novel = options(root, novel=True, shot=2, preset="released")
    few = recipe_of(training_sections(novel, random=True, random_range=1, model=Path("zero.safetensors")), tmp_path)
    assert few.name == "pascal3d-novel-2shot" and few.data.shots == 2 and few.data.held_out == {"bus", "motorbike"}
    assert few.data.turn_frames == 85 and few.teacher.settings["turned_frames"] and few.teacher.settings["faithful"]
    assert few.train.steps == 30 * 1 and few.teacher.start == Path("zero.safetensors")
    views = options(root, shape="MultiView", view_num=6, tour=1)
    seen = recipe_of(training_sections(views, shape_feature_dim=64), tmp_path)
    assert seen.teacher.settings["shape"] == "views" and seen.teacher.settings["view_features"] == 64
    assert seen.data.renderings == root / "Pascal3D" / "Renders_semi_sphere" and seen.data.shapes is None
    assert (seen.data.view_count, seen.data.tour, seen.teacher.settings["view_count"]) == (6, 1, 6)
    alone = recipe_of(training_sections(options(root, shape="None")), tmp_path)
    assert "shape" not in alone.teacher.settings and alone.data.shapes is None


def test_the_losses_of_presets_and_flags():
    assert [loss["name"] for loss in losses("plus", True, None, None)] == ["match", "match", "contrast"]
    assert [loss["name"] for loss in losses("plus", False, None, None)] == ["match", "match"]
    assert losses("released", True, None, None) == [{"name": "match", "weight": 3.0, "options": {"form": "logits"}}]
    contrast = losses("paper", True, 0.2, None)[1]["options"]
    assert contrast == {"form": "info_nce", "faithful": True, "temperature": 0.2, "teacher_side": "fixed"}
    assert losses("paper", True, None, "sin")[1]["options"]["form"] == "pose_weighted_info_nce"
    with pytest.raises(RecipeError, match=r"--weighting.*found cubic"):
        losses("paper", True, None, "cubic")


def test_the_recipes_of_the_shipped_cars_are_these_presets():
    for preset, file in (("plus", "cars_cpu"), ("paper", "cars_paper_cpu"), ("released", "cars_released_cpu")):
        raw = yaml.safe_load((Path(__file__).parents[2] / "recipes" / f"{file}.yaml").read_text())
        shipped = [{"weight": 1.0} | loss for loss in raw["distill"]]
        assert shipped == [{"weight": 1.0} | loss for loss in losses(preset, True, None, None)], preset


def test_train_distil_and_test(root, tmp_path):
    runs = tmp_path / "runs"
    shared = ["--dataset", "Pascal3D", "--root", root]
    done = invoke("train", *shared, "--output_dir", runs, "--batch_size", 4, "--workers", 2, *RECIPE)
    assert done.exit_code == 0, done.output
    told = " ".join(done.stderr.split())
    assert "--workers changes nothing as one thread makes batches ahead" in told
    assert f"the same: posedistill train {runs}/pascal3d.yaml teacher.settings.backbone=test_resnet" in told
    teacher = runs / "pascal3d" / "teacher" / "seed0" / "model.safetensors"
    words = ["--teacher_model", teacher, "--crd", "--batch_size", 4, "--preset", "plus", "--output_dir", runs]
    done = invoke("distill", *shared, *words, "--tau", 0.2, *RECIPE, "distill.2.options.negatives=8")
    assert done.exit_code == 0, (done.output, done.exception)
    student = runs / "pascal3d-distilled" / "distilled" / "seed0" / "model.safetensors"
    out = tmp_path / "out"
    done = invoke("test", *shared, "--model", student, "--output_dir", out, *SMALL, "crop_size=32")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "car: 3 objects, Acc30" in (out / "test.txt").read_text()
    assert np.load(out / "predictions_car.npy").shape == (3, 3)
    shown = ["--shape", "PointCloud", "--random_model", *SMALL, "crop_size=32"]
    done = invoke("test", *shared, "--model", teacher, "--output_dir", tmp_path / "teacher", *shown)
    assert done.exit_code == 0, (done.output, done.exception)
    assert np.ptp(np.load(tmp_path / "teacher" / "predictions_bus.npy"), axis=0).shape == (3,)
    wrong = invoke("test", *shared, "--model", teacher, "--output_dir", out, *SMALL)
    assert isinstance(wrong.exception, CheckpointError) and "unexpected network.fusion" in str(wrong.exception)


def test_predictions_are_label_angles(root, tmp_path, monkeypatch):
    """What is written decodes to what was scored."""
    from posedistill.training.published import viewpoint

    truth = viewpoint.open_categories(root / "Pascal3D").of_split("val", clean=True)
    viewpoint._write_predictions(tmp_path, truth, truth.R, np.zeros(len(truth)))
    own = np.array(truth.category) == "bus"
    np.testing.assert_allclose(np.load(tmp_path / "predictions_bus.npy"), label_angles(truth.viewpoint[own]), atol=1e-6)
    assert "bus: 3 objects, Acc30 100.00 %, MedErr 0.00" in (tmp_path / "test.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--dataset", "ShapeNetCore"], r"--dataset.*found ShapeNetCore.*expected ObjectNet3D or Pascal3D"),
        (["train", "--dataset", "Pascal3D", "--shape", "Voxels"], r"--shape.*found Voxels"),
        (["train", "--dataset", "Pascal3D", "--shape_dir", "Renders_semi_sphere"], r"--shape_dir.*Renders_semi_sphere"),
        (["train", "--dataset", "Pascal3D", "--shape", "MultiView", "--random"], r"--random.*MultiView.*PointCloud"),
        (["train", "--dataset", "Pascal3D", "--shape", "None", "--random"], r"--random.*--shape None"),
        (["train", "--dataset", "Pascal3D", "--keypoint"], r"--keypoint.*Pascal3D.*ObjectNet3D"),
        (["train", "--dataset", "Pascal3D", "--random", "--random_range", "3"], r"--random_range.*found 3"),
        (["train", "--dataset", "Pascal3D", "--preset", "best"], r"--preset.*found best"),
        (["distill", "--dataset", "Pascal3D", "--teacher_model", "t", "--contrast"], r"--contrast.*expected --crd"),
        (["distill", "--dataset", "Pascal3D", "--teacher_model", "t"], r"--stage 1 without --crd.*--stage 2"),
        (["test", "--dataset", "ShapeNetCore", "--model", "m", "--output_dir", "o"], r"--dataset.*Pix3D"),
        (["test", "--dataset", "Pascal3D", "--model", "m", "--output_dir", "o", "--preset", "best"], r"--preset.*best"),
        (
            ["test", "--dataset", "Pascal3D", "--model", "m", "--output_dir", "o", "--random_model"],
            r"--random_model: found --shape None",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(root, words, said):
    done = invoke(words[0], "--root", root, *words[1:])
    assert isinstance(done.exception, PoseDistillError)
    with pytest.raises(PoseDistillError, match=said):
        raise done.exception


def test_what_changes_nothing_is_told(root, tmp_path):
    notes = options(root, n_epoch=10).notes()
    assert notes == ["--decrease 20 is not reached in 10 epochs: the rate stays"]
    words = ["--teacher_model", tmp_path / "no.safetensors", "--stage", 2, "--tau", 0.3, "--view_num", 12, "--random"]
    done = invoke("distill", "--dataset", "Pascal3D", "--root", root, "--output_dir", tmp_path, *words, *RECIPE)
    told = " ".join(done.stderr.split())
    for why in ("--tau changes nothing without --crd", "--view_num changes nothing with --shape PointCloud"):
        assert why in told
    assert "--random changes nothing here" in told
    assert isinstance(done.exception, CheckpointError)  # there is no such teacher


def test_a_student_starts_from_other_weights(root):
    raw = distilling_sections(
        options(root),
        Path("t.safetensors"),
        student_model=Path("s.safetensors"),
        pretrain_backbone=Path("b.pth"),
        crd=True,
    )
    assert raw["student"]["start"] == "s.safetensors" and raw["student"]["pretrained"] == "b.pth"
    assert raw["teacher"]["checkpoint"] == "t.safetensors"


def test_a_teacher_of_views_is_trained_and_tested(root, tmp_path):
    for category in NAMES.values():
        for azimuth in (0, 180):
            image = np.full((40, 60, 3), azimuth, np.uint8)
            write_image(
                root / "Pascal3D" / f"Renders_semi_sphere/{category}/01/crop/rendering_030_{azimuth:03d}.png", image
            )
    runs, shown = tmp_path / "runs", ["--shape", "MultiView", "--view_num", 2, "--tour", 1]
    words = ["--dataset", "Pascal3D", "--root", root, *shown]
    small = ["teacher.settings.view_backbone=test_resnet", "data.view_size=32"]
    done = invoke("train", *words, "--output_dir", runs, "--batch_size", 4, *RECIPE, *small)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "changes nothing" not in done.stderr
    teacher = runs / "pascal3d" / "teacher" / "seed0" / "model.safetensors"
    tested = ["--model", teacher, "--output_dir", tmp_path / "out", *SMALL, "view_backbone=test_resnet", "crop_size=32"]
    done = invoke("test", *words, *tested)
    assert done.exit_code == 0, (done.output, done.exception)
    assert np.load(tmp_path / "out" / "predictions_car.npy").shape == (3, 3)
