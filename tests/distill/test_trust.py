import pytest
import torch

from posedistill.data.batch import ObjectBatch
from posedistill.distill.base import object_sizes
from posedistill.distill.trust import TrustSettings, trust_weights
from posedistill.errors import RecipeError
from posedistill.estimators.base import Votes


@pytest.fixture
def votes(batch: ObjectBatch) -> Votes:
    """Three exact votes; the last one is off by 0.05 diameters in image 1, by 2 diameters in image 2."""
    values = (batch.keypoints[:, None] / 256).repeat(1, 3, 1, 1)
    values[1, 2, :, 0] += 0.5 * 0.05
    values[2, 2, :, 0] += 0.5 * 2
    weights = torch.tensor([0.2, 0.6, 0.2]).repeat(4, 1)
    return Votes(values, weights, torch.ones(4, 3, dtype=torch.bool))


def test_none_trusts_all(batch: ObjectBatch, votes: Votes) -> None:
    images, single = trust_weights(TrustSettings(), votes, batch, object_sizes(batch))
    assert (images == 1).all() and (single == 1).all()


def test_score(batch: ObjectBatch, votes: Votes) -> None:
    votes.mask[3, 1] = False
    images, single = trust_weights(TrustSettings(by="score"), votes, batch, object_sizes(batch))
    torch.testing.assert_close(images, torch.tensor([0.6, 0.6, 0.6, 0.2]))
    assert (single == 1).all()
    images, single = trust_weights(TrustSettings(by="score", per="vote"), votes, batch, object_sizes(batch))
    assert (images == 1).all()
    torch.testing.assert_close(single[0], torch.tensor([0.2, 0.6, 0.2]))


def test_error_falls_to_zero_at_the_limit_and_stays_there(batch: ObjectBatch, votes: Votes) -> None:
    sizes = object_sizes(batch)
    _, single = trust_weights(TrustSettings(by="error", per="vote"), votes, batch, sizes)
    torch.testing.assert_close(single[:, 2], torch.tensor([1.0, 0.5, 0.0, 1.0]), atol=1e-4, rtol=0)
    images, _ = trust_weights(TrustSettings(by="error"), votes, batch, sizes)
    torch.testing.assert_close(images, torch.tensor([1.0, 0.9, 0.0, 1.0]), atol=1e-4, rtol=0)
    images, _ = trust_weights(TrustSettings(by="error", floor=0.3), votes, batch, sizes)
    torch.testing.assert_close(images[2], torch.tensor(0.3))


def test_masked_votes_may_hold_anything(batch: ObjectBatch, votes: Votes) -> None:
    votes.mask[:, 2] = False
    votes.values[:, 2] = torch.nan
    votes.weights[:, 2] = torch.nan
    for per in ("image", "vote"):
        images, single = trust_weights(TrustSettings(by="error", per=per), votes, batch, object_sizes(batch))  # type: ignore[arg-type]
        assert images.isfinite().all() and single.isfinite().all()
        torch.testing.assert_close(images, torch.ones(4), atol=1e-4, rtol=0)


def test_error_needs_votes_for_the_annotated_keypoints(batch: ObjectBatch, votes: Votes) -> None:
    codes = Votes(votes.values.reshape(4, 3, 1, 16), votes.weights, votes.mask)
    with pytest.raises(RecipeError, match="annotated keypoints"):
        trust_weights(TrustSettings(by="error"), codes, batch, object_sizes(batch))
