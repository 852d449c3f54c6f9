import pytest
import torch
from torch import Tensor, nn

from posedistill.distill.adapters import (
    BatchNorm,
    Paraphraser,
    Statistics,
    Variational,
    adapter,
    published_adapter,
    translator,
)
from posedistill.distill.functional import maps


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_statistics_standardise_every_channel() -> None:
    raw = 1e3 + noise(8, 3, 4, 4) * torch.tensor([4.0, 5.0, 20.0])[:, None, None]
    standard = Statistics(raw)(raw)
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standard.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_a_channel_that_hardly_moves_is_not_blown_up() -> None:
    raw = noise(8, 2, 4, 4)
    raw[:, 1] = 0.5
    statistics = Statistics(raw)
    others = (raw[:, 0].var(correction=0) / 2).sqrt().item()
    assert statistics.spread.flatten()[1].item() == pytest.approx(0.1 * others, rel=1e-4)
    still = Statistics(torch.full((2, 3, 1, 1), 0.3))
    assert still(torch.full((2, 3, 1, 1), 0.3)).abs().max() < 0.1


def test_statistics_are_measured_once_and_kept() -> None:
    statistics, other = Statistics(noise(8, 3, 4, 4)), Statistics(7 * noise(8, 3, 4, 4, seed=1))
    before = statistics.state_dict()["spread"].clone()
    statistics(9 * noise(2, 3, 4, 4))
    assert statistics.spread.equal(before) and not list(statistics.parameters())
    other.load_state_dict(statistics.state_dict())
    assert other.mean.equal(statistics.mean)


def test_maps_that_come_out_of_a_relu_are_known() -> None:
    assert Statistics(noise(2, 3, 4, 4).relu()).rectified
    assert not Statistics(noise(2, 3, 4, 4)).rectified


def test_batch_norm_of_one_value() -> None:
    norm = BatchNorm(3)
    several = noise(4, 3, 2, 2)
    torch.testing.assert_close(norm(several), nn.BatchNorm2d(3)(several))
    single = noise(1, 3, 1, 1).requires_grad_()
    norm(single).sum().backward()
    assert single.grad is not None and (single.grad != 0).all()


def test_adapters() -> None:
    assert adapter(3, 5)(noise(2, 3, 4, 4)).shape == (2, 5, 4, 4)
    assert adapter(3, 5, norm=True, rectify=True)(noise(2, 3, 4, 4)).min() == 0
    assert isinstance(published_adapter(4, 4, rectify=True), nn.Identity)
    published = published_adapter(3, 5, rectify=True)
    assert [value.shape for value in published.parameters()] == [(5, 3, 1, 1)]
    assert published(noise(2, 3, 4, 4)).min() == 0 > published_adapter(3, 5, rectify=False)(noise(2, 3, 4, 4)).min()


def test_golden_value_of_vid() -> None:
    """Its three convolutions as identities, so that the ReLUs between them are all that happens."""
    positions = torch.arange(1, 17, dtype=torch.float64).reshape(2, 2, 2, 2)
    student, teacher = positions.sin().float(), positions.cos().float()
    predict = Variational(2, 2)
    for convolution in predict.mean:
        if isinstance(convolution, nn.Conv2d):
            nn.init.dirac_(convolution.weight)
    mean, variance = predict(student)
    torch.testing.assert_close(variance, torch.full((2,), 5.0))
    assert predict.alpha[0].item() == pytest.approx(4.99323, abs=1e-5)
    loss = maps.variational((mean, variance), teacher, torch.ones(2, 1, 2, 2)).mean()
    assert loss.item() == pytest.approx(0.885298, abs=1e-6)
    with torch.no_grad():
        predict.alpha.fill_(-1e4)
    assert predict(student)[1].min().item() == pytest.approx(1e-5)
    assert maps.variational(predict(student), teacher, torch.ones(2, 1, 2, 2)).isfinite().all()


def test_paraphraser_and_translator_meet_in_the_factor() -> None:
    factor, again = Paraphraser(6, 3)(noise(2, 6, 4, 5))
    assert factor.shape == (2, 3, 4, 5) == translator(4, 3)(noise(2, 4, 4, 5)).shape
    assert again.shape == (2, 6, 4, 5) and again.min() < 0 < again.max()
