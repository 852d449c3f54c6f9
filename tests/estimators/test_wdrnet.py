import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posedistill.data.loading.batch import Batch
from posedistill.decode.wdrnet import decode, select_cells
from posedistill.deploy.export import check_parity, export_onnx
from posedistill.errors import RecipeError
from posedistill.estimators.losses.wdrnet import focal_loss, line_of_sight_loss
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import VIEWS, Prediction
from posedistill.estimators.wdrnet import WDRNet, WDRNetNetwork, WDRNetSettings
from posedistill.geometry.cameras import Camera
from posedistill.geometry.objects import ObjectTable

Objects = Callable[..., ObjectTable]
Batches = Callable[..., Batch]
SMALL = {"backbone": "darknet_tiny_q", "width": 32}


def make(objects: ObjectTable, size: int = 64, **settings: object) -> WDRNet:
    torch.manual_seed(0)
    estimator = build_estimator("wdrnet", objects, {**SMALL, **settings}, size)
    assert isinstance(estimator, WDRNet)
    return estimator


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("backbone", "classes", "deployed", "cells"),
    [
        ("darknet53", 1, 50_528_246, 1364),
        ("darknet53", 15, 51_076_836, 1364),
        ("darknet_tiny", 1, 7_808_486, 1360),
        ("darknet_tiny", 15, 8_357_076, 1360),
        ("darknet_tiny_h", 1, 1_965_054, 1360),
        ("darknet_tiny_h", 15, 2_239_468, 1360),
    ],
)
def test_published_sizes(backbone: str, classes: int, deployed: int, cells: int) -> None:
    with torch.device("meta"):
        network = WDRNetNetwork(classes, WDRNetSettings(backbone=backbone), 256)
    assert sum(parameter.numel() for parameter in network.parameters()) == deployed
    assert len(network.cells) == cells


@pytest.mark.parametrize(
    ("strides", "parameters"), [((16, 32, 64), 871_094), ((8, 16), 809_142), ((16,), 769_590), (None, 871_094)]
)
def test_a_cut_trunk_with_a_slim_head(strides: tuple[int, ...] | None, parameters: int) -> None:
    settings = WDRNetSettings(backbone="tf_efficientnet_lite0@16", head="slim", width=64, strides=strides)
    network = WDRNetNetwork(1, settings, 128)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    network(torch.zeros(1, 3, 128, 128), torch.zeros(1, dtype=torch.int64))[0].sum().backward()
    trunk = network.backbone.net.named_parameters()
    assert not [name for name, parameter in trunk if parameter.grad is None]


def test_a_cut_of_a_narrow_backbone_is_narrow() -> None:
    assert WDRNetSettings(backbone="darknet_tiny_h@8").resolved_width() == 128


def test_the_slim_head_is_a_third_of_the_student() -> None:
    network = WDRNetNetwork(1, WDRNetSettings(backbone="darknet_tiny_h", head="slim"), 256)
    assert sum(parameter.numel() for parameter in network.parameters()) < 700_000
    assert network.cells.strides == (16, 32, 64)
    assert WDRNetNetwork(1, WDRNetSettings(**SMALL, head="slim"), 64).cells.strides == (8, 16, 32, 64)


def test_shapes_and_views(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects(3)), batch(4, 64, classes=3)
    prediction = estimator(crops, generator())
    cells = 64 + 16 + 4 + 1
    assert prediction.heads["logits"].shape == (4, cells)
    assert prediction.heads["class_logits"].shape == (4, cells, 3)
    assert prediction.heads["votes"].shape == (4, cells, 8, 2)
    assert prediction.votes is not None
    assert prediction.cells is not None
    assert prediction.votes.values.shape == (4, 12, 8, 2)
    assert prediction.cells.values.shape == (4, cells, 8, 2)
    assert list(prediction.features) == ["p3", "p4", "p5", "p6"]
    assert prediction.features["p4"].shape == (4, 32, 4, 4)
    assert prediction.embedding is not None
    assert prediction.embedding.shape == (4, 32)
    assert estimator.offers <= set(VIEWS)
    for view in estimator.offers:
        assert getattr(prediction, view) is not None


def test_votes_are_the_drawn_cells_in_crop_sides(objects: Objects, batch: Batches) -> None:
    prediction = make(objects())(batch(3, 64), generator())
    votes, cells, heads = prediction.votes, prediction.cells, prediction.heads
    assert votes is not None and cells is not None and votes.cells is not None and cells.cells is not None
    assert votes.mask.sum(1).min() > 5
    for b in range(3):
        drawn = heads["labels"][b].nonzero()[:, 0][heads["labels"][b][heads["labels"][b] != 0] == 1]
        assert sorted(votes.cells[b][votes.mask[b]].tolist()) == sorted(cells.cells[b, drawn].tolist())
        for slot in votes.mask[b].nonzero()[:, 0]:
            index = heads["positive_index"][b, slot]
            assert torch.equal(votes.values[b, slot] * 64, heads["votes"][b, index])
            torch.testing.assert_close(votes.weights[b, slot], heads["logits"][b, index].sigmoid())
    (votes.values.sum() + votes.weights.sum()).backward()  # both sides of the transport learn


