import sys
import types

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, DistillSpec, build_distiller
from posedistill.distill.base import paired_votes
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction

ALL = frozenset({"votes", "cells", "features"})


@pytest.mark.parametrize("name", ["align", "match"])
def test_a_word_builds_a_loss(name: str) -> None:
    distiller = build_distiller(DistillSpec(name=name, weight=0.5), ALL, ALL)
    assert (distiller.name, distiller.weight, distiller.needs <= ALL) == (name, 0.5, True)


def test_a_view_that_is_not_there_is_refused_with_both_lists() -> None:
    with pytest.raises(RecipeError, match=r"teacher that offers features, votes.*views cells, votes \(cells missing\)"):
        build_distiller(DistillSpec(name="match"), ALL, ALL - {"cells"})
    with pytest.raises(RecipeError, match="student that offers nothing"):
        build_distiller(DistillSpec(name="align"), frozenset(), ALL)
    build_distiller(DistillSpec(name="match", options={"form": "cluster_mean"}), ALL, frozenset({"votes"}))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("allign", "one of align, .*match, .*or package.module:Name"),
        ("no.such:Loss", "No module named 'no'"),
        ("torch.nn:Lnear", "Lnear"),
        ("torch.nn:Linear", "subclass of Distiller"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build_distiller(DistillSpec(name=name), ALL, ALL)


def test_options_are_checked_by_the_loss() -> None:
    spec = DistillSpec(name="align", options={"blurr": 0.1, "reach": -1.0})
    with pytest.raises(RecipeError) as caught:
        build_distiller(spec, ALL, ALL)
    assert "'distill.align.blurr': found 0.1, expected one of bit_decay, blur" in str(caught.value)
    assert "'distill.align.reach': found -1.0" in str(caught.value)


def test_a_spec_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        DistillSpec(name="align", wieght=2.0)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        DistillSpec(name="align", trust="blind")  # type: ignore[arg-type]


def test_a_loss_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSettings(BaseModel):
        pass

    class Energy(Distiller):
        Settings = NoSettings
        needs = frozenset({"features"})

        def forward(self, student: Prediction, teacher: Prediction, batch: Batch) -> Tensor:
            return student.features["p3"].square().mean()

    module = types.ModuleType("somebodys_losses")
    module.Energy = Energy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_losses", module)
    distiller = build_distiller(DistillSpec(name="somebodys_losses:Energy"), ALL, ALL)
    prediction = Prediction({}, features={"p3": torch.full((1, 2, 3, 3), 2.0)})
    assert distiller(prediction, prediction, None).item() == 4


def test_votes_of_different_things_are_refused(predictions: tuple[Prediction, Prediction]) -> None:
    student, teacher = predictions
    assert teacher.votes is not None
    teacher.votes.values = teacher.votes.values[:, :, :7]
    with pytest.raises(RecipeError, match=r"\[4, 10, 8, 2\], teacher votes \[4, 12, 7, 2\]"):
        paired_votes("align", student, teacher)
    with pytest.raises(RecipeError, match="teacher prediction without votes"):
        paired_votes("align", student, Prediction({}))


def test_object_sizes_are_projected_diameters(batch: Batch) -> None:
    torch.testing.assert_close(batch.sizes("unit"), torch.full((4,), 0.5))
