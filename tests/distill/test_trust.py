import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill.trust import (
    TrustSettings,
    annotated_keypoints,
    attentive_weights,
    image_trust,
    trust_weights,
)
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction, Votes


@pytest.fixture
def votes(batch: Batch) -> Votes:
    """Three exact votes; the last one is off by 0.05 diameters in image 1, by 2 diameters in image 2."""
    values = (batch.targets["keypoints"][:, None] / 256).repeat(1, 3, 1, 1)
    values[1, 2, :, 0] += 0.5 * 0.05
    values[2, 2, :, 0] += 0.5 * 2
    weights = torch.tensor([0.2, 0.6, 0.2]).repeat(4, 1)
    return Votes(values, weights, torch.ones(4, 3, dtype=torch.bool))


def test_none_trusts_all(batch: Batch, votes: Votes) -> None:
    images, single = trust_weights(TrustSettings(), votes, batch)
    assert (images == 1).all() and (single == 1).all()


def test_score(batch: Batch, votes: Votes) -> None:
    votes.mask[3, 1] = False
    images, single = trust_weights(TrustSettings(by="score"), votes, batch)
    torch.testing.assert_close(images, torch.tensor([0.6, 0.6, 0.6, 0.2]))
    assert (single == 1).all()
    images, single = trust_weights(TrustSettings(by="score", per="vote"), votes, batch)
    assert (images == 1).all()
    torch.testing.assert_close(single[0], torch.tensor([0.2, 0.6, 0.2]))


def test_error_falls_to_zero_at_the_limit_and_stays_there(batch: Batch, votes: Votes) -> None:
    _, single = trust_weights(TrustSettings(by="error", per="vote"), votes, batch)
    torch.testing.assert_close(single[:, 2], torch.tensor([1.0, 0.5, 0.0, 1.0]), atol=1e-4, rtol=0)
    images, _ = trust_weights(TrustSettings(by="error"), votes, batch)
    torch.testing.assert_close(images, torch.tensor([1.0, 0.9, 0.0, 1.0]), atol=1e-4, rtol=0)
    images, _ = trust_weights(TrustSettings(by="error", floor=0.3), votes, batch)
    torch.testing.assert_close(images[2], torch.tensor(0.3))


def test_masked_votes_may_hold_anything(batch: Batch, votes: Votes) -> None:
    votes.mask[:, 2] = False
    votes.values[:, 2] = torch.nan
    votes.weights[:, 2] = torch.nan
    for per in ("image", "vote"):
        images, single = trust_weights(TrustSettings(by="error", per=per), votes, batch)  # type: ignore[arg-type]
        assert images.isfinite().all() and single.isfinite().all()
        torch.testing.assert_close(images, torch.ones(4), atol=1e-4, rtol=0)


def test_error_needs_votes_for_the_annotated_keypoints(batch: Batch, votes: Votes) -> None:
    codes = Votes(votes.values.reshape(4, 3, 1, 16), votes.weights, votes.mask)
    with pytest.raises(RecipeError, match="annotated keypoints"):
        trust_weights(TrustSettings(by="error"), codes, batch)


def attentive(errors: Tensor, eta: str, counted: Tensor | None = None) -> Tensor:
    return attentive_weights(errors, TrustSettings(by="error", eta=eta), counted)  # type: ignore[arg-type]


def test_the_published_range_is_that_of_the_squared_errors_and_stays_positive() -> None:
    """1 - e / (max e - min e) of e = 1, 4, 16, 25 is below zero for the last one."""
    weights = attentive(torch.tensor([1.0, 2.0, 4.0, 5.0]), "faithful")
    torch.testing.assert_close(weights, torch.tensor([1 - 1 / 24, 1 - 4 / 24, 1 - 16 / 24, 0.0]))


