"""A csv of poses labels images: the masks and scores it gives, what it leaves out, and what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.helpers import measure, train
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import read_mask
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.render import label
from posedistill.data.render.label import best_of_each, label_dataset, unit_scores
from posedistill.errors import DataError, RecipeError
from posedistill.files import link_file
from posedistill.geometry.meshes import load_mesh, save_ply
from posedistill.geometry.rotations import random_rotations
from posedistill.poses import Poses
from posedistill.recipe.recipe import load_recipe
from posedistill.training.teaching.build import check_networks


def table(rows, R=None, t=None) -> Poses:
    """Rows ``(scene, image, object, score)``."""
    ids, scores = np.array([row[:3] for row in rows]), np.array([row[3] for row in rows])
    R = np.tile(np.eye(3), (len(rows), 1, 1)) if R is None else R
    t = np.tile([0.0, 0.0, 600.0], (len(rows), 1)) if t is None else t
    return Poses(*ids.T, scores, R, t, np.full(len(rows), -1.0))


@pytest.fixture
def truth(bop_root: Path) -> Poses:
    """The true poses of objects 7 and of the first object 2 in every image, scores 0.9 and 0.4."""
    rows = [(f, i) for f in BopDataset(bop_root).frames for i in f.instances[:2]]
    ids = [(f.scene_id, f.im_id, i.obj_id, {7: 0.9, 2: 0.4}[i.obj_id]) for f, i in rows]
    return table(ids, np.stack([i.R for _, i in rows]), np.stack([i.t for _, i in rows]))


@pytest.fixture
def unlabelled(bop_root: Path, tmp_path: Path) -> BopDataset:
    """The same images without annotations."""
    root = Path(shutil.copytree(bop_root, tmp_path / "unlabelled"))
    for pattern in ("scene_gt*.json", "mask", "mask_visib"):
        for path in root.glob(f"test/*/{pattern}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return BopDataset(root)


def write(estimates: Poses, path: Path) -> Path:
    estimates.to_bop_csv(path)
    return path


def test_a_csv_becomes_a_data_set(truth, unlabelled, bop_root, tmp_path):
    """Poses and scores as in the csv, masks as the models' silhouettes with the nearer object before the farther."""
    report = label_dataset(unlabelled, write(truth, tmp_path / "poses.csv"), tmp_path / "out")
    assert str(report) == "10 poses label 5 frames, 0 have none"
    made, known = BopDataset(tmp_path / "out"), BopDataset(bop_root)
    assert made.models_info == known.models_info and len(made) == 5
    for frame in made.frames:
        twin = known.frame(frame.scene_id, frame.im_id)
        assert frame.rgb.read_bytes() == twin.rgb.read_bytes() and np.array_equal(frame.K, twin.K)
        for instance, annotated in zip(
            frame.instances, sorted(twin.instances[:2], key=lambda i: i.obj_id), strict=True
        ):
            assert instance.obj_id == annotated.obj_id and instance.score == {7: 0.9, 2: 0.4}[instance.obj_id]
            np.testing.assert_allclose(instance.R, annotated.R, atol=1e-12)
            for side in ("mask", "mask_visib"):
                ours, theirs = read_mask(getattr(instance, side)), read_mask(getattr(annotated, side))
                overlap = (ours & theirs).sum() / (ours | theirs).sum()
                assert overlap > 0.88, side  # OpenCV fills half a pixel more all around
            assert instance.visib_fract == pytest.approx(annotated.visib_fract, abs=0.1)


def test_scores_travel_to_the_batch(truth, unlabelled, tmp_path):
    """Through annotation, pack and crop; hand-annotated instances have 1."""
    label_dataset(unlabelled, write(truth, tmp_path / "poses.csv"), tmp_path / "out")
    made = BopDataset(tmp_path / "out")
    pack = build_pack(ObjectFrames(made, [2, 7]), tmp_path / "pack", workers=1)
    loader = Loader(CropView([pack], made.objects([2, 7]), AugmentSettings(), 32), 10, 0, "cpu", threads=1)
    batch = loader.batch(0)
    assert batch.score.dtype == torch.float32
    assert batch.score.tolist() == pytest.approx([[0.4, 0.9][label] for label in batch.label.tolist()])


