import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, Example, build_distiller
from posedistill.distill.contrast import Contrast, crd_nce, pose_distances
from posedistill.errors import RecipeError
from posedistill.estimators.contrast import Weighting, nce, negative_weights, unit
from posedistill.estimators.views import Prediction
from posedistill.geometry.rotations import random_rotations
from posedistill.geometry.viewpoint import viewpoint_rotation

from .conftest import LABELLED_TURNS, Labels, from_label_angles

VIEWS = frozenset({"embedding"})
FORMS = ("info_nce", "pose_weighted_info_nce", "crd")
ALL_FORMS = [*[{"form": form} for form in FORMS], *[{"form": form, "faithful": True} for form in ("info_nce", "crd")]]
STUDENT, TEACHER = 6, 10
"""Widths of the embeddings."""


def around_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def labelled(*labels: Labels) -> Tensor:
    return torch.stack([from_label_angles(*angles) for angles in labels]).float()


def rotated(batch: Batch, seed: int = 0) -> Batch:
    R = torch.tensor(random_rotations(len(batch), np.random.default_rng(seed)), dtype=torch.float32)
    return replace(batch, R=R)


def scene_of(batch: Batch) -> Batch:
    rng = torch.Generator().manual_seed(1)
    t = 5 * torch.randn(len(batch), 3, generator=rng)
    return Batch.single(batch.images, batch.K, rotated(batch).R, t, batch.ids)


def embedded(batch: Batch, width: int, seed: int) -> Prediction:
    values = torch.randn(len(batch), width, generator=torch.Generator().manual_seed(seed))
    return Prediction({}, embedding=values.requires_grad_())


