import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.decode.viewpoint import bin_counts, decode_angle
from posedistill.deploy.export import check_parity, export_onnx
from posedistill.distill.trust import TrustSettings, image_trust
from posedistill.errors import RecipeError
from posedistill.estimators.losses.viewpoint import (
    bin_losses,
    bin_targets,
    decoded_angle,
    labels_of_rotations,
    rotations_of_labels,
)
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.rotations import geodesic_angle
from posedistill.estimators.viewpoint import Viewpoint, ViewpointNetwork, ViewpointSettings
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.viewpoint import label_angles, viewpoint_rotation

SMALL = {"backbone": "test_resnet", "features": 32, "width": 16, "shape_features": 32}


VIEWS = {"shape": "views", "view_backbone": "test_resnet", "view_count": 2, "view_features": 16}


def estimator(**settings):
    torch.manual_seed(0)
    return build_estimator("viewpoint", NO_OBJECTS, SMALL | settings, 64)


def make_batch(count=6, seed=0):
    rng = np.random.default_rng(seed)
    viewpoint = rng.uniform([0, -40, -30], [360, 60, 30], (count, 3))
    tensor = lambda values: torch.as_tensor(np.asarray(values), dtype=torch.float32)  # noqa: E731
    return Batch.single(
        tensor(rng.normal(size=(count, 3, 64, 64))),
        torch.eye(3).repeat(count, 1, 1),
        tensor(viewpoint_rotation(viewpoint)),
        torch.zeros(count, 3),
        torch.arange(count),
        clouds=tensor(rng.normal(size=(count, 20, 3)) / 4),
        frames=tensor(rng.uniform(-40, 40, count)),
        views=tensor(rng.uniform(size=(count, 2, 3, 32, 32))),
    )


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


def test_published_teacher_has_its_parameters():
    with torch.device("meta"):
        network = ViewpointNetwork(ViewpointSettings(backbone="resnet50", shape="cloud", features=1024, faithful=True))
    parts = [parameters(part) for part in (network.shape, network.fusion, network.projector, network.head)]
    assert parts == [143_104, 6_929_096, 1_223_000, 24_120]
    assert parameters(network) == 33_925_528


@pytest.mark.parametrize(("width", "count"), [(256, 65_650_648), (1024, 327_256_024)])
def test_published_teachers_of_views_have_their_parameters(width, count):
    about = {"backbone": "resnet50", "shape": "views", "view_features": width, "faithful": True}
    with torch.device("meta"):
        network = ViewpointNetwork(ViewpointSettings(**about))
    assert parameters(network) == count


def test_views_must_be_as_many_as_the_network_was_built_for():
    with pytest.raises(RecipeError, match=r"view_count.*found 3 with data.view_count 2"):
        estimator(**VIEWS | {"view_count": 3})(make_batch())
    with pytest.raises(RecipeError, match=r"turned_frames with shape: views"):
        estimator(**VIEWS, turned_frames=True)


@pytest.mark.parametrize(("backbone", "count"), [("resnet18", 14_374_656), ("resnet50", 29_851_904)])
def test_published_students_have_their_parameters(backbone, count):
    with torch.device("meta"):
        network = ViewpointNetwork(ViewpointSettings(backbone=backbone, features=2048, faithful=True))
    assert parameters(network) == count


@pytest.mark.parametrize(
    ("labels", "offset"), [((0, 90, 180), 2.0), ((7, 97, 187), 0.0138889), ((14, 104, 194), 1.6666666)]
)
def test_published_losses(labels, offset):
    counts = bin_counts("published", 15.0).values()
    found = [
        bin_losses(torch.zeros(1, k), torch.zeros(1, k), torch.tensor([float(angle)]), 15.0, "published", circular=True)
        for angle, k in zip(labels, counts, strict=True)
    ]
    assert sum(float(bins) for bins, _ in found) == pytest.approx(8.841, abs=1e-3)
    assert sum(float(offsets) for _, offsets in found) / 3 == pytest.approx(offset, abs=1e-6)


def test_the_loss_begins_where_the_published_does():
    model, batch = estimator(faithful=True), make_batch()
    terms = model.train().loss(model(batch), batch)
    assert float(terms["bins"].detach()) == pytest.approx(math.log(24 * 12 * 24), abs=0.05)