def test_faithful_is_the_published_decoding(objects: Objects) -> None:
    published, ours = (make(objects(), faithful=faithful) for faithful in (True, False))
    assert (published.settings.decoding().threshold, published.calibrates) == (0.02, False)
    assert (ours.settings.decoding().threshold, ours.calibrates) == (0.05, True)


def test_labels_follow_the_visible_mask(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects()), batch(2, 64)
    labels = estimator(crops, generator()).heads["labels"]
    for index, (x, y) in enumerate(estimator.cells.centers):
        inside = crops.targets["masks"][:, min(int(y), 63), min(int(x), 63)]
        assert torch.equal(labels[:, index] != 0, inside)


def test_loss_is_the_naive_sum_over_its_counts(objects: Objects, batch: Batches) -> None:
    crops = batch(3, 64)
    values = {}
    for faithful in (False, True):
        estimator = make(objects(), faithful=faithful)
        prediction = estimator(crops, generator())
        heads = {name: value.detach() for name, value in prediction.heads.items()}
        score, vote, positives = 0.0, 0.0, 0
        for b in range(3):
            points = crops.targets["keypoints3d"][b] @ crops.R[b].T + crops.t[b]
            for index, label in enumerate(heads["labels"][b].tolist()):
                if label >= 0:
                    score += float(focal_loss(heads["logits"][b, index], torch.tensor(label == 1)))
                if label == 1:
                    cell = heads["votes"][b, index][None, None]
                    loss = line_of_sight_loss(
                        cell, points[None], crops.K[b : b + 1], crops.targets["diameters"][b : b + 1]
                    )
                    vote, positives = vote + float(loss), positives + 1
        losses = {name: value.detach() for name, value in estimator.loss(prediction, crops).items()}
        assert float(losses["score"]) == pytest.approx(0.1 * score / (1 if faithful else 30), rel=1e-4)
        assert float(losses["votes"]) == pytest.approx(vote / (1 if faithful else positives), rel=1e-4)
        values[faithful] = losses
    assert values[True]["votes"] > 20 * values[False]["votes"]


def test_loss_does_not_depend_on_the_batch_size(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects()).eval(), batch(2, 64)
    doubled = crops.select(torch.tensor([0, 1, 0, 1]))
    once, twice = estimator(crops).heads, estimator(doubled).heads
    # The same draw on both: the draw of the one, repeated.
    targets = estimator.train()(crops, generator()).heads
    names = ("labels", "positive_index", "positive_mask")
    single = estimator.loss(_with(once, {name: targets[name] for name in names}), crops)
    double = estimator.loss(_with(twice, {name: torch.cat([targets[name]] * 2) for name in names}), doubled)
    for name in single:
        torch.testing.assert_close(single[name], double[name], rtol=1e-4, atol=1e-7)


