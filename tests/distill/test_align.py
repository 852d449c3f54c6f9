from typing import Any

import pytest
import torch
from torch import Tensor

from posedistill.data.batch import ObjectBatch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.distill.align import Align
from posedistill.distill.transport import sinkhorn_divergence
from posedistill.errors import RecipeError
from posedistill.estimators.base import Prediction, Votes

VIEWS = frozenset({"votes"})
Pair = tuple[Prediction, Prediction]
PUBLISHED = {
    "solver": "faithful",
    "unit": "crop",
    "blur": 0.001,
    "reach": 0.5,
    "coupled": True,
    "transport_weight": 1.0,
}


def align(trust: Any = "none", **options: Any) -> Align:
    distiller = build_distiller(DistillSpec(name="align", trust=trust, options=options), VIEWS, VIEWS)
    assert isinstance(distiller, Align)
    return distiller


def votes_of(prediction: Prediction) -> Votes:
    assert prediction.votes is not None
    return prediction.votes


def gradients(pair: Pair, loss: Tensor) -> tuple[Tensor, Tensor]:
    student = votes_of(pair[0])
    by_position, by_score = torch.autograd.grad(loss, (student.values, student.weights), allow_unused=True)
    return by_position, by_score if by_score is not None else torch.zeros_like(student.weights)


@pytest.mark.parametrize("options", [{}, {"joint": True}, {"reach": None}, {"measure": "uniform"}, PUBLISHED])
def test_it_vanishes_where_the_student_says_what_the_teacher_says(
    predictions: Pair, batch: ObjectBatch, options: dict[str, Any]
) -> None:
    student, teacher = predictions
    loss = align(**options)
    same = Prediction({}, Votes(*(getattr(votes_of(teacher), name).detach() for name in ("values", "weights", "mask"))))
    assert loss(same, teacher, batch).abs() < 1e-6
    assert loss(student, teacher, batch) > 1e-3


@pytest.mark.parametrize("options", [{}, {"joint": True}, {"reach": None}, PUBLISHED])
def test_descending_it_brings_the_votes_to_the_teacher(
    predictions: Pair, batch: ObjectBatch, options: dict[str, Any]
) -> None:
    student, teacher = predictions
    votes = votes_of(student)
    loss = align(**options)
    target = votes_of(teacher).values.detach().mean(1)
    before = (votes.values.detach().mean(1) - target).norm(dim=-1).mean()
    for _ in range(60):
        by_position, _ = gradients(predictions, loss(student, teacher, batch))
        with torch.no_grad():
            votes.values -= 0.002 * by_position / by_position.abs().max()
    assert (votes.values.detach().mean(1) - target).norm(dim=-1).mean() < before / 3