def build(trust: Any = "none", **options: Any) -> Contrast:
    distiller = build_distiller(DistillSpec(name="contrast", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Contrast)
    return distiller


def example_of(batch: Batch, student: Prediction, teacher: Prediction, parts: int = 3) -> Example:
    """An example with ``parts`` batches of training pictures."""

    def training_pictures() -> Iterator[tuple[Prediction, Batch]]:
        for part in range(parts):
            pictures = replace(batch, ids=batch.ids + part * len(batch))
            if "diameters" in pictures.targets:
                pictures = rotated(pictures, seed=part)
            assert teacher.embedding is not None
            yield embedded(batch, teacher.embedding.shape[1], 100 + part), pictures

    return Example(student, teacher, batch, training_pictures, parts * len(batch))


def prepared(batch: Batch, trust: Any = "none", **options: Any) -> tuple[Contrast, Prediction, Prediction]:
    """The loss, built, and two predictions to compare."""
    torch.manual_seed(0)
    distiller = build(trust, **options)
    student, teacher = embedded(batch, STUDENT, 1), embedded(batch, TEACHER, 2)
    distiller.prepare(example_of(batch, student, teacher))
    return distiller, student, teacher


# --- the pure functions -----------------------------------------------------------------------------------------------


def test_published_values_of_the_plain_form() -> None:
    scores = around_circle(0, 60, 120) @ around_circle(10, 70, 150).T / 0.5
    losses = nce(scores.diagonal(), scores, 1 - torch.eye(3))
    assert losses.mean().item() == pytest.approx(0.436027, abs=1e-5)
    doubled = nce(scores.diagonal(), scores, torch.ones(3, 3))
    assert doubled.mean().item() == pytest.approx(0.936578, abs=1e-5)


@pytest.mark.parametrize(
    ("weighting", "value"),
    [("linear", 0.244986), ("sqrt", 0.310478), ("square", 0.188219), ("sin", 0.228751), ("sinsin", 0.121511)],
)
def test_published_values_of_the_pose_weighted_form(weighting: Weighting, value: float) -> None:
    scores = around_circle(0, 60, 120) @ around_circle(10, 70, 150).T / 0.5
    R, still = labelled((0, 90, 180), (30, 90, 180), (180, 90, 180)), torch.zeros(3, 3)
    weights = negative_weights(pose_distances(R, still, R, still, torch.tensor(0.0)), weighting)
    assert weights.allclose(weights.T) and (weights.diagonal() == 0).all()
    losses = nce(scores.diagonal(), scores, weights)
    assert losses.mean().item() == pytest.approx(value, abs=1e-5)
    # The direct form, where it does not overflow.
    positive, others = scores.diagonal().exp(), (weights * scores.exp()).sum(1)
    torch.testing.assert_close(losses, -(positive / (positive + others)).log(), atol=2e-5, rtol=0)


def test_published_value_of_several_positives() -> None:
    """All within 30 degrees are positives: their sum over itself and the sum of all."""
    scores = around_circle(0, 60, 120) @ around_circle(10, 70, 150).T / 0.5
    R, still = labelled((0, 90, 180), (20, 90, 180), (180, 90, 180)), torch.zeros(3, 3)
    near = pose_distances(R, still, R, still, torch.tensor(0.0)) <= 30
    positive = scores.masked_fill(~near, -torch.inf).logsumexp(1)
    assert nce(positive, scores, torch.ones(3, 3)).mean().item() == pytest.approx(0.815075, abs=1e-5)


def test_published_value_of_crd() -> None:
    positive, negatives = torch.tensor([0.5]), torch.tensor([[0.1, 0.2]])
    both = torch.ones(1, 2, dtype=torch.bool)
    assert crd_nce(positive.log(), negatives.log(), both, 10).item() == pytest.approx(1.435085, abs=1e-5)
    one = crd_nce(positive.log(), negatives.log(), torch.tensor([[True, False]]), 10)
    share = 0.2
    expected = -math.log(0.5 / (0.5 + share)) - math.log(share / (0.1 + share))
    assert one.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "degrees"),
    [*LABELLED_TURNS, ((7, 90, 352), (7, 90, 352), 0.0), ((0, 90, 180), (0.01, 90, 180), 0.01)],
)
def test_distances_of_rotations(a: Labels, b: Labels, degrees: float) -> None:
    still = torch.zeros(1, 3)
    distance = pose_distances(labelled(a), still, labelled(b), still, torch.tensor(0.0))
    # Float32 matrices: a half turn is known to a hundredth of a degree or so, a small one exactly.
    assert distance.item() == pytest.approx(degrees, abs=0.05 if degrees == 180 else 1e-4)


def test_distances_of_symmetric_things() -> None:
    """The least over all equivalent poses of either; a pair is as symmetric as the more symmetric of both."""
    viewpoints = np.random.default_rng(3).uniform([0, -80, -180], [360, 80, 180], (12, 3))
    R = torch.from_numpy(viewpoint_rotation(viewpoints))
    turns, still = torch.tensor([360.0, 180.0, 90.0, 0.0]).repeat(3), torch.zeros(12, 3, dtype=torch.float64)
    both = torch.minimum(turns[:, None], turns)
    found = pose_distances(R, still, R, still, torch.tensor(0.0), both)
    torch.testing.assert_close(found, found.T, atol=1e-4, rtol=0)
    moved = torch.from_numpy(viewpoint_rotation(viewpoints[:, None] + np.arange(0, 360, 0.5)[:, None] * [1, 0, 0]))
    every = torch.stack([pose_distances(R, still, moved[:, k], still, torch.tensor(0.0)) for k in range(720)], -1)
    for step, stride in ((360.0, 720), (180.0, 360), (90.0, 180), (0.0, 1)):
        chosen = both == step
        torch.testing.assert_close(found[chosen], every[..., ::stride].amin(-1)[chosen], atol=0.3, rtol=0)


