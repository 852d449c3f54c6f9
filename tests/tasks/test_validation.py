import dataclasses

import numpy as np
import pytest
import torch

from posedistill.errors import RecipeError
from posedistill.tasks.base import SELECT
from posedistill.tasks.objects import ObjectsTask
from posedistill.tasks.registry import open_task
from posedistill.tasks.validation import keypoint_scores

CPU = torch.device("cpu")


@pytest.fixture
def task(recipe) -> ObjectsTask:
    return open_task(recipe())


@pytest.fixture
def answering(network, monkeypatch):
    """``answering(batches, change)``: an estimator that votes for the true keypoints, changed, of one batch a call."""

    def make(batches, change=lambda keypoints, batch: keypoints, logit: float = 3.0):
        estimator, left = network(), iter(batches)

        def forward(images, classes):
            batch = next(left)
            assert torch.equal(images, batch.images) and torch.equal(classes, batch.label)
            cells = len(estimator.network.cells)
            votes = change(batch.targets["keypoints"], batch)[:, None].expand(-1, cells, -1, -1)
            return torch.full((len(batch), cells), logit), votes

        monkeypatch.setattr(estimator.network, "forward", forward)
        return estimator

    return make


def test_true_votes_score_one(task, answering):
    validate = task.validation(CPU, 4)
    scores = validate(answering(validate.batches))
    assert scores[SELECT] > 0.99 and scores["val/keypoints_0.1d"] == 1.0 and scores["val/median_error"] < 1e-3


def test_no_test_frame_is_read(task, network, monkeypatch):
    monkeypatch.setattr(ObjectsTask, "test_set", property(lambda task: pytest.fail("the test split was opened")))
    assert np.isfinite(task.validation(CPU, 4)(network())[SELECT])


def test_the_score_falls_with_the_error(task, answering):
    """A shift on the image by a part of the diameter earns the part of the logarithmic axis that lies above it."""
    validate = task.validation(CPU, 4)

    def aside(share: float):
        def shift(keypoints, batch):
            pixels = share * batch.targets["diameters"] * batch.K[:, 0, 0] / batch.t[:, 2]
            return keypoints + torch.stack([pixels, torch.zeros_like(pixels)], 1)[:, None]

        return validate(answering(validate.batches, shift))

    assert aside(0.03)[SELECT] == pytest.approx(np.log10(10 / 0.03) / 3, abs=0.02)
    assert aside(0.03)["val/median_error"] == pytest.approx(0.03, rel=0.1)
    assert aside(0.08)[SELECT] == pytest.approx(np.log10(10 / 0.08) / 3, abs=0.02)
    assert aside(0.08)["val/keypoints_0.1d"] == 1.0 and aside(0.5)["val/keypoints_0.1d"] == 0.0
    assert aside(0.08)[SELECT] > aside(0.5)[SELECT] > 0.1  # wrong poses are told from worse ones


def test_nothing_found_scores_zero_and_is_finite(task, answering, monkeypatch):
    validate = task.validation(CPU, 4)
    monkeypatch.setattr("posedistill.decode.wdrnet.decode", lambda *_: None)
    scores = validate(answering(validate.batches, lambda keypoints, _: torch.full_like(keypoints, torch.nan)))
    assert scores == {SELECT: 0.0, "val/keypoints_0.1d": 0.0, "val/median_error": 10.0}


def test_an_equivalent_pose_is_no_error(task, answering):
    """A half turn about z, for objects that allow it and for objects that do not."""
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])

    def turned(keypoints, batch):
        R = batch.R @ torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
        pixels = (batch.targets["keypoints3d"] @ R.transpose(1, 2) + batch.t[:, None]) @ batch.K.transpose(1, 2)
        return pixels[..., :2] / pixels[..., 2:]

    plain = task.validation(CPU, 4)
    assert plain(answering(plain.batches, turned))["val/keypoints_0.1d"] == 0.0
    symmetries = (np.stack([np.eye(4), half_turn]),) * 2
    objects = dataclasses.replace(task.objects, symmetries=symmetries)
    plain.score = lambda found, batches: keypoint_scores(found, batches, objects)
    assert plain(answering(plain.batches, turned))[SELECT] > 0.99


def test_every_crop_counts(task):
    """70 crops are two batches, the second short; more than there are is all there are."""
    held = task.training_set.validation
    task.training_set = dataclasses.replace(task.training_set, validation=np.resize(held, 70))
    assert [len(batch) for batch in task.validation(CPU, 1000).batches] == [64, 6]
    task.training_set = dataclasses.replace(task.training_set, validation=held)
    few = task.validation(CPU, 3)
    assert [len(batch) for batch in few.batches] == [3]
    assert set(few.batches[0].ids.tolist()) <= set(held.tolist())


def test_the_crops_are_always_the_same(task):
    first, second = (task.validation(CPU, 4).batches[0] for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.K, second.K)


def test_nothing_to_validate_on(task):
    none = task.training_set.validation[:0]
    task.training_set = dataclasses.replace(task.training_set, validation=none)
    with pytest.raises(RecipeError, match=r"'data': found no instance, expected instances of \[1, 2\]"):
        task.validation(CPU, 4)
