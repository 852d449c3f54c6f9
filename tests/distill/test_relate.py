from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, Example, build_distiller
from posedistill.distill.functional.kernels import centered, comparable_pairs, off_diagonal, pose_kernel, pose_labels
from posedistill.distill.functional.relations import (
    correlation_congruence,
    pearson_self_cross,
    pkt,
    pose_rows,
    rkd,
    rotation_rkd,
    self_cross,
    self_similarity,
    similarity_preserving,
)
from posedistill.distill.relate import OPTIONS, Relate, RelateSettings
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction
from posedistill.geometry.rotations import random_rotations

VIEWS = frozenset({"embedding", "features", "regression"})
FORMS = sorted(OPTIONS)
VARIANTS: list[dict[str, Any]] = [
    *({"form": form} for form in FORMS),
    *({"form": form, "faithful": True} for form in FORMS if "faithful" in OPTIONS[form]),
    {"profile": "sckd-head"},
    {"profile": "sckd-pub"},
    {"profile": "sckd-pub", "reference": "pred"},
    {"full": True, "rows_weight": 0.5},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))


def scene(count: int = 6) -> Batch:
    rng = np.random.default_rng(0)
    R = torch.from_numpy(random_rotations(count, rng)).float()
    t = torch.from_numpy(rng.normal(size=(count, 3))).float()
    return Batch.single(torch.zeros(count, 3, 8, 8), torch.eye(3).expand(count, 3, 3), R, t, torch.arange(count))


