import math

import pytest
import torch

from posedistill.training.schedule import AveragedWeights, learning_rate


def test_onecycle_golden_values():
    """A peak of 1 after 10 of 100 steps: 1/25 before, 4e-6 in the end, straight lines between."""
    expected = {0: 0.04, 5: 0.52, 10: 1.0, 55: 0.500002, 100: 4e-6, 120: 4e-6}
    for step, rate in expected.items():
        assert learning_rate(step, 100, 1.0, "onecycle", 0.1) == pytest.approx(rate, rel=1e-9)


def test_cosine_golden_values():
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 40: 0.75, 55: 0.5, 70: 0.25, 100: 0.0}
    for step, rate in expected.items():
        assert learning_rate(step, 100, 1.0, "cosine", 0.1) == pytest.approx(rate, abs=1e-12)


def test_drops_multiply_one_after_another():
    drops = [(0.0, 0.5), (0.3, 4.0), (0.6, 0.1)]
    expected = {0: 0.5, 29: 0.5, 30: 2.0, 59: 2.0, 60: 0.2, 100: 0.2}
    for step, rate in expected.items():
        assert learning_rate(step, 100, 1.0, "step", drops=drops) == pytest.approx(rate)
    assert learning_rate(99, 100, 1.0, "step", drops=[]) == 1.0


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_any_length_rises_once_and_falls(schedule, warmup, steps):
    rates = [learning_rate(step, steps, 2e-3, schedule, warmup) for step in range(steps + 1)]
    top = rates.index(max(rates))
    assert all(math.isfinite(rate) and 0 <= rate <= 2e-3 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_average_is_the_naive_loop():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = AveragedWeights(module, 0.8)
    expected = {name: value.clone().double() for name, value in module.state_dict().items()}
    for step in range(30):
        with torch.no_grad():
            for value in module.parameters():
                value.add_(torch.randn_like(value))
        module(torch.randn(4, 3))
        average.update(module, step)
        decay = min(0.8, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            mean = decay * expected[name] + (1 - decay) * value
            expected[name] = mean if value.is_floating_point() else value.clone()
    assert average.state.keys() == expected.keys()
    for name, value in average.state.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert average.state["1.num_batches_tracked"] == 30


def test_no_decay_follows_the_weights():
    module = torch.nn.Linear(3, 2)
    average = AveragedWeights(module, 0.0)
    torch.nn.init.normal_(module.weight)
    assert not torch.equal(average.state["weight"], module.weight)
    average.update(module, 0)
    assert torch.equal(average.state["weight"], module.weight)
