"""Teachers of keypoints for students of codes and back: right poses give right votes, disagreement gives soft ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import boxes, make_batch

from posedistill.data.loading.batch import Batch
from posedistill.errors import RecipeError
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction, Votes
from posedistill.estimators.zebrapose import ZebraPose
from posedistill.estimators.zebrapose.translate import quadruple_poses
from posedistill.geometry.meshes import box_mesh
from posedistill.geometry.surfaces import Surfaces
from posedistill.training.teaching.teachers import EnsembleTeacher, LabelTeacher, NetworkTeacher
from posedistill.training.teaching.translate import TranslatedTeacher, translated

MESHES = {obj_id: box_mesh(corners) for obj_id, corners in zip(boxes().obj_ids, boxes().keypoints, strict=True)}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> ZebraPose:
    torch.manual_seed(0)
    estimator = build_estimator("zebrapose", boxes(), {"backbone": "darknet_tiny_q", "width": 16, "bits": 10}, 64)
    assert isinstance(estimator, ZebraPose)
    estimator.fit_shapes(MESHES.__getitem__, tmp_path_factory.mktemp("codes"))
    return estimator.eval()


@pytest.fixture
def batch() -> Batch:
    return make_batch(4)


def truth(codes: ZebraPose, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether and with which bits the surface is seen under the true poses."""
    arrays = [value.double().numpy() for value in (batch.K, batch.R, batch.t)]
    points = Surfaces(boxes().obj_ids, MESHES.__getitem__).seen(batch.label.numpy(), *arrays, 64, 4)
    surface = torch.from_numpy(points)
    return surface[..., 0].isfinite(), codes.encode(surface, batch.label)


def as_codes(prediction: Prediction, codes: ZebraPose) -> TranslatedTeacher:
    return TranslatedTeacher(Said(prediction), codes.from_keypoints(MESHES.__getitem__))


class Said:
    """A teacher that says what it is told to."""

    offers = frozenset({"votes", "logits"})

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    def predict(self, batch: Batch, step: int) -> Prediction:
        return self.prediction


def test_right_keypoints_give_the_codes_of_the_pose(codes: ZebraPose, batch: Batch) -> None:
    teacher = translated(LabelTeacher(), codes, MESHES.__getitem__)
    assert isinstance(teacher, TranslatedTeacher) and teacher.offers == {"votes", "cells", "logits"}
    said = teacher.predict(batch, 0)
    hit, bits = truth(codes, batch)
    assert ((said.logits["mask"][:, 0] > 0) == hit).float().mean() > 0.99
    agree = (said.logits["code"] > 0) == (bits > 0.5)
    assert agree.movedim(1, -1)[hit].float().mean() > 0.97
    assert said.votes is not None and said.cells is not None and bool(said.votes.mask.any(1).all())


def test_where_poses_disagree_bits_are_soft_and_masks_too(codes: ZebraPose, batch: Batch) -> None:
    rng = torch.Generator().manual_seed(0)
    values = (batch.targets["keypoints"] / 64)[:, None].repeat(1, 12, 1, 1)
    noisy = values + 0.06 * torch.randn(values.shape, generator=rng)
    sure, unsure = (
        as_codes(Prediction({}, Votes(v, torch.full((4, 12), 0.9), torch.ones(4, 12) > 0)), codes)
        for v in (values, noisy)
    )
    ours, theirs = (teacher.predict(batch, 0).logits["code"].abs().mean((0, 2, 3)) for teacher in (sure, unsure))
    assert bool((theirs[-3:] < 0.8 * ours[-3:]).all())
    assert bool(torch.equal(unsure.predict(batch, 0).logits["code"], unsure.predict(batch, 5).logits["code"]))


def test_pictures_without_a_pose_are_left_out(codes: ZebraPose, batch: Batch) -> None:
    values = (batch.targets["keypoints"] / 64)[:, None].clone()
    values[1] = 0.5  # all corners at one pixel
    votes = Votes(values, torch.ones(4, 1), torch.ones(4, 1) > 0)
    said = as_codes(Prediction({}, votes), codes).predict(batch, 0)
    assert said.votes is not None and not said.votes.mask[1].any() and bool(said.votes.mask[0].any())
    assert said.logits["mask"][1].sigmoid().max() < 1e-6


