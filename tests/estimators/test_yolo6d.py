"""YOLO6D: pictures with several instances, or none, to a region map, its loss, and the views of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.pictures import batch_of_pictures
from torch import Tensor

from posedistill.backbones.cfg.network import CfgOutputs
from posedistill.data.loading.batch import Batch
from posedistill.decode.base import Prepared
from posedistill.decode.yolo6d import YOLO6DDecoder
from posedistill.errors import RecipeError
from posedistill.estimators.views import place_of_cells
from posedistill.estimators.yolo6d import YOLO6D, YOLO6DNetwork, YOLO6DSettings, true_points
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.rotations import random_rotations

SIZE = (96, 128)
CAMERA = np.array([[150.0, 0.0, 63.5], [0.0, 140.0, 47.5], [0.0, 0.0, 1.0]])
Objects = Callable[..., ObjectTable]


def make_batch(objects: ObjectTable, counts: tuple[int, ...] = (2, 0, 1), seed: int = 0) -> Batch:
    """Pictures of noise with so many instances each; the first and the second are of one class."""
    rng, total = np.random.default_rng(seed), sum(counts)
    label = np.minimum(np.maximum(np.arange(total) - 1, 0), len(objects) - 1)
    places = np.array([[-100.0, 0.0], [90.0, 20.0], [0.0, -30.0], [10.0, 10.0]])[:total]
    R, t = random_rotations(total, rng), np.concatenate([places, np.full((total, 1), 450.0)], axis=1)
    return batch_of_pictures(objects, counts, label, R, t, CAMERA, SIZE, rng)


def build(objects: ObjectTable, **settings: object) -> YOLO6D:
    torch.manual_seed(0)
    return YOLO6D(objects, YOLO6DSettings(**({"backbone": "darknet_tiny_q"} | settings)), SIZE)


PRESETS = [{}, {"faithful": True}, {"anchors": ((1.0, 1.0), (3.0, 3.0))}, {"neighbours": False}]


@pytest.mark.parametrize("settings", PRESETS)
@pytest.mark.parametrize("counts", [(2, 0, 1), (0, 0), (1,)])
def test_gradients_are_finite_and_reach_every_parameter(
    objects: Objects, settings: dict[str, object], counts: tuple[int, ...]
) -> None:
    estimator = build(objects(2), **settings).train()
    batch = make_batch(estimator.objects, counts)
    terms = estimator.loss(estimator(batch), batch)
    assert list(terms) == ["points", "confidence", "classes"]
    torch.stack(list(terms.values())).sum().backward()
    for name, weight in estimator.named_parameters():
        assert weight.grad is not None and bool(weight.grad.isfinite().all()), name
    assert sum(counts) == 0 or all(float(terms[name].detach()) > 0 for name in terms)


@pytest.mark.parametrize("settings", PRESETS)
def test_the_loss_does_not_depend_on_the_number_of_pictures(objects: Objects, settings: dict[str, object]) -> None:
    estimator = build(objects(2), **settings).eval()
    batch = make_batch(estimator.objects)
    twice = Batch(
        **{name: torch.cat([getattr(batch, name)] * 2) for name in ("images", "K", "R", "t", "label", "score", "ids")},
        picture=torch.cat([batch.picture, batch.picture + 3]),
        targets={name: torch.cat([value] * 2) for name, value in batch.targets.items()},
    )
    once, again = (estimator.loss(estimator(each), each) for each in (batch, twice))
    for name, value in once.items():
        assert again[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_confidences_wait_for_the_end_of_the_pretraining(objects: Objects) -> None:
    estimator = build(objects(), pretrain=0.25)
    batch = make_batch(estimator.objects)
    assert list(estimator.loss(estimator(batch), batch)) == ["points"]
    estimator.progress = 0.25
    assert list(estimator.loss(estimator(batch), batch)) == ["points", "confidence"]


def test_published_labels_end_at_the_border(objects: Objects) -> None:
    batch = make_batch(objects(), (1,))
    batch.t[:, 0] = -250.0  # beyond the left border
    batch.targets["keypoints"] = torch.as_tensor(
        project(objects().keypoints[0], batch.R[0].double().numpy(), batch.t[0].double().numpy(), CAMERA)
    ).float()[None]
    assert true_points(batch)[0, 0, 0] < 0
    for faithful in (True, False):
        estimator = build(objects(), faithful=faithful)
        loss = estimator.loss(estimator(batch), batch)["points"]
        assert bool(loss > 0) == faithful


def test_the_centre_is_that_of_the_box(objects: Objects) -> None:
    batch = make_batch(objects(2))
    center = batch.targets["keypoints3d"].mean(1).double().numpy()
    for row in range(len(batch)):
        seen = project(center[row : row + 1], batch.R[row].double().numpy(), batch.t[row].double().numpy(), CAMERA)
        np.testing.assert_allclose(true_points(batch)[row, 0].numpy(), seen[0], atol=1e-3)


def perfect(estimator: YOLO6D, batch: Batch) -> Tensor:
    """The region map of a network that knows the answer, in the own cell of every instance."""
    stride, anchors = estimator.network.stride, estimator.network.anchors
    region = torch.zeros(len(batch.images), anchors, 19 + len(estimator.objects), SIZE[0] // stride, SIZE[1] // stride)
    region[:, :, 18] = -9.0
    for points, picture, label in zip(true_points(batch) / stride, batch.picture, batch.label, strict=True):
        column, row = points[0].floor().long().tolist()
        offsets = points - torch.tensor([column, row])
        offsets[0] = offsets[0].logit()
        region[picture, 0, :18, row, column] = offsets.flatten()
        region[picture, 0, 18, row, column] = 5.0
        region[picture, 0, 19 + label, row, column] = 20.0
    return region.flatten(1, 2)


class Knowing(torch.nn.Module):
    def __init__(self, region: Tensor, like: YOLO6DNetwork) -> None:
        super().__init__()
        self.region, self.stride, self.channels = region, like.stride, 32

    def outputs(self, images: Tensor) -> CfgOutputs:
        return CfgOutputs(self.region, {self.stride: self.region})


def test_the_decoder_recovers_the_poses_of_perfect_outputs(objects: Objects) -> None:
    estimator = build(objects(2)).eval()
    batch = make_batch(estimator.objects)
    decoder = estimator.build_decoder()
    assert isinstance(decoder, YOLO6DDecoder)
    region = perfect(estimator, batch).numpy()
    found = decoder.decode({"region": region}, Prepared.of_pictures({}, batch.K.double().numpy()))
    assert sorted((pose.row, pose.label) for pose in found) == [(0, 1), (0, 1), (2, 2)]
    for R, t in zip(batch.R.numpy(), batch.t.numpy(), strict=True):
        near = min(found, key=lambda pose: float(np.linalg.norm(pose.t - t)))
        np.testing.assert_allclose(near.R, R, atol=1e-3)
        np.testing.assert_allclose(near.t, t, atol=0.2)


def test_perfect_outputs_cost_next_to_nothing(objects: Objects) -> None:
    estimator = build(objects(2), neighbours=False).eval()
    batch = make_batch(estimator.objects)
    estimator.network.grid = Knowing(perfect(estimator, batch), estimator.network)
    terms = estimator.loss(estimator(batch), batch)
    assert all(float(value) < 0.01 for value in terms.values()), terms


def test_a_teacher_s_confident_votes_go_to_the_instance_they_are_near_to(objects: Objects) -> None:
    estimator = build(objects(2)).eval()
    batch = make_batch(estimator.objects)
    estimator.network.grid = Knowing(perfect(estimator, batch), estimator.network)
    votes = estimator(batch).votes
    assert votes is not None and votes.cells is not None
    assert votes.mask.sum(1).tolist() == [1, 1, 1]  # two instances of one class in the first picture
    truth = true_points(batch) / SIZE[1]
    for row in range(len(batch)):
        chosen = votes.values[row][votes.mask[row]]
        assert torch.allclose(chosen[0], truth[row], atol=1e-4)
        assert votes.weights[row][votes.mask[row]].item() > 0.9
        stride, line, column = place_of_cells(votes.cells[row][votes.mask[row]])
        assert (stride, column, line) == (estimator.network.stride, *(truth[row, 0] * SIZE[1] / stride).floor().long())


def test_views_are_rows_of_instances(objects: Objects) -> None:
    for training in (True, False):
        estimator = build(objects(2)).train(training)
        batch = make_batch(estimator.objects)
        prediction = estimator(batch)
        cells = (SIZE[0] // 16) * (SIZE[1] // 16)
        votes, grid = prediction.votes, prediction.cells
        assert votes is not None and grid is not None and prediction.embedding is not None
        assert grid.values.shape == (3, cells, 9, 2) and votes.values.shape[0] == 3 and len(prediction.embedding) == 3
        assert training is False or votes.mask.all()
        assert {name: len(level) for name, level in prediction.features.items()} == {"p3": 3, "p4": 3}
        # A cell that votes for two instances of its picture says the same of both.
        assert grid.values[0].equal(grid.values[1]) and not grid.values[0].equal(grid.values[2])


def test_the_network_gives_what_the_decoder_takes(objects: Objects) -> None:
    estimator = build(objects(2), anchors=((1.0, 1.0), (3.0, 3.0))).eval()
    decoder = estimator.build_decoder()
    (region,) = estimator.network(torch.zeros(1, *decoder.inputs["images"]))
    assert region.shape[1:] == decoder.outputs["region"]


def test_the_published_student_has_its_published_size(objects: Objects) -> None:
    estimator = build(objects(), backbone="yolo_lite_bn").eval()
    assert sum(weight.numel() for weight in estimator.network.parameters()) == 545_956
    (region,) = estimator.network(torch.zeros(1, 3, *SIZE))
    assert region.shape == (1, 20, 3, 4)


def test_a_cfg_looks_at_pictures_in_0_to_1(objects: Objects) -> None:
    estimator = build(objects(), backbone="yolo_lite_bn").eval()
    pixels, mean, std = (
        torch.rand(1, 3, *SIZE),
        torch.tensor([0.485, 0.456, 0.406]),
        torch.tensor([0.229, 0.224, 0.225]),
    )
    (region,) = estimator.network((pixels - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(region, estimator.network.grid(pixels), atol=1e-4, rtol=1e-4)


def test_pictures_that_no_grid_divides_are_refused(objects: Objects) -> None:
    with pytest.raises(RecipeError, match=r"'data.picture.size': found \[100, 128\], expected .* stride, 16"):
        YOLO6D(objects(), YOLO6DSettings(backbone="darknet_tiny_q"), (100, 128))