def test_distances_of_cameras() -> None:
    R, centers = torch.eye(3).expand(3, 3, 3), torch.tensor([[0.0, 0, 0], [3, 4, 0], [300, 0, 0]])
    R = torch.stack([R[0], labelled((30, 90, 180))[0] @ labelled((0, 90, 180))[0].T, R[2]])
    distances = pose_distances(R, centers, R, centers, torch.tensor(8.0))
    expected = torch.tensor([0, math.hypot(30, 40), 180])
    torch.testing.assert_close(distances[0], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(distances, distances.T)


def test_a_cold_temperature_overflows_nothing() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        anchors = torch.randn(8, 16, dtype=dtype, requires_grad=True)
        scores = unit(anchors.float()) @ unit(torch.randn(8, 16)).T / 0.01
        losses = nce(scores.diagonal(), scores, negative_weights(180 * torch.rand(8, 8), "linear"))
        crd = crd_nce(scores[:, 0], scores, torch.ones(8, 8, dtype=torch.bool), 100)
        (losses.mean() + crd.mean()).backward()
        assert anchors.grad is not None
        assert all(bool(x.isfinite().all()) for x in (losses, crd, anchors.grad))


def test_nothing_to_compare_with_costs_nothing() -> None:
    positive = torch.tensor([0.3], requires_grad=True)
    loss = nce(positive, torch.tensor([[5.0]]), torch.zeros(1, 1))
    loss.sum().backward()
    assert loss.item() == 0 and positive.grad is not None and positive.grad.item() == 0
    nearly = nce(positive.detach(), torch.tensor([[5.0]]), torch.tensor([[1e-4]]))  # the same pose, but for rounding
    assert nearly.item() == 0


def test_equal_embeddings_reach_the_stated_minimum() -> None:
    axes = unit(torch.eye(8))
    scores = axes @ axes.T / 0.02
    assert nce(scores.diagonal(), scores, 1 - axes).max() < 1e-6
    doubled = nce(scores.diagonal(), scores, torch.ones(8, 8))
    torch.testing.assert_close(doubled, torch.full((8,), math.log(2)))


def test_a_vector_of_zeros_has_a_finite_gradient() -> None:
    vectors = torch.zeros(2, 4, requires_grad=True)
    unit(vectors).sum().backward()
    assert vectors.grad is not None and bool(vectors.grad.isfinite().all())


# --- the distiller ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL_FORMS, ids=str)
def test_gradients_reach_the_student_and_what_is_learned_and_not_the_teacher(
    options: dict[str, Any], batch: Batch
) -> None:
    distiller, student, teacher = prepared(rotated(batch), **options, learn_temperature=True)
    loss = distiller(student, teacher, rotated(batch))
    loss.backward()
    assert loss.item() > 0 and student.embedding is not None and teacher.embedding is not None
    assert student.embedding.grad is not None and student.embedding.grad.abs().sum() > 0
    assert teacher.embedding.grad is None
    learned = dict(distiller.named_parameters())
    assert learned.keys() >= {"warmth", "student.weight", "teacher.weight"}
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        # A shift of all keys moves no share, so the teacher's bias may rest; the others must move.
        assert name.endswith("bias") or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", ALL_FORMS, ids=str)
def test_half_precision_embeddings(options: dict[str, Any], batch: Batch) -> None:
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        distiller, student, teacher = prepared(rotated(batch), **options, temperature=0.1)
        assert student.embedding is not None and teacher.embedding is not None
        half = (
            Prediction({}, embedding=student.embedding.to(dtype)),
            Prediction({}, embedding=teacher.embedding.to(dtype)),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = distiller(*half, rotated(batch))
        assert loss.dtype == torch.float32
        loss.backward()
        assert student.embedding.grad is not None and bool(student.embedding.grad.isfinite().all())
        values.append(loss.item())
    assert values[1] == pytest.approx(values[0], rel=0.02)


@pytest.mark.parametrize("options", ALL_FORMS, ids=str)
def test_a_batch_of_one_and_degenerate_embeddings(options: dict[str, Any], batch: Batch) -> None:
    """Zero vectors, equal rows and a single picture give a finite loss and finite gradients."""
    given = rotated(batch)
    distiller, _, _ = prepared(given, **options, temperature=0.01)
    one = given.select(slice(1))
    for pictures, fill in ((given, 0.0), (given, 3.0), (one, 0.0), (one, 1.0)):
        sides = [torch.full((len(pictures), width), fill, requires_grad=True) for width in (STUDENT, TEACHER)]
        loss = distiller(*(Prediction({}, embedding=side) for side in sides), pictures)
        loss.backward()
        assert sides[0].grad is not None and bool(loss.isfinite()) and bool(sides[0].grad.isfinite().all())
        if len(pictures) == 1 and options["form"] != "crd":
            assert loss.item() == pytest.approx(math.log(2) if options.get("faithful") else 0)


@pytest.mark.parametrize("form", ["info_nce", "pose_weighted_info_nce"])
def test_the_order_of_the_batch_does_not_matter(form: str, batch: Batch) -> None:
    given = rotated(batch)
    distiller, student, teacher = prepared(given, form=form)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = given.select(order)
    assert student.embedding is not None and teacher.embedding is not None
    mixed = Prediction({}, embedding=student.embedding[order]), Prediction({}, embedding=teacher.embedding[order])
    torch.testing.assert_close(distiller(*mixed, shuffled), distiller(student, teacher, given))


def test_pictures_of_one_pose_are_not_pushed_apart(batch: Batch) -> None:
    """All four crops show the same pose: the plain form pushes, the weighted one has nothing to say."""
    for form, silent in (("info_nce", False), ("pose_weighted_info_nce", True)):
        distiller, student, teacher = prepared(batch, form=form)
        assert (distiller(student, teacher, batch).item() == 0) is silent


def test_training_brings_the_student_to_the_teachers_neighbourhoods(batch: Batch) -> None:
    """Retrieval: after some steps each picture's nearest key is its own."""
    given = rotated(batch)
    distiller, student, teacher = prepared(given, form="pose_weighted_info_nce", teacher_side="fixed")
    assert student.embedding is not None and teacher.embedding is not None
    optimizer = torch.optim.Adam([student.embedding, *distiller.parameters()], lr=0.05)
    first = distiller(student, teacher, given).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = distiller(student, teacher, given)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
    keys = unit(teacher.embedding - teacher.embedding.mean(0))
    assert (unit(distiller.student(student.embedding)) @ keys.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_the_fixed_teacher_side_has_the_teachers_width_and_learns_nothing(batch: Batch) -> None:
    distiller, _, _ = prepared(rotated(batch), teacher_side="fixed")
    assert {name: list(value.shape) for name, value in distiller.named_parameters()} == {
        "student.weight": [TEACHER, STUDENT],
        "student.bias": [TEACHER],
    }
    distiller, _, _ = prepared(rotated(batch), dim=32)
    assert list(distiller.student.weight.shape) == [32, STUDENT]


def test_the_learned_temperature_keeps_its_limits(batch: Batch) -> None:
    distiller, _, _ = prepared(rotated(batch), temperature=0.07, learn_temperature=True)
    assert distiller.warmth is not None
    with torch.no_grad():
        assert float(distiller.temperature()) == pytest.approx(0.07)
        for warmth, limit in ((-1e4, 0.02), (1e4, 0.5), (0.0, 0.1)):
            distiller.warmth.fill_(warmth)
            assert float(distiller.temperature()) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"faithful": True}, "pose_weighted_info_nce has no use for faithful; it has degrees_per_unit, dim"),
        ({"form": "info_nce", "weighting": "sin"}, "info_nce has no use for weighting"),
        ({"form": "crd", "faithful": True, "teacher_side": "fixed"}, "crd with faithful: true has no use for teacher"),
        ({"form": "pose_weighted_info_nce", "negatives": 5}, "has no use for negatives"),
        ({"teacher_side": "fixed", "dim": 32}, "has no use for dim"),
        ({"temperature": 0.5, "learn_temperature": True}, r"expected to start between 0.02 and 0.5"),
        ({"temperature": 0.001}, "temperature"),
        ({"weighting": "cos"}, "distill.contrast.weighting"),
    ],
)
def test_options_that_do_nothing_together_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build(**options)


