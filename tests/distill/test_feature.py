from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, Example, build_distiller
from posedistill.distill.feature import Feature, Guided
from posedistill.distill.functional import maps
from posedistill.errors import RecipeError
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction, Votes
from posedistill.geometry.objects import ObjectTable, box_corners

VIEWS = frozenset({"features"})
SIZES = {"p4": (8, 8), "p5": (4, 4), "p6": (2, 2)}
FORMS: dict[str, dict[str, Any]] = {
    "sckd-plus": {"form": "hint"},
    "cosine": {"form": "hint", "distance": "cosine"},
    "fitnet": {"form": "hint", "profile": "fitnet"},
    "sckd-head": {"form": "hint", "profile": "sckd-head"},
    "sckd-pub": {"form": "hint", "profile": "sckd-pub"},
    "at": {"form": "attention_transfer"},
    "fkd": {"form": "attention_guided"},
    "fkd, faithful": {"form": "attention_guided", "faithful": True},
    "vid": {"form": "variational"},
    "vid, faithful": {"form": "variational", "faithful": True},
    "ft": {"form": "factor_transfer"},
    "ft, faithful": {"form": "factor_transfer", "faithful": True},
    "ab": {"form": "activation_boundary"},
    "fsp": {"form": "solution_flow"},
    "fsp, faithful": {"form": "solution_flow", "faithful": True},
    "nst": {"form": "neuron_selectivity"},
}
LEARNED = [name for name in FORMS if name not in ("at", "nst")]
Pair = tuple[Prediction, Prediction]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair() -> Pair:
    """A student of 6 channels and a teacher of 10, which share p4 to p6; either has a level of its own."""
    ours = {name: noise(4, 6, *size, seed=1).requires_grad_() for name, size in [*SIZES.items(), ("p7", (1, 1))]}
    theirs = {name: 3 * noise(4, 10, *size, seed=2) + 1 for name, size in [("p3", (16, 16)), *SIZES.items()]}
    return Prediction({}, features=ours), Prediction({}, features=theirs)