@pytest.mark.parametrize("grid", ["centred", "published"])
@pytest.mark.parametrize("name", ["azimuth", "elevation", "inplane"])
def test_perfect_bins_and_offsets_cost_nothing_more_and_decode_to_the_label(grid, name):
    rng, circular = np.random.default_rng(1), name != "elevation"
    labels = torch.as_tensor(rng.uniform(1, 179 if name == "elevation" else 359, 300), dtype=torch.float32)
    count = bin_counts(grid, 15.0)[name]
    wanted, places = bin_targets(labels, count, 15.0, grid, circular=circular)
    assert wanted.sum(1).allclose(torch.ones(300))
    logits = (wanted + 1e-12).log()
    offsets = (places / (0.5 if grid == "published" else 0.75)).clamp(-0.99999, 0.99999).atanh()
    entropy, residual = bin_losses(logits, offsets, labels, 15.0, grid, circular=circular)
    assert entropy.allclose(-(wanted * (wanted + 1e-12).log()).sum(1), atol=1e-4)
    assert residual.max() < 1e-3
    found = decoded_angle(logits, offsets, grid, 15.0, circular=circular)
    difference = (found - labels + 180) % 360 - 180
    assert difference.abs().max() < 0.6 and difference.abs().median() < 0.02


def test_what_is_learned_of_a_rotation_decodes_to_it():
    rng, found = np.random.default_rng(4), []
    counts = bin_counts("published", 15.0)
    within = [15 * (rng.integers(0, count, 200) + rng.uniform(0.01, 0.99, 200)) for count in counts.values()]
    truth = rotations_of_labels(torch.as_tensor(np.stack(within, 1)))
    for angles, (name, count) in zip(labels_of_rotations(truth).T, counts.items(), strict=True):
        wanted, places = bin_targets(angles, count, 15.0, "published", circular=name != "elevation")
        raw = (2 * places).clamp(-0.999999, 0.999999).atanh()
        found.append(decoded_angle((wanted + 1e-12).log(), raw, "published", 15.0, circular=name != "elevation"))
    assert geodesic_angle(rotations_of_labels(torch.stack(found, 1).double()), truth).rad2deg().max() < 0.01


@pytest.mark.parametrize("grid", ["centred", "published"])
@pytest.mark.parametrize("circular", [True, False])
def test_torch_and_numpy_decode_alike(grid, circular):
    rng = np.random.default_rng(2)
    count = bin_counts(grid, 15.0)["azimuth" if circular else "elevation"]
    logits, offsets = rng.normal(size=(2, 100, count))
    theirs = decode_angle(logits, offsets, grid, 15.0, circular=circular)
    ours = decoded_angle(torch.tensor(logits), torch.tensor(offsets), grid, 15.0, circular=circular).numpy()
    ours = ours % 360 if circular else np.clip(ours, 0, 180)
    assert np.abs((ours - theirs + 180) % 360 - 180).max() < 1e-3


def test_rotations_and_labels():
    viewpoint = np.random.default_rng(3).uniform([0, -89, -180], [360, 89, 180], (200, 3))
    R = torch.from_numpy(viewpoint_rotation(viewpoint))
    labels = labels_of_rotations(R)
    assert np.abs(labels.numpy() - label_angles(viewpoint)).max() < 1e-4
    assert (rotations_of_labels(labels.double()) - R).abs().max() < 1e-6


@pytest.mark.parametrize(
    "settings", [{}, {"shape": "cloud"}, {"shape": "cloud", "turned_frames": True}, VIEWS, {"faithful": True}]
)
def test_gradients_reach_every_parameter_of_a_pose(settings):
    model, batch = estimator(**settings), make_batch()
    terms = model.train().loss(model(batch, torch.Generator().manual_seed(0)), batch)
    assert set(terms) == ({"bins", "offset", "contrast"} if "shape" in settings else {"bins", "offset"})
    torch.stack(list(terms.values())).sum().backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None}
    # A student's projector learns from its teacher alone.
    assert {name for name in idle if not name.startswith("network.projector")} == set()
    assert not idle or "shape" not in settings
    assert all(weight.grad.any() for name, weight in model.network.head.named_parameters())


def test_the_loss_is_a_mean_over_the_batch():
    model = estimator().eval()
    one = make_batch()
    doubled = one.select(torch.cat([torch.arange(6)] * 2))
    first, second = ({k: float(v) for k, v in model.loss(model(batch), batch).items()} for batch in (one, doubled))
    assert first == pytest.approx(second, rel=1e-5)


def test_shapes_in_another_order_are_the_same_shape():
    model, batch = estimator(shape="cloud").eval(), make_batch()
    before = model(batch).heads["azimuth"]
    batch.targets["clouds"] = batch.targets["clouds"].flip(1)
    assert model(batch).heads["azimuth"].allclose(before, atol=1e-6)
    batch.targets["clouds"] = 2 * batch.targets["clouds"]
    assert not model(batch).heads["azimuth"].allclose(before, atol=1e-6)


