"""Objects in whole pictures, from recipe to batches, queries and validation."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posedistill.decode import Pose
from posedistill.errors import RecipeError
from posedistill.estimators.posenet import PoseNet
from posedistill.estimators.wdrnet import WDRNet
from posedistill.tasks.base import SELECT
from posedistill.tasks.objects import ObjectsTask
from posedistill.tasks.pictures import PicturesTask
from posedistill.tasks.registry import open_task
from posedistill.tasks.validation import assign_in_pictures

CPU = torch.device("cpu")


@pytest.fixture
def task(recipe, monkeypatch) -> PicturesTask:
    """The drawn boxes, for a family that looks at whole pictures of 64 x 96."""
    monkeypatch.setattr(WDRNet, "view", "picture")
    return open_task(recipe("data.picture={size: [64, 96]}"))


def test_the_family_s_view_chooses_the_task(task, recipe, monkeypatch):
    assert isinstance(task, PicturesTask) and task.recipe.input_size == (64, 96)
    monkeypatch.setattr(WDRNet, "view", "crop")
    crops = open_task(recipe())
    assert type(crops) is ObjectsTask and crops.recipe.input_size == 64


def test_teacher_and_student_look_at_the_same(recipe, monkeypatch):
    monkeypatch.setattr(PoseNet, "task", "objects")
    with pytest.raises(RecipeError, match="family posenet, which looks at a scene, expected a crop"):
        recipe("teacher={family: posenet}")


def test_batches_are_whole_pictures(task):
    loader = task.loader(task.training_set.train, seed=0, device="cpu", batch_size=4, augment=False)
    batch = loader.batch(0)
    assert (
        len(loader) == 6 and batch.images.shape == (4, 3, 64, 96) and batch.picture.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    )
    varied = task.loader(task.training_set.train, seed=0, device="cpu", batch_size=4).batch(0)
    assert varied.images.shape == (4, 3, 64, 96)


def test_frames_without_the_objects_are_negatives(task, recipe, bop, tmp_path):
    """A frame with an empty list and one with another object alone; one that nobody annotated is none."""
    root = tmp_path / "with_others"
    shutil.copytree(bop, root)
    path = root / "train/000001/scene_gt.json"
    truth = json.loads(path.read_text())
    truth["0"], truth["1"] = [], [entry for entry in truth["1"] if entry["obj_id"] == 2]
    del truth["2"]
    path.write_text(json.dumps(truth))
    (root / "train/000001/scene_gt_info.json").unlink()
    other = open_task(recipe(f"data.train=[{{bop: {root}, split: train}}]", "data.objects=[1]"))
    assert len(other.training_set.packs[0].frames) == 7 and other.others.tolist() == [5, 6]
    loader = other.loader(other.training_set.train, seed=0, device="cpu", batch_size=8)
    assert len(loader) == len(np.unique(other.training_set.packs[0].instances.frame[other.training_set.train])) + 2
    pack = task.training_set.packs[0]
    assert len(pack.frames) == 8 and len(task.others) == 0


def test_queries_are_whole_frames(task):
    assert len(task.queries) == 3
    for query in task.queries:
        request = query.request()
        assert len(request.boxes) == 0 and list(request.labels) == [1, 2] and request.K is not None
    assert task.score(None).boxes == "none"


class TestValidation:
    @pytest.fixture
    def answer(self, task, network, monkeypatch):
        """``answer(poses_of)``: validation scores where the decoder finds ``poses_of(batch)``."""

        def make(poses_of):
            validate = task.validation(CPU, 8)
            batches = iter(validate.batches)

            def decode(outputs, prepared):
                assert outputs["images"].shape == prepared.inputs["images"].shape
                return poses_of(next(batches))

            fake = SimpleNamespace(inputs={"images": ()}, outputs={"images": ()}, decode=decode)
            monkeypatch.setattr(task, "decoder", lambda estimator: fake)
            estimator = network()
            monkeypatch.setattr(estimator.network, "forward", lambda images: (images,))
            return validate(estimator)

        return make

    @staticmethod
    def truth(batch) -> list[Pose]:
        rows = range(len(batch))
        return [
            Pose(
                batch.R[i].double().numpy(),
                batch.t[i].double().numpy(),
                int(batch.label[i]) + 1,
                0.5,
                row=int(batch.picture[i]),
            )
            for i in rows
        ]

    def test_true_poses_in_any_order_score_one(self, answer):
        scores = answer(lambda batch: self.truth(batch)[::-1])
        assert scores[SELECT] > 0.99 and scores["val/keypoints_0.1d"] == 1.0

    def test_a_missed_object_counts(self, answer):
        scores = answer(lambda batch: self.truth(batch)[::2])
        assert scores["val/keypoints_0.1d"] == 0.5

    def test_poses_of_the_wrong_picture_or_object_count_for_nothing(self, answer):
        swapped = answer(lambda batch: [Pose(p.R, p.t, 3 - p.label, 0.5, row=p.row) for p in self.truth(batch)])
        assert swapped["val/keypoints_0.1d"] == 0
        moved = answer(lambda batch: [Pose(p.R, p.t, p.label, 0.5, row=p.row + 2) for p in self.truth(batch)])
        assert moved[SELECT] == 0


def test_several_instances_of_one_object_are_told_apart(task):
    """Two of one object in a picture: each pose goes to the nearer one, the least sure of three poses to none."""
    batch = task.validation(CPU, 8).batches[0].select(slice(0, 2))
    batch.picture, batch.label = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    near = [Pose(batch.R[i].numpy(), batch.t[i].numpy() + 3.0, 1, score) for i, score in ((1, 0.9), (0, 0.4))]
    away = Pose(batch.R[0].numpy(), batch.t[0].numpy(), 1, 0.1)
    assert assign_in_pictures([away, *near], batch, task.objects) == [-1, 1, 0]
    assert assign_in_pictures([], batch, task.objects) == []
