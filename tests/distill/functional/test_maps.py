"""Golden values are those of the public implementations, on sines and cosines; ours differ by their own counts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill.functional import maps
from posedistill.errors import RecipeError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "hint": maps.hint,
    "smooth_l1": lambda s, t, w: maps.hint(s, t, w, "smooth_l1"),
    "cosine": lambda s, t, w: maps.hint(s, t, w, "cosine"),
    "channel_kl": lambda s, t, w: maps.hint(s, t, w, "channel_kl"),
    "attention_transfer": maps.attention_transfer,
    "factor_transfer": maps.factor_transfer,
    "variational": lambda s, t, w: maps.variational((s, torch.ones(t.shape[1])), t, w),
    "attention_guided": lambda s, t, w: maps.attention_guided(s, t, w, 0.5),
    "relations": lambda s, t, w: maps.hint(maps.relations(s, w, 0.5), maps.relations(t, w, 0.5), w),
    "solution_flow": lambda s, t, w: maps.flow_distance(maps.flow(s, s, w), maps.flow(t, t, w), relative=True),
    "neuron_selectivity": maps.neuron_selectivity,
}
"""All with minimum 0 at equal maps."""
ALL = {**LOSSES, "activation_boundary": maps.activation_boundary}
ANY_WIDTH = ("attention_transfer", "factor_transfer", "neuron_selectivity")


def waves(*shape: int, first: int = 1) -> tuple[Tensor, Tensor]:
    """The student's map of sines and the teacher's of cosines of 1, 2, 3, ..."""
    positions = torch.arange(first, first + math.prod(shape), dtype=torch.float64).reshape(shape)
    return positions.sin().float(), positions.cos().float()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ones(like: Tensor) -> Tensor:
    return torch.ones(len(like), 1, *like.shape[2:])


@pytest.mark.parametrize(
    ("loss", "published", "expected"),
    [
        (maps.attention_transfer, 1 / 4, 0.199362),  # the mean over H * W positions
        (maps.factor_transfer, 1 / 2, 0.431733),  # over maps of unit length
        (maps.neuron_selectivity, 1, 0.809998),
        (maps.activation_boundary, 8 * 3 / 1000, 0.040067),  # the sum over C * H * W, times 3 / 1000
    ],
)
def test_golden_values_of_maps(loss: Loss, published: float, expected: float) -> None:
    student, teacher = waves(2, 2, 2, 2)
    assert published * loss(student, teacher, ones(student)).mean().item() == pytest.approx(expected, abs=1e-6)


def test_golden_value_of_the_hint() -> None:
    student, teacher = (vectors[:, :, None, None] for vectors in waves(4, 3))
    assert maps.hint(student, teacher, ones(student)).mean().item() == pytest.approx(1.022327, abs=1e-6)


def test_golden_value_of_the_flow() -> None:
    pairs = zip(waves(2, 2, 2, 2), waves(2, 3, 2, 2, first=2), strict=True)
    flows = [maps.flow(first, second, torch.ones(2, 1, 2, 2)) for first, second in pairs]
    assert maps.flow_distance(*flows).mean().item() == pytest.approx(0.023684, abs=1e-6)


def test_golden_value_of_the_channels_divergence() -> None:
    """The published one sums over positions: ours times H * W."""
    student, teacher = waves(2, 3, 2, 2)
    normalise = torch.nn.functional.normalize
    expected = torch.nn.functional.kl_div(
        normalise(student).log_softmax(1), normalise(teacher).softmax(1), reduction="batchmean"
    )
    ours = 4 * maps.hint(student, teacher, ones(student), "channel_kl").mean()
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_both_ways_to_the_selectivity_agree() -> None:
    """Few channels on many positions are summed in pairs; their definition, by hand, is a third way."""
    student, teacher = noise(2, 3, 4, 5), noise(2, 4, 4, 5, seed=1)
    a, b = (torch.nn.functional.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    wide = [x.repeat(1, 8, 1, 1) for x in (student, teacher)]  # the same means over pairs, by the other way

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bip,bjp->bij", x, y).square().mean((1, 2))

    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    torch.testing.assert_close(maps.neuron_selectivity(student, teacher, ones(student)), expected)
    torch.testing.assert_close(maps.neuron_selectivity(wide[0], wide[1], ones(student)), expected)


def test_masks_of_attention_by_hand() -> None:
    maps_ = torch.tensor([[[[1.0, -3.0]], [[2.0, 0.0]]]])  # two channels on 1 x 2 positions
    places, channels = maps.attention_masks(maps_, torch.ones(1, 1, 1, 2), 0.5)
    torch.testing.assert_close(places.flatten(), torch.full((2,), 1.0))  # magnitudes 1.5 and 1.5
    weights = torch.tensor([4.0, 2.0]).exp()  # magnitudes 2 and 1, divided by 0.5
    torch.testing.assert_close(channels.flatten(), 2 * weights / weights.sum())
    zeros = torch.zeros_like(maps_)
    guided = maps.attention_guided(zeros, maps_, torch.ones(1, 1, 1, 2), 0.5)
    mean = (channels + 1) / 2  # the student attends to all channels alike
    torch.testing.assert_close(guided, (mean * maps_.square()).mean()[None])


def test_relations_by_hand() -> None:
    """Two orthogonal positions and one equal to the first; each becomes its neighbours' mean."""
    maps_ = torch.tensor([[[[2.0, 0.0, 4.0]], [[0.0, 3.0, 0.0]]]])
    related = maps.relations(maps_, torch.ones(1, 1, 1, 3), 0.5)
    shares = torch.tensor([2.0, 0.0, 2.0]).exp()
    shares /= shares.sum()
    torch.testing.assert_close(related[0, :, 0, 0], maps_[0, :, 0] @ shares, atol=1e-5, rtol=0)
    assert maps.relations(noise(1, 2, 40, 24), torch.ones(1, 1, 40, 24), 0.5).shape == (1, 2, 16, 16)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_maps_cost_nothing_and_others_do(name: str) -> None:
    student, teacher = noise(3, 4, 3, 5).requires_grad_(), noise(3, 4, 3, 5, seed=1)
    weights = ones(student)
    loss = LOSSES[name](student, student.detach().clone(), weights)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, torch.zeros(3), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.abs().max() < 1e-4
    assert (LOSSES[name](student, teacher, weights) > 1e-4).all()