def test_a_teachers_embedding_is_of_the_image_alone():
    model, batch = estimator(shape="cloud").eval(), make_batch()
    before = model(batch).embedding
    batch.targets["clouds"] = -batch.targets["clouds"]
    assert model(batch).embedding.equal(before)


def test_networks_that_see_shapes_ask_for_them():
    with pytest.raises(RecipeError, match=r"family: viewpoint.*the targets clouds.*missing"):
        estimator(shape="cloud").check_targets(frozenset())
    with pytest.raises(RecipeError, match=r"turned_frames with shape: none"):
        estimator(turned_frames=True)
    with pytest.raises(RecipeError, match=r"bin_size 7"):
        estimator(bin_size=7.0)


VECTORS = torch.tensor([[0.0, 60.0, 120.0], [10.0, 70.0, 150.0]]).deg2rad()
"""Angles of anchors and of keys on the unit circle."""


def contrast_of(model, anchors, keys, R):
    batch = make_batch(3)
    batch.R = torch.as_tensor(R, dtype=torch.float32)
    prediction = model.eval()(batch)
    circle = lambda angles: functional.pad(torch.stack([angles.cos(), angles.sin()], 1), (0, 14))  # noqa: E731
    prediction.embedding, prediction.heads["fused"] = circle(anchors), circle(keys).requires_grad_()
    loss = model.loss(prediction, batch)["contrast"]
    return loss, prediction.heads["fused"]


def test_published_contrast_counts_the_positive_twice_and_moves_both_sides():
    model = estimator(shape="cloud", faithful=True, temperature=0.5, contrast=1.0)
    loss, fused = contrast_of(model, *VECTORS, viewpoint_rotation(np.zeros((3, 3))))
    assert float(loss) == pytest.approx(0.936578, abs=1e-6)
    loss.backward()
    assert fused.grad.any()


def test_the_contrast_weighs_others_by_their_pose():
    """Azimuths 0, 30 and 180 degrees off; golden value of PoseContrast's linear weights."""
    model = estimator(shape="cloud", temperature=0.5, contrast=1.0)
    R = viewpoint_rotation(np.array([[0.0, 0, 0], [30, 0, 0], [180, 0, 0]]))
    loss, fused = contrast_of(model, *VECTORS, R)
    assert float(loss) == pytest.approx(0.244986, abs=1e-5)
    assert not loss.requires_grad and fused.grad is None


def test_turned_frames_are_read_from_the_shape():
    """The pose of a turned shape, and the turned cloud, mean what the pose of the shape as it is means."""
    model, batch = estimator(shape="cloud", turned_frames=True).train(), make_batch()
    assert model.targets == {"clouds", "frames"}
    loss = model.loss(model(batch, torch.Generator().manual_seed(0)), batch)
    turn = batch.targets["frames"].double().numpy()
    angles = np.deg2rad(turn)
    moved = make_batch()
    spin = np.stack([np.cos(angles), -np.sin(angles), 0 * angles, np.sin(angles), np.cos(angles), 0 * angles], 1)
    spin = np.concatenate([spin.reshape(-1, 2, 3), np.tile([[[0.0, 0.0, 1.0]]], (6, 1, 1))], 1)
    moved.targets["clouds"] = torch.as_tensor(
        moved.targets["clouds"].numpy() @ spin.swapaxes(1, 2), dtype=torch.float32
    )
    moved.R = torch.as_tensor(batch.R.numpy() @ spin.swapaxes(1, 2), dtype=torch.float32)
    moved.targets["frames"] = torch.zeros(6)
    again = model.loss(model(moved, torch.Generator().manual_seed(0)), moved)
    for name in ("bins", "offset"):
        assert float(loss[name]) == pytest.approx(float(again[name]), rel=2e-3)


def test_views():
    model, batch = estimator().eval(), make_batch()
    prediction = model(batch)
    assert list(prediction.logits) == ["azimuth", "elevation", "inplane"]
    assert prediction.embedding.shape == (6, 16)
    assert prediction.regression.shape == prediction.regression_truth.shape == (6, 9)
    published = estimator(faithful=True).eval()(batch)
    offsets = ["azimuth_offset", "elevation_offset", "inplane_offset"]
    assert list(published.logits) == ["azimuth", "elevation", "inplane", *offsets, "embedding"]