def test_another_score_makes_another_pack(truth, unlabelled, tmp_path):
    csv = write(truth, tmp_path / "poses.csv")
    label_dataset(unlabelled, csv, tmp_path / "out")
    first = build_pack(ObjectFrames(BopDataset(tmp_path / "out"), [2, 7]), tmp_path / "pack", workers=1)
    path = tmp_path / "out" / "test" / "000001" / "scene_gt.json"
    path.write_text(path.read_text().replace('"score": 0.9', '"score": 0.8'))
    second = build_pack(ObjectFrames(BopDataset(tmp_path / "out"), [2, 7]), tmp_path / "pack", workers=1)
    assert sorted(set(first.instances.score)) == [0.4, 0.9] and sorted(set(second.instances.score)) == [0.4, 0.8, 0.9]


def test_a_score_that_is_no_number_is_a_fault(truth, unlabelled, tmp_path):
    label_dataset(unlabelled, write(truth, tmp_path / "poses.csv"), tmp_path / "out")
    path = tmp_path / "out" / "test" / "000001" / "scene_gt.json"
    path.write_text(path.read_text().replace('"score": 0.9', '"score": "high"', 1))
    with pytest.raises(
        DataError, match=r"scene_gt\.json: '0\[1\]\.score': found 'high'|found \"'high'\", expected a number"
    ):
        BopDataset(tmp_path / "out")


def test_the_best_of_each_object_in_each_image():
    rows = [(1, 0, 2, 0.3), (1, 0, 2, 0.8), (1, 0, 7, 0.1), (1, 1, 2, 0.2), (1, 0, 2, 0.8), (4, 0, 2, 0.5)]
    found = best_of_each(table(rows, t=np.arange(18.0).reshape(6, 3)))
    ids = zip(found.scene_id.tolist(), found.im_id.tolist(), found.obj_id.tolist(), found.score.tolist(), strict=True)
    assert list(ids) == [(1, 0, 2, 0.8), (1, 0, 7, 0.1), (1, 1, 2, 0.2), (4, 0, 2, 0.5)]
    assert found.t[0].tolist() == [3.0, 4.0, 5.0]  # of equals the first
    assert len(best_of_each(Poses.empty())) == 0


def test_poses_are_left_out_by_score_and_counted(truth, unlabelled, tmp_path):
    worse = truth.select(truth.obj_id == 7)
    both = Poses.concatenate([Poses(**{**vars(worse), "score": worse.score * 0.8}), truth])
    report = label_dataset(unlabelled, write(both, tmp_path / "poses.csv"), tmp_path / "out", min_score=0.5)
    assert (report.frames, report.poses, report.surplus, report.rejected) == (5, 5, 5, 5)
    assert str(report) == "5 poses label 5 frames, 0 have none, 5 surplus, 5 below the least score"
    with pytest.raises(
        DataError, match=r"poses\.csv: 'rows': found no pose of score 0\.95 or more for any of 5 images"
    ):
        label_dataset(unlabelled, tmp_path / "poses.csv", tmp_path / "none", min_score=0.95)
    assert not (tmp_path / "none").exists()


def test_scores_outside_the_unit_interval_become_ranks(truth, unlabelled, tmp_path):
    inliers = Poses(**{**vars(truth), "score": np.arange(10.0) * 100})
    report = label_dataset(unlabelled, write(inliers, tmp_path / "poses.csv"), tmp_path / "out")
    scores = {i.score for frame in BopDataset(tmp_path / "out").frames for i in frame.instances}
    assert scores == {round(k / 10, 1) for k in range(1, 11)} and "scores are ranks" in str(report)
    assert unit_scores(np.array([0.0, 1.0]))[1] is False and len(unit_scores(np.zeros(0))[0]) == 0


def test_some_images_of_a_csv_that_names_all(truth, bop_root, tmp_path):
    """What lies in other scenes or is not listed is no fault; images without a pose are left out."""
    (tmp_path / "list.txt").write_text("1/0\n1/2\n")
    csv = write(truth.select(truth.im_id != 2), tmp_path / "poses.csv")
    report = label_dataset(BopDataset(bop_root, scenes=[1], frames=tmp_path / "list.txt"), csv, tmp_path / "out")
    assert (report.frames, report.unlabelled, report.elsewhere) == (1, 1, 6)
    assert [(f.scene_id, f.im_id) for f in BopDataset(tmp_path / "out").frames] == [(1, 0)]