def prediction(
    count: int = 6, seed: int = 0, width: int = 10, maps: tuple[str, ...] = ("fine", "coarse")
) -> Prediction:
    """Views that want gradients."""
    rng = torch.Generator().manual_seed(seed)
    sides = {name: 8 // 2**level for level, name in enumerate(maps)}
    features = {
        name: torch.randn(count, width // 2, side, side, generator=rng).requires_grad_() for name, side in sides.items()
    }
    embedding = torch.randn(count, width, generator=rng).requires_grad_()
    regression = torch.randn(count, 7, generator=rng).requires_grad_()
    return Prediction({}, features=features, embedding=embedding, regression=regression)


def relate(trust: Any = "none", **options: Any) -> Relate:
    distiller = build_distiller(DistillSpec(name="relate", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Relate)
    return distiller


def prepared(student: Prediction, teacher: Prediction, batch: Batch, trust: Any = "none", **options: Any) -> Relate:
    distiller = relate(trust, **options)
    distiller.prepare(Example(student, teacher, batch, lambda: iter(())))
    return distiller


def embeddings(*predictions: Prediction) -> list[Tensor]:
    return [view for p in predictions if (view := p.embedding) is not None]


@every_variant
def test_a_scalar_with_gradients_for_the_student_alone(options: dict[str, Any]) -> None:
    student, teacher, batch = prediction(), prediction(seed=1, width=14), scene()
    distiller = prepared(student, teacher, batch, **options)
    loss = distiller(student, teacher, batch)
    loss.backward()
    assert loss.shape == () and loss > 0
    ours, theirs = embeddings(student, teacher)
    assert ours.grad is not None and ours.grad.norm() > 0 and ours.grad.isfinite().all()
    assert theirs.grad is None
    assert teacher.regression is not None and teacher.regression.grad is None
    assert all(parameter.grad is not None for parameter in distiller.parameters() if parameter.requires_grad)


@every_variant
@pytest.mark.parametrize("layers", [None, "all", ["coarse"], {"fine": "coarse", "coarse": "coarse"}])
def test_every_view(options: dict[str, Any], layers: Any) -> None:
    student, teacher, batch = prediction(), prediction(seed=1, width=14), scene()
    prepared(student, teacher, batch, layers=layers, **options)(student, teacher, batch).backward()
    reached = {name for name, view in student.features.items() if view.grad is not None}
    expected = {None: set(), "all": {"fine", "coarse"}}
    assert reached == (expected[layers] if layers is None or layers == "all" else set(layers))
    ours, _ = embeddings(student, teacher)
    assert (ours.grad is None) == (layers is not None)


@every_variant
@pytest.mark.parametrize("count", [1, 2])
def test_small_batches_are_defined(options: dict[str, Any], count: int) -> None:
    example = prediction(), prediction(seed=1), scene()
    student, teacher, batch = prediction(count), prediction(count, seed=1), scene(count)
    loss = prepared(*example, **options)(student, teacher, batch)
    loss.backward()
    ours, _ = embeddings(student, teacher)
    assert loss.isfinite() and ours.grad is not None and ours.grad.isfinite().all()
    if count == 1:
        assert loss.abs() < 1e-6


def test_defaults_are_the_corrected_forms() -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    ours, theirs = embeddings(student, teacher)
    s, t = centered(ours), centered(theirs)
    pairs = off_diagonal(6)
    poses = pose_kernel(batch.camera_centers(), batch.R, pairs)
    for distiller, losses in [
        (relate(), pearson_self_cross(ours, theirs, poses, pairs)),
        (relate(full=True), pearson_self_cross(ours, theirs, poses, pairs, full=True)),
        (
            relate(rows_weight=0.5, temperature=0.2),
            pearson_self_cross(ours, theirs, poses, pairs, rows_weight=0.5, temperature=0.2),
        ),
        (relate(form="similarity_preserving"), 6 * similarity_preserving(s, t)),
        (relate(form="self_similarity"), 6 / 5 * self_similarity(s, t)),
        (relate(form="pkt"), 6 * pkt(s, t)),
        (relate(form="rkd"), 25 * rkd(ours, theirs, 1.0, 0.0) + 50 * rkd(ours, theirs, 0.0, 1.0)),
        (relate(form="rkd", angle_weight=0.0, distance_weight=1.0), rkd(ours, theirs, 1.0, 0.0)),
        (relate(form="rotation_rkd"), rotation_rkd(ours, batch.R, pairs)),
        (relate(form="pose_rows"), pose_rows(ours, poses, pairs, 0.1)),
        (relate(form="pose_rows", temperature=0.3), pose_rows(ours, poses, pairs, 0.3)),
    ]:
        torch.testing.assert_close(distiller(student, teacher, batch), losses.mean())


def test_the_published_forms() -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    ours, theirs = embeddings(student, teacher)
    labels = pose_labels(batch)
    assert student.regression is not None
    for distiller, losses in [
        (relate(form="similarity_preserving", faithful=True), similarity_preserving(ours, theirs)),
        (relate(form="self_similarity", faithful=True), self_similarity(ours, theirs)),
        (relate(form="pkt", faithful=True), pkt(ours, theirs)),
        (relate(profile="sckd-pub"), self_cross(ours, theirs, labels)),
        (relate(profile="sckd-head"), self_cross(ours, theirs, labels, temperature=1.0)),
        (relate(profile="sckd-head", temperature=0.1), self_cross(ours, theirs, labels, temperature=0.1)),
        (relate(profile="sckd-pub", reference="pred"), self_cross(ours, theirs, labels, student.regression)),
    ]:
        torch.testing.assert_close(distiller(student, teacher, batch), losses.mean())


def test_stages_are_averaged_but_added_up_as_published() -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    for options, factor in (({}, 0.5), ({"profile": "sckd-pub"}, 1.0), ({"form": "pkt"}, 0.5)):
        fine, coarse = (relate(layers=[name], **options)(student, teacher, batch) for name in ("fine", "coarse"))
        both = relate(layers=["fine", "coarse"], **options)(student, teacher, batch)
        torch.testing.assert_close(both, factor * (fine + coarse))


def test_congruence_learns_an_embedding_and_keeps_the_teachers() -> None:
    student, teacher, batch = prediction(), prediction(seed=1, width=200), scene()
    distiller = prepared(student, teacher, batch, form="correlation_congruence", embed=64)
    learned = [name for name, parameter in distiller.named_parameters() if parameter.requires_grad]
    assert learned == ["student_embeds.0.weight", "student_embeds.0.bias"]
    fixed = dict(distiller.named_parameters())["teacher_embeds.0.weight"]
    torch.testing.assert_close(fixed @ fixed.T, torch.eye(64), atol=1e-5, rtol=0)
    ours, theirs = embeddings(student, teacher)
    expected = correlation_congruence(centered(distiller.student_embeds[0](ours)), centered(theirs @ fixed.T))
    torch.testing.assert_close(distiller(student, teacher, batch), expected.mean())


def test_published_congruence_learns_both_embeddings_and_takes_up_where_it_stopped() -> None:
    student, teacher, batch = prediction(), prediction(seed=1, width=14), scene()
    distiller = prepared(student, teacher, batch, form="correlation_congruence", faithful=True)
    other = prepared(student, teacher, batch, form="correlation_congruence", faithful=True)
    assert len([parameter for parameter in distiller.parameters() if parameter.requires_grad]) == 4
    before = distiller(student, teacher, batch)
    assert other(student, teacher, batch) != before
    other.load_state_dict(distiller.state_dict())
    assert other(student, teacher, batch) == before


@pytest.mark.parametrize("form", ["rotation_rkd", "pose_rows"])
def test_poses_teach_beside_any_teacher(form: str) -> None:
    spec = DistillSpec(name="relate", options={"form": form, "layers": {"fine": "of_nobody"}})
    distiller = build_distiller(spec, frozenset({"features"}), frozenset())
    student, batch = prediction(), scene()
    assert distiller(student, Prediction({}), batch) > 0
    with pytest.raises(RecipeError, match="teacher that offers nothing"):
        build_distiller(DistillSpec(name="relate"), VIEWS, frozenset())


def test_needed_views_depend_on_the_options() -> None:
    assert relate().needs == {"embedding"}
    assert relate(layers="all").needs == {"features"}
    wants = relate(profile="sckd-pub", reference="pred")
    assert (wants.needs, wants.needs_teacher) == ({"embedding", "regression"}, {"embedding"})


def test_poses_of_different_objects_are_not_related(batch: Batch) -> None:
    batch.R, batch.t = scene(4).R, scene(4).t
    batch.label[:] = torch.tensor([0, 0, 0, 1])
    student, teacher = prediction(4), prediction(4, seed=1)
    loss = relate(form="pose_rows")(student, teacher, batch)
    loss.backward()
    ours, _ = embeddings(student, teacher)
    assert loss > 0 and ours.grad is not None and ours.grad[3].eq(0).all()
    kernel, pairs = pose_kernel(batch.camera_centers(), batch.R, comparable_pairs(batch)), comparable_pairs(batch)
    torch.testing.assert_close(loss, pose_rows(ours, kernel, pairs)[:3].mean())


def trusting(monkeypatch: pytest.MonkeyPatch, weights: list[float]) -> None:
    trusted = torch.tensor(weights)
    monkeypatch.setattr("posedistill.distill.relate.image_trust", lambda *_: trusted)


@every_variant
def test_trust_weighs_the_images(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    distiller = prepared(student, teacher, batch, **options)
    plain = distiller(student, teacher, batch)
    trusting(monkeypatch, [0.5] * 6)
    torch.testing.assert_close(distiller(student, teacher, batch), plain / 2)
    parts = []
    for image in range(6):
        trusting(monkeypatch, [float(image == other) for other in range(6)])
        parts.append(distiller(student, teacher, batch))
    torch.testing.assert_close(torch.stack(parts).sum(), plain)


@every_variant
def test_images_without_trust_can_be_left_out(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    distiller = prepared(student, teacher, batch, "score", trusted_only=True, **options)
    trusting(monkeypatch, [1, 0.5, 0, 1, 0, 1])
    loss = distiller(student, teacher, batch)
    loss.backward()
    ours, _ = embeddings(student, teacher)
    assert ours.grad is not None and ours.grad[[2, 4]].eq(0).all() and ours.grad[[0, 3]].norm() > 0
    trusting(monkeypatch, [0] * 6)
    assert distiller(student, teacher, batch) == 0


def test_leaving_out_needs_a_trust() -> None:
    with pytest.raises(RecipeError, match=r"distill.relate.trusted_only.*trust: none"):
        relate(trusted_only=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"form": "pkt", "gamma": 1.0}, "pkt has no use for gamma; it has faithful, form"),
        ({"form": "rotation_rkd", "faithful": True}, "no use for faithful; it has form, layers, trusted_only"),
        ({"profile": "sckd-pub", "full": True}, r"self_cross \(sckd-pub\) has no use for full"),
        ({"profile": "sckd-pub", "temperature": 1.0}, "no use for temperature"),
        ({"reference": "pred"}, "no use for reference"),
        ({"temperature": 0.1}, "no use for temperature"),
        ({"form": "correlation_congruence", "faithful": True, "gamma": 1.0}, "no use for gamma"),
        ({"form": "crd"}, "distill.relate.form"),
        ({"layers": []}, "'distill.relate.layers': found \\[\\], expected a list of at least 1"),
        ({"blur": 1}, "one of angle_weight"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        relate(**options)


def test_every_option_belongs_to_a_form() -> None:
    shared = {"form", "layers", "trusted_only"}
    assert set().union(*OPTIONS.values()) | shared == set(RelateSettings.model_fields)


@pytest.mark.parametrize(
    ("maps", "layers", "told"),
    [
        (("p3", "p4"), "all", "student maps fine, coarse; teacher maps p3, p4"),
        (("p3", "p4"), ["fine"], "expected fine: fine among them"),
        (("p3", "p4"), {"p3": "p3"}, "student maps fine, coarse; .* expected p3: p3 among"),
    ],
)
def test_maps_that_are_not_there_are_told_before_training(maps: tuple[str, ...], layers: Any, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        prepared(prediction(), prediction(maps=maps), scene(), layers=layers)


def test_sides_of_different_images_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"student \[6, 10\], teacher \[5, 10\]"):
        relate()(prediction(6), prediction(5), scene(6))
    with pytest.raises(RecipeError, match="no embedding, expected a teacher with"):
        relate()(prediction(), Prediction({}), scene())


def test_autocast_does_not_lower_the_precision() -> None:
    student, teacher, batch = prediction(), prediction(seed=1), scene()
    distiller = prepared(student, teacher, batch, form="correlation_congruence")
    plain = distiller(student, teacher, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert distiller(student, teacher, batch) == plain
