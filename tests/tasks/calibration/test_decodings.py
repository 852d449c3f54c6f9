"""Of several ways to decode, held-back crops choose the one that gives the better poses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.helpers import train

from posedistill.decode.zebrapose import READINGS
from posedistill.estimators.zebrapose import ZebraPose
from posedistill.recipe.recipe import Recipe
from posedistill.tasks.base import SELECT
from posedistill.tasks.calibration.decodings import CROPS, choose_decoding
from posedistill.tasks.objects import ObjectsTask, drawn
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors
from posedistill.training.networks import build_network

CODES = ("student.family=zebrapose", "student.settings={backbone: darknet_tiny_q, width: 16, bits: 8, decoder: dense}")


@pytest.fixture
def task(recipe: Callable[..., Recipe]) -> ObjectsTask:
    """With sixteen instances held back."""
    opened = open_task(recipe(*CODES, "distill=[]"))
    opened.training_set = replace(opened.training_set, validation=np.arange(16))
    return opened


@pytest.fixture
def saying(task: ObjectsTask, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float, bool], ZebraPose]:
    """``saying(right, sureness, guessed)``: a network whose first ``right`` bits are right and sure.

    The others are as sure as one says (``|2 p - 1|``), and right, or ``guessed``.
    """

    def make(right: int, sureness: float, guessed: bool) -> ZebraPose:
        estimator = build_network(task.recipe, task.recipe.student, task.objects)
        estimator.fit_shapes(task.mesh, task.recipe.cache_folder)
        (batch,) = task.validation(torch.device("cpu"), CROPS).batches
        rows = drawn(task.training_set, CROPS, None, np.random.default_rng(task.recipe.seed))
        like = {"seed": task.recipe.seed, "device": "cpu", "batch_size": len(rows), "augment": False}
        batch.targets |= task.loader(rows, targets=estimator.targets, **like).batch(0).targets
        bits = estimator.encode(batch.targets[estimator.surface].nan_to_num(), batch.label)
        seen = estimator._visible(batch)[:, None].float()
        if guessed:
            bits[:, right:] = torch.randint(
                2, bits[:, right:].shape, generator=torch.Generator().manual_seed(0)
            ).float()
        strength = torch.full((1, bits.shape[1], 1, 1), 2 * np.arctanh(sureness), dtype=torch.float32)
        strength[:, :right] = 8.0

        def forward(images, classes):
            assert torch.equal(images, batch.images)
            return 16 * seen - 8, (2 * bits - 1) * strength

        monkeypatch.setattr(estimator.network, "forward", forward)
        return estimator

    return make


def test_codes_that_are_right_but_unsure_are_read_further(task, saying):
    chosen, told = choose_decoding(task, saying(1, 0.25, False))
    assert chosen["decoding"]["confidence"] == READINGS[2].confidence == 0.2
    assert told.startswith("decoded by confidence 0.2 and threshold 0.0625 (validation scores of the 3 ways: ")


def test_unsure_bits_that_are_wrong_are_not_read(task, saying):
    chosen, _ = choose_decoding(task, saying(5, 0.25, True))
    assert chosen["decoding"] in (vars(READINGS[0]), vars(READINGS[1]))


def test_the_network_is_asked_once_for_all_ways(task, saying, monkeypatch):
    estimator, asked = saying(1, 0.25, False), []
    forward = estimator.network.forward
    monkeypatch.setattr(estimator.network, "forward", lambda *inputs: asked.append(1) or forward(*inputs))
    chosen, told = choose_decoding(task, estimator)
    assert len(asked) == len(task.validation(torch.device("cpu"), CROPS).batches)
    estimator.calibration = chosen
    score = task.validation(torch.device("cpu"), CROPS)(estimator)[SELECT]
    assert f"{100 * score:.1f}" in told.partition("3 ways: ")[2]


def test_where_there_is_no_choice_nothing_is_told(task):
    fixed = task.recipe.student.model_copy(update={"settings": task.recipe.student.settings | {"confidence": 0.5}})
    estimator = build_network(task.recipe, fixed, task.objects)
    assert estimator.build_decoder().decoding.confidence == 0.5
    assert choose_decoding(task, estimator) == ({}, "")


def test_the_choice_is_kept_with_the_weights(recipe, monkeypatch):
    monkeypatch.setattr(
        "posedistill.tasks.objects.choose_decoding", lambda *_: ({"decoding": vars(READINGS[2])}, "read")
    )
    loaded = recipe(*CODES, "distill=[]", "train.steps=1")
    path = train(loaded, "student")
    assert load_tensors(path)[1]["calibration"]["decoding"]["confidence"] == 0.2
    estimator = build_network(loaded, loaded.student, open_task(loaded).objects)
    estimator.calibration = load_tensors(path)[1]["calibration"]
    assert estimator.build_decoder().decoding == READINGS[2]