def feature(trust: Any = "none", **options: Any) -> Feature:
    distiller = build_distiller(DistillSpec(name="feature", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Feature)
    return distiller


def prepared(pair: Pair, batch: Batch, trust: Any = "none", **options: Any) -> Feature:
    torch.manual_seed(0)
    distiller = feature(trust, **options)
    distiller.prepare(Example(pair[0], pair[1], batch, lambda: iter(())))
    return distiller


def of(prediction: Prediction, *images: int, dtype: torch.dtype = torch.float32) -> Prediction:
    """Some images of a prediction."""
    return Prediction({}, features={name: x[list(images)].to(dtype) for name, x in prediction.features.items()})


def some(batch: Batch, *images: int) -> Batch:
    return batch.select(torch.tensor(images))


@pytest.mark.parametrize("name", FORMS)
def test_gradients_reach_student_and_adapters_alone(pair: Pair, batch: Batch, name: str) -> None:
    student, teacher = pair
    for level in teacher.features.values():
        level.requires_grad_()
    distiller = prepared(pair, batch, **FORMS[name])
    loss = distiller(student, teacher, batch)
    assert loss.shape == () and loss.isfinite() and loss.dtype == torch.float32
    loss.backward()
    for level in SIZES:
        gradient = student.features[level].grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0
    assert student.features["p7"].grad is None
    assert all(level.grad is None for level in teacher.features.values())
    assert bool(list(distiller.parameters())) == (name in LEARNED)
    for parameter in distiller.parameters():  # the loop averages each over processes: none may be missing
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", LEARNED)
def test_adapters_keep_learning(pair: Pair, batch: Batch, name: str) -> None:
    """On fixed maps: an adapter that is made anew, or never given to the optimizer, would stay where it is."""
    distiller = prepared(pair, batch, **FORMS[name])
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = distiller(*pair, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0] and losses[-1] < min(losses[:15])


@pytest.mark.parametrize("name", FORMS)
def test_a_student_learns(pair: Pair, batch: Batch, name: str) -> None:
    distiller = prepared(pair, batch, **FORMS[name])
    optimizer = torch.optim.Adam(pair[0].features.values(), lr=5e-2)
    first = distiller(*pair, batch)
    for _ in range(20):
        optimizer.zero_grad()
        distiller(*pair, batch).backward()
        optimizer.step()
    assert distiller(*pair, batch) < first - 0.01 * first.abs()


@pytest.mark.parametrize("name", FORMS)
def test_half_precision(pair: Pair, batch: Batch, name: str) -> None:
    distiller = prepared(pair, batch, **FORMS[name])
    full = distiller(*pair, batch)
    student, teacher = (of(side, 0, 1, 2, 3, dtype=torch.bfloat16) for side in pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = distiller(student, teacher, batch)
    torch.testing.assert_close(half, full, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_one_image_with_one_position(pair: Pair, batch: Batch, name: str) -> None:
    small = [{level: maps.pooled(x, (1, 1)) for level, x in side.features.items()} for side in pair]
    student, teacher = (Prediction({}, features=side) for side in small)
    distiller = prepared((student, teacher), batch, **FORMS[name])
    loss = distiller(of(student, 2), of(teacher, 2), some(batch, 2))
    loss.backward()
    gradient = pair[0].features["p4"].grad
    assert loss.isfinite() and gradient is not None and gradient.isfinite().all()


@pytest.mark.parametrize("name", FORMS)
def test_the_order_of_images_does_not_matter(pair: Pair, batch: Batch, name: str) -> None:
    distiller = prepared(pair, batch, **FORMS[name])
    turned = distiller(of(pair[0], 3, 1, 0, 2), of(pair[1], 3, 1, 0, 2), batch)
    torch.testing.assert_close(turned, distiller(*pair, batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_only_images_that_show_the_object_count(pair: Pair, batch: Batch, name: str) -> None:
    distiller = prepared(pair, batch, region="object", **FORMS[name])
    distiller.eval()  # batch norm would let images meet
    batch.targets["masks"][:2] = False
    loss = distiller(*pair, batch)
    gradients = torch.autograd.grad(loss, [pair[0].features[level] for level in SIZES], retain_graph=True)
    assert all((gradient[:2] == 0).all() and gradient[2:].abs().max() > 0 for gradient in gradients)
    torch.testing.assert_close(loss, distiller(of(pair[0], 2, 3), of(pair[1], 2, 3), some(batch, 2, 3)))
    batch.targets["masks"][:] = False
    nothing = distiller(*pair, batch)
    gradients = torch.autograd.grad(nothing, [pair[0].features[level] for level in SIZES])
    assert nothing == 0 and all((gradient == 0).all() for gradient in gradients)


def test_pictures_count_once_for_each_of_their_instances(pair: Pair, batch: Batch) -> None:
    """Feature maps are per picture, instances may share one."""
    distiller = prepared(pair, batch, form="hint")
    crowded = batch.select(torch.tensor([0, 0, 1, 2, 3]))
    crowded.picture, crowded.images = torch.tensor([0, 0, 1, 2, 3]), batch.images
    alone = [distiller(*(of(side, row) for side in pair), some(batch, row)) for row in range(4)]
    torch.testing.assert_close(distiller(*pair, crowded), torch.stack([alone[0], *alone]).mean())


def test_the_background_does_not_count_for_the_region_of_the_object(pair: Pair, batch: Batch) -> None:
    batch.targets["masks"][:] = False
    batch.targets["masks"][:, 128:, 128:] = True
    distiller = prepared(pair, batch, region="object")
    distiller(*pair, batch).backward()
    gradient = pair[0].features["p4"].grad
    assert gradient is not None
    assert (gradient[:, :, :4] == 0).all() and (gradient[:, :, 4:, 4:].abs().amax(1) > 0).all()


def test_the_loss_is_a_mean_over_pairs(pair: Pair, batch: Batch) -> None:
    both = prepared(pair, batch, form="attention_transfer", layers={"p4": "p4", "p5": "p6"})
    single = [
        prepared(pair, batch, form="attention_transfer", layers=layers) for layers in ({"p4": "p4"}, {"p5": "p6"})
    ]
    torch.testing.assert_close(both(*pair, batch), sum(one(*pair, batch) for one in single) / 2)


def test_trust_weighs_images(pair: Pair, batch: Batch) -> None:
    scores = torch.tensor([0.9, 0.0, 0.3, 0.6])
    pair[1].votes = Votes(torch.zeros(4, 1, 8, 2), scores[:, None], torch.ones(4, 1, dtype=torch.bool))
    distiller = prepared(pair, batch, trust="score")
    alone = prepared(pair, batch)
    losses = torch.stack([alone(of(pair[0], i), of(pair[1], i), some(batch, i)) for i in range(4)])
    torch.testing.assert_close(distiller(*pair, batch), (losses * scores).mean())


def test_standardised_targets_forget_the_teachers_scale(pair: Pair, batch: Batch) -> None:
    scaled = Prediction({}, features={name: 100 * x - 7 for name, x in pair[1].features.items()})
    for options in (FORMS[name] for name in ("sckd-plus", "fkd", "vid", "ft", "fsp")):
        plain, other = prepared(pair, batch, **options), prepared((pair[0], scaled), batch, **options)
        torch.testing.assert_close(plain(*pair, batch), other(pair[0], scaled, batch), rtol=1e-4, atol=1e-5)
    faithful = [prepared((pair[0], side), batch, **FORMS["vid, faithful"]) for side in (pair[1], scaled)]
    assert faithful[1](pair[0], scaled, batch) > 100 * faithful[0](*pair, batch)
    for name, start in (("vid", 1.0), ("vid, faithful", 5.0)):
        alpha = prepared(pair, batch, **FORMS[name]).learned[0].adapter.alpha  # type: ignore[union-attr]
        assert torch.nn.functional.softplus(alpha)[0].item() == pytest.approx(start, abs=1e-4)


def test_relative_and_faithful_flows(pair: Pair, batch: Batch) -> None:
    """Published, equal widths need no adapter, so the loss is the flows' alone."""
    student = Prediction({}, features={name: x.clone() for name, x in pair[1].features.items()})
    relative, faithful = (prepared((student, pair[1]), batch, **FORMS[name]) for name in ("fsp", "fsp, faithful"))
    assert not list(faithful.parameters()) and faithful(student, pair[1], batch) == 0
    none = Prediction({}, features={name: torch.zeros_like(x) for name, x in student.features.items()})
    large = Prediction({}, features={name: 10 * x for name, x in pair[1].features.items()})
    torch.testing.assert_close(faithful(none, large, batch), 1e4 * faithful(none, pair[1], batch), rtol=1e-4, atol=0.1)
    with torch.no_grad():
        for value in relative.parameters():
            value.zero_()
    torch.testing.assert_close(relative(student, pair[1], batch), torch.tensor(1.0))


def test_published_hints_compare_equal_widths_as_they_are(pair: Pair, batch: Batch) -> None:
    other = Prediction({}, features={name: noise(*x.shape, seed=5) for name, x in pair[1].features.items()})
    for profile, distance in (("sckd-head", "mse"), ("sckd-pub", "channel_kl")):
        distiller = prepared((other, pair[1]), batch, form="hint", profile=profile, layers={"p4": "p4"})
        x, y = other.features["p4"], pair[1].features["p4"]
        expected = maps.hint(x, y, torch.ones(4, 1, 8, 8), distance).mean()  # type: ignore[arg-type]
        torch.testing.assert_close(distiller(other, pair[1], batch), expected)
        assert distiller(pair[1], pair[1], batch).abs() < 1e-6


@pytest.mark.parametrize("profile", ["fitnet", "sckd-head"])
def test_adapters_rectify_where_the_teachers_maps_are(pair: Pair, batch: Batch, profile: str) -> None:
    """Maps of both signs, as of a pyramid, could not be reached through a ReLU."""
    signed = prepared(pair, batch, form="hint", profile=profile)
    rectified = Prediction({}, features={name: x.relu() for name, x in pair[1].features.items()})
    positive = prepared((pair[0], rectified), batch, form="hint", profile=profile)
    outputs = [distiller.learned[0].adapter(pair[0].features["p4"]) for distiller in (signed, positive)]  # type: ignore
    assert outputs[0].min() < 0 == outputs[1].min()


def test_faithful_guidance_takes_norms_and_published_weights(pair: Pair, batch: Batch) -> None:
    plain = prepared(pair, batch, form="attention_guided", layers={"p5": "p5"}, temperature=0.1)
    weights = {"guided_weight": 0.0, "attention_weight": 0.0, "relation_weight": 0.0}
    student, teacher = pair[0].features["p5"], pair[1].features["p5"]
    faithful = prepared(pair, batch, form="attention_guided", layers={"p5": "p5"}, faithful=True)
    guided = faithful.learned[0]
    assert isinstance(guided, Guided)
    assert guided.temperature == 0.1 and guided.weights == [7e-5, 4e-3, 7e-5]
    assert isinstance(plain.learned[0], Guided) and plain.learned[0].weights == [0.1, 0.1, 0.1]
    mean_square = maps.attention_guided(guided.adapter(student), teacher, torch.ones(4, 1, 4, 4), 0.1)
    alone = prepared(
        pair, batch, form="attention_guided", layers={"p5": "p5"}, faithful=True, **(weights | {"guided_weight": 1.0})
    )
    expected = (mean_square * 10 * 4 * 4).sqrt().mean()
    torch.testing.assert_close(alone(*pair, batch), expected, rtol=1e-4, atol=1e-4)
    equal = prepared(pair, batch, form="attention_guided", **weights)
    assert equal(*pair, batch) == 0


def test_the_paraphraser_learns_by_reconstruction_alone(pair: Pair, batch: Batch) -> None:
    distiller = prepared(pair, batch, form="factor_transfer", layers={"p5": "p5"})
    factors: Any = distiller.learned[0]
    standard, weights = factors.standardise(pair[1].features["p5"]), torch.ones(4, 1, 4, 4)
    factor, again = factors.paraphraser(standard)
    expected = torch.autograd.grad(
        maps.hint(again, standard, weights).mean(), list(factors.paraphraser.parameters()), retain_graph=True
    )
    got = torch.autograd.grad(distiller(*pair, batch), list(factors.paraphraser.parameters()), retain_graph=True)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert factor.requires_grad


def test_what_was_learned_is_stored(pair: Pair, batch: Batch) -> None:
    for options in FORMS.values():
        first, second = prepared(pair, batch, **options), feature(**options)
        torch.manual_seed(1)
        second.prepare(Example(pair[0], of(pair[1], 0, 1, 2, 3), batch, lambda: iter(())))
        second.load_state_dict(first.state_dict())
        assert second(*pair, batch).item() == first(*pair, batch).item()


def test_maps_that_cannot_be_paired_are_refused(pair: Pair, batch: Batch) -> None:
    with pytest.raises(RecipeError, match=r"distill.feature.layers.*expected p4: p9 among them"):
        prepared(pair, batch, layers={"p4": "p9"})
    with pytest.raises(RecipeError, match="two pairs or more for solution_flow"):
        prepared(pair, batch, form="solution_flow", layers={"p4": "p4"})
    only = Prediction({}, features={"layer4": pair[1].features["p5"]})
    with pytest.raises(RecipeError, match=r"teacher maps layer4.*a name that both have"):
        prepared((pair[0], only), batch)
    assert prepared((pair[0], only), batch, layers={"p5": "layer4"})(pair[0], only, batch).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"form": "attention_transfer", "margin": 2.0},
            "attention_transfer has no use for margin; it has form, layers, region",
        ),
        ({"form": "hint", "faithful": True}, "hint has no use for faithful"),
        ({"profile": "sckd-pub", "distance": "cosine"}, r"hint \(sckd-pub\) has no use for distance"),
        ({"form": "fitnet"}, "distill.feature.form"),
        ({"maps": ["p4"]}, "one of .*layers"),
    ],
)
def test_options_of_another_form_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        feature(**options)


def networks(size: int, teacher: dict[str, Any], student: dict[str, Any]) -> tuple[Any, Any]:
    half = np.array([40.0, 30.0, 50.0])
    objects = ObjectTable((1,), box_corners(-half, half)[None], np.array([130.0]), (np.eye(4)[None],))
    torch.manual_seed(0)
    theirs, ours = (build_estimator("wdrnet", objects, settings, size) for settings in (teacher, student))
    return ours.eval(), theirs.requires_grad_(False).eval()


@pytest.mark.parametrize("name", FORMS)
def test_networks_of_other_widths_and_levels(batch: Batch, name: str) -> None:
    teacher = {"backbone": "darknet_tiny_q", "width": 64, "strides": [8, 16, 32]}
    student = {"backbone": "darknet_tiny_q", "head": "slim", "width": 32, "strides": [16, 32, 64]}
    batch.images, batch.targets["masks"] = noise(4, 3, 64, 64), batch.targets["masks"][:, :64, :64]
    ours, theirs = networks(64, teacher, student)
    with torch.no_grad():
        example = (ours(batch), theirs(batch))
    distiller = prepared(example, batch, **FORMS[name])
    assert len(distiller.learned) == 2
    distiller(ours.train()(batch, torch.Generator()), example[1], batch).backward()
    assert all(value.grad is not None for value in ours.network.backbone.parameters() if value.dim() == 4)


def test_the_networks_of_the_cat(batch: Batch) -> None:
    """Another backbone, equal widths: the teacher of recipes/linemod_cat_cpu.yaml and its student."""
    teacher = {"backbone": "tf_efficientnet_lite0", "width": 128, "strides": [16, 32, 64]}
    batch.images, batch.targets["masks"] = noise(4, 3, 128, 128), batch.targets["masks"][:, :128, :128]
    ours, theirs = networks(128, teacher, {"backbone": "darknet_tiny_h", "head": "slim"})
    with torch.no_grad():
        example = (ours(batch), theirs(batch))
    distiller = prepared(example, batch)
    shapes = [learned.standardise.mean.shape for learned in distiller.learned]  # type: ignore[union-attr]
    assert shapes == 3 * [(128, 1, 1)]
    student = ours.train()(batch, torch.Generator())
    distiller(student, example[1], batch).backward()
    assert all(value.grad is not None for value in ours.network.backbone.parameters() if value.dim() == 4)
