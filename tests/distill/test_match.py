from typing import Any

import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.distill.functional.response import bit_divergence, divergence, logit, single_shot_loss
from posedistill.distill.match import Match, counterparts
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction, Votes, cell_ids

VIEWS = frozenset({"votes", "cells", "regression", "logits"})
VOTES = ["same_cell", "cluster_mean", "response"]
SCORES_OFF = {"score_weight": 0.0}
Pair = tuple[Prediction, Prediction]


def match(trust: Any = "none", **options: Any) -> Match:
    distiller = build_distiller(DistillSpec(name="match", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Match)
    return distiller


@pytest.fixture
def scenes() -> Batch:
    """Four pictures without objects."""
    eye = torch.eye(3).expand(4, 3, 3)
    return Batch.single(torch.zeros(4, 3, 8, 8), eye, eye, torch.zeros(4, 3), torch.arange(4))


def all_of(votes: Votes | None) -> Votes:
    assert votes is not None
    return votes


def test_each_vote_meets_the_one_of_its_own_cell(predictions: Pair) -> None:
    votes, cells = all_of(predictions[0].votes), all_of(predictions[1].cells)
    assert votes.cells is not None and cells.cells is not None
    order = torch.randperm(cells.cells.shape[1])
    shuffled = Votes(cells.values[:, order], cells.weights[:, order], cells.mask[:, order], cells.cells[:, order])
    votes.cells = votes.cells.clone()
    votes.cells[0, 3] = cell_ids(7, 1, 1)[0]  # a level the teacher does not have
    same = counterparts(votes, shuffled)
    expected = torch.ones(4, 10, dtype=torch.bool)
    expected[0, 3] = False
    assert same.mask.equal(expected) and not same.values.requires_grad
    assert same.values[expected].equal(cells.values[:, :10][expected])


def test_same_cell_is_the_mean_over_cells_weighted_by_the_teacher(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    votes, cells = all_of(student.votes), all_of(teacher.cells)
    cells.weights = torch.linspace(0.1, 0.9, 50).expand(4, -1)
    votes.mask[2, 5:] = False
    loss = match(norm="l2", unit="crop", position_weight=1.0, score_weight=0.0)(student, teacher, batch)
    distance = (votes.values - cells.values[:, :10]).square().sum(-1).mean(-1) / 2
    torch.testing.assert_close(loss, (distance * cells.weights[:, :10])[votes.mask].mean())


def test_same_cell_scores_learn_the_teachers(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    loss = match(position_weight=0.0, score_weight=1.0)
    weights = all_of(student.votes).weights
    (gradient,) = torch.autograd.grad(loss(student, teacher, batch), weights)
    assert (gradient < 0).all()
    with torch.no_grad():
        weights.fill_(0.9)
    (gradient,) = torch.autograd.grad(loss(student, teacher, batch), weights)
    assert gradient.abs().max() < 1e-6


def test_cluster_mean_compares_weighted_means_in_object_sizes(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    with torch.no_grad():
        all_of(teacher.votes).weights[:, ::2] = 0.3
    loss = match(form="cluster_mean", norm="l2", position_weight=1.0)(student, teacher, batch)

    def mean(votes: Votes) -> Tensor:
        weights = votes.weights[..., None, None]
        return (votes.values * weights).sum(1) / weights.sum(1)

    difference = (mean(all_of(student.votes)) - mean(all_of(teacher.votes))) / 0.5
    torch.testing.assert_close(loss, difference.square().sum(-1).mean() / 2)


@pytest.mark.parametrize("form", VOTES)
@pytest.mark.parametrize("norm", ["smooth_l1", "l1", "l2"])
def test_gradients_reach_the_student_alone(predictions: Pair, batch: Batch, form: str, norm: str) -> None:
    student, teacher = predictions
    match(form=form, norm=norm)(student, teacher, batch).backward()
    assert all_of(student.cells if form == "response" else student.votes).values.grad is not None
    for votes in (all_of(teacher.votes), all_of(teacher.cells)):
        assert votes.values.grad is None and votes.weights.grad is None


@pytest.mark.parametrize("options", [*({"form": form} for form in VOTES), {"form": "response", "faithful": True}])
def test_nothing_to_match_costs_nothing(predictions: Pair, batch: Batch, options: dict[str, Any]) -> None:
    student, teacher = predictions
    votes = all_of(student.cells if options["form"] == "response" else student.votes)
    votes.mask[:] = False
    with torch.no_grad():
        votes.values.fill_(torch.nan)
    loss = match(**options)(student, teacher, batch)
    (gradient,) = torch.autograd.grad(loss, votes.values)
    assert loss == 0 and (gradient == 0).all()


@pytest.mark.parametrize("form", VOTES)
def test_trust_in_images(predictions: Pair, batch: Batch, form: str) -> None:
    student, teacher = predictions
    plain = match(form=form)(student, teacher, batch)
    torch.testing.assert_close(match({"by": "score"}, form=form)(student, teacher, batch), 0.9 * plain)
    teacher.spread = torch.full((4,), 0.1)
    scaled = match("spread", form=form)(student, teacher, batch)
    torch.testing.assert_close(scaled, plain * torch.tensor(-1.0).exp())


@pytest.mark.parametrize("form", VOTES)
def test_trust_in_votes(predictions: Pair, batch: Batch, form: str) -> None:
    """A cell that is plainly wrong teaches nothing."""
    student, teacher = predictions
    off, right = Prediction({}, all_of(teacher.votes), cells=all_of(teacher.cells)), all_of(teacher.cells)
    values, voted = right.values.detach().clone(), all_of(teacher.votes).values.detach().clone()
    values[:, 3] += 0.5
    voted[:, 3] += 0.5
    off.cells = Votes(values, right.weights, right.mask, right.cells)
    off.votes = Votes(voted, all_of(teacher.votes).weights, all_of(teacher.votes).mask, all_of(teacher.votes).cells)
    trust, options = {"by": "error", "per": "vote"}, {"form": form} | ({} if form == "cluster_mean" else SCORES_OFF)
    fooled = match(**options)(student, off, batch) - match(**options)(student, teacher, batch)
    robust = match(trust, **options)(student, off, batch) - match(trust, **options)(student, teacher, batch)
    assert robust.abs() < 0.1 * fooled


def test_votes_without_cells_are_refused(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    all_of(student.votes).cells = None
    with pytest.raises(RecipeError, match="votes with cells, or cluster_mean"):
        match()(student, teacher, batch)
    student.cells = None
    with pytest.raises(RecipeError, match="the votes of every cell"):
        match(form="response")(student, teacher, batch)


def test_cells_of_other_things_are_refused(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    cells = all_of(teacher.cells)
    cells.values = cells.values[:, :, :6]
    with pytest.raises(RecipeError, match=r"\[4, 40, 8, 2\], teacher cells \[4, 50, 6, 2\]"):
        match(form="response")(student, teacher, batch)


def test_response_takes_positions_from_sure_cells_and_scores_from_all(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    ours, theirs = all_of(student.cells), all_of(teacher.cells)
    theirs.weights = torch.linspace(0.0, 1.0, 50).expand(4, -1)
    ours.mask[1, 30:] = False
    targets = theirs.weights[:, :40].where(ours.mask, 0)
    distance = ((ours.values - theirs.values[:, :40]) / 0.5).square().sum(-1).mean(-1) / 2
    shares = targets.where(targets > 0.25, 0)
    by_position = match(form="response", norm="l2", threshold=0.25, position_weight=1.0, score_weight=0.0)
    expected = ((distance * shares).sum(1) / shares.sum(1)).mean()
    torch.testing.assert_close(by_position(student, teacher, batch), expected)
    scores = bit_divergence(logit(ours.weights), logit(targets))
    sure = [(targets > 0.25) & ours.mask, (targets <= 0.25) & ours.mask]
    expected = sum((scores * kind).sum(1) / kind.sum(1) for kind in sure).mean() / 2  # type: ignore[union-attr]
    by_score = match(form="response", threshold=0.25, position_weight=0.0, score_weight=1.0)
    torch.testing.assert_close(by_score(student, teacher, batch), expected)


@pytest.mark.parametrize("options", [{}, {"faithful": True}])
def test_response_is_a_mean_over_images_with_shared_cells(
    predictions: Pair, batch: Batch, options: dict[str, Any]
) -> None:
    student, teacher = predictions
    for votes in (all_of(student.cells), all_of(teacher.cells)):
        votes.values = votes.values[:1].expand(4, -1, -1, -1)
    batch.targets["keypoints"] = batch.targets["keypoints"][:1].expand(4, -1, -1)
    before = match(form="response", **options)(student, teacher, batch)
    all_of(student.cells).mask[2] = False
    torch.testing.assert_close(match(form="response", **options)(student, teacher, batch), before)


def test_response_needs_no_teacher_that_is_sure_of_anything(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    with torch.no_grad():
        all_of(teacher.cells).weights.fill_(0.01)
    loss = match(form="response", score_weight=0.0)(student, teacher, batch)
    assert loss == 0 and torch.autograd.grad(loss, all_of(student.cells).values)[0].eq(0).all()


def test_response_in_the_published_form_is_a_mean_over_images(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    ours, theirs = all_of(student.cells), all_of(teacher.cells)
    origins = torch.full((4, 2), 0.5)
    same = counterparts(ours, theirs)
    expected = single_shot_loss(ours, same, batch.targets["keypoints"] / 256, origins, (256, 256))
    loss = match(form="response", faithful=True)
    torch.testing.assert_close(loss(student, teacher, batch), expected.mean())
    trusted = match("score", form="response", faithful=True)
    torch.testing.assert_close(trusted(student, teacher, batch), 0.9 * expected.mean())


def test_the_response_of_a_single_shot_head_starts_with_the_origin(predictions: Pair, batch: Batch) -> None:
    """It votes for nine points where the batch has eight corners."""
    student, teacher = predictions
    for prediction in predictions:
        cells = all_of(prediction.cells)
        points = torch.cat([torch.full_like(cells.values[:, :, :1], 0.5), cells.values], 2)
        prediction.cells = Votes(points, cells.weights, cells.mask, cells.cells)
    assert match(form="response", faithful=True)(student, teacher, batch) > 0
    with torch.no_grad():
        all_of(student.cells).values[:, :, 0] = 0.5
        all_of(student.cells).values[:, :, 1:] = batch.targets["keypoints"][:, None] / 256
    gated = match(form="response", gate="upper_bound", score_weight=0.0)
    assert gated(student, teacher, batch) == 0


@pytest.mark.parametrize("form", VOTES)
def test_equal_votes_cost_nothing(predictions: Pair, batch: Batch, form: str) -> None:
    _, teacher = predictions
    votes, cells = all_of(teacher.votes), all_of(teacher.cells)
    votes.values, votes.cells = cells.values[:, :12].detach(), all_of(cells).cells[:, :12]  # type: ignore[index]
    student = Prediction({}, Votes(votes.values, votes.weights, votes.mask, votes.cells), cells=cells)
    assert match(form=form)(student, teacher, batch).abs() < 1e-7


@pytest.mark.parametrize("form", VOTES)
def test_a_student_that_has_passed_its_teacher_is_let_alone(predictions: Pair, batch: Batch, form: str) -> None:
    student, teacher = predictions
    options = {"form": form, "gate": "upper_bound"} | ({} if form == "cluster_mean" else SCORES_OFF)
    assert match(**options)(student, teacher, batch) > 0
    with torch.no_grad():
        for votes in (student.votes, student.cells):
            all_of(votes).values[:] = batch.targets["keypoints"][:, None] / 256
    assert match(**options)(student, teacher, batch) == 0


def test_codes_are_compared_bit_by_bit(predictions: Pair, batch: Batch) -> None:
    """Votes of one keypoint in sixteen dimensions: the probabilities of a surface code's bits."""
    codes = []
    for seed, prediction in enumerate(predictions):
        values = torch.rand(4, 50, 1, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        mask, ids = torch.ones(4, 50, dtype=torch.bool), cell_ids(16, 8, 8)[:50].expand(4, -1)
        prediction.cells = prediction.votes = Votes(values, torch.full((4, 50), 0.9), mask, ids)
        codes.append(values)
    expected = bit_divergence(logit(codes[0]), logit(codes[1])).mean()
    for form in ("same_cell", "response"):
        loss = match(form=form, norm="bce", position_weight=1.0)(*predictions, batch)
        torch.testing.assert_close(loss, expected * (0.9 if form == "same_cell" else 1))
        loss.backward()
        assert codes[0].grad is not None and codes[1].grad is None
    with pytest.raises(RecipeError, match="or norm: bce"):
        match()(*predictions, batch)
    with pytest.raises(RecipeError, match="annotated keypoints"):
        match(norm="bce", gate="min")(*predictions, batch)


@pytest.fixture
def regressors() -> Pair:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(4, 7, generator=rng)
    student, teacher = (
        Prediction({}, regression=(truth + spread * torch.randn(4, 7, generator=rng)).requires_grad_())
        for spread in (0.5, 0.1)
    )
    teacher.regression_truth = truth
    return student, teacher


def vectors(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = pair
    assert student.regression is not None and teacher.regression is not None
    assert teacher.regression_truth is not None
    return student.regression, teacher.regression, teacher.regression_truth


def test_regression_is_the_mean_over_images_of_the_distance(regressors: Pair, scenes: Batch) -> None:
    x, y, _ = vectors(regressors)
    loss = match(form="regression", norm="l2")(*regressors, scenes)
    torch.testing.assert_close(loss, (x - y).square().sum(1).mean() / 2)
    loss.backward()
    assert x.grad is not None and y.grad is None
    weighted = match(form="regression", norm="l1", scale=[1, 1, 1, 3, 3, 3, 3])(*regressors, scenes)
    scale = torch.tensor([1.0, 1, 1, 3, 3, 3, 3])
    torch.testing.assert_close(weighted, ((x - y).abs() * scale).sum(1).mean())


def test_attentive_imitation_as_published(regressors: Pair, scenes: Batch) -> None:
    """Saputra et al.: mean of Phi_i |p_S - p_T|^2 with Phi = 1 - e / (max e - min e), e the squared error."""
    x, y, truth = vectors(regressors)
    errors = (y - truth).square().sum(1)
    weights = (1 - errors / (errors.max() - errors.min())).clamp(min=0)
    expected = (weights * (x - y).square().sum(1)).mean()
    loss = match({"by": "error", "eta": "faithful"}, form="regression", norm="l2")(*regressors, scenes)
    torch.testing.assert_close(2 * loss, expected)
    assert torch.autograd.grad(loss, y, allow_unused=True)[0] is None


def test_gates_of_regression(regressors: Pair, scenes: Batch) -> None:
    student, teacher = regressors
    x, y, truth = vectors(regressors)
    imitation, error = (x - y).square().sum(1) / 2, (x - truth).square().sum(1) / 2
    with torch.no_grad():
        x[0] = truth[0]
    least = match(form="regression", norm="l2", gate="min")
    expected = torch.minimum(imitation, error).detach()
    expected[0] = 0
    torch.testing.assert_close(least(student, teacher, scenes).detach(), expected.mean())
    bounded = match(form="regression", norm="l2", gate="upper_bound")
    (gradient,) = torch.autograd.grad(bounded(student, teacher, scenes), x)
    assert (gradient[0] == 0).all() and (gradient[1:] != 0).all()
    student.regression_truth, teacher.regression_truth = teacher.regression_truth, None
    assert bounded(student, teacher, scenes) > 0
    student.regression_truth = None
    with pytest.raises(RecipeError, match="upper_bound for a regression without its truth"):
        bounded(student, teacher, scenes)


def test_regressions_of_other_spaces_are_refused(regressors: Pair, scenes: Batch) -> None:
    student, teacher = regressors
    with pytest.raises(RecipeError, match=r"scale of 3 components, regression \[4, 7\]"):
        match(form="regression", scale=[1, 1, 1])(student, teacher, scenes)
    student.regression = torch.zeros(4, 6)
    with pytest.raises(RecipeError, match=r"student regression \[4, 6\], teacher regression \[4, 7\]"):
        match(form="regression")(student, teacher, scenes)


@pytest.fixture
def classifiers() -> Pair:
    rng = torch.Generator().manual_seed(0)
    shapes = {"azimuth": (4, 24), "bits": (4, 16, 3, 3), "mask": (4, 1, 3, 3)}
    student, teacher = (
        {name: torch.randn(shape, generator=rng).requires_grad_() for name, shape in shapes.items()} for _ in range(2)
    )
    return Prediction({}, logits=student), Prediction({}, logits=teacher)


def test_logits_of_all_heads_are_added(classifiers: Pair, scenes: Batch) -> None:
    student, teacher = classifiers
    loss = match(form="logits", heads=["azimuth", "bits"], temperature=4.0)(student, teacher, scenes)
    parts = [divergence(student.logits[name], teacher.logits[name], 4.0) for name in ("azimuth", "bits")]
    torch.testing.assert_close(loss, sum(parts).mean())  # type: ignore[union-attr]
    loss.backward()
    assert student.logits["azimuth"].grad is not None and teacher.logits["azimuth"].grad is None
    trusted = match("score", form="logits", heads=["azimuth"])(student, Prediction({}, logits=teacher.logits), scenes)
    assert trusted < match(form="logits", heads=["azimuth"])(student, teacher, scenes)


def test_bits_count_where_the_teachers_mask_is(classifiers: Pair, scenes: Batch) -> None:
    student, teacher = classifiers
    bits = bit_divergence(student.logits["bits"], teacher.logits["bits"]).mean(1)
    plain = match(form="bits", heads=["bits"])(student, teacher, scenes)
    torch.testing.assert_close(plain, bits.mean())
    inside = torch.full((4, 1, 3, 3), -50.0)
    inside[:, :, 1, 2] = 50
    teacher.logits["mask"] = inside
    masked = match(form="bits", heads=["bits"], mask="mask")(student, teacher, scenes)
    torch.testing.assert_close(masked, bits[:, 1, 2].mean())
    for prediction in classifiers:
        del prediction.logits["azimuth"]
    torch.testing.assert_close(match(form="bits", mask="mask")(student, teacher, scenes), masked)
    all_heads = match(form="bits")(student, teacher, scenes)
    torch.testing.assert_close(all_heads, plain + bit_divergence(student.logits["mask"], inside).mean())


def test_bits_of_vectors(classifiers: Pair, scenes: Batch) -> None:
    student, teacher = classifiers
    loss = match(form="bits", heads=["azimuth"])(student, teacher, scenes)
    torch.testing.assert_close(loss, bit_divergence(student.logits["azimuth"], teacher.logits["azimuth"]).mean())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"form": "logits"}, r"logits mask \[4, 1, 3, 3\], a single class"),
        ({"form": "logits", "heads": ["roll"]}, "student with logits azimuth, bits, mask, .* expected roll on both"),
        ({"form": "bits", "mask": "azimuth"}, r"mask azimuth \[4, 24\]"),
        ({"form": "bits", "heads": ["bits"], "mask": "gone"}, "mask gone None for logits bits"),
    ],
)
def test_logits_that_do_not_fit_are_refused(
    classifiers: Pair, scenes: Batch, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        match(**options)(*classifiers, scenes)


def test_logits_of_other_shapes_are_refused(classifiers: Pair, scenes: Batch) -> None:
    student, teacher = classifiers
    student.logits["azimuth"] = torch.zeros(4, 12)
    with pytest.raises(RecipeError, match=r"azimuth \[4, 12\], teacher logits \[4, 24\]"):
        match(form="logits")(student, teacher, scenes)
    del student.logits["azimuth"], student.logits["bits"], student.logits["mask"]
    with pytest.raises(RecipeError, match="student with logits nothing"):
        match(form="logits")(student, teacher, scenes)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"form": "regression", "temperature": 2.0},
            "regression has no use for temperature; it has beta, form, gate, margin, norm",
        ),
        ({"form": "cluster_mean", "score_weight": 0.1}, "cluster_mean has no use for score_weight"),
        ({"form": "response", "faithful": True, "norm": "l2"}, "faithful: true has no use for norm"),
        ({"faithful": True}, "same_cell has no use for faithful"),
        ({"form": "regression", "norm": "bce"}, "not a regression"),
        ({"margin": 0.1}, "needs gate: upper_bound"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        match(**options)


def test_each_form_asks_for_its_views() -> None:
    found = {form: match(form=form).needs for form in ("response", "regression", "logits", "bits")}
    logits = frozenset({"logits"})
    expected = {"response": frozenset({"cells"}), "regression": frozenset({"regression"})}
    assert found == expected | {"logits": logits, "bits": logits}


@pytest.mark.parametrize("form", [*VOTES, "regression", "logits"])
def test_half_precision_and_autocast(
    predictions: Pair, regressors: Pair, classifiers: Pair, batch: Batch, form: str
) -> None:
    pair = {"regression": regressors, "logits": classifiers}.get(form, predictions)
    loss = match(form=form, **({"heads": ["azimuth"]} if form == "logits" else {}))
    plain = loss(*pair, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(*pair, batch) == plain
    for prediction in pair:
        prediction.logits = {name: value.bfloat16() for name, value in prediction.logits.items()}
        if prediction.regression is not None:
            prediction.regression = prediction.regression.bfloat16()
        for votes in (prediction.votes, prediction.cells):
            if votes is not None:
                votes.values, votes.weights = votes.values.bfloat16(), votes.weights.bfloat16()
    half = loss(*pair, batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=1e-3)


def test_one_image_is_enough(regressors: Pair, classifiers: Pair, scenes: Batch) -> None:
    alone = Batch.single(*(getattr(scenes, name)[:1] for name in ("images", "K", "R", "t", "ids")))
    for pair, form in ((regressors, "regression"), (classifiers, "bits")):
        for prediction in pair:
            prediction.logits = {name: value[:1] for name, value in prediction.logits.items()}
            if prediction.regression is not None:
                prediction.regression = prediction.regression[:1]
        assert match(form=form)(*pair, alone) > 0


def test_bits_under_a_mask_have_the_value_worked_out_by_hand(scenes: Batch) -> None:
    """One picture of 2 x 3 pixels and 3 bits, in double precision."""
    mask = torch.tensor([[[[2, -1, 0.5], [0.1, -0.2, 3]]]])
    code = torch.tensor(
        [
            [
                [[1.5, -0.5, 0.25], [-2, 0.75, 0.1]],
                [[-0.3, 0.6, -1.2], [0.9, -0.1, -0.4]],
                [[0.2, -0.2, 0.05], [0.4, 1.1, -0.6]],
            ]
        ]
    ).requires_grad_()
    teacher = Prediction({}, logits={"code": 1.5 * code.detach() + 0.3, "mask": mask})
    student = Prediction({}, logits={"code": code, "mask": mask})
    one = scenes.select(slice(0, 1))
    loss = match(form="bits", heads=["code"], mask="mask")(student, teacher, one)
    assert loss.item() == pytest.approx(0.018542, abs=1e-6)
    loss.backward()
    assert code.grad is not None
    torch.testing.assert_close(
        code.grad[0, :, 0, 0], torch.tensor([-0.008729, -0.002937, -0.007604]), atol=1e-6, rtol=0
    )


def test_bits_of_deeper_codes_on_finer_maps_meet_where_both_are(scenes: Batch) -> None:
    rng = torch.Generator().manual_seed(0)
    one = scenes.select(slice(0, 2))
    code, mask = torch.randn(2, 5, 2, 2, generator=rng), torch.randn(2, 1, 2, 2, generator=rng)
    student = Prediction({}, logits={"code": code.requires_grad_(), "mask": mask})
    fine = {
        name: value.detach().repeat_interleave(2, 2).repeat_interleave(2, 3) for name, value in student.logits.items()
    }
    deep = torch.cat([fine["code"], torch.randn(2, 3, 4, 4, generator=rng)], 1)
    teacher = Prediction({}, logits={"code": deep, "mask": fine["mask"]})
    loss = match(form="bits", heads=["code"], mask="mask")
    assert loss(student, teacher, one).item() == pytest.approx(0, abs=1e-6)
    teacher.logits["code"] = -deep
    far = loss(student, teacher, one)
    far.backward()
    assert far > 0.1 and code.grad is not None
    back = loss(Prediction({}, logits={"code": deep.requires_grad_(), "mask": fine["mask"]}), student, one)
    back.backward()
    assert deep.grad is not None and bool((deep.grad[:, 5:] == 0).all())