def test_embeddings_that_are_no_vectors_are_refused(batch: Batch) -> None:
    distiller = build()
    maps = Prediction({}, embedding=torch.zeros(4, 6, 2, 2))
    with pytest.raises(
        RecipeError, match=r"student embedding \[4, 6\], teacher embedding \[4, 6, 2, 2\], expected one"
    ):
        distiller.prepare(example_of(batch, embedded(batch, 6, 0), maps))
    with pytest.raises(RecipeError, match="teacher embedding None"):
        distiller.prepare(example_of(batch, embedded(batch, 6, 0), Prediction({})))


def test_trust_weighs_pictures(batch: Batch, make_votes: Callable[..., Any]) -> None:
    given = rotated(batch)
    distiller, student, teacher = prepared(given, {"by": "score"})
    teacher.votes = make_votes(5, score=1.0)
    assert teacher.votes is not None
    full = distiller(student, teacher, given)
    teacher.votes.weights = teacher.votes.weights * 0.25
    torch.testing.assert_close(distiller(student, teacher, given), full / 4)


# --- scenes -----------------------------------------------------------------------------------------------------------


def test_in_scenes_the_median_distance_of_cameras_counts_90_degrees(batch: Batch) -> None:
    scene = scene_of(batch)
    distiller, student, teacher = prepared(scene)
    lengths = torch.pdist(scene.camera_centers())
    assert float(distiller.degrees * lengths.median()) == pytest.approx(90, rel=1e-5)
    assert distiller(student, teacher, scene).item() > 0
    assert float(prepared(scene, degrees_per_unit=2.5)[0].degrees) == 2.5
    assert float(prepared(rotated(batch))[0].degrees) == 0  # crops of objects: the turn alone
    beside = replace(scene, t=torch.zeros(4, 3))
    assert float(prepared(beside)[0].degrees) == 0