def test_gradients_reach_the_student_alone(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    align()(student, teacher, batch).backward()
    for name in ("values", "weights"):
        ours, theirs = getattr(votes_of(student), name).grad, getattr(votes_of(teacher), name).grad
        assert ours.abs().max() > 0 and theirs is None


def test_scores_below_the_teachers_are_raised_unless_detached(predictions: Pair, batch: ObjectBatch) -> None:
    _, by_score = gradients(predictions, align()(*predictions, batch))
    assert (by_score.sum(1) < 0).all()
    loss = align(detach_scores=True)(*predictions, batch)
    assert gradients(predictions, loss)[1].abs().max() == 0
    only_masses = align(transport_weight=0.0)(*predictions, batch)
    assert only_masses.item() == pytest.approx(0.2 * (0.5**0.5 - 0.9**0.5) ** 2, rel=1e-5)


def test_positions_weigh_about_as_much_as_the_supervised_loss(predictions: Pair, batch: ObjectBatch) -> None:
    """The line-of-sight loss pulls a vote off by more than 0.02 diameters with 1 / (B N K 3) per coordinate."""
    _, teacher = predictions
    off = votes_of(teacher).values.detach()[:, :10] + 0.5 * 0.03
    votes = Votes(off.requires_grad_(), torch.full((4, 10), 0.9).requires_grad_(), torch.ones(4, 10, dtype=torch.bool))
    by_position, _ = gradients((Prediction({}, votes), teacher), align()(Prediction({}, votes), teacher, batch))
    supervised = 1 / (4 * 10 * 8 * 3) / 0.5
    assert 0.5 < by_position.mean() / supervised < 2


def test_it_is_a_mean_over_images_with_both_sides(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    loss = align()
    whole = loss(student, teacher, batch)

    def keep(votes: Votes, rows: Any) -> Votes:
        return Votes(votes.values[rows], votes.weights[rows], votes.mask[rows])

    parts = []
    for row in range(4):
        rows = slice(row, row + 1)
        one = ObjectBatch(**{name: getattr(batch, name)[rows] for name in batch.__dataclass_fields__})
        parts.append(
            loss(Prediction({}, keep(votes_of(student), rows)), Prediction({}, keep(votes_of(teacher), rows)), one)
        )
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    votes_of(teacher).mask[1] = False
    votes_of(student).weights = votes_of(student).weights * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None]
    torch.testing.assert_close(loss(student, teacher, batch), (parts[0] + parts[3]) / 2)


@pytest.mark.parametrize("options", [{}, {"coupled": True}, {"reach": None}, PUBLISHED])
def test_nothing_to_align_costs_nothing(predictions: Pair, batch: ObjectBatch, options: dict[str, Any]) -> None:
    student, teacher = predictions
    votes_of(teacher).mask[:] = False
    loss = align(**options)(student, teacher, batch)
    by_position, by_score = gradients(predictions, loss)
    assert loss == 0 and (by_position == 0).all() and (by_score == 0).all()


def test_padding_may_hold_anything(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    before = align()(student, teacher, batch)
    for prediction in predictions:
        votes = votes_of(prediction)
        junk = torch.full_like(votes.values[:, :2], torch.nan)
        mask = torch.cat([votes.mask, torch.zeros(4, 2, dtype=torch.bool)], 1)
        weights = torch.cat([votes.weights, torch.full((4, 2), torch.nan)], 1)
        prediction.votes = Votes(torch.cat([votes.values, junk], 1), weights, mask)
    after = align()(student, teacher, batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=0)


def test_the_published_form_takes_one_schedule_an_image(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = (votes_of(prediction) for prediction in predictions)
    expected = []
    for x, a, y, b in zip(student.values, student.weights, teacher.values, teacher.weights, strict=True):
        problem = x.transpose(0, 1), a.expand(8, -1), y.transpose(0, 1), b.expand(8, -1)
        expected.append(sinkhorn_divergence(*problem, blur=0.001, reach=0.5, solver="faithful", group=8).mean())
    torch.testing.assert_close(align(**PUBLISHED)(*predictions, batch), torch.stack(expected).mean())


def test_trust_scales_images_or_votes(predictions: Pair, batch: ObjectBatch) -> None:
    student, teacher = predictions
    plain = align()(student, teacher, batch)
    scaled = align({"by": "score"})(student, teacher, batch)
    torch.testing.assert_close(scaled, 0.9 * plain)
    with torch.no_grad():
        votes_of(teacher).values[:, 0] += 0.3  # one cell is plainly wrong
    robust = align({"by": "error", "per": "vote"})(student, teacher, batch)
    assert robust < align()(student, teacher, batch)


def test_units(predictions: Pair, batch: ObjectBatch) -> None:
    """Objects are half a crop: lengths double, and with them blur and reach."""
    by_object = align(mass_weight=0.0)(*predictions, batch)
    by_crop = align(mass_weight=0.0, unit="crop", blur=0.01, reach=0.15)(*predictions, batch)
    torch.testing.assert_close(by_object, 4 * by_crop, rtol=1e-3, atol=0)


def test_codes_have_no_object_unit(predictions: Pair, batch: ObjectBatch) -> None:
    for prediction in predictions:
        votes = votes_of(prediction)
        prediction.votes = Votes(votes.values.detach().reshape(4, -1, 1, 16), votes.weights, votes.mask)
    assert align(unit="crop")(*predictions, batch).isfinite()
    with pytest.raises(RecipeError, match="image points, or unit: crop"):
        align()(*predictions, batch)


@pytest.mark.parametrize("options", [{"reach": 0.01}, {"coupled": True, "reach": None}])
def test_settings_that_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="reach"):
        align(**options)


def test_autocast_changes_nothing(predictions: Pair, batch: ObjectBatch) -> None:
    plain = align()(*predictions, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert align()(*predictions, batch) == plain