@pytest.mark.parametrize(
    ("shape", "head"), [("none", "bins"), ("cloud", "bins"), ("views", "bins"), ("none", "6d"), ("none", "fisher")]
)
def test_exported_files_agree(tmp_path, shape, head):
    model = estimator(**VIEWS | {"shape": shape, "head": head})
    assert isinstance(model, Viewpoint)
    optimizer, batch = torch.optim.Adam(model.parameters(), 1e-2), make_batch()
    for _ in range(3):  # a network that prefers some bin to others
        optimizer.zero_grad()
        torch.stack(list(model.train().loss(model(batch), batch).values())).sum().backward()
        optimizer.step()
    clouds = np.random.default_rng(0).normal(size=(2, 20, 3))
    views = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), dtype=np.uint8)
    decoder = model.build_decoder(crop_size=64, names=("a/1", "b/1"), clouds=clouds, views=views)
    export_onnx(model.network, tmp_path / "model.onnx", decoder)
    parity = check_parity(model.network, tmp_path / "model.onnx")
    assert parity.poses == parity.rows == 2 and parity.degrees < 0.1
    shown = {"none": [], "cloud": ["clouds"], "views": ["views"]}[shape]
    assert list(decoder.inputs) == ["images", *shown]


def test_a_pretrained_trunk_is_kept_where_all_else_starts_as_published(tmp_path):
    torch.manual_seed(1)
    weights = dict(estimator().network.trunk.net.state_dict())
    torch.save(weights, tmp_path / "trunk.pth")
    network = estimator(faithful=True, pretrained=str(tmp_path / "trunk.pth")).network
    assert all(torch.equal(value, weights[name]) for name, value in network.trunk.net.state_dict().items())
    assert network.image.weight.std() < 0.002
    bare = estimator(faithful=True).network.trunk.net.state_dict()
    assert any(not torch.equal(value, weights[name]) for name, value in bare.items())


@pytest.mark.parametrize(("head", "term"), [("6d", "rotation"), ("fisher", "likelihood")])
@pytest.mark.parametrize("settings", [{}, {"shape": "cloud", "turned_frames": True}])
def test_heads_of_rotations(head, term, settings):
    """They begin upright and from the front, learn a pose by heart, and have no logits to offer."""
    model, batch = estimator(head=head, **settings), make_batch()
    assert model.offers == {"features", "embedding", "regression"}
    start = model.eval()(batch)
    front = torch.as_tensor(viewpoint_rotation(np.zeros(3)), dtype=torch.float32)
    assert (start.regression - front.flatten()).abs().max() < 0.2 and not start.logits
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch.targets["frames"] = torch.zeros(6)
    for _ in range(60):
        optimizer.zero_grad()
        terms = model.train().loss(model(batch, torch.Generator().manual_seed(0)), batch)
        assert set(terms) == {term} | ({"contrast"} if settings else set())
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    found = model(batch, torch.Generator().manual_seed(0)).regression.view(-1, 3, 3)
    assert geodesic_angle(found, batch.R).rad2deg().mean() < 25
    assert all(weight.grad.any() for weight in model.network.head.parameters())


def test_the_contrast_does_not_push_equal_looks_apart():
    """Two pictures on both sides of a label's jump: equal looks, so that neither is the other's negative."""
    model, batch = estimator(shape="cloud").train(), make_batch(2)
    viewpoints = np.array([[89.9, 10.0, 0.0], [270.1, 10.0, 0.0]])
    batch.R = torch.as_tensor(viewpoint_rotation(viewpoints), dtype=torch.float32)
    prediction = model(batch, torch.Generator().manual_seed(0))
    apart = model.loss(prediction, batch)["contrast"]
    batch.targets["turns"] = torch.full((2,), 180.0)
    near = model.loss(prediction, batch)["contrast"]
    assert float(apart.detach()) > 0.05 and float(near.detach()) < 0.01


@pytest.mark.parametrize("head", ["bins", "6d"])
@pytest.mark.parametrize("turn", [180.0, 0.0])
def test_a_symmetric_thing_is_trusted_up_to_its_symmetry(head, turn):
    model, batch = estimator(head=head).eval(), make_batch()
    with torch.no_grad():
        rotations = model(batch).regression.view(-1, 3, 3)
    batch.R = rotations @ torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    trust = TrustSettings(by="error", limit=0.75)
    assert not image_trust(trust, model(batch), batch).any()
    batch.targets["turns"] = torch.full((6,), turn)
    prediction = model(batch)
    assert image_trust(trust, prediction, batch).allclose(torch.ones(6), atol=1e-4)
    prediction.regression.sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_a_published_network_has_no_other_head():
    with pytest.raises(RecipeError, match=r"found head fisher with faithful, expected bins"):
        estimator(head="fisher", faithful=True)