def _with(heads: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> Prediction:
    return Prediction({**heads, **more})


def test_without_a_positive_cell_the_vote_loss_is_zero_and_trains_on(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects()), batch(2, 64)
    crops.targets["masks"][:] = False
    prediction = estimator(crops, generator())
    assert prediction.votes is not None
    assert not prediction.votes.mask.any()
    assert prediction.votes.values.isfinite().all()
    losses = estimator.loss(prediction, crops)
    assert float(losses["votes"]) == 0.0
    sum(losses.values()).backward()
    assert torch.equal(estimator.network.head.offsets.weight.grad, torch.zeros(16, 32, 3, 3))
    assert estimator.network.head.score.weight.grad.abs().max() > 0  # background is still background


def test_only_the_crop_s_class_learns_unless_faithful(objects: Objects, batch: Batches) -> None:
    crops = batch(4, 64, classes=2)
    crops.label[:] = 1
    for faithful in (False, True):
        estimator = make(objects(3), faithful=faithful)
        sum(estimator.loss(estimator(crops, generator()), crops).values()).backward()
        head = estimator.network.head
        learns = [bool(head.score.weight.grad[c].abs().max() > 0) for c in range(3)]
        assert learns == ([True] * 3 if faithful else [False, True, False])
        votes = head.offsets.weight.grad.view(3, 16, -1).abs().amax((1, 2)) > 0
        assert votes.tolist() == [False, True, False]


def test_class_selects_its_channels(objects: Objects) -> None:
    """The network of class c equals the single-class network with c's part of the predictors."""
    estimator, single = make(objects(3)).eval(), make(objects(1)).eval()
    images, state = torch.randn(3, 3, 64, 64), estimator.network.state_dict()
    with torch.inference_mode():
        logits, votes = estimator.network(images, torch.tensor([2, 0, 1]))
        for b, c in enumerate((2, 0, 1)):
            own = {key: value[16 * c : 16 * (c + 1)] for key, value in state.items() if key.startswith("head.offsets")}
            own |= {key: value[c : c + 1] for key, value in state.items() if key.startswith("head.score.")}
            single.network.load_state_dict({**state, **own})
            expected = single.network(images[b : b + 1], torch.tensor([0]))
            torch.testing.assert_close(logits[b : b + 1], expected[0])
            torch.testing.assert_close(votes[b : b + 1], expected[1], rtol=1e-4, atol=1e-2)


def test_a_teacher_votes_without_ground_truth_as_the_decoder_would(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects(), score_threshold=0.4).eval(), batch(3, 64)
    torch.nn.init.normal_(estimator.network.head.score.weight, std=0.3)
    torch.nn.init.zeros_(estimator.network.head.score.bias)
    blind = dataclasses.replace(crops, targets={name: torch.zeros_like(value) for name, value in crops.targets.items()})
    with torch.no_grad():
        first, second = estimator(crops).votes, estimator(blind).votes
        logits, votes = estimator.network(crops.images, crops.label)
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.mask, second.mask)
    settings = dataclasses.replace(estimator.settings.decoding(), always_answer=False)
    for b in range(3):
        chosen = select_cells(logits[b].sigmoid().numpy(), votes[b].numpy(), estimator.cells, settings)
        assert len(chosen) == int(first.mask[b].sum())
        torch.testing.assert_close(first.values[b][first.mask[b]] * 64, votes[b][torch.as_tensor(chosen)])


def test_an_unsure_teacher_has_no_votes_and_no_nans(objects: Objects, batch: Batches) -> None:
    prediction = make(objects()).eval()(batch(2, 64))
    assert prediction.votes is not None
    assert not prediction.votes.mask.any()
    assert prediction.votes.values.isfinite().all()


def test_validation_loss_repeats_itself(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects()).eval(), batch(2, 64)
    with torch.no_grad():
        first, second = (estimator.loss(estimator(crops), crops) for _ in range(2))
    assert first == second


def test_top_votes_are_the_most_confident_cells(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects(), student_votes="top"), batch(2, 64)
    prediction = estimator(crops, generator())
    votes, weights = prediction.votes, prediction.cells.weights
    assert votes.mask.sum(1).min() >= 9
    for b in range(2):
        for first, last in ((0, 64), (64, 80), (80, 84)):
            inside = torch.isin(votes.cells[b], prediction.cells.cells[b, first:last]) & votes.mask[b]
            best = weights[b, first:last].topk(int(inside.sum())).values
            assert torch.equal(votes.weights[b][inside], best)


@pytest.mark.parametrize("head", ["full", "slim"])
def test_bf16_gives_float32_outputs_close_to_float32_s(objects: Objects, batch: Batches, head: str) -> None:
    estimator, crops = make(objects(), head=head), batch(2, 64)
    exact = estimator(crops, generator())
    with torch.autocast("cpu", torch.bfloat16):
        rough = estimator(crops, generator())
        losses = estimator.loss(rough, crops)
    assert rough.heads["votes"].dtype == rough.heads["logits"].dtype == losses["votes"].dtype == torch.float32
    assert (rough.heads["votes"] - exact.heads["votes"]).abs().mean() < 0.5


