"""Learning rates and averaged weights: both functions of the step alone, so that a resumed run goes on exactly."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    schedule: Literal["onecycle", "cosine", "step"] = "onecycle",
    warmup: float = 0.05,
    drops: Sequence[tuple[float, float]] = ((0.7, 0.1),),
) -> float:
    """The rate at a step.

    ``onecycle`` rises linearly from peak / 25, then falls linearly to peak / 25e4 (Smith & Topin 2019, the published
    schedule); ``cosine`` rises linearly from 0 and falls along a half cosine to 0; ``step`` is the peak, times the
    factor of each of ``drops`` whose share of the steps is over.

    >>> learning_rate(0, 1000, 1e-3)
    4e-05
    >>> learning_rate(50, 1000, 1e-3)
    0.001
    >>> learning_rate(699, 1000, 1e-3, "step"), learning_rate(700, 1000, 1e-3, "step")
    (0.001, 0.0001)
    """
    if schedule == "step":
        return peak * math.prod(factor for share, factor in drops if step >= round(share * steps))
    rise = max(1, round(warmup * steps))
    low, end = (peak / 25, peak / 25e4) if schedule == "onecycle" else (0.0, 0.0)
    if step < rise:
        return low + (peak - low) * step / rise
    progress = min(1.0, (step - rise) / max(1, steps - rise))
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return peak + (end - peak) * progress


class AveragedWeights:
    """Exponential moving average of a module's parameters and floating-point buffers (Polyak averaging).

    The decay warms up as (1 + n) / (10 + n), so that the average forgets the initial weights in short runs too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's weights after optimiser step number ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = module.state_dict()
        floats = [name for name, value in self.state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[n] for n in floats], [current[n] for n in floats], 1 - decay)
        for name in self.state.keys() - set(floats):
            self.state[name].copy_(current[name])
