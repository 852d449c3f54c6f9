"""Anything can teach: a network of another size, several of them, or a csv of poses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.training.helpers import load, measure, train

from posedistill.data.formats.bop import BopDataset
from posedistill.deploy.estimate import FrameQuery
from posedistill.distill.trust import TrustSettings, image_trust
from posedistill.errors import CheckpointError, DataError, RecipeError, TrainingError
from posedistill.estimators.views import Prediction, Votes
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.poses import Poses
from posedistill.recipe.recipe import load_recipe
from posedistill.tasks.object_teachers import best_poses
from posedistill.tasks.registry import open_task
from posedistill.training import run as running
from posedistill.training.checkpoints import load_tensors, save_tensors
from posedistill.training.run import run
from posedistill.training.teaching import build as teacher_build
from posedistill.training.teaching.build import build_teacher, check_networks, noise_batch
from posedistill.training.teaching.teachers import (
    NO_AGREEMENT,
    EnsembleTeacher,
    LabelTeacher,
    NetworkTeacher,
    all_finite,
    joined,
)

CPU = torch.device("cpu")


def votes(values, weights=None, cells=None, mask=None) -> Votes:
    """Votes ``[B, N, 1, 2]`` of points ``[B][N][2]``."""
    points = torch.tensor(values)[:, :, None]
    weights = torch.ones(points.shape[:2]) if weights is None else torch.tensor(weights)
    mask = torch.ones_like(weights, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Votes(points, weights, mask, None if cells is None else torch.tensor(cells))


@pytest.fixture
def poses_csv(bop: Path, tmp_path: Path):
    """``poses_csv("train")``: the true poses of a split as a csv, scores 0.25, 0.5, 0.75, 0.25 ... by row."""

    def write(split: str, path: Path | None = None) -> Path:
        rows = [(f, i) for f in BopDataset(bop, split).frames for i in f.instances]
        ids = np.array([(f.scene_id, f.im_id, i.obj_id) for f, i in rows])
        scores = np.resize([0.25, 0.5, 0.75], len(rows))
        R, t = np.stack([i.R for _, i in rows]), np.stack([i.t for _, i in rows])
        path = path or tmp_path / f"{split}.csv"
        Poses(*ids.T, scores, R, t, np.full(len(rows), -1.0)).to_bop_csv(path)
        return path

    return write


def test_an_ensemble_puts_votes_side_by_side_and_averages_the_rest(batch):
    crops = batch(1)
    first = Prediction(
        {},
        votes=votes([[[0.2, 0.2], [0.4, 0.4]]], [[0.5, 1.0]], [[7, 8]]),
        cells=votes([[[0.2, 0.2], [0.4, 0.4], [0.6, 0.6]]], [[0.5, 1.0, 0.1]], [[7, 8, 9]]),
        embedding=torch.tensor([[1.0, 3.0]]),
        logits={"azimuth": torch.tensor([[0.0, 1.0]])},
    )
    second = Prediction(
        {},
        votes=votes([[[0.3, 0.1]]], [[0.9]], [[9]]),
        cells=votes([[[0.8, 0.8], [0.4, 0.2]]], [[0.3, 0.2]], [[9, 7]]),
        embedding=torch.tensor([[3.0, 3.0]]),
        logits={"azimuth": torch.tensor([[2.0, 1.0]]), "other": torch.zeros(1, 2)},
    )
    whole = joined([first, second], crops)
    torch.testing.assert_close(whole.votes.values, torch.tensor([[[[0.2, 0.2]], [[0.4, 0.4]], [[0.3, 0.1]]]]))
    assert whole.votes.weights[0].tolist() == pytest.approx([0.5, 1.0, 0.9])
    assert whole.votes.cells.tolist() == [[7, 8, 9]]
    assert whole.cells.mask.tolist() == [[True, False, True]] and whole.cells.cells.tolist() == [[7, 8, 9]]
    torch.testing.assert_close(whole.cells.values[0, [0, 2], 0], torch.tensor([[0.3, 0.2], [0.7, 0.7]]))
    torch.testing.assert_close(whole.cells.weights[0, [0, 2]], torch.tensor([0.35, 0.2]))
    assert whole.embedding.tolist() == [[2.0, 3.0]] and whole.logits["azimuth"].tolist() == [[1.0, 1.0]]
    assert whole.logits.keys() == {"azimuth"} and not whole.features


def test_spread_is_the_disagreement_in_diameters(batch):
    """Members whose mean keypoints are 0.04 and 0.08 off their mean of 0: rms over members, whatever the votes."""
    crops = batch(1)
    members = [
        Prediction({}, votes=votes([[[0.46, 0.5], [0.40, 0.5]]], [[0.5, 0.0]])),
        Prediction({}, votes=votes([[[0.44, 0.5], [0.48, 0.5]]], [[1.0, 1.0]])),
        Prediction({}, votes=votes([[[0.58, 0.5], [9.9, 9.9]]], [[1.0, 1.0]], mask=[[True, False]])),
    ]
    expected = (((0.04**2 + 0.04**2 + 0.08**2) / 3) ** 0.5) / float(crops.sizes("test")[0])
    assert joined(members, crops).spread.tolist() == pytest.approx([expected])
    assert joined(members[:1] * 3, crops).spread.tolist() == pytest.approx([0.0])


def test_of_codes_no_spread_is_known(batch):
    """Their bits are no points, and members vote by cells of their own."""
    members = [Prediction({}, Votes(torch.rand(2, 5, 1, 12), torch.ones(2, 5), torch.ones(2, 5) > 0)) for _ in range(2)]
    whole = joined(members, batch(2))
    assert whole.votes is not None and whole.spread is None
    with pytest.raises(RecipeError, match="a spread that is not known, as of a single network or of codes"):
        image_trust(TrustSettings(by="spread"), whole, batch(2))


def test_members_that_do_not_vote_do_not_agree(batch):
    here = Prediction({}, votes=votes([[[0.5, 0.5]], [[0.5, 0.5]], [[0.5, 0.5]]]))
    silent = Prediction({}, votes=votes([[[0.1, 0.1]], [[0.5, 0.5]], [[0.1, 0.1]]], mask=[[False], [True], [False]]))
    spread = joined([here, silent], batch(3)).spread
    assert spread.tolist() == [NO_AGREEMENT, 0.0, NO_AGREEMENT]
    assert joined([silent, silent, here, here], batch(3)).spread.tolist() == pytest.approx([0.0] * 3)


def test_spread_of_regressed_numbers(batch):
    members = [
        Prediction({}, regression=torch.tensor([[0.0, 1.0]])),
        Prediction({}, regression=torch.tensor([[2.0, 1.0]])),
    ]
    whole = joined(members, batch(1))
    assert whole.regression.tolist() == [[1.0, 1.0]] and whole.spread.tolist() == [0.5]


def test_members_of_other_keypoints_are_refused(batch):
    members = [
        Prediction({}, votes=Votes(torch.zeros(1, 2, k, 2), torch.ones(1, 2), torch.ones(1, 2).bool())) for k in (8, 9)
    ]
    with pytest.raises(
        RecipeError, match=r"'teacher\.ensemble': found votes of shapes \[\[8, 2\], \[9, 2\]\], expected "
    ):
        joined(members, batch(1))


def test_an_ensemble_of_networks(network, batch):
    """Of two copies of one network: the same predictions, doubled votes and no spread."""
    alone = NetworkTeacher(network(score_threshold=0.0), CPU)
    both = EnsembleTeacher([alone, NetworkTeacher(network(score_threshold=0.0), CPU)])
    assert both.offers == {"votes", "cells", "embedding"}
    one, two = alone.predict(batch(), 0), both.predict(batch(), 0)
    assert two.votes.values.shape[1] == 2 * one.votes.values.shape[1]
    torch.testing.assert_close(two.cells.values, one.cells.values)
    torch.testing.assert_close(two.embedding, one.embedding)
    assert one.votes.mask.any(1).all() and two.spread.abs().max() < 1e-5
    other = EnsembleTeacher([alone, NetworkTeacher(network(seed=1, score_threshold=0.0), CPU)]).predict(batch(), 0)
    assert (other.spread > 0).all()


def test_labels_teach_one_vote_a_keypoint(batch):
    crops = batch(3)
    crops.score = torch.tensor([1.0, 0.5, 0.2])
    prediction = LabelTeacher().predict(crops, 0)
    assert prediction.votes.values.shape == (3, 1, 8, 2) and prediction.votes.weights.tolist() == [
        [1.0],
        [0.5],
        [pytest.approx(0.2)],
    ]
    torch.testing.assert_close(prediction.votes.values[:, 0] * 64, crops.targets["keypoints"])
    assert LabelTeacher.offers == {"votes"} and prediction.cells is None
    with pytest.raises(
        RecipeError,
        match=r"'teacher\.csv': found batches with no targets, expected the target 'keypoints'",
    ):
        LabelTeacher().predict(noise_batch(NO_OBJECTS, 32), 0)


def test_one_number_that_is_not_finite_is_enough(batch):
    fine = Prediction({}, votes=votes([[[0.5, 0.5]]]), features={"p3": torch.ones(1, 2, 4, 4).bfloat16()})
    assert all_finite(fine) and all_finite(Prediction({}))
    fine.features["p3"][0, 1, 2, 3] = torch.inf
    assert not all_finite(fine)


def test_many_halves_are_finite_together():
    """1,024 times 100 is beyond float16, whose maps a GPU may give."""
    assert all_finite(Prediction({}, features={"p3": torch.full((1, 1024, 1, 1), 100.0).half()}))


def test_a_teacher_of_nan_is_named_and_the_last_good_checkpoint_kept(recipe, network, monkeypatch, tmp_path):
    """From its third step on, and in a view that the loss does not look at: what it says is not to be trusted."""
    weights = tmp_path / "teacher.safetensors"
    save_tensors(weights, network().state_dict(), {})
    predict = NetworkTeacher.predict

    def damaged(self, batch, step):
        prediction = predict(self, batch, step)
        prediction.embedding = prediction.embedding * (torch.nan if step >= 2 else 1.0)
        return prediction

    monkeypatch.setattr(NetworkTeacher, "predict", damaged)
    loaded = recipe(f"teacher.checkpoint={weights}")
    found = rf"'teacher': found NaN or infinite outputs of {weights} by step 3, .*the last good checkpoint is .*last"
    with pytest.raises(TrainingError, match=found):
        train(loaded, "distilled", 0)
    folder = loaded.folder / "distilled" / "seed0"
    assert load_tensors(folder / "last.safetensors")[1]["step"] == 2 and not (folder / "done.json").exists()


@pytest.mark.parametrize(
    ("teacher", "found"),
    [
        ({"ensemble": ["a"]}, r"'teacher\.ensemble'.*at least 2"),
        ({"ensemble": ["a", "b"], "checkpoint": "c"}, "found checkpoint and ensemble, expected one of them"),
        ({"ensemble": ["a", {"family": "wdrnet"}]}, r"found no checkpoint in ensemble\.1, expected finished weights"),
        ({"csv": "a.csv", "settings": {"width": 64}}, "found settings beside csv, expected nothing of a network's"),
        ({"csv": "a.csv", "cache": True}, "found cache beside csv"),
    ],
)
def test_a_teacher_of_two_minds_is_refused(recipe_file, raw_recipe, teacher, found):
    recipe_file.write_text(yaml.safe_dump(raw_recipe | {"teacher": teacher}))
    with pytest.raises(RecipeError, match=found):
        load_recipe(recipe_file)


def test_a_csv_labels_every_folder_but_no_renders(recipe, recipe_file, raw_recipe, bop):
    """A folder with poses of its own keeps them; the resolved recipe says the same again."""
    sources = [{"bop": str(bop)}, {"bop": str(bop), "poses": "other.csv"}, {"models": "code", "count": 2}]
    raw_recipe["data"]["train"] = sources
    recipe_file.write_text(yaml.safe_dump(raw_recipe | {"teacher": {"csv": "a.csv"}}))
    loaded = load_recipe(recipe_file)
    assert [getattr(source, "poses", None) for source in loaded.data.train] == [Path("a.csv"), Path("other.csv"), None]
    recipe_file.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert load_recipe(recipe_file) == loaded and loaded.teacher.files == (Path("a.csv"),)
    raw_recipe["data"]["train"] = sources[2:]
    recipe_file.write_text(yaml.safe_dump(raw_recipe | {"teacher": {"csv": "a.csv"}}))
    with pytest.raises(RecipeError, match=r"found teacher\.csv a\.csv, expected a training source with images"):
        load_recipe(recipe_file)


def test_what_a_recipe_does_not_use_leaves_no_trace(recipe):
    """Networks trained before there was such a key are taken up again."""
    dumped = recipe().model_dump(mode="json")
    assert dumped["teacher"].keys() == {"family", "settings", "train", "checkpoint", "pretrained"}
    assert dumped["data"]["train"][0].keys() == {"bop", "split", "scenes", "frames"}
    named = recipe("teacher.cache=true").model_dump(mode="json")["teacher"]
    assert named["cache"] is True and "csv" not in named


def test_a_teacher_of_another_size_and_an_ensemble_of_unequal_sections(recipe, smallest):
    """Checkpoints of two sizes teach together; both are measured as one teacher with the costs of both."""
    one = train(recipe("name=one", "train.steps=1"), "teacher", 0)
    wide = {**smallest, "width": 64, "strides": [8, 16, 32], "score_threshold": 0.0}
    two = train(recipe("name=two", "train.steps=1", f"teacher.settings={json.dumps(wide)}"), "teacher", 0)
    sections = [{"settings": smallest, "checkpoint": str(one)}, {"settings": wide, "checkpoint": str(two)}]
    loaded = recipe("train.steps=2", f"teacher={json.dumps({'ensemble': sections})}", "distill.0.trust=score")
    objects = open_task(loaded).objects
    check_networks(loaded, objects)
    teacher = build_teacher(loaded, objects, CPU)
    counts = [sum(p.numel() for p in member.estimator.parameters()) for member in teacher.members]
    assert counts[0] < counts[1] and loaded.teacher.files == (one, two)
    assert train(loaded, "teacher", 0) == one
    path = train(loaded, "distilled", 0)
    assert "loss/align" in (path.parent / "metrics.jsonl").read_text() and not (loaded.folder / "teacher").exists()
    record = measure(loaded, "teacher")
    assert (
        record["parameters"] == pytest.approx(sum(counts)) and record["stage"] == "teacher" and "AR" in record["scores"]
    )
    equal = recipe(f"teacher={json.dumps({'ensemble': [str(one), str(one)], 'settings': smallest})}")
    assert [member.checkpoint for member in equal.teacher.members] == [one, one]
    assert equal.teacher.members[0].settings == smallest


def test_the_best_poses_of_an_ensemble(bop):
    """The best score of each instance; a second one in the same place is the same instance."""
    frame = BopDataset(bop, "test").frames[0]
    objects = BopDataset(bop, "test").objects([1, 2])
    places = np.array([[0.0, 0, 600], [5.0, 0, 600], [200.0, 0, 600], [0.0, 0, 600], [400.0, 0, 600]])
    rows = np.array([(frame.scene_id, frame.im_id, obj) for obj in (1, 1, 1, 2, 1)])
    scores = np.array([0.5, 0.9, 0.3, 0.1, 0.2])
    table = Poses(*rows.T, scores, np.tile(np.eye(3), (5, 1, 1)), places, np.zeros(5))
    wanted = [FrameQuery.of_objects(frame, np.zeros((3, 4)), [1, 2, 1], np.ones(3))]
    assert best_poses(table, wanted, objects).score.tolist() == [0.9, 0.3, 0.1]


def test_a_teacher_for_other_objects_is_refused(recipe):
    """The same count of classes in another order, or other objects, would teach the wrong things in silence."""
    path = train(recipe("train.steps=1"), "teacher", 0)
    turned = recipe(f"teacher.checkpoint={path}", "data.objects=[2, 1]")
    with pytest.raises(CheckpointError, match=r"'objects': found a network of objects \[1, 2\], expected \[2, 1\]"):
        check_networks(turned, open_task(turned).objects)
    assert load(recipe("train.steps=1"), "teacher", 0)[1]["objects"] == [1, 2]


def test_views_of_other_keypoints_are_refused_before_anything_trains(recipe, monkeypatch):
    """A loss that compares them says so, with both shapes."""
    predict = NetworkTeacher.predict

    def with_two_more(self, batch, step):
        prediction = predict(self, batch, step)
        values = prediction.votes.values
        prediction.votes.values = torch.cat([values, values[:, :, :2]], 2)
        return prediction

    monkeypatch.setattr(NetworkTeacher, "predict", with_two_more)
    monkeypatch.setattr(running, "train", None)
    with pytest.raises(RecipeError, match=r"found student votes \[2, \d+, 8, 2\], teacher votes \[2, \d+, 10, 2\]"):
        run(recipe())


def test_a_csv_teaches_without_ground_truth_and_without_a_network(recipe_file, raw_recipe, poses_csv, bop, tmp_path):
    """A whole run: no teacher is trained; where the csv is about the test frames it is the teacher's row."""
    raw_recipe["data"]["train"][0] = {"bop": str(bop), "split": "test"}
    raw_recipe["train"] |= {"steps": 2}
    recipe_file.write_text(yaml.safe_dump(raw_recipe | {"teacher": {"csv": str(poses_csv("test"))}}))
    loaded = load_recipe(recipe_file)
    run(loaded)
    assert not (loaded.folder / "teacher" / "seed0" / "model.safetensors").exists()
    records = {record["stage"]: record for record in json.loads((loaded.folder / "evaluation.json").read_text())}
    assert records["teacher"]["scores"]["add_0.1d"] == 1.0 and "parameters" not in records["teacher"]
    assert records.keys() == {"teacher", "student", "distilled", "exported"}
    assert [row["stage"] for row in json.loads((loaded.folder / "bench.json").read_text())] == ["exported"]
    page = (loaded.folder / "report.html").read_text()
    assert "teacher" in page and "distilled" in page
    steps = [
        json.loads(line) for line in (loaded.folder / "distilled" / "seed0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert "loss/align" in steps[0] and "loss/votes" in steps[0]


def test_a_csv_alone_may_teach_and_is_not_scored_on_other_frames(recipe_file, raw_recipe, poses_csv):
    """``supervise: false``; the test split has images of the same numbers, which the csv does not know."""
    raw_recipe["train"] |= {"steps": 2}
    recipe_file.write_text(
        yaml.safe_dump(raw_recipe | {"teacher": {"csv": str(poses_csv("train")), "supervise": False}})
    )
    loaded = load_recipe(recipe_file)
    path = train(loaded, "distilled", 0)
    steps = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in steps[0] if key.startswith("loss/")} == {"loss/align"}
    record = measure(loaded, "teacher")
    assert record["stage"] == "teacher" and not record["scores"]
    task = open_task(loaded)
    crops = task.loader(task.training_set.train, seed=0, device="cpu", batch_size=8).batch(0)
    assert set(crops.score.tolist()) == {0.25, 0.5, 0.75}
    assert teacher_build.build_teacher(loaded, task.objects, CPU).predict(crops, 0).votes.weights.max() == 0.75


def test_a_network_alone_may_teach(recipe, network, tmp_path):
    weights = tmp_path / "teacher.safetensors"
    save_tensors(weights, network().state_dict(), {})
    loaded = recipe(f"teacher.checkpoint={weights}", "teacher.supervise=false", "train.steps=2")
    path = train(loaded, "distilled", 0)
    steps = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in steps[0] if key.startswith("loss/")} == {"loss/align"}


def test_a_csv_of_unknown_images_is_refused_before_anything_trains(recipe_file, raw_recipe, poses_csv, monkeypatch):
    path = poses_csv("train")
    path.write_text(path.read_text().replace("\n1,7,2,", "\n1,70,2,"))
    recipe_file.write_text(yaml.safe_dump(raw_recipe | {"teacher": {"csv": str(path)}}))
    monkeypatch.setattr(running, "train", None)
    with pytest.raises(
        DataError, match=r"train\.csv: 'rows': found 1 poses of 1 unknown images \(1/70\), expected images"
    ):
        run(load_recipe(recipe_file))
    loaded = load_recipe(recipe_file, ["data.train.0.ignore_unknown=true"])
    assert sum(len(pack) for pack in open_task(loaded).training_set.packs) == 15
