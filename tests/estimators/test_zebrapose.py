"""ZebraPose: sizes, views, labels, losses, its codes as data, and the file that is shipped."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.loading.made_packs import make_objects, make_pack
from torch import Tensor

from posedistill.data.codes import code_path
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader
from posedistill.decode import Prepared
from posedistill.deploy.export import check_parity, export_onnx
from posedistill.errors import RecipeError
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import place_of_cells
from posedistill.estimators.zebrapose import ZebraPose, ZebraPoseNetwork, ZebraPoseSettings
from posedistill.estimators.zebrapose.estimator import block_side
from posedistill.geometry.codes import build_tree, is_folded, save_tree
from posedistill.geometry.meshes import Mesh, box_mesh
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.surfaces import Surfaces
from posedistill.runtime.predictor import Predictor

Objects = Callable[..., ObjectTable]
Batches = Callable[..., Batch]
HALF = np.array([40.0, 30.0, 50.0])
QUADS = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
MESH = Mesh(box_corners(-HALF, HALF), QUADS[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3), None, None, None, HALF)
SMALL = {"backbone": "darknet_tiny_q", "width": 16, "bits": 8}
SIZE = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codes")


@pytest.fixture
def make(objects: Objects, cache: Path) -> Callable[..., ZebraPose]:
    def build(classes: int = 1, **settings: object) -> ZebraPose:
        torch.manual_seed(0)
        estimator = build_estimator("zebrapose", objects(classes), {**SMALL, **settings}, SIZE)
        assert isinstance(estimator, ZebraPose)
        estimator.fit_shapes(lambda _: MESH, cache)
        return estimator

    return build


def with_surface(batch: Batch, stride: int = 4) -> Batch:
    arrays = [value.double().numpy() for value in (batch.K, batch.R, batch.t)]
    surfaces = Surfaces([1, 2, 3], lambda _: MESH)
    points = surfaces.seen(batch.label.numpy(), *arrays, batch.images.shape[-1], stride)
    return replace(batch, targets={**batch.targets, f"surface/{stride}": torch.from_numpy(points)})


@pytest.fixture
def crops(batch: Batches) -> Callable[..., Batch]:
    return lambda count=4, stride=4, classes=1, seed=0: with_surface(batch(count, SIZE, seed, classes), stride)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"backbone": "resnet34@8", "decoder": "published", "bits": 16}, 29_112_977),
        ({"backbone": "darknet_tiny_q", "width": 32}, 66_753),
        ({}, 257_781),
        ({"bits": 16}, 258_041),
        ({"stride": 2}, 263_733),
        ({"decoder": "dense"}, 299_813),
        ({"backbone": "darknet_tiny", "width": 96}, 978_589),
        ({"backbone": "lcnet_050"}, 326_781),
        ({"backbone": "mobilenetv4_conv_small_050"}, 403_021),
        ({"backbone": "mobilenetv3_small_100"}, 994_669),
    ],
)
def test_sizes(settings: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        network = ZebraPoseNetwork(1, ZebraPoseSettings(**settings))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        ({}, 16),
        ({"stride": 2}, 32),
        ({"decoder": "dense"}, 16),
        ({"backbone": "lcnet_050"}, 16),
        ({"backbone": "resnet18@8", "decoder": "published", "width": 32}, 32),
    ],
)
def test_shapes_views_and_gradients(make: Callable[..., ZebraPose], crops, settings, grid: int) -> None:
    estimator, batch = make(2, **settings), crops(3, SIZE // grid, classes=2)
    estimator.check_targets(frozenset(batch.targets))
    prediction = estimator(batch)
    assert prediction.heads["mask"].shape == (3, 1, grid, grid)
    assert prediction.heads["code"].shape == (3, 8, grid, grid)
    finest = next(iter(prediction.features.values()))
    assert finest.shape[-1] == grid
    for view in estimator.offers:
        assert getattr(prediction, view) is not None
    assert prediction.votes is not None and prediction.votes.values.shape[2:] == (1, 8)
    sum(estimator.loss(prediction, batch).values()).backward()
    assert not [name for name, weight in estimator.named_parameters() if weight.grad is None]


def test_bits_are_those_of_the_tree_and_of_each_objects_own(make: Callable[..., ZebraPose], crops) -> None:
    estimator, batch = make(2), crops(4, classes=2)
    tree = build_tree(MESH.vertices, MESH.faces, bits=8)
    surface = batch.targets["surface/4"]
    hit = surface[..., 0].isfinite()
    bits = estimator.encode(surface, batch.label)
    ids = (bits * (2 ** torch.arange(7, -1, -1))[:, None, None]).sum(1)[hit]
    np.testing.assert_array_equal(ids.numpy(), tree.encode(surface[hit].numpy()))
    estimator.planes[1] = -estimator.planes[1]
    turned = estimator.encode(surface, batch.label)
    assert torch.equal(turned[0], bits[0]) and not torch.equal(turned[1], bits[1])


def test_equivalent_poses_have_equal_codes(cache: Path) -> None:
    """Frames whose symmetric object is annotated by either of two poses that look alike give the same labels."""
    symmetric = make_objects()
    pack = make_pack(symmetric, 5)
    meshes = {i: box_mesh(corners) for i, corners in zip(symmetric.obj_ids, symmetric.keypoints, strict=True)}
    estimator = build_estimator("zebrapose", symmetric, SMALL, SIZE)
    assert isinstance(estimator, ZebraPose)
    estimator.fit_shapes(meshes.__getitem__, cache)
    R = pack.instances.R.copy()
    R[pack.instances.obj_id == 3] @= HALF_TURN[:3, :3]
    batches, rows = [], np.flatnonzero(pack.instances.obj_id == 3)
    for table in (pack.instances, replace(pack.instances, R=R)):
        surfaces = Surfaces(symmetric.obj_ids, meshes.__getitem__)
        view = CropView([replace(pack, instances=table)], symmetric, AugmentSettings(), SIZE, rows, surfaces=surfaces)
        batches.append(Loader(view, 6, 0, torch.device("cpu"), targets=estimator.targets).batch(0))
    first = batches[0]
    hit = first.targets["surface/4"][..., 0].isfinite()
    bits, again = (estimator.encode(batch.targets["surface/4"], batch.label).movedim(1, -1) for batch in batches)
    equal = (bits == again).all(-1)
    assert hit.any() and equal[hit].float().mean() > 0.99
    turned = first.targets["surface/4"] @ torch.tensor(HALF_TURN[:3, :3], dtype=torch.float32)
    twins = (bits == estimator.encode(turned, first.label).movedim(1, -1)).all(-1)
    assert twins[hit].float().mean() < 0.1


def test_perfect_outputs_have_no_loss_and_errors_are_remembered(make: Callable[..., ZebraPose], crops) -> None:
    estimator, batch = make(), crops()
    prediction = estimator(batch)
    bits = estimator.encode(batch.targets["surface/4"], batch.label)
    masks = torch.nn.functional.avg_pool2d(batch.targets["masks"][:, None].float(), 4) >= 0.5
    heads = {"mask": 40 * (masks.float() - 0.5), "code": 40 * (bits - 0.5)}
    losses = estimator.loss(replace(prediction, heads=heads), batch)
    assert all(loss.item() < 1e-4 for loss in losses.values())
    assert torch.equal(estimator.bit_errors, torch.zeros(8))
    wrong = {**heads, "code": -heads["code"]}
    estimator.loss(replace(prediction, heads=wrong), batch)
    torch.testing.assert_close(estimator.bit_errors, torch.full((8,), 0.05))
    state = copy.deepcopy(estimator.state_dict())
    assert torch.equal(state["bit_errors"], estimator.bit_errors)
    estimator.eval().loss(replace(prediction, heads=wrong), batch)
    assert torch.equal(state["bit_errors"], estimator.bit_errors)


def test_nothing_seen_gives_no_code_loss(make: Callable[..., ZebraPose], crops) -> None:
    estimator, batch = make(), crops()
    batch.targets["masks"] = torch.zeros_like(batch.targets["masks"])
    prediction = estimator(batch)
    losses = estimator.loss(prediction, batch)
    sum(losses.values()).backward()
    assert losses["code"].item() == 0 and losses["mask"].item() > 0
    assert all(bool(w.grad.isfinite().all()) for w in estimator.parameters() if w.grad is not None)
    assert prediction.votes is not None and not prediction.votes.mask.any()


def test_hidden_parts_and_what_no_ray_meets_have_no_code(make: Callable[..., ZebraPose], crops) -> None:
    estimator, batch = make(), crops(2)
    before = estimator._visible(batch)
    batch.targets["masks"][:, :, :32] = False
    batch.targets["surface/4"][:, :4] = torch.nan
    after = estimator._visible(batch)
    assert torch.equal(after[:, 4:, 8:], before[:, 4:, 8:])
    assert not after[:, :, :8].any() and not after[:, :4].any()


@pytest.mark.parametrize("options", [{"faithful": True}, {"bit_weights": "uniform"}, {"dice_weight": 1.0}])
def test_forms_of_the_loss_train(make: Callable[..., ZebraPose], crops, options: dict[str, object]) -> None:
    estimator, batch = make(**options), crops()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=3e-3)
    totals = []
    for _ in range(12):
        losses = estimator.loss(estimator(batch), batch)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0] - 0.1
    assert ("dice" in losses) == ("dice_weight" in options)


def test_pooled_votes(make: Callable[..., ZebraPose]) -> None:
    """A map of 4 x 4 in blocks of 2 x 2; values worked out in double precision."""
    estimator = make()
    n = torch.arange(16, dtype=torch.float64)
    code = torch.stack([n.sin(), n.cos()]).view(1, 2, 4, 4)
    estimator.block = 8
    estimator.block_ids = torch.arange(4)
    cells = estimator._blocks((2 * (n / 3).cos()).view(1, 1, 4, 4), code)
    expected = [[0.486041, 0.589732], [0.602641, 0.426793], [0.563541, 0.599719], [0.614108, 0.410980]]
    np.testing.assert_allclose(cells.weights[0], [0.704331, 0.519643, 0.200429, 0.347232], atol=1e-6)
    np.testing.assert_allclose(cells.values[0, :, 0], expected, atol=1e-6)


def test_blocks_are_told_by_their_place_and_a_teacher_needs_no_labels(make: Callable[..., ZebraPose], crops) -> None:
    estimator, batch = make().eval(), crops(2)
    with torch.no_grad():
        prediction = estimator(replace(batch, targets={}))
    votes = prediction.votes
    assert votes is not None and votes.cells is not None and prediction.cells is not None
    stride, row, column = place_of_cells(votes.cells)
    assert (stride == block_side(SIZE, 4)).all() and int(row.max()) < 16 and int(column.max()) < 16
    assert votes.values.shape[1] == 96 and prediction.cells.values.shape[1] == 256
    assert bool((votes.weights[votes.mask] > 0.5).all())


def test_codes_of_a_folder_and_those_of_the_meshes_are_the_same(make: Callable[..., ZebraPose], tmp_path: Path) -> None:
    save_tree(build_tree(MESH.vertices, MESH.faces), code_path(tmp_path, 1))
    assert torch.equal(make(codes=tmp_path).planes, make().planes)


HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_half_turns_are_folded_and_it_is_told_where_there_is_none(make, cache: Path, capsys) -> None:
    estimator = make(2)
    turned, still = np.stack([np.eye(4), HALF_TURN]), np.eye(4)[None]
    objects = replace(estimator.objects, symmetries=(turned, still))
    fold = build_estimator("zebrapose", objects, {**SMALL, "fold": True}, SIZE)
    fold.fit_shapes(lambda _: MESH, cache)
    expected = build_tree(MESH.vertices, MESH.faces, half_turn=HALF_TURN).cut(8)
    np.testing.assert_array_equal(fold.record()["points"][0], expected.points)
    assert torch.equal(fold.planes[1], estimator.planes[1])
    assert [is_folded(radii) for radii in fold.build_decoder().radii] == [True, False]
    told = " ".join("".join(capsys.readouterr()).split())
    assert f"object {objects.obj_ids[1]} is not folded" in told and f"object {objects.obj_ids[0]}" not in told


def test_a_teacher_with_other_codes_is_refused_and_a_deeper_one_is_not(make: Callable[..., ZebraPose]) -> None:
    student, deeper, other = make(), make(bits=10), make(bits=10)
    student.check_teacher(deeper)
    fresh = build_estimator("zebrapose", student.objects, SMALL, SIZE)
    fresh.check_teacher(deeper)  # its codes are not made yet
    other.planes[0, 3, 0] += 0.1
    with pytest.raises(RecipeError, match=r"'teacher': found codes \w{12}, expected codes \w{12}, as the student's"):
        student.check_teacher(other)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"decoder": "published"}, "resnet34@8"),
        ({"decoder": "published", "stride": 4}, "stride 2"),
        ({"backbone": "yolo_lite", "stride": 2}, "map of stride 2 or 4"),
        ({"bits": 17}, "bits"),
        ({"codes": "somewhere", "fold": True}, "fold"),
    ],
)
def test_networks_that_cannot_be_are_refused(objects: Objects, settings: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build_estimator("zebrapose", objects(), settings, SIZE)


@pytest.mark.parametrize(
    ("backbone", "size", "needed"), [("darknet_tiny_q", 72, 16), ("lcnet_050", 80, 32), ("lcnet_050", 16, 32)]
)
def test_crops_that_do_not_fit_are_refused(objects: Objects, backbone: str, size: int, needed: int) -> None:
    with pytest.raises(RecipeError, match=f"found {size}, expected a multiple of {needed}, the coarsest"):
        build_estimator("zebrapose", objects(), {**SMALL, "backbone": backbone}, size)


@pytest.mark.parametrize(
    ("backbone", "decoder", "size"),
    [("darknet_tiny_q", "dense", 48), ("lcnet_050", "separable", 96), ("resnet18@8", "published", 80)],
)
def test_crops_of_any_multiple_of_the_coarsest_stride_are_taken(
    objects: Objects, backbone: str, decoder: str, size: int
) -> None:
    settings = {**SMALL, "backbone": backbone, "decoder": decoder}
    estimator = build_estimator("zebrapose", objects(), settings, size).eval()
    with torch.no_grad():
        mask, _ = estimator.network(torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.int64))
    assert mask.shape[-1] == estimator.record()["grid"]


def test_weights_carry_their_codes(make: Callable[..., ZebraPose], objects: Objects) -> None:
    trained = make()
    fresh = build_estimator("zebrapose", objects(), SMALL, SIZE)
    fresh.load_state_dict(trained.state_dict())
    assert isinstance(fresh, ZebraPose)
    np.testing.assert_array_equal(fresh.record()["points"], trained.record()["points"])


def test_the_exported_file_agrees_and_needs_no_mesh(make: Callable[..., ZebraPose], tmp_path: Path) -> None:
    estimator = make(2).eval()
    decoder = estimator.build_decoder()
    path = export_onnx(estimator.network, tmp_path / "model.onnx", decoder, "test")
    assert check_parity(estimator.network, path).outputs["logits"] < 1e-4


def test_the_exported_file_gives_the_poses_of_the_network(make: Callable[..., ZebraPose], crops, tmp_path) -> None:
    estimator, batch = make(decoder="dense"), crops(4)
    learned(estimator, batch, 60)
    estimator.eval()
    path = export_onnx(estimator.network, tmp_path / "model.onnx", estimator.build_decoder(), "test")
    with torch.no_grad():
        ours = [value.numpy() for value in estimator.network(batch.images, batch.label)]
    predictor = Predictor.from_onnx(path)
    inputs = {"images": batch.images.numpy(), "classes": batch.label.numpy()}
    prepared = Prepared.of_pictures(inputs, batch.K.double().numpy(), 1 + batch.label.numpy())
    theirs = predictor.outputs_of([prepared])[0]
    found = dict(zip(("mask", "code"), ours, strict=True))
    for name, value in found.items():
        np.testing.assert_allclose(theirs[name], value, atol=1e-4)
    poses, again = (predictor.decoder.decode(outputs, prepared) for outputs in (found, theirs))
    assert poses and [pose.row for pose in poses] == [pose.row for pose in again]
    np.testing.assert_allclose([p.t for p in again], [p.t for p in poses], rtol=1e-2)


def learned(estimator: ZebraPose, batch: Batch, steps: int) -> Tensor:
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=4e-3)
    for _ in range(steps):
        total = torch.stack(list(estimator.loss(estimator(batch), batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return estimator.bit_errors


def test_coarse_bits_are_learned_before_fine_ones(make: Callable[..., ZebraPose], crops) -> None:
    estimator = make(decoder="dense")
    assert estimator.progress_values() == {}
    errors = learned(estimator, crops(4), 40)
    told = estimator.progress_values()
    assert [told[f"bit_error/{depth}"] for depth in range(1, 9)] == errors.tolist()
    assert told["effective_bits"] == [*(errors > 0.4).tolist(), True].index(True)
    assert float(errors[:2].mean()) < float(errors[-2:].mean()) - 0.05
