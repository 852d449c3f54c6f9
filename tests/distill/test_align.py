from typing import Any

import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, build_distiller
from posedistill.distill.align import Align, cell_places
from posedistill.distill.functional.transport import sinkhorn_divergence
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.geometry.objects import ObjectTable
from posedistill.training.teaching.build import noise_batch

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
    predictions: Pair, batch: Batch, options: dict[str, Any]
) -> None:
    student, teacher = predictions
    loss = align(**options)
    same = Prediction({}, Votes(*(getattr(votes_of(teacher), name).detach() for name in ("values", "weights", "mask"))))
    assert loss(same, teacher, batch).abs() < 1e-6
    assert loss(student, teacher, batch) > 1e-3


@pytest.mark.parametrize(
    ("decay", "place", "blur", "reach", "value", "gradient"),
    [
        (1.0, 1.0, 0.02, 0.3, 0.0150661, [-0.0179137, 0.0179137, -0.0179137]),
        (0.7, 1.0, 0.02, 0.3, 0.0147284, [-0.0209664, 0.0175417, -0.0146765]),
        (0.7, 0.0, 0.02, 0.3, 0.0124127, [-0.0209664, 0.0175417, -0.0146765]),
        (1.0, 1.0, 0.1, 0.3, 0.0141804, [-0.0169368, 0.0169368, -0.0169368]),
        (1.0, 1.0, 0.1, None, 0.0498850, [-0.0180421, 0.0180421, -0.0180422]),
    ],
)
def test_codes_of_three_bits_have_the_divergence_that_was_worked_out(
    decay: float, place: float, blur: float, reach: float | None, value: float, gradient: list[float]
) -> None:
    """In double precision, by 200 iterations; gradients are those of the first point's scaled bits."""
    ids = cell_ids(8, 2, 2)[None]
    taught = torch.tensor([[[[1, 0.1, 0.7]], [[0.9, 0.9, 0.4]], [[0.05, 0.8, 0.3]], [[0.1, 0.2, 0.9]]]])
    bits = torch.tensor([[[[0.9, 0.2, 0.6]], [[0.8, 0.7, 0.5]], [[0.1, 0.6, 0.4]]]], requires_grad=True)
    teacher = Votes(taught, torch.tensor([[0.9, 0.95, 0.7, 0.2]]), torch.ones(1, 4) > 0, ids)
    student = Votes(bits, torch.tensor([[0.5, 0.8, 0.3]]), torch.ones(1, 3) > 0, ids[:, :3])
    chosen = {"unit": "code", "bit_decay": decay, "place_weight": place, "blur": blur, "reach": reach}
    plain = {"iterations": 200, "mass_weight": 0.0, "transport_weight": 1.0}
    noise = noise_batch(ObjectTable.of_cubes([1]), 16, 1)
    loss = align(**chosen, **plain)(Prediction({}, student), Prediction({}, teacher), noise)
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=2e-6)
    weights = decay ** torch.arange(3.0)
    assert bits.grad is not None
    scaled = bits.grad[0, 0, 0] / (weights / weights.sum()).sqrt()
    torch.testing.assert_close(scaled, torch.tensor(gradient), atol=5e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"joint": True}, {"reach": None}, PUBLISHED])