def test_scenes_refuse_weights_that_forget_the_farthest(batch: Batch) -> None:
    with pytest.raises(RecipeError, match=r"distill.contrast.weighting': found sin, expected linear, sqrt or square"):
        prepared(scene_of(batch), weighting="sin")


# --- crd --------------------------------------------------------------------------------------------------------------


def test_crd_compares_with_all_pictures_but_its_own(batch: Batch) -> None:
    """A bank smaller than ``negatives`` is taken whole; the loss is that of the formula, written out."""
    given = rotated(batch, seed=7)
    distiller, student, teacher = prepared(given, form="crd", weighting="sqrt", temperature=0.2)
    bank = distiller.pictures
    assert len(bank) == 12 and student.embedding is not None and teacher.embedding is not None
    assert distiller.teacher is not None
    anchors, own = unit(distiller.student(student.embedding)), unit(distiller.teacher(teacher.embedding))
    keys, still = unit(distiller.teacher(bank.embeddings)), torch.zeros(1, 3)
    expected = []
    for i in range(4):
        distances = pose_distances(given.R[i : i + 1], still, bank.R, still.expand(12, 3), torch.tensor(0.0))[0]
        weights = (distances / 180).sqrt() * (bank.ids != i)
        positive = (anchors[i] @ own[i] / 0.2).exp()
        expected.append(-(positive / (positive + (weights * (keys @ anchors[i] / 0.2).exp()).sum())).log())
    torch.testing.assert_close(distiller(student, teacher, given), torch.stack(expected).mean())


