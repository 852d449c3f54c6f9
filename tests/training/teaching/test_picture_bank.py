"""A distiller that stores what the teacher makes of all training pictures, in a run."""

import json
from typing import Any

import pytest
import torch
from tests.training.helpers import interrupted_after, train

from posedistill.distill import contrast
from posedistill.distill.functional.bank import PictureBank
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors

CRD = "distill=[{name: contrast, options: {form: crd, negatives: 5, learn_temperature: true}}]"


@pytest.fixture
def banks(monkeypatch: pytest.MonkeyPatch) -> list[PictureBank]:
    """Every bank that is filled."""
    made: list[PictureBank] = []

    def fill(*args: Any) -> PictureBank:
        made.append(fill_bank(*args))
        return made[-1]

    fill_bank = contrast.fill_bank
    monkeypatch.setattr(contrast, "fill_bank", fill)
    return made


def test_the_bank_holds_every_training_picture_and_the_run_goes_on_exactly(recipe, banks, monkeypatch):
    """The bank is no part of the checkpoint: it is filled again, and the same pictures are drawn from it."""
    made = recipe(CRD)
    train(made, "teacher", 0)
    straight = load_tensors(train(made, "distilled", 0).parent / "last.safetensors")[0]
    (bank,) = banks
    assert sorted(bank.ids.tolist()) == sorted(open_task(made).training_set.train.tolist())
    assert bank.embeddings.shape[1] > 0 and "distill.0.student.weight" in straight and "distill.0.warmth" in straight
    assert not any("embeddings" in name for name in straight)
    lines = (Stage(made, "distilled", 0).folder / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["loss/contrast"] > 0 for line in lines if "loss/contrast" in line)

    again = recipe(CRD, "name=again", f"teacher.checkpoint={Stage(made, 'teacher', 0).folder / 'model.safetensors'}")
    with interrupted_after(2, monkeypatch):
        train(again, "distilled", 0)
    resumed = load_tensors(train(again, "distilled", 0).parent / "last.safetensors")[0]
    assert len(banks) == 3 and banks[2].embeddings.equal(banks[0].embeddings)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())
