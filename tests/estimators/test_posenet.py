import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from posedistill.data.loading.batch import Batch
from posedistill.decode import Prepared
from posedistill.decode.posenet import ROTATION_SIZES
from posedistill.errors import RecipeError
from posedistill.estimators.posenet import PoseNet, PoseNetNetwork, PoseNetSettings
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.rotations import from_matrix
from posedistill.estimators.views import VIEWS
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.rotations import angle_between, axis_angle, random_rotations
from posedistill.metrics.relocalisation import orientation_errors, position_errors
from posedistill.poses import Poses

SMALL = "test_resnet"
"""Timm's own test network: a ResNet with 0.5 M parameters."""
KINDS = list(ROTATION_SIZES)


def make(size: int = 64, **settings: object) -> PoseNet:
    torch.manual_seed(0)
    estimator = build_estimator("posenet", NO_OBJECTS, {"backbone": SMALL, "hidden": 64, **settings}, size)
    assert isinstance(estimator, PoseNet)
    return estimator


def published(**others: object) -> PoseNetSettings:
    original = {"rotation": "quaternion", "loss": "published", "init": "published", "normalise": False, "sign": "fixed"}
    return PoseNetSettings.model_validate(original | others)


def poses(count: int, seed: int = 0, spread: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Cameras some metres about (5, -2, 1) that look roughly one way."""
    rng = np.random.default_rng(seed)
    base = random_rotations(1, np.random.default_rng(99))[0]
    R = axis_angle(rng.normal(size=(count, 3)), rng.uniform(-spread, spread, count)) @ base
    centers = np.array([5.0, -2.0, 1.0]) + rng.normal(size=(count, 3)) * [2.0, 1.0, 0.3]
    return R, -np.einsum("nij,nj->ni", R, centers)


def make_batch(count: int, size: int = 64, seed: int = 0) -> Batch:
    """Pictures of blobs whose places and colours follow from the pose."""
    R, t = poses(count, seed)
    centers = -np.einsum("nji,nj->ni", R, t)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    images = np.zeros((count, 3, size, size))
    for picture, C, turn in zip(images, centers, R, strict=True):
        for number in range(6):
            place = turn @ np.array([np.sin(number), np.cos(2 * number), 1.5]) + 0.1 * (C - [5, -2, 1])
            blob = np.exp(-((columns - place[0] / 4) ** 2 + (rows - place[1] / 4) ** 2) * 40)
            picture[number % 3] += blob * (1.5 + 0.3 * C[number % 3])
    K = torch.tensor([[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]]).repeat(count, 1, 1)
    tensors = [torch.as_tensor(array, dtype=torch.float32) for array in (images, R, t)]
    return Batch.single(tensors[0], K, tensors[1], tensors[2], torch.arange(count))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(estimator: PoseNet, seed: int = 0) -> PoseNet:
    estimator.fit_targets(*poses(100, seed))
    return estimator


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("resnet18", 11_708_999),
        ("resnet34", 21_817_159),
        ("resnet50", 25_613_383),
        ("resnet101", 44_605_511),
        ("mobilenetv3_small_100", 1_525_031),
        ("mobilenetv3_large_100", 3_963_191),
        ("efficientnet_b0", 5_326_467),
    ],
)
def test_published_sizes(backbone: str, parameters: int) -> None:
    with torch.device("meta"):
        network = PoseNetNetwork(published(backbone=backbone))
    assert sum(weight.numel() for weight in network.parameters()) == parameters


def test_six_taps_by_name() -> None:
    estimator = make(224, backbone="resnet18", hidden=1024).eval()
    with torch.inference_mode():
        prediction = estimator(make_batch(1, 224))
    assert {name: tuple(entry.shape[1:]) for name, entry in prediction.features.items()} == {
        "stem": (64, 112, 112),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
        "gap": (512, 1, 1),
    }
    assert torch.equal(prediction.features["gap"].flatten(1), prediction.embedding)


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    head = PoseNetNetwork(published(backbone=SMALL, hidden=1024)).head
    deviations = [layer.weight.std().item() for layer in (head.hidden, head.position, head.rotation)]
    assert deviations == pytest.approx([0.01, 0.5, 0.01], rel=0.05)
    assert not any(layer.bias.any() for layer in (head.hidden, head.position, head.rotation))
    assert head.dropout == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_at_the_middle_of_the_training_poses(kind: str) -> None:
    estimator = fitted(make(rotation=kind)).eval()
    R, t = poses(100)
    centers = -np.einsum("nji,nj->ni", R, t)
    with torch.inference_mode():
        prediction = estimator(make_batch(8))
    off = (prediction.heads["position"] - torch.as_tensor(centers.mean(axis=0))).norm(dim=1)
    assert off.max() < 0.5 * centers.std(axis=0).max()
    spread = np.rad2deg(angle_between(prediction.heads["R"].double().numpy(), estimator.network.reference.numpy()))
    assert spread.max() < 20


@pytest.mark.parametrize("kind", KINDS)
def test_views(kind: str) -> None:
    estimator, batch = fitted(make(rotation=kind)), make_batch(4)
    prediction = estimator(batch, generator())
    assert estimator.offers <= set(VIEWS)
    for view in estimator.offers:
        assert getattr(prediction, view) is not None
    size = 7 if kind == "quaternion" else 12
    assert prediction.regression.shape == prediction.regression_truth.shape == (4, size)
    centers = estimator.network.center + estimator.network.radius * prediction.regression_truth[:, :3]
    torch.testing.assert_close(centers, batch.camera_centers(), atol=1e-4, rtol=0)
    assert prediction.regression_truth[:, :3].norm(dim=1).mean() < 2
    if kind != "quaternion":
        relative = prediction.regression_truth[:, 3:].view(4, 3, 3)
        torch.testing.assert_close(relative @ estimator.network.reference, batch.R, atol=1e-5, rtol=0)


def test_a_quaternion_is_compared_with_the_sign_of_the_truth() -> None:
    batch = make_batch(6)
    estimator = make(rotation="quaternion").eval()
    nn.init.zeros_(estimator.network.head.rotation.weight)
    with torch.no_grad():
        estimator.network.head.rotation.bias.copy_(torch.tensor([-1.0, 0.0, 0.0, 0.0]))
    prediction = estimator(batch)
    assert ((prediction.regression[:, 3:] * prediction.regression_truth[:, 3:]).sum(1) >= 0).all()
    faithful = make(rotation="quaternion", sign="fixed").eval()
    faithful.load_state_dict(estimator.state_dict())
    torch.testing.assert_close(faithful(batch).regression[:, 3], torch.full((6,), -1.0))


LOSSES = [
    {"loss": "homoscedastic"},
    {"loss": "homoscedastic", "rotation_error": "chordal", "norm": "l1"},
    {"loss": "homoscedastic", "rotation_error": "parameters", "norm": "l1", "rotation": "log_quaternion"},
    {"loss": "weighted", "beta": 1.0, "rotation": "quaternion", "rotation_error": "parameters"},
    {"loss": "geometric"},
    {"loss": "geometric", "rotation": "quaternion"},
    {"loss": "published", "rotation": "quaternion"},
    {"loss": "published", "rotation": "quaternion", "normalise": False, "sign": "fixed"},
]


@pytest.mark.parametrize("settings", LOSSES)
def test_the_truth_costs_least(settings: dict) -> None:
    estimator, batch = fitted(make(**settings)), make_batch(5)
    network = estimator.network
    relative = batch.R @ network.reference.T
    rotation = from_matrix(relative, estimator.settings.rotation).requires_grad_()
    normalised = ((batch.camera_centers() - network.center) / network.radius).requires_grad_()
    prediction = estimator(batch, generator())

    def cost(off: float) -> torch.Tensor:
        moved = rotation + off * torch.randn(rotation.shape, generator=generator())
        heads = {"rotation": moved, "normalised": normalised + off}
        heads["R"] = prediction.heads["R"] * 0 + to_R(moved)
        prediction.heads.update(heads)
        return torch.stack(list(estimator.loss(prediction, batch).values())).sum()

    def to_R(parameters: torch.Tensor) -> torch.Tensor:
        from posedistill.estimators.rotations import to_matrix

        return to_matrix(parameters, estimator.settings.rotation) @ network.reference

    least, near, far = cost(0.0), cost(0.02), cost(0.2)
    assert least < near < far
    if settings["loss"] != "homoscedastic":
        assert least.item() == pytest.approx(0, abs=2e-4)
    least.backward()
    assert torch.isfinite(rotation.grad).all()
    assert torch.isfinite(normalised.grad).all()


def test_published_loss_is_in_metres_and_mean_squares() -> None:
    estimator, batch = (
        make(rotation="quaternion", loss="published", normalise=False, sign="fixed", beta=10.0),
        make_batch(3),
    )
    fitted(estimator)
    assert torch.equal(estimator.network.center, torch.zeros(3))
    prediction = estimator(batch, generator())
    terms = estimator.loss(prediction, batch)
    position = (prediction.heads["position"] - batch.camera_centers()).square().mean()
    quaternion = (prediction.heads["rotation"] - from_matrix(batch.R, "quaternion")).square().mean()
    torch.testing.assert_close(terms["position"], position)
    torch.testing.assert_close(terms["rotation"], 10 * quaternion)
    torch.testing.assert_close(prediction.heads["rotation"].norm(dim=1), torch.ones(3))


def test_learned_weights_are_learned() -> None:
    estimator, batch = fitted(make()), make_batch(4)
    sum(estimator.loss(estimator(batch, generator()), batch).values()).backward()
    assert (estimator.log_weights.grad != 0).all()
    assert "log_weights" not in dict(estimator.network.named_parameters())
    assert "log_weights" not in dict(make(loss="weighted").named_parameters())


BY_HEART = [{}, {"loss": "geometric"}, {"rotation": "quaternion", "loss": "published", "beta": 20.0}]


@pytest.mark.parametrize("settings", BY_HEART)
def test_sixteen_pictures_can_be_learned_by_heart(settings: dict) -> None:
    estimator, batch = fitted(make(dropout=0.0, **settings)), make_batch(16, 32)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=2e-3)
    for step in range(100):
        optimizer.zero_grad()
        sum(estimator.loss(estimator(batch, generator(step)), batch).values()).backward()
        optimizer.step()
    for _ in range(20):  # settle the statistics
        with torch.no_grad():
            estimator(batch, generator())
    with torch.inference_mode():
        found = decoded(estimator.eval(), batch)
    truth = Poses.of_cameras(batch.R.double().numpy(), batch.t.double().numpy())
    extent = np.linalg.norm(np.ptp(truth.centers, axis=0))
    assert np.median(position_errors(found, truth)) < 0.05 * extent
    assert np.median(orientation_errors(found, truth)) < 4


def test_dropout_follows_the_generator_and_eval_has_none() -> None:
    estimator, batch = make(), make_batch(2)
    first, again, other = (estimator(batch, generator(seed)).heads["position"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    estimator.eval()
    assert torch.equal(estimator(batch, generator(0)).regression, estimator(batch, generator(1)).regression)


@pytest.mark.parametrize("count", [1, 3])
def test_any_batch_size(count: int) -> None:
    estimator, batch = fitted(make()), make_batch(count)
    total = sum(estimator.loss(estimator(batch, generator()), batch).values())
    assert torch.isfinite(total)


def test_positions_keep_their_precision_under_autocast() -> None:
    estimator, batch = fitted(make()).eval(), make_batch(2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        prediction = estimator(batch)
    for name in ("position", "rotation", "R"):
        assert prediction.heads[name].dtype == torch.float32
    assert prediction.regression.dtype == torch.float32
    torch.testing.assert_close(
        estimator.network.center + estimator.network.radius * prediction.regression_truth[:, :3],
        batch.camera_centers(),
        atol=1e-4,
        rtol=0,
    )


def decoded(estimator: PoseNet, batch: Batch) -> Poses:
    """What the decoder makes of a network's outputs."""
    height, width = batch.images.shape[-2:]
    decoder = estimator.build_decoder(shape=(height, width), short_side=min(height, width))
    outputs = dict(zip(decoder.outputs, (value.numpy() for value in estimator.network(batch.images)), strict=True))
    found = decoder.decode(outputs, Prepared.of_pictures({}, batch.K.numpy()))
    return Poses.of_cameras(np.stack([pose.R for pose in found]), np.stack([pose.t for pose in found]))


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_and_estimator_mean_the_same(kind: str) -> None:
    estimator, batch = fitted(make(rotation=kind)).eval(), make_batch(4)
    with torch.inference_mode():
        prediction, found = estimator(batch), decoded(estimator, batch)
    np.testing.assert_allclose(found.R, prediction.heads["R"], atol=1e-5)
    np.testing.assert_allclose(found.centers, prediction.heads["position"], atol=1e-4)


@pytest.mark.parametrize("backbone", [SMALL, "yolo_lite_bn", "yolo_lite@16"])
def test_the_exported_network_gives_the_same(backbone: str, tmp_path) -> None:
    network = fitted(make(rotation="quaternion", backbone=backbone)).network.eval()
    path = tmp_path / "posenet.onnx"
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 64, 64),),
        path,
        input_names=["images"],
        output_names=["position", "rotation"],
        dynamic_shapes=shapes,
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = make_batch(3).images
    found = session.run(["position", "rotation"], {"images": images.numpy()})
    with torch.inference_mode():
        expected = network(images)
    assert [output.shape for output in found] == [(3, 3), (3, 4)]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)


def test_what_normalises_the_targets_is_saved() -> None:
    first = fitted(make())
    second = make()
    second.load_state_dict(first.state_dict(), strict=True)
    for name in ("center", "radius", "reference"):
        assert torch.equal(getattr(second.network, name), getattr(first.network, name))
    R, t = poses(1)
    still = make()
    still.fit_targets(np.repeat(R, 3, axis=0), np.repeat(t, 3, axis=0))
    assert still.network.radius == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "published"}, "found loss: published with rotation: 6d, expected rotation: quaternion"),
        ({"rotation": "euler"}, "rotation: found 'euler'"),
        ({"bakcbone": "x"}, "bakcbone"),
        ({"backbone": "resnet19"}, "backbone: found 'resnet19'"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(**settings)


def test_the_published_form() -> None:
    settings = published(backbone="resnet34")
    assert (settings.rotation, settings.loss, settings.init) == ("quaternion", "published", "published")
    assert (settings.normalise, settings.sign, settings.beta, settings.dropout) == (False, "fixed", 500, 0.5)
