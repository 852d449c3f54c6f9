import numpy as np
import pytest
import torch
from tests.data.room import Room, pinhole
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.scene_view import SceneView, ViewSettings
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.deploy.export import export_onnx
from posedistill.distill import DistillSpec, build_distiller
from posedistill.errors import RecipeError
from posedistill.estimators.inherit import inherit
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.scene_coordinates import STRIDE, SceneCoordinates, cell_pixels
from posedistill.estimators.views import place_of_cells
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.runtime import Predictor

SMALL = "test_efficientnet@16"
"""The first layers of timm's own test network."""
VIEWS = ViewSettings(roll=20, zoom=(0.6, 1.3), colour=0, gamma=0, blur=0, motion=0, noise=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("coordinates") / "scene"
    write_made_scene(root, sequences=2, frames=8, size=(96, 72))
    return open_scene(root)


@pytest.fixture(scope="module")
def loader(dataset, tmp_path_factory):
    pack = build_pack(SceneFrames(dataset, 72), tmp_path_factory.mktemp("coordinates") / "pack")
    return Loader(SceneView(pack, VIEWS, None), 4, 0, "cpu", threads=1)


def make(dataset=None, **settings: object) -> SceneCoordinates:
    torch.manual_seed(0)
    estimator = build_estimator("scene_coordinates", NO_OBJECTS, {"backbone": SMALL, "width": 32, **settings}, 64)
    assert isinstance(estimator, SceneCoordinates)
    if dataset is not None:
        estimator.fit_targets(dataset.R, dataset.t)
    return estimator


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gradients_reach_every_parameter(dataset, loader):
    estimator, batch = make(dataset).train(), loader.batch(0)
    terms = estimator.loss(estimator(batch, generator()), batch)
    assert set(terms) == {"points", "confidence"}
    torch.stack(list(terms.values())).sum().backward()
    missing = [name for name, weight in estimator.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not missing


def test_how_sure_a_cell_is_changes_nothing_of_what_it_says(dataset, loader):
    estimator, batch = make(dataset).train(), loader.batch(0)
    estimator.loss(estimator(batch, generator()), batch)["confidence"].backward()
    taught = {name.split(".")[2] for name, weight in estimator.named_parameters() if weight.grad is not None}
    assert taught == {"sure", "confidence"}


def test_a_frozen_trunk_stays_as_it_is(dataset, loader):
    estimator, batch = make(dataset, frozen=True), loader.batch(0)
    before = {name: value.clone() for name, value in estimator.network.trunk.state_dict().items()}
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=1e-2)
    for step in range(3):
        estimator.progress = step / 3
        estimator.train()
        torch.stack(list(estimator.loss(estimator(batch, generator()), batch).values())).sum().backward()
        optimizer.step()
    for name, value in estimator.network.trunk.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not estimator.train().network.norm.training  # held since the first steps


def test_the_true_points_of_a_turned_and_zoomed_view_have_no_error(dataset, loader):
    """Picture, intrinsics, pose, cells and what of the view is photographed agree."""
    room, batch, estimator = Room(), loader.batch(1), make(dataset).eval()
    with torch.no_grad():
        heads = estimator(batch).heads
    pixels = heads["pixels"].double().numpy()
    for row in range(len(batch)):
        pose = (batch.R[row].double().numpy(), batch.t[row].double().numpy())
        points = torch.as_tensor(room.points(pixels[row], batch.K[row].double().numpy(), *pose)).float()
        _, found = estimator._seen(points[None], heads["pixels"][row : row + 1], batch.select(slice(row, row + 1)))
        assert float(found.error.max()) < 0.05 and found.valid.all()
    share = heads["counted"].float().mean(1)
    assert 0.3 < float(share.min()) < 0.99  # a view turned by 20 degrees at 0.6 of the focal length shows its border


def test_cells_that_show_no_photograph_are_where_the_border_is(dataset, loader):
    batch, estimator = loader.batch(1), make(dataset).eval()
    with torch.no_grad():
        heads = estimator(batch).heads
    x, y = heads["pixels"].round().long().clamp(min=0).unbind(-1)
    x, y = x.clamp(max=batch.images.shape[-1] - 1), y.clamp(max=batch.images.shape[-2] - 1)
    for row in range(len(batch)):
        border = batch.images[row].abs().amax(0)[y[row], x[row]] < 0.02
        assert float((border == ~heads["counted"][row]).float().mean()) > 0.93


def test_what_is_drawn_follows_the_generator(dataset, loader):
    estimator, batch = make(dataset, cells=64).train(), loader.batch(0)
    first, same, other = (estimator(batch, generator(seed)).votes for seed in (0, 0, 1))
    assert first.values.shape == (4, 16, 1, 3)
    torch.testing.assert_close(first.cells, same.cells)
    assert not torch.equal(first.cells, other.cells)
    whole = estimator.eval()(batch)
    assert whole.heads["points"].shape == (4, 9 * 12, 3)


def test_a_teacher_offers_cells_twice_as_wide_too(dataset, loader):
    estimator, batch = make(dataset).eval(), loader.batch(0)
    with torch.no_grad():
        prediction = estimator(batch)
    strides, _, _ = place_of_cells(prediction.cells.cells)
    assert [int((strides[0] == stride).sum()) for stride in (8, 16)] == [9 * 12, 4 * 6]
    wide = prediction.cells.values[0, 9 * 12, 0]
    four = prediction.cells.values[0, [0, 1, 12, 13], 0]
    torch.testing.assert_close(wide, four.mean(0), atol=1e-5, rtol=1e-5)
    assert cell_pixels(prediction.cells.cells[0, 9 * 12]).tolist() == [7.5, 7.5]


@pytest.mark.parametrize("reduce", [1, 2])
@pytest.mark.parametrize("by", ["none", "error", "score"])
def test_matching_a_teacher_draws_its_points_near(dataset, loader, reduce, by):
    """A student of its size, or one that sees half of its pixels and has cells twice as wide."""
    teacher, student, batch = make(dataset).eval(), make(dataset, reduce=reduce, width=16), loader.batch(0)
    with torch.no_grad():
        taught = teacher(batch)
    taught.cells.errors, taught.votes.errors = (torch.ones_like(v.errors) for v in (taught.cells, taught.votes))
    spec = DistillSpec(
        name="match", trust={"by": by, "per": "vote", "limit": 10}, options={"unit": "crop", "score_weight": 0}
    )
    distiller = build_distiller(spec, student.offers, teacher.offers)
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=3e-3), []
    for step in range(40):
        loss = distiller(student.train()(batch, generator(step)), taught, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_cells_without_trust_teach_nothing(dataset, loader):
    teacher, student, batch = make(dataset).eval(), make(dataset), loader.batch(0)
    with torch.no_grad():
        taught = teacher(batch)
    taught.cells.errors = torch.full_like(taught.cells.errors, 50.0)
    trust = {"by": "error", "per": "vote", "limit": 10}
    distiller = build_distiller(
        DistillSpec(name="match", trust=trust, options={"unit": "crop"}), student.offers, teacher.offers
    )
    assert float(distiller(student.train()(batch, generator()), taught, batch)) == 0


@pytest.mark.parametrize(
    ("name", "options"), [("align", {"unit": "crop"}), ("feature", {"form": "hint", "layers": ["p3"]})]
)
def test_other_losses_meet_it(dataset, loader, name, options):
    from posedistill.distill import Example

    teacher, student, batch = make(dataset).eval(), make(dataset, cells=128), loader.batch(0)
    with torch.no_grad():
        taught = teacher(batch)
    distiller = build_distiller(DistillSpec(name=name, options=options), student.offers, teacher.offers)
    with torch.no_grad():
        distiller.prepare(Example(student.eval()(batch), taught, batch, lambda: iter(())))
    loss = distiller(student.train()(batch, generator()), taught, batch)
    loss.backward()
    assert torch.isfinite(loss)


def test_a_narrower_student_inherits_the_trunk(dataset):
    taken = inherit(make(dataset, width=16), make(dataset), narrow=True)
    assert any(name.startswith("trunk") for name in taken.layers)
    assert any(name.startswith("head") for name in taken.narrowed)


@pytest.mark.parametrize(("shape", "reduce"), [((72, 96), 1), ((60, 107), 1), ((60, 107), 2)])
def test_an_exported_file_agrees(dataset, tmp_path, shape, reduce):
    """Also with pictures whose sides are no multiples of a cell."""
    estimator = make(dataset, reduce=reduce).eval()
    decoder = estimator.build_decoder(shape=shape, short_side=min(shape), camera=pinhole(shape[1], shape[0]))
    images = torch.randn(2, 3, *shape, generator=generator())
    with torch.no_grad():
        points, confidence = estimator.network(images)
    assert tuple(points.shape[1:]) == decoder.outputs["points"]
    assert tuple(confidence.shape[1:]) == decoder.outputs["confidence"]
    path = export_onnx(estimator.network, tmp_path / "model.onnx", decoder)
    exported = Predictor.from_onnx(path).run_network({"images": images.numpy()})
    np.testing.assert_allclose(exported["points"], points, atol=1e-3)
    np.testing.assert_allclose(exported["confidence"], confidence, atol=1e-4)


def test_network_and_estimator_say_the_same(dataset, loader):
    estimator, batch = make(dataset).eval(), loader.batch(0)
    with torch.no_grad():
        points, confidence = estimator.network(batch.images)
        heads = estimator(batch).heads
    torch.testing.assert_close(points.flatten(2).transpose(1, 2), heads["points"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(confidence.flatten(1), heads["logits"].sigmoid(), atol=1e-5, rtol=1e-4)


def test_a_network_without_context_is_refused():
    with pytest.raises(
        RecipeError, match=r"'backbone': found 'resnet18@8', of strides \[8\], expected one with maps of"
    ):
        make(backbone="resnet18@8")
    assert STRIDE == 8
