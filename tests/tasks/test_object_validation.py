import dataclasses

import numpy as np
import pytest
import torch

from posedistill.errors import RecipeError
from posedistill.tasks.object_sources import TrainingData, prepare
from posedistill.tasks.object_validation import Validation
from posedistill.training.loop import SELECT

CPU = torch.device("cpu")


@pytest.fixture
def prepared(recipe) -> TrainingData:
    return prepare(recipe())


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


def test_true_votes_score_one(recipe, prepared, answering):
    validate = Validation(recipe(), prepared, CPU, 4)
    scores = validate(answering(validate.batches))
    assert scores[SELECT] > 0.99 and scores["val/keypoints_0.1d"] == 1.0 and scores["val/median_error"] < 1e-3


def test_the_score_falls_with_the_error(recipe, prepared, answering):
    """A shift on the image by a part of the diameter earns the part of the logarithmic axis that lies above it."""
    validate = Validation(recipe(), prepared, CPU, 4)

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


def test_nothing_found_scores_zero_and_is_finite(recipe, prepared, answering, monkeypatch):
    validate = Validation(recipe(), prepared, CPU, 4)
    monkeypatch.setattr("posedistill.decode.wdrnet.decode", lambda *_: None)
    scores = validate(answering(validate.batches, lambda keypoints, _: torch.full_like(keypoints, torch.nan)))
    assert scores == {SELECT: 0.0, "val/keypoints_0.1d": 0.0, "val/median_error": 10.0}


def test_an_equivalent_pose_is_no_error(recipe, prepared, answering):
    """A half turn about z, for objects that allow it and for objects that do not."""
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])

    def turned(keypoints, batch):
        R = batch.R @ torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
        pixels = (batch.targets["keypoints3d"] @ R.transpose(1, 2) + batch.t[:, None]) @ batch.K.transpose(1, 2)
        return pixels[..., :2] / pixels[..., 2:]

    plain = Validation(recipe(), prepared, CPU, 4)
    assert plain(answering(plain.batches, turned))["val/keypoints_0.1d"] == 0.0
    symmetries = (np.stack([np.eye(4), half_turn]),) * 2
    both = dataclasses.replace(prepared.objects, symmetries=symmetries)
    symmetric = Validation(recipe(), dataclasses.replace(prepared, objects=both), CPU, 4)
    assert symmetric(answering(symmetric.batches, turned))[SELECT] > 0.99


def test_every_crop_counts(recipe, prepared):
    """70 crops are two batches, the second short; more than there are is all there are."""
    many = dataclasses.replace(prepared, validation=np.resize(prepared.validation, 70))
    assert [len(batch) for batch in Validation(recipe(), many, CPU, 1000).batches] == [64, 6]
    few = Validation(recipe(), prepared, CPU, 3)
    assert [len(batch) for batch in few.batches] == [3]
    assert set(few.batches[0].ids.tolist()) <= set(prepared.validation.tolist())


def test_the_crops_are_always_the_same(recipe, prepared):
    first, second = (Validation(recipe(), prepared, CPU, 4).batches[0] for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.K, second.K)


def test_nothing_to_validate_on(recipe, prepared):
    none = dataclasses.replace(prepared, validation=prepared.validation[:0])
    with pytest.raises(RecipeError, match=r"'data': found no instance, expected instances of \[1, 2\]"):
        Validation(recipe(), none, CPU, 4)