def test_descending_it_brings_the_votes_to_the_teacher(
    predictions: Pair, batch: Batch, options: dict[str, Any]
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


def test_gradients_reach_the_student_alone(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    align()(student, teacher, batch).backward()
    for name in ("values", "weights"):
        ours, theirs = getattr(votes_of(student), name).grad, getattr(votes_of(teacher), name).grad
        assert ours.abs().max() > 0 and theirs is None


def test_scores_below_the_teachers_are_raised_unless_detached(predictions: Pair, batch: Batch) -> None:
    _, by_score = gradients(predictions, align()(*predictions, batch))
    assert (by_score.sum(1) < 0).all()
    loss = align(detach_scores=True)(*predictions, batch)
    assert gradients(predictions, loss)[1].abs().max() == 0
    only_masses = align(transport_weight=0.0)(*predictions, batch)
    assert only_masses.item() == pytest.approx(0.2 * (0.5**0.5 - 0.9**0.5) ** 2, rel=1e-5)


def test_positions_weigh_about_as_much_as_the_supervised_loss(predictions: Pair, batch: Batch) -> None:
    """The line-of-sight loss pulls a vote off by more than 0.02 diameters with 1 / (B N K 3) per coordinate."""
    _, teacher = predictions
    off = votes_of(teacher).values.detach()[:, :10] + 0.5 * 0.03
    votes = Votes(off.requires_grad_(), torch.full((4, 10), 0.9).requires_grad_(), torch.ones(4, 10, dtype=torch.bool))
    by_position, _ = gradients((Prediction({}, votes), teacher), align()(Prediction({}, votes), teacher, batch))
    supervised = 1 / (4 * 10 * 8 * 3) / 0.5
    assert 0.5 < by_position.mean() / supervised < 2


def test_it_is_a_mean_over_images_with_both_sides(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    loss = align()
    whole = loss(student, teacher, batch)

    def keep(votes: Votes, rows: Any) -> Votes:
        return Votes(votes.values[rows], votes.weights[rows], votes.mask[rows])

    parts = []
    for row in range(4):
        rows = slice(row, row + 1)
        one = batch.select(rows)
        parts.append(
            loss(Prediction({}, keep(votes_of(student), rows)), Prediction({}, keep(votes_of(teacher), rows)), one)
        )
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    votes_of(teacher).mask[1] = False
    votes_of(student).weights = votes_of(student).weights * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None]
    torch.testing.assert_close(loss(student, teacher, batch), (parts[0] + parts[3]) / 2)


@pytest.mark.parametrize("options", [{}, {"coupled": True}, {"reach": None}, PUBLISHED])
def test_nothing_to_align_costs_nothing(predictions: Pair, batch: Batch, options: dict[str, Any]) -> None:
    student, teacher = predictions
    votes_of(teacher).mask[:] = False
    loss = align(**options)(student, teacher, batch)
    by_position, by_score = gradients(predictions, loss)
    assert loss == 0 and (by_position == 0).all() and (by_score == 0).all()


def test_padding_may_hold_anything(predictions: Pair, batch: Batch) -> None:
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


def test_the_published_form_takes_one_schedule_an_image(predictions: Pair, batch: Batch) -> None:
    student, teacher = (votes_of(prediction) for prediction in predictions)
    expected = []
    for x, a, y, b in zip(student.values, student.weights, teacher.values, teacher.weights, strict=True):
        problem = x.transpose(0, 1), a.expand(8, -1), y.transpose(0, 1), b.expand(8, -1)
        expected.append(sinkhorn_divergence(*problem, blur=0.001, reach=0.5, solver="faithful", group=8).value.mean())
    torch.testing.assert_close(align(**PUBLISHED)(*predictions, batch), torch.stack(expected).mean())


def test_trust_scales_images_or_votes(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    plain = align()(student, teacher, batch)
    scaled = align({"by": "score"})(student, teacher, batch)
    torch.testing.assert_close(scaled, 0.9 * plain)
    with torch.no_grad():
        votes_of(teacher).values[:, 0] += 0.3  # one cell is plainly wrong
    robust = align({"by": "error", "per": "vote"})(student, teacher, batch)
    assert robust < align()(student, teacher, batch)


def test_units(predictions: Pair, batch: Batch) -> None:
    """Objects are half a crop: lengths double, and with them blur and reach."""
    by_object = align(mass_weight=0.0)(*predictions, batch)
    by_crop = align(mass_weight=0.0, unit="crop", blur=0.01, reach=0.15)(*predictions, batch)
    torch.testing.assert_close(by_object, 4 * by_crop, rtol=1e-3, atol=0)


def coded(votes: Votes, bits: int = 16) -> Votes:
    """The same cells with surface codes for votes."""
    rng = torch.Generator().manual_seed(votes.values.shape[1])
    values = torch.rand(*votes.values.shape[:2], 1, bits, generator=rng)
    return Votes(values.requires_grad_(), votes.weights, votes.mask, votes.cells)


def test_codes_are_moved_as_whole_vectors(predictions: Pair, batch: Batch) -> None:
    """Against the divergence itself: mean squares over bits, and the squared distance of the cells."""
    x, y = (coded(votes_of(prediction)) for prediction in predictions)
    pair = Prediction({}, x), Prediction({}, y)
    loss = align(unit="code", place_weight=0.5, reach=1.0, mass_weight=0.0)(*pair, batch)
    points = []
    for votes in (x, y):
        assert votes.cells is not None
        number = torch.arange(votes.cells.shape[1]).expand(4, -1)  # in a grid of 8 x 8
        column, row = number % 8, number // 8
        places = 16 * torch.stack([column + 0.5, row + 0.5], -1) / 256
        points.append(torch.cat([votes.values.flatten(2) / 4, 0.5**0.5 * places], -1))
    a, b = torch.full((4, 10), 0.1), torch.full((4, 12), 1 / 12)
    expected = 10 * sinkhorn_divergence(points[0], a, points[1], b, blur=0.02, reach=1.0).value.mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    by_position, by_score = gradients(pair, loss)
    assert by_position.abs().amax((0, 1, 2)).min() > 0  # every bit learns
    assert y.values.grad is None and by_score.isfinite().all()


def test_places_tell_where_a_code_is_read(predictions: Pair, batch: Batch) -> None:
    """The same codes in other cells: equal as sets, but not in the picture."""
    teacher = coded(votes_of(predictions[1]))
    assert teacher.cells is not None
    student = Votes(teacher.values.flip(1), teacher.weights, teacher.mask, teacher.cells)
    pair = Prediction({}, student), Prediction({}, teacher)
    blind = align(unit="code", place_weight=0.0, blur=0.1)
    assert blind(*pair, batch).abs() < 1e-5
    assert align(unit="code", blur=0.1)(*pair, batch) > 1e-3
    student.cells = None
    assert blind(*pair, batch).abs() < 1e-5
    with pytest.raises(RecipeError, match="votes that tell no cells"):
        align(unit="code")(*pair, batch)


def test_cells_of_two_strides_share_one_picture() -> None:
    fine, coarse = (cell_places(cell_ids(stride, 32 // stride, 32 // stride), 32) for stride in (8, 16))
    torch.testing.assert_close(fine.view(4, 4, 2)[:2, :2].mean((0, 1)), coarse[0])


def test_coarse_bits_can_weigh_more(predictions: Pair, batch: Batch) -> None:
    """A wrong first bit against a wrong last one."""
    teacher = coded(votes_of(predictions[1]))
    losses = {}
    for bit in (0, 15):
        values = teacher.values.detach().clone()
        values[..., bit] = 1 - values[..., bit].round()
        pair = Prediction({}, Votes(values, teacher.weights, teacher.mask, teacher.cells)), Prediction({}, teacher)
        for decay in (1.0, 0.8):
            losses[bit, decay] = align(unit="code", reach=None, bit_decay=decay, place_weight=100.0)(*pair, batch)
    assert losses[0, 0.8] > 1.5 * losses[0, 1.0]
    assert losses[15, 0.8] < 0.5 * losses[15, 1.0]


def test_codes_have_no_object_unit(predictions: Pair, batch: Batch) -> None:
    pair = tuple(Prediction({}, coded(votes_of(prediction))) for prediction in predictions)
    with pytest.raises(RecipeError, match="image points, or unit: crop or code"):
        align()(*pair, batch)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reach": 0.01}, "reach"),
        ({"coupled": True, "reach": None}, "reach"),
        ({"place_weight": 1.0}, "unit: object, solver: converged has no use for place_weight"),
        ({"unit": "crop", "bit_decay": 0.9}, "has no use for bit_decay"),
        ({"unit": "code", "joint": True}, "has no use for joint"),
        ({"scaling": 0.9}, "has no use for scaling"),
        ({"solver": "faithful", "iterations": 40}, "solver: faithful has no use for iterations"),
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        align(**options)


def test_joint_keeps_the_corners_of_a_cell_together(predictions: Pair, batch: Batch) -> None:
    """Votes that swap single corners among the cells are the same clouds, but not the same votes."""
    teacher = votes_of(predictions[1])
    values = teacher.values.detach().clone()
    values[:, :, 0] = values[:, :, 0].flip(1)
    pair = Prediction({}, Votes(values, teacher.weights, teacher.mask)), Prediction({}, teacher)
    assert align()(*pair, batch).abs() < 1e-6
    assert align(joint=True)(*pair, batch) > 1e-4


def test_joint_has_the_scale_of_its_corners(predictions: Pair, batch: Batch) -> None:
    """All votes of all corners off by the same: the cost of moving them is that of one corner."""
    teacher = votes_of(predictions[1])
    shifted = Votes(teacher.values.detach() + 0.05, teacher.weights, teacher.mask)
    pair = Prediction({}, shifted), Prediction({}, teacher)
    options = {"reach": None, "mass_weight": 0.0}
    single, joint = (align(joint=joint, **options)(*pair, batch) for joint in (False, True))
    # Balanced, so that a shift by d costs d^2 / 2 whatever the clouds: 10 * (0.05 / 0.5)^2 in both coordinates.
    assert single.item() == pytest.approx(0.1, rel=1e-3)
    assert joint.item() == pytest.approx(0.1, rel=1e-3)


def test_balanced_transport_gives_up_no_vote(predictions: Pair, batch: Batch) -> None:
    """One vote far off pulls with its whole distance when balanced, and hardly at all beyond the reach."""
    with torch.no_grad():
        votes_of(predictions[0]).values[:, 0] += 1.0
    pulls = []
    for reach in (None, 0.3):
        by_position, _ = gradients(predictions, align(reach=reach, mass_weight=0.0)(*predictions, batch))
        pulls.append(by_position[:, 0].norm(dim=-1).mean())
    assert pulls[1] < 0.1 * pulls[0]


def test_unweighted_votes_forget_the_scores(predictions: Pair, batch: Batch) -> None:
    student, teacher = predictions
    rng = torch.Generator().manual_seed(5)
    before = align(measure="uniform")(student, teacher, batch)
    scored = align()(student, teacher, batch)
    votes_of(student).weights = torch.rand(4, 10, generator=rng).requires_grad_()
    after = align(measure="uniform")(student, teacher, batch)
    assert after == before and align()(student, teacher, batch) != scored
    assert gradients(predictions, after)[1].abs().max() == 0
    # Ten votes against twelve: no difference of masses either.
    assert align(measure="uniform", transport_weight=0.0)(student, teacher, batch) == 0


def test_one_image_is_a_batch(predictions: Pair, batch: Batch) -> None:
    one = batch.select(slice(1))
    pair = [
        Prediction({}, Votes(*(getattr(votes_of(p), n)[:1] for n in ("values", "weights", "mask"))))
        for p in predictions
    ]
    loss = align()(pair[0], pair[1], one)
    loss.backward()
    grad = votes_of(predictions[0]).values.grad
    assert loss > 0 and grad is not None and grad[0].abs().max() > 0 and (grad[1:] == 0).all()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("options", [{}, {"joint": True}, {"coupled": True}, {"measure": "uniform"}])
def test_no_vote_slots_at_all(predictions: Pair, batch: Batch, side: int, options: dict[str, Any]) -> None:
    votes = votes_of(predictions[side])
    predictions[side].votes = Votes(votes.values[:, :0], votes.weights[:, :0], votes.mask[:, :0])
    loss = align(**options)(*predictions, batch)
    assert loss == 0
    votes = votes_of(predictions[0])
    by_position = torch.autograd.grad(loss, votes.values)[0]
    assert by_position.shape == votes.values.shape and (by_position == 0).all()


@pytest.mark.parametrize("name", ["values", "weights"])
@pytest.mark.parametrize("options", [{}, {"coupled": True}, {"solver": "faithful"}])
def test_a_teacher_that_says_nan_is_told_by_the_loss(
    predictions: Pair, batch: Batch, name: str, options: dict[str, Any]
) -> None:
    """Training stops at a loss that is NaN; an image must not be left out in silence."""
    with torch.no_grad():
        getattr(votes_of(predictions[1]), name)[1, 2] = torch.nan
    assert align(**options)(*predictions, batch).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"joint": True}, {"solver": "faithful"}])
def test_half_precision_votes_are_compared_in_single(
    predictions: Pair, batch: Batch, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    votes = [votes_of(prediction) for prediction in predictions]
    halves = [Votes(v.values.detach().to(dtype), v.weights.detach().to(dtype), v.mask, v.cells) for v in votes]
    rounded = [Votes(v.values.float(), v.weights.float(), v.mask, v.cells) for v in halves]
    halves[0].values.requires_grad_()
    loss = align(**options)(Prediction({}, halves[0]), Prediction({}, halves[1]), batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, align(**options)(Prediction({}, rounded[0]), Prediction({}, rounded[1]), batch))
    loss.backward()
    grad = halves[0].values.grad
    assert grad is not None and grad.dtype == dtype and grad.isfinite().all() and grad.abs().max() > 0


def test_autocast_changes_nothing(predictions: Pair, batch: Batch) -> None:
    plain = align()(*predictions, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert align()(*predictions, batch) == plain


def test_a_transport_that_is_not_solved_is_told_once(
    predictions: Pair, batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    align()(*predictions, batch)
    assert not caplog.records
    loss = align(blur=1e-5, reach=None, iterations=2)
    for _ in range(2):
        loss(*predictions, batch)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "distill.align: the transport is not solved" in caplog.text