def test_an_outlier_decides_the_published_range_but_not_the_percentile() -> None:
    errors = torch.linspace(0, 1, 40)
    spoilt = errors.clone()
    spoilt[-1] = 100
    assert attentive(spoilt, "faithful")[:39].min() > 0.999
    apart = (attentive(spoilt, "percentile") - attentive(errors, "percentile"))[:39].abs().max()
    assert apart < 0.01
    torch.testing.assert_close(attentive(errors, "percentile")[19], 1 - errors[19] / errors.quantile(0.95))


def test_the_percentile_is_of_what_counts() -> None:
    errors, counted = torch.tensor([[0.5, 0.1, torch.nan], [0.9, 77.0, 0.3]]), torch.ones(2, 3, dtype=torch.bool)
    counted[0, 2] = counted[1, 1] = False
    valid = errors[counted]
    expected = (1 - (valid - 0.1) / (valid.quantile(0.95) - 0.1)).clamp(0, 1)
    torch.testing.assert_close(attentive(errors, "percentile", counted)[counted], expected)


@pytest.mark.parametrize("eta", ["percentile", "faithful"])
@pytest.mark.parametrize("errors", [torch.tensor([0.3]), torch.full((4,), 0.3), torch.zeros(4)])
def test_equal_errors_are_trusted_alike(eta: str, errors: Tensor) -> None:
    assert attentive(errors, eta).eq(1).all()
    assert attentive(errors, eta, torch.zeros_like(errors, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("eta", ["percentile", "faithful"])
@pytest.mark.parametrize("per", ["image", "vote"])
def test_the_range_of_a_batch_ranks_images_or_votes(batch: Batch, votes: Votes, eta: str, per: str) -> None:
    settings = TrustSettings(by="error", eta=eta, per=per)  # type: ignore[arg-type]
    images, single = trust_weights(settings, votes, batch)
    if per == "image":
        torch.testing.assert_close(images[[0, 2, 3]], torch.tensor([1.0, 0.0, 1.0]))
        assert (single == 1).all()
        assert 0.9 < images[1] < 1
    else:
        assert single[0, 0] == 1 and single[2, 2] == 0 and (images == 1).all()


def test_an_image_without_votes_says_nothing_of_the_range(batch: Batch, votes: Votes) -> None:
    settings = TrustSettings(by="error", eta="percentile")
    votes.values[2, 2, :, 0] -= 0.5 * 1.8
    before, _ = trust_weights(settings, votes, batch)
    assert 0 < before[1] < 1
    votes.mask[0] = False
    after, _ = trust_weights(settings, votes, batch)
    torch.testing.assert_close(after[1], before[1], atol=0.02, rtol=0)
    votes.mask[:] = False
    assert trust_weights(settings, votes, batch)[0].isfinite().all()


def test_padding_says_nothing_of_the_range(batch: Batch, votes: Votes) -> None:
    votes.values[2, 2, :, 0] -= 0.5 * 1.92  # 0.08 diameters off, the farthest of all
    votes.mask[0, 0] = False
    settings = TrustSettings(by="error", eta="faithful", per="vote")
    _, single = trust_weights(settings, votes, batch)
    torch.testing.assert_close(single[1:3, 2], torch.tensor([1 - (5 / 8) ** 2, 0.0]), atol=1e-4, rtol=0)


def test_images_are_trusted_by_their_votes(batch: Batch, votes: Votes) -> None:
    teacher = Prediction({}, votes, logits={"class": torch.zeros(4, 2)})
    assert image_trust(TrustSettings(), teacher, batch).eq(1).all()
    assert image_trust(TrustSettings(by="score", per="vote"), teacher, batch).eq(0.6).all()
    by_error = image_trust(TrustSettings(by="error"), teacher, batch)
    torch.testing.assert_close(by_error, torch.tensor([1.0, 0.9, 0.0, 1.0]), atol=1e-4, rtol=0)


def test_classifiers_are_trusted_by_their_top_probability(batch: Batch) -> None:
    sure, unsure = torch.tensor([[0.0, 50.0]]).expand(4, 2), torch.zeros(4, 2)
    heads = {"azimuth": sure, "roll": unsure, "mask": torch.zeros(4, 1, 2, 2)}
    trusted = image_trust(TrustSettings(by="score"), Prediction({}, logits=heads), batch)
    torch.testing.assert_close(trusted, torch.full((4,), 0.75))
    dense = {"code": torch.stack([sure, unsure], 2)}
    torch.testing.assert_close(image_trust(TrustSettings(by="score"), Prediction({}, logits=dense), batch), trusted)
    with pytest.raises(RecipeError, match="logits of at least two classes"):
        image_trust(TrustSettings(by="score"), Prediction({}, logits={"mask": heads["mask"]}), batch)


def test_regressors_are_trusted_by_their_error() -> None:
    scenes = Batch.single(
        torch.zeros(3, 3, 8, 8), torch.zeros(3, 3, 3), torch.zeros(3, 3, 3), torch.zeros(3, 3), torch.arange(3)
    )
    off = torch.zeros(3, 7)
    off[1, 0], off[2, :2] = 0.05, torch.tensor([3.0, 4.0])
    teacher = Prediction({}, regression=off.bfloat16().requires_grad_(), regression_truth=torch.zeros(3, 7))
    trusted = image_trust(TrustSettings(by="error", floor=0.1), teacher, scenes)
    torch.testing.assert_close(trusted, torch.tensor([1.0, 0.5, 0.1]), atol=2e-3, rtol=0)
    assert not trusted.requires_grad
    trusted = image_trust(TrustSettings(by="error", eta="faithful"), teacher, scenes)
    torch.testing.assert_close(trusted, torch.tensor([1.0, 0.9999, 0.0]), atol=1e-5, rtol=0)
    teacher.regression_truth = None
    with pytest.raises(RecipeError, match="votes, or regression with its truth"):
        image_trust(TrustSettings(by="error"), teacher, scenes)


def test_ensembles_are_trusted_where_they_agree(batch: Batch, votes: Votes) -> None:
    settings, spread = TrustSettings(by="spread", floor=0.2), torch.tensor([0.0, 0.1, 9.0, torch.nan])
    expected = torch.tensor([1.0, torch.tensor(-1.0).exp().item(), 0.2, 0.2])
    torch.testing.assert_close(image_trust(settings, Prediction({}, spread=spread), batch), expected)
    images, single = trust_weights(settings, votes, batch, spread)
    torch.testing.assert_close(images, expected)
    assert (single == 1).all()
    for asked in (lambda: image_trust(settings, Prediction({}, votes), batch), lambda: _alone(settings, votes, batch)):
        with pytest.raises(RecipeError, match="an ensemble"):
            asked()


def _alone(settings: TrustSettings, votes: Votes, batch: Batch) -> tuple[Tensor, Tensor]:
    return trust_weights(settings, votes, batch)


@pytest.mark.parametrize("settings", [{"by": "spread", "per": "vote"}, {"by": "score", "eta": "percentile"}])
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TrustSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["score", "error"])
@pytest.mark.parametrize("per", ["image", "vote"])
def test_no_gradient_reaches_the_teacher_through_trust(batch: Batch, votes: Votes, by: str, per: str) -> None:
    votes.values.requires_grad_()
    votes.weights.requires_grad_()
    for weights in trust_weights(TrustSettings(by=by, per=per), votes, batch):  # type: ignore[arg-type]
        assert not weights.requires_grad


def test_nine_points_are_the_origin_and_the_corners(batch: Batch, votes: Votes) -> None:
    batch.t = batch.t + torch.tensor([10.0, -5.0, 0.0])
    origins = batch.box_centers("test") / batch.images.shape[-1]
    expected = torch.tensor([0.5 + 500 * 10 / 507.8125 / 256, 0.5 - 500 * 5 / 507.8125 / 256])
    torch.testing.assert_close(origins, expected.expand(4, 2))
    nine = Votes(torch.zeros(4, 3, 9, 2), votes.weights, votes.mask)
    truth = annotated_keypoints(batch, nine)
    torch.testing.assert_close(truth[:, 0], origins)
    torch.testing.assert_close(truth[:, 1:], annotated_keypoints(batch, votes))
