"""A teacher of crops and a student of whole pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SMALLEST, boxes
from tests.distill.test_pictures import network, objects, pictures

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.errors import RecipeError
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction, Votes
from posedistill.geometry.cameras import project
from posedistill.recipe.stages import teacher_of
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import save_tensors
from posedistill.training.evaluate import measure_stage
from posedistill.training.teaching.build import check_networks, teacher_so_far
from posedistill.training.teaching.crops import CropTeacher, cut_instances, windows_of
from posedistill.training.teaching.teachers import NetworkTeacher

SIZE = 64
WDRNET = {"backbone": "darknet_tiny_q", "head": "slim", "width": 32, "strides": [8, 16], "score_threshold": 0.0}


class Knowing:
    """A teacher of crops that votes for the keypoints of whatever it is shown."""

    offers = frozenset({"votes", "cells", "features", "embedding"})

    def predict(self, batch: Batch, step: int) -> Prediction:
        self.seen = batch
        values = batch.targets["keypoints"][:, None] / batch.images.shape[-1]
        weights = torch.ones(len(batch), 1)
        return Prediction({}, Votes(values, weights, weights > 0), embedding=torch.zeros(len(batch), 5))


def squeezed() -> Batch:
    """Pictures that are half as high as they should be."""
    batch = pictures(2, 0, 1)
    batch.K[:, 1] /= 2
    batch.targets["keypoints"][..., 1] /= 2
    return batch


def test_votes_come_back_into_the_picture() -> None:
    batch, knowing = squeezed(), Knowing()
    teacher = CropTeacher(knowing, SIZE)
    taught = teacher.predict(batch, 0)
    assert teacher.offers == {"votes", "embedding"} and taught.votes is not None and taught.embedding is not None
    torch.testing.assert_close(taught.votes.values[:, 0], batch.targets["keypoints"] / batch.images.shape[-1])


def test_crops_are_cameras_of_their_own() -> None:
    batch, knowing = squeezed(), Knowing()
    CropTeacher(knowing, SIZE).predict(batch, 0)
    seen = knowing.seen
    assert seen.images.shape == (3, 3, SIZE, SIZE) and seen.picture.tolist() == [0, 1, 2]
    rows = zip(
        *(values.double().numpy() for values in (seen.targets["keypoints3d"], seen.R, seen.t, seen.K)), strict=True
    )
    np.testing.assert_allclose(seen.targets["keypoints"].numpy(), np.stack([project(*row) for row in rows]), atol=1e-2)
    # The squeeze is undone, and the box fills two thirds of the crop.
    torch.testing.assert_close(seen.K[:, 0, 0], seen.K[:, 1, 1])
    extent = (seen.targets["keypoints"].amax(1) - seen.targets["keypoints"].amin(1)).amax(1)
    torch.testing.assert_close(extent, torch.full((3,), SIZE / 1.5))


def test_pixels_are_those_of_the_picture() -> None:
    batch = pictures(1, 2)
    y, x = torch.meshgrid(
        *(torch.arange(length, dtype=torch.float32) for length in batch.images.shape[2:]), indexing="ij"
    )
    batch.images = torch.stack([torch.stack([x, y, torch.full_like(x, number)]) for number in (1.0, 2.0)])
    windows = windows_of(batch)
    crops = cut_instances(batch, windows, SIZE).images
    middle = crops[:, :2, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(middle, windows.center, atol=1e-3, rtol=0)
    assert crops[:, 2, SIZE // 2, SIZE // 2].tolist() == [1, 2, 2]


@pytest.mark.parametrize("counts", [(2, 0, 1), (0,)])
@pytest.mark.parametrize(("verb", "options"), [("align", {}), ("match", {"form": "cluster_mean"}), ("relate", {})])
def test_wdrnet_teaches_yolo6d(verb: str, options: dict[str, Any], counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    wdrnet = build_estimator("wdrnet", objects(), WDRNET, SIZE)
    teacher, student, batch = (
        CropTeacher(NetworkTeacher(wdrnet, torch.device("cpu")), SIZE),
        network(0).train(),
        pictures(*counts),
    )
    distiller = build_distiller(DistillSpec(name=verb, options=options, trust="score"), student.offers, teacher.offers)
    loss = distiller(student(batch), teacher.predict(batch, 0), batch)
    loss.backward()
    assert bool(loss.isfinite()) and (loss > 0 or not sum(counts) or verb == "relate")


@pytest.fixture
def crossed(recipe: Any, tmp_path: Path) -> Any:
    """``crossed(*overrides)``: the drawn boxes, a YOLO6D student of whole pictures under a finished WDRNet."""
    estimator = build_estimator("wdrnet", boxes(), SMALLEST, 64)
    path = tmp_path / "wdrnet.safetensors"
    save_tensors(path, dict(estimator.state_dict()), {"objects": [1, 2], "scores": {}, "step": 0})
    student = "student={family: yolo6d, settings: {backbone: darknet_tiny_q}}"
    return lambda *more: recipe(student, "data.picture={size: [96, 128]}", f"teacher.checkpoint={path}", *more)


def test_a_recipe_may_have_a_finished_teacher_of_crops(crossed: Any, recipe: Any, capsys: Any) -> None:
    made = crossed()
    task = open_task(made)
    assert made.cuts_crops and isinstance(teacher_so_far(made, task.objects), CropTeacher)
    assert check_networks(made, task.objects)
    scores = measure_stage(task, teacher_of(made))
    assert not scores.metrics and scores.parameters and "it looks at crops in boxes" in capsys.readouterr().err
    with pytest.raises(
        RecipeError, match="expected a picture, as the yolo6d student does, or a finished teacher of crops"
    ):
        recipe("student={family: yolo6d, settings: {backbone: darknet_tiny_q}}")
    with pytest.raises(RecipeError, match="found a teacher that offers embedding, votes"):
        check_networks(crossed("distill=[{name: feature}]"), task.objects)