def test_every_parameter_learns(objects: Objects, batch: Batches) -> None:
    """DistributedDataParallel refuses a model of which a part takes no part."""
    for head in ("full", "slim"):
        estimator, crops = make(objects(), head=head), batch(2, 64)
        sum(estimator.loss(estimator(crops, generator()), crops).values()).backward()
        assert [name for name, p in estimator.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("backbone", ["yolo_lite", "yolo_lite_bn"])
def test_darknets_networks_are_backbones(objects: Objects, batch: Batches, backbone: str, tmp_path: Path) -> None:
    estimator, crops = make(objects(), backbone=backbone, strides=(8, 16, 32)), batch(2, 64)
    sum(estimator.loss(estimator(crops, generator()), crops).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in estimator.network.backbone.parameters())
    camera = Camera(crops.K[0].double().numpy(), 64, 64)
    decoder = estimator.build_decoder(camera=camera, names=tuple(map(str, estimator.objects.obj_ids)))
    path = export_onnx(estimator.network, tmp_path / "model.onnx", decoder)
    assert check_parity(estimator.network, path).rows > 0


def test_grids_are_not_in_the_state_dict(objects: Objects) -> None:
    """So weights trained on crops of one size load for another."""
    small, large = make(objects(), 64), make(objects(), 128)
    large.load_state_dict(small.state_dict())


def test_unknown_settings_are_refused_by_name(objects: Objects) -> None:
    with pytest.raises(RecipeError, match="bakcbone: found 'x'"):
        build_estimator("wdrnet", objects(), {"bakcbone": "x"}, 64)
    with pytest.raises(RecipeError, match=r"strides: .*expected a run of"):
        build_estimator("wdrnet", objects(), {"strides": (8, 32)}, 64)
    with pytest.raises(RecipeError, match=r"'zebra', expected one of .*'wdrnet'"):
        build_estimator("zebra", objects(), {}, 64)


@pytest.mark.parametrize("train", [True, False])
def test_a_step_never_waits_for_the_device(objects: Objects, batch: Batches, train: bool) -> None:
    """Fake tensors have no values: whatever asks for one (item, nonzero, a boolean index) raises."""
    with FakeTensorMode():
        estimator = WDRNet(objects(2), WDRNetSettings(**SMALL), 64).train(train)
        B = 4
        shapes = {
            "images": (3, 64, 64),
            "K": (3, 3),
            "R": (3, 3),
            "t": (3,),
            "keypoints3d": (8, 3),
            "keypoints": (8, 2),
        }
        values = {name: torch.zeros(B, *shape) for name, shape in shapes.items()}
        crops = Batch.single(
            masks=torch.zeros(B, 64, 64, dtype=torch.bool),
            label=torch.zeros(B, dtype=torch.int64),
            diameters=torch.ones(B),
            ids=torch.zeros(B, dtype=torch.int64),
            **values,
        )
        prediction = estimator(crops)
        losses = estimator.loss(prediction, crops)
        (losses["score"] + losses["votes"]).backward()
    assert prediction.votes is not None
    assert prediction.votes.values.shape == (B, 12, 8, 2)


def test_any_timm_model_serves(objects: Objects, batch: Batches) -> None:
    estimator, crops = make(objects(), backbone="mobilenetv3_small_050"), batch(2, 64)
    assert estimator.cells.strides == (8, 16, 32, 64, 128)
    prediction = estimator(crops, generator())
    assert prediction.heads["votes"].shape == (2, 64 + 16 + 4 + 1 + 1, 8, 2)
    assert torch.stack(list(estimator.loss(prediction, crops).values())).isfinite().all()


def test_export_runs_with_any_batch(objects: Objects, tmp_path: object) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make(objects(3)).eval().network
    batch_axis = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        network,
        (torch.randn(2, 3, 64, 64), torch.tensor([0, 2])),
        input_names=["images", "classes"],
        output_names=["logits", "votes"],
        dynamic_shapes={"images": batch_axis, "classes": batch_axis},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    images, classes = torch.randn(5, 3, 64, 64), torch.tensor([0, 2, 1, 1, 0])
    logits, votes = session.run(None, {"images": images.numpy(), "classes": classes.numpy()})
    with torch.inference_mode():
        expected = network(images, classes)
    np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(votes, expected[1].numpy(), atol=1e-2)


def test_overfits_a_batch_down_to_its_poses(objects: Objects, batch: Batches) -> None:
    """Targets, both losses, selection and decoder agree: what was learnt by heart comes back as poses."""
    estimator, crops = make(objects()), batch(4, 64)
    optimiser = torch.optim.AdamW(estimator.parameters(), 3e-3)
    steps, draws = 250, generator()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        loss = sum(estimator.loss(estimator(crops, draws), crops).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(estimator.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        prediction = estimator.eval()(crops)
    votes = prediction.votes
    assert votes is not None
    assert votes.mask.sum(1).min() >= 5
    errors = (votes.values * 64 - crops.targets["keypoints"][:, None]).norm(dim=-1).mean(-1)
    assert float((errors * votes.mask).sum() / votes.mask.sum()) < 2.0
    table = objects()
    for b in range(4):
        heads = [prediction.heads[name][b].numpy() for name in ("logits", "votes")]
        pose = decode(*heads, estimator.cells, crops.K[b].double().numpy(), table.keypoints[0])
        assert pose is not None
        points = [table.keypoints[0] @ R.T + t for R, t in ((pose.R, pose.t), (crops.R[b].numpy(), crops.t[b].numpy()))]
        assert np.linalg.norm(points[0] - points[1], axis=1).mean() < 0.1 * table.diameters[0]


def test_the_decoder_is_told_what_it_needs(objects: Objects) -> None:
    estimator = make(objects(), score_threshold=0.25)
    decoder = estimator.build_decoder(names=("cube",))
    assert decoder.family == "wdrnet" and decoder.strides == estimator.cells.strides and decoder.names == ("cube",)
    assert decoder.decoding.score_threshold == 0.25 and decoder.objects is estimator.objects
