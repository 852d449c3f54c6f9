import pytest
import torch

from posedistill.data.loading.batch import Batch
from posedistill.errors import RecipeError


def made() -> Batch:
    """Two pictures; the second shows two instances."""
    K = torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]).repeat(2, 1, 1)
    K[1, :2] *= 2
    return Batch(
        images=torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 48, 64),
        K=K,
        picture=torch.tensor([0, 1, 1]),
        R=torch.eye(3).repeat(3, 1, 1),
        t=torch.tensor([[0.0, 0, 500], [0, 0, 500], [10, 0, 1000]]),
        label=torch.tensor([0, 1, 0]),
        score=torch.tensor([1.0, 0.5, 1.0]),
        ids=torch.tensor([7, 8, 9]),
        targets={"diameters": torch.tensor([32.0, 32, 32])},
    )


def test_rows_are_instances_and_each_finds_the_camera_of_its_picture() -> None:
    batch = made()
    assert len(batch) == 3
    assert torch.equal(batch.cameras(), batch.K[[0, 1, 1]])
    torch.testing.assert_close(batch.sizes("test"), torch.tensor([0.1, 0.2, 0.1]))
    torch.testing.assert_close(batch.camera_centers(), -batch.t)


def test_selected_instances_bring_their_pictures_along() -> None:
    chosen = made().select(torch.tensor([2, 0]))
    assert chosen.picture.tolist() == [0, 1] and chosen.ids.tolist() == [9, 7] and chosen.label.tolist() == [0, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [1.0, 0.0] and chosen.K[:, 0, 0].tolist() == [200.0, 100.0]
    assert len(chosen.targets["diameters"]) == 2


def test_a_single_instance_a_picture_is_its_own_and_annotated_by_a_person() -> None:
    whole = made()
    scene = Batch.single(whole.images, whole.K, whole.R[:2], whole.t[:2], whole.ids[:2])
    assert scene.picture.tolist() == [0, 1] and scene.label.tolist() == [0, 0] and scene.score.tolist() == [1.0, 1.0]
    assert not scene.targets and scene.to("cpu").label.dtype == torch.int64


def test_a_missing_target_is_named_with_who_asks_for_it_and_what_there_is() -> None:
    message = "'family: x': found batches with the targets diameters, expected the target 'masks'"
    with pytest.raises(RecipeError, match=message):
        made().target("masks", "family: x")