@pytest.mark.parametrize("form", ["pose_weighted_info_nce", "crd"])
def test_equal_looks_on_both_sides_of_the_jump_are_no_negatives(batch: Batch, form: str) -> None:
    viewpoints = np.array([[89.95, 5, 0], [270.05, 5, 0], [90.05, 5, 0], [269.95, 5, 0]])
    R = torch.from_numpy(viewpoint_rotation(viewpoints)).float()
    alone = Batch.single(batch.images, batch.K, R, torch.zeros(4, 3), batch.ids)
    distiller, student, teacher = prepared(alone, form=form)
    assert distiller(student, teacher, alone) > 0.1
    symmetric = replace(alone, targets={"turns": torch.full((4,), 180.0)})
    distiller, student, teacher = prepared(symmetric, form=form)
    assert distiller(student, teacher, symmetric) == 0


def test_the_positive_may_come_from_the_bank(batch: Batch) -> None:
    given = rotated(batch)
    distiller, student, teacher = prepared(given, form="crd", positive="bank")
    before = distiller(student, teacher, given)
    assert teacher.embedding is not None
    other = Prediction({}, embedding=teacher.embedding + 1)
    torch.testing.assert_close(distiller(student, other, given), before)  # the crop is not looked at
    unknown = replace(given, ids=given.ids + 1000)  # unless the bank has never seen its picture
    assert distiller(student, other, unknown) != distiller(student, teacher, unknown)
    same_pixels, student, teacher = prepared(given, form="crd")
    assert same_pixels(student, other, given) != same_pixels(student, teacher, given)


def test_the_exact_bank_is_not_saved_and_the_momentum_banks_are(batch: Batch) -> None:
    exact, _, _ = prepared(rotated(batch), form="crd")
    assert exact.state_dict().keys() == {"center", "degrees", *dict(exact.named_parameters())}
    published, _, _ = prepared(rotated(batch), form="crd", faithful=True)
    assert published.state_dict().keys() >= {"banks.student", "banks.teacher", "banks.log_z"}


def test_the_published_crd_written_out(batch: Batch) -> None:
    given = rotated(batch)
    distiller, student, teacher = prepared(given, form="crd", faithful=True, temperature=0.07, dim=8)
    banks, pictures = distiller.banks, distiller.pictures
    before = {"student": banks.student.clone(), "teacher": banks.teacher.clone()}
    assert student.embedding is not None and teacher.embedding is not None and distiller.teacher is not None
    fresh = {
        "student": unit(distiller.student(student.embedding)),
        "teacher": unit(distiller.teacher(teacher.embedding)),
    }
    own, known = pictures.rows(given.ids)
    assert bool(known.all()) and pictures.ids[own].equal(given.ids)
    rows = pictures.draw(given.ids, 1024)
    total = torch.zeros(4)
    for anchor, bank in (("student", "teacher"), ("teacher", "student")):
        raw = (fresh[anchor] @ before[bank].T / 0.07).exp()
        positive, negatives = raw.gather(1, own[:, None]), raw[:, rows]
        z = torch.cat([positive, negatives], 1).mean() * len(pictures)
        p, n, c = positive[:, 0] / z, negatives / z, len(rows) / len(pictures)
        terms = (c / (n + c + 1e-7)).log().where(pictures.ids[rows] != given.ids[:, None], 0)
        total = total - (p / (p + c + 1e-7)).log() - terms.sum(1)
    torch.testing.assert_close(distiller(student, teacher, given), total.mean())
    for name, bank in (("student", banks.student), ("teacher", banks.teacher)):
        moved = unit(0.5 * before[name][own] + 0.5 * fresh[name])
        torch.testing.assert_close(bank[own], moved)
        rest = torch.ones(len(bank), dtype=torch.bool).index_fill(0, own, False)
        assert bank[rest].equal(before[name][rest])
    constants = banks.log_z.clone()
    distiller(student, teacher, given)
    assert banks.log_z.equal(constants)  # set once