def test_unknown_images_and_objects_are_named(truth, unlabelled, tmp_path):
    strange = table([(1, 50, 2, 0.5), (9, 0, 2, 0.5), (1, 0, 33, 0.5)])
    csv = write(Poses.concatenate([truth, strange]), tmp_path / "poses.csv")
    found = (
        r"poses\.csv: 'rows': found 3 poses of unknown objects \[33\] and of 2 unknown images \(1/50, 9/0\), expected "
        r"images of .*test and objects of \[2, 7\] \(--ignore-unknown"
    )
    with pytest.raises(DataError, match=found):
        label_dataset(unlabelled, csv, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert label_dataset(unlabelled, csv, tmp_path / "out", ignore_unknown=True).elsewhere == 3


def test_a_rounded_rotation_becomes_one_again(truth, unlabelled, tmp_path):
    R = np.round(truth.R, 3)
    label_dataset(unlabelled, write(Poses(**{**vars(truth), "R": R}), tmp_path / "poses.csv"), tmp_path / "out")
    instance = BopDataset(tmp_path / "out").frames[0].instances[1]
    np.testing.assert_allclose(instance.R @ instance.R.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(instance.R, truth.R[1], atol=2e-3)


def test_a_pose_that_nothing_is_seen_of(truth, unlabelled, tmp_path):
    """Behind the camera, or beside the image: labelled, with an empty mask and nothing visible."""
    hidden = Poses(**{**vars(truth), "t": np.where([[i % 2 == 0] for i in range(10)], -truth.t, truth.t)})
    label_dataset(unlabelled, write(hidden, tmp_path / "poses.csv"), tmp_path / "out")
    first, second = BopDataset(tmp_path / "out").frames[0].instances
    assert first.visib_fract == 0 and not read_mask(first.mask_visib, allow_empty=True).any()
    assert second.visib_fract == 1


def test_an_interrupted_call_goes_on(truth, unlabelled, tmp_path, monkeypatch):
    csv, out = write(truth, tmp_path / "poses.csv"), tmp_path / "out"

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_dataset(unlabelled, csv, out, progress=stop)
    seen = []
    masks = label.cast_masks
    monkeypatch.setattr(label, "cast_masks", lambda *args: seen.append(args[0].im_id) or masks(*args))
    label_dataset(unlabelled, csv, out)
    assert seen == [2, 10, 11] and len(BopDataset(out)) == 5


def test_as_many_other_frames_are_something_else(truth, unlabelled, tmp_path):
    csv, out, chosen = write(truth, tmp_path / "poses.csv"), tmp_path / "out", tmp_path / "frames.txt"
    chosen.write_text("1/0")
    label_dataset(BopDataset(unlabelled.root, frames=chosen), csv, out)
    chosen.write_text("1/1")
    with pytest.raises(RecipeError, match=r"labels\.json: 'frames': found 1, .* expected 1, .* another output"):
        label_dataset(BopDataset(unlabelled.root, frames=chosen), csv, out)


def test_a_folder_of_something_else_is_not_touched(truth, unlabelled, tmp_path):
    csv, out = write(truth, tmp_path / "poses.csv"), tmp_path / "out"
    label_dataset(unlabelled, csv, out)
    with pytest.raises(RecipeError, match=r"labels\.json: 'min_score': found 0.0, expected 0.5, or another output"):
        label_dataset(unlabelled, csv, out, min_score=0.5)
    path = unlabelled.mesh_path(7)
    mesh = load_mesh(path)
    save_ply(dataclasses.replace(mesh, vertices=1.1 * mesh.vertices), path)
    with pytest.raises(RecipeError, match=r"labels\.json: 'shape of object 7'"):
        label_dataset(unlabelled, csv, out)
    with pytest.raises(DataError, match="'folder': found one that is not empty, expected a new folder"):
        label_dataset(unlabelled, csv, unlabelled.root)


@pytest.mark.parametrize(
    "content", ["nonsense", "scene_id,im_id,obj_id,score,R,t,time\n1,0,2,nan,1 0 0 0 1 0 0 0 1,0 0 9,-1"]
)
def test_a_damaged_csv_is_refused(unlabelled, tmp_path, content):
    (tmp_path / "poses.csv").write_text(content)
    with pytest.raises(DataError, match=r"poses\.csv"):
        label_dataset(unlabelled, tmp_path / "poses.csv", tmp_path / "out")


def test_the_command(truth, unlabelled, tmp_path):
    csv = write(truth, tmp_path / "poses.csv")
    words = [
        "data",
        "label",
        str(unlabelled.root),
        "--csv",
        str(csv),
        "--out",
        str(tmp_path / "out"),
        "--min-score",
        "0.5",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "5 poses label 5 frames, 0 have none, 5 below the least score" in result.stdout


def test_a_linked_file_outlives_its_source(tmp_path):
    source, target = tmp_path / "a.txt", tmp_path / "deep" / "b.txt"
    source.write_text("one")
    link_file(source, target)
    link_file(source, target)  # again, onto itself
    assert target.samefile(source) and [path.name for path in target.parent.iterdir()] == ["b.txt"]
    source.unlink()
    assert target.read_text() == "one"
    with pytest.raises(DataError, match=r"b\.txt: 'file': found .*a\.txt: No such file"):
        link_file(source, target)
    assert target.read_text() == "one"


def test_many_objects_of_one_image_hide_each_other(bop_root, tmp_path):
    """Visible parts never overlap and add up to the union of the silhouettes, whatever the poses."""
    rng = np.random.default_rng(0)
    t = np.column_stack([rng.uniform(-30, 30, (2, 2)), rng.uniform(500, 700, 2)])
    csv = write(table([(1, 0, 2, 0.5), (1, 0, 7, 0.5)], random_rotations(2, rng), t), tmp_path / "poses.csv")
    label_dataset(BopDataset(bop_root), csv, tmp_path / "out")
    instances = BopDataset(tmp_path / "out").frames[0].instances
    whole = [read_mask(instance.mask) for instance in instances]
    seen = [read_mask(instance.mask_visib, allow_empty=True) for instance in instances]
    assert not (seen[0] & seen[1]).any() and np.array_equal(seen[0] | seen[1], whole[0] | whole[1])


def test_megapose_teaches_on_real_frames(real_data, tmp_path):
    """A submission's csv labels five LM-O images as the annotators did, and a student takes two steps under it."""
    lmo, csv = real_data / "lmo", real_data / "lmo" / "results" / "megapose-cnos_lmo-test.csv"
    frames = BopDataset(lmo).frames[:5]
    (tmp_path / "list.txt").write_text("".join(f"{frame.scene_id}/{frame.im_id}\n" for frame in frames))
    recipe = {
        "name": "mega",
        "data": {
            "objects": [5, 8, 9, 12],
            "train": [{"bop": str(lmo), "frames": str(tmp_path / "list.txt"), "min_score": 0.5}],
            "test": {"source": {"bop": str(lmo), "frames": str(tmp_path / "list.txt")}},
            "crop_size": 64,
        },
        "teacher": {"csv": str(csv)},
        "student": {"settings": {"backbone": "darknet_tiny_q", "head": "slim", "width": 32, "strides": [8, 16]}},
        "distill": [{"name": "align", "trust": "score"}],
        "train": {"steps": 2, "batch_size": 4, "precision": "float32", "validation_crops": 2, "log_every": 1},
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "mega.yaml").write_text(json.dumps(recipe))
    loaded = load_recipe(tmp_path / "mega.yaml")
    path = train(loaded, "distilled", 0)
    steps = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss/align"] > 0 for line in steps if "loss" in line)
    root = next((tmp_path / "runs" / "cache").glob("labels-*"))
    made, known, agreement = BopDataset(root), BopDataset(lmo), []
    for frame in made.frames:
        annotated = {i.obj_id: i for i in known.frame(frame.scene_id, frame.im_id).instances if i.visib_fract > 0.5}
        for instance in (i for i in frame.instances if i.obj_id in annotated):
            ours, theirs = (read_mask(i.mask_visib, True) for i in (instance, annotated[instance.obj_id]))
            agreement.append((ours & theirs).sum() / (ours | theirs).sum())
    assert len(agreement) >= 10 and np.median(agreement) > 0.8
    check_networks(loaded, made.objects([5, 8, 9, 12]))
    record = measure(loaded, "teacher")
    assert record["scores"]["AR"] > 0.4