def test_boundaries_cost_nothing_beyond_the_margin() -> None:
    teacher = noise(2, 3, 4, 4)
    far = teacher.sign() * (1 + noise(2, 3, 4, 4, seed=1).abs())
    assert (maps.activation_boundary(far, teacher, ones(teacher)) == 0).all()
    assert maps.activation_boundary(teacher, teacher, ones(teacher)).min() > 0
    torch.testing.assert_close(
        maps.activation_boundary(-far, teacher, ones(teacher)), (1 + far.abs()).square().mean((1, 2, 3))
    )


def test_the_least_of_the_likelihood_is_at_the_error_squared() -> None:
    student, teacher = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    error = (student - teacher).square().mean((0, 2, 3))
    at, off = (maps.variational((student, k * error), teacher, ones(student)).mean() for k in (1.0, 1.2))
    torch.testing.assert_close(at, (1 + error.log()).mean() / 2)
    assert at < off


@pytest.mark.parametrize("name", ALL)
def test_images_do_not_meet(name: str) -> None:
    student, teacher = noise(4, 3, 3, 3), noise(4, 3, 3, 3, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    losses = ALL[name](student, teacher, ones(student))
    torch.testing.assert_close(ALL[name](student[order], teacher[order], ones(student)), losses[order])
    torch.testing.assert_close(ALL[name](student[:1], teacher[:1], ones(student)[:1]), losses[:1])


@pytest.mark.parametrize("name", ALL)
def test_weights_hold_for_any_resolution(name: str) -> None:
    """Each position as a block of 2 x 2: the same loss."""
    student, teacher = noise(2, 6, 2, 3), noise(2, 6, 2, 3, seed=1)
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]
    expected = ALL[name](student, teacher, ones(student))
    torch.testing.assert_close(ALL[name](large[0], large[1], ones(large[0])), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_what_has_no_weight_does_not_count(name: str) -> None:
    student, teacher = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1)
    weights = ones(student)
    weights[:, :, :2] = 0
    weights[:, :, 2:] = 2
    loss = ALL[name](student, teacher, weights)
    cut = ALL[name](student[:, :, 2:], teacher[:, :, 2:], torch.ones(2, 1, 2, 4))
    torch.testing.assert_close(loss, cut)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient[:, :, :2].abs().max() < 1e-9 < 1e-4 < gradient[:, :, 2:].abs().max()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", ["zeros", "constant", "tiny", "unseen", "large"])
