"""Whatever can teach: it turns the batch of a step into a Prediction, and says which views that carries."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from posedistill.data.batch import Batch
from posedistill.estimators.base import Estimator, Prediction

Autocast = Callable[[], AbstractContextManager[Any]]


class Teacher(Protocol):
    """What the loop asks of a teacher."""

    @property
    def offers(self) -> frozenset[str]:
        """The views its predictions carry."""
        ...

    def predict(self, batch: Batch, step: int) -> Prediction:
        """Predict on the batch of a training step (the same pixels as the student sees), without gradients."""
        ...


class NetworkTeacher:
    """A frozen network in eval mode."""

    def __init__(self, estimator: Estimator, device: torch.device, autocast: Autocast = nullcontext) -> None:
        self.estimator = estimator.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
        self._autocast = autocast

    @property
    def offers(self) -> frozenset[str]:
        """Those of its family."""
        return self.estimator.offers

    @torch.no_grad()
    def predict(self, batch: Batch, step: int) -> Prediction:
        """One pass of the network."""
        with self._autocast():
            return self.estimator(batch)  # type: ignore[no-any-return]