def test_other_votes_than_corners_are_refused(codes: ZebraPose, batch: Batch) -> None:
    votes = Votes(torch.zeros(4, 1, 1, 10), torch.ones(4, 1), torch.ones(4, 1) > 0)
    with pytest.raises(RecipeError, match="corners of the box"):
        as_codes(Prediction({}, votes), codes).predict(batch, 0)


def test_right_codes_give_votes_about_the_corners(codes: ZebraPose, batch: Batch) -> None:
    hit, bits = truth(codes, batch)
    logits = {"mask": 8 * (hit[:, None].float() - 0.5), "code": 10 * (bits - 0.5)}
    said = TranslatedTeacher(Said(Prediction({}, logits=logits)), codes.to_keypoints()).predict(batch, 0)
    votes = said.votes
    assert votes is not None and votes.values.shape == (4, 32, 8, 2)
    weights = votes.weights * votes.mask
    mean = (votes.values * weights[..., None, None]).sum(1) / weights.sum(1)[:, None, None]
    errors = (mean * 64 - batch.targets["keypoints"]).norm(dim=-1).mean(1)
    assert errors.median() < 3.0  # of crops of 64 pixels


def test_quadruples_of_matches_on_one_line_give_no_pose() -> None:
    line = np.linspace(0, 1, 12)[:, None]
    points, pixels = line * [10.0, 0, 0], 30 + line * [5.0, 5.0]
    found = quadruple_poses(pixels, points, np.ones(12), np.eye(3), 3.0, np.random.default_rng(0))
    assert np.isfinite(found.R).all() and len(found.scores) <= 32


def test_teachers_of_the_students_own_kind_stay_as_they_are(codes: ZebraPose) -> None:
    keypoints = build_estimator("wdrnet", boxes(), {"backbone": "darknet_tiny_q", "width": 32, "strides": [8, 16]}, 64)
    ours, theirs = (NetworkTeacher(network, CPU) for network in (codes, keypoints))
    assert translated(ours, codes, MESHES.__getitem__) is ours
    both = EnsembleTeacher([ours, ours])
    assert translated(both, codes, MESHES.__getitem__) is both
    assert translated(theirs, keypoints, MESHES.__getitem__) is theirs
    to_keypoints = translated(ours, keypoints, MESHES.__getitem__)
    assert to_keypoints.offers == {"votes", "features", "embedding"}
    to_codes = translated(EnsembleTeacher([theirs, theirs]), codes, MESHES.__getitem__)
    assert to_codes.offers == {"votes", "cells", "logits", "embedding"}


@pytest.mark.parametrize("families", [("wdrnet", "zebrapose"), ("zebrapose", "wdrnet")])
def test_runs_across_families_train(recipe, smallest: dict, families: tuple[str, str], tmp_path: Path) -> None:
    from posedistill.recipe.stages import students_of, teacher_of
    from posedistill.tasks.registry import open_task
    from posedistill.training.run import train_stage
    from posedistill.training.teaching.build import check_networks

    settings = {"wdrnet": smallest, "zebrapose": {"backbone": "darknet_tiny_q", "width": 16, "bits": 6}}
    options = {"unit": "code", "reach": 0.5} if families[1] == "zebrapose" else {}
    made = recipe("train.steps=2")
    raw = made.model_dump(mode="json")
    raw["teacher"] |= {"family": families[0], "settings": settings[families[0]], "cache": True}
    raw["student"] |= {"family": families[1], "settings": settings[families[1]]}
    raw["distill"] = [{"name": "align", "options": options}]
    chosen = type(made).model_validate(raw)
    task = open_task(chosen)
    check_networks(chosen, task.stand_ins)
    train_stage(task, teacher_of(chosen))
    stage = replace(students_of(chosen)[-1])
    assert stage.name == "distilled"
    train_stage(task, stage)
    assert '"loss/align"' in (stage.folder / "metrics.jsonl").read_text()