def test_degenerate_maps_stay_finite(name: str, case: str) -> None:
    teacher = noise(2, 3, 4, 4)
    student = {
        "zeros": torch.zeros_like(teacher),
        "constant": torch.ones_like(teacher),
        "tiny": 1e-20 * noise(2, 3, 4, 4, seed=1),
        "unseen": noise(2, 3, 4, 4, seed=1),
        "large": 1e4 * teacher,
    }[case].requires_grad_()
    weights = torch.zeros(2, 1, 4, 4) if case == "unseen" else ones(teacher)
    for target in (teacher, torch.zeros_like(teacher)):
        loss = ALL[name](student, target, weights)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", ANY_WIDTH)
def test_widths_may_differ(name: str) -> None:
    student, teacher = noise(2, 3, 4, 4), noise(2, 7, 4, 4, seed=1)
    assert ALL[name](student, teacher, ones(student)).isfinite().all()


def test_larger_maps_are_averaged_and_the_teacher_learns_nothing() -> None:
    student, teacher = noise(2, 3, 8, 4).bfloat16().requires_grad_(), noise(2, 5, 4, 6).requires_grad_()
    ours, theirs = maps.aligned(student, teacher)
    assert ours.shape == (2, 3, 4, 4) and theirs.shape == (2, 5, 4, 4) and ours.dtype == torch.float32
    torch.testing.assert_close(ours[:, :, 0, 0], student[:, :, :2, 0].float().mean(2))
    assert ours.requires_grad and not theirs.requires_grad
    with pytest.raises(RecipeError, match=r"\[2, 3\], teacher map \[2, 5, 4, 6\].*expected maps \[B, C, H, W\]"):
        maps.aligned(noise(2, 3), teacher)
    with pytest.raises(RecipeError, match="of the same images"):
        maps.aligned(noise(3, 3, 4, 4), teacher)


def test_weights_are_the_objects_share_of_a_position(batch: Batch) -> None:
    batch.targets["masks"][0] = False
    batch.targets["masks"][0, :96, :64] = True  # a quarter of the width, one and a half cells high
    batch.targets["masks"][1] = False
    weights = maps.position_weights(batch, (4, 4), "object")
    assert weights.shape == (4, 1, 4, 4)
    expected = torch.zeros(4, 4)
    expected[0, 0], expected[1, 0] = 16 / 1.5, 8 / 1.5
    torch.testing.assert_close(weights[0, 0], expected)
    assert (weights[1] == 0).all() and (weights[2:] == 1).all()
    assert (maps.position_weights(batch, (2, 3), "all") == torch.ones(4, 1, 2, 3)).all()


def test_all_instances_of_a_picture_count_once(batch: Batch) -> None:
    """Four instances in two pictures; where two of them meet, the place is theirs once."""
    batch.picture, batch.images = torch.tensor([0, 0, 1, 1]), batch.images[:2]
    batch.targets["masks"][:] = False
    batch.targets["masks"][0, :, :128] = True
    batch.targets["masks"][1, :, 64:192] = True
    weights = maps.position_weights(batch, (1, 4), "object")
    assert weights.shape == (2, 1, 1, 4)
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor([4.0, 4.0, 4.0, 0.0]) / 3)
    assert (weights[1] == 0).all()


def test_scenes_have_no_object_region(batch: Batch) -> None:
    scene = Batch.single(batch.images, batch.K, batch.R, batch.t, batch.ids)
    assert maps.position_weights(scene, (2, 2), "all").shape == (4, 1, 2, 2)
    with pytest.raises(RecipeError, match=r"region: object.*no targets, expected the target 'masks'"):
        maps.position_weights(scene, (2, 2), "object")
