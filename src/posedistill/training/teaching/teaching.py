"""Teaching: a teacher, the losses a student learns from it by, and what these losses learn themselves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, Example
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.views import Prediction
from posedistill.training.checkpoints import load_strictly, section
from posedistill.training.teaching.teachers import Teacher, all_finite


@dataclass
class Teaching:
    """A teacher, what is learned from it, and its pictures.

    ``training_pictures`` yields each once, not augmented, for a distiller that stores what the teacher makes of them;
    there are ``picture_count`` of them. ``origin`` names the teacher to people. Without ``supervised`` the student
    learns from the teacher alone. Before step ``switch`` only losses of the first phase are active, and no labels.
    """

    teacher: Teacher
    distillers: Sequence[Distiller]
    training_pictures: Callable[[], Iterator[Batch]] = lambda: iter(())
    picture_count: int = 0
    origin: str = "the teacher"
    supervised: bool = True
    switch: int = 0
    _reached: list[bool] = field(default_factory=list, init=False)
    """Of the student's parameters, which the losses of the first phase teach."""
    _frozen: bool = field(default=False, init=False)
    _sound: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.bool), init=False)

    def predict(self, batch: Batch, step: int) -> Prediction:
        """What the teacher says of a step; whether all of it is finite is kept for :meth:`sound`."""
        taught = self.teacher.predict(batch, step)
        finite = all_finite(taught)
        self._sound = self._sound.to(finite.device) & finite
        return taught

    def active(self, step: int) -> list[Distiller]:
        """The losses of a step."""
        phase = "first" if step < self.switch else "whole"
        return [distiller for distiller in self.distillers if distiller.phase == phase]

    def labelled(self, step: int) -> bool:
        """Whether the student learns from labels in a step."""
        return self.supervised and step >= self.switch

    def rest(self, estimator: Estimator, step: int) -> None:
        """After the first phase, freeze what its losses have taught: weights, and statistics of norms.

        Which those are follows from the networks alone, so a resumed training freezes the same.
        """
        frozen = 0 < self.switch <= step
        if frozen != self._frozen:
            for parameter, reached in zip(estimator.parameters(), self._reached, strict=True):
                if reached:
                    parameter.requires_grad_(not frozen)
            self._frozen = frozen
        if not frozen:
            return
        for module in estimator.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def sound(self) -> bool:
        """Whether the teacher has said nothing but finite numbers so far."""
        return bool(self._sound)

    def prepare(self, estimator: Estimator, batch: Batch) -> None:
        """Let the distillers build what they learn or store, from one batch as both networks see it."""
        if not self.distillers:
            return
        training = estimator.training
        with torch.no_grad():
            student = estimator.eval()(batch)
        estimator.train(training)

        def training_pictures() -> Iterator[tuple[Prediction, Batch]]:
            for pictures in self.training_pictures():
                yield self.teacher.predict(pictures, step=-1), pictures

        taught = self.teacher.predict(batch, step=-1)
        self._refuse_other_units(student, taught)
        example = Example(student, taught, batch, training_pictures, self.picture_count)
        for distiller in self.distillers:
            distiller.prepare(example)
            distiller.to(batch.images.device)
        if self.switch:
            self._reached = self._taught_first(estimator.eval(), taught, batch)
            estimator.train(training)
            self._refuse_nothing_left(estimator)

    def _refuse_other_units(self, student: Prediction, taught: Prediction) -> None:
        """Two regressors that measure the same poses in other units, or from elsewhere, cannot be compared."""
        ours, theirs = student.regression_truth, taught.regression_truth
        compared = any("regression" in distiller.needs for distiller in self.distillers)
        if not compared or ours is None or theirs is None or ours.shape != theirs.shape:
            return
        if not torch.allclose(ours.float(), theirs.float(), atol=1e-2):
            found = f"{self.origin}: numbers {float((ours - theirs).abs().max()):.3g} off for the same poses"
            expected = "the student's units: the same normalise, and the same training frames (data, seed)"
            raise RecipeError(describe("recipe", "teacher", found, expected))

    def _refuse_nothing_left(self, estimator: Estimator) -> None:
        """Two phases need something to train in the second, and something to train it by."""
        network = {id(parameter) for parameter in estimator.network.parameters() if parameter.requires_grad}
        hits = [
            hit
            for parameter, hit in zip(estimator.parameters(), self._reached, strict=True)
            if id(parameter) in network
        ]
        if all(hits) or not any(hits):
            found = "losses that teach the whole network" if all(hits) else "losses of frozen layers alone"
            raise RecipeError(describe("recipe", "distill.phase: first", found, "hints on maps below the outputs"))
        if not (self.supervised or self.active(self.switch)):
            found, expected = "nothing to learn from after the first phase", "labels, or a loss without phase: first"
            raise RecipeError(describe("recipe", "distill.phase", found, expected))

    def _taught_first(self, estimator: Estimator, taught: Prediction, batch: Batch) -> list[bool]:
        """Which of the estimator's parameters the losses of the first phase teach."""
        prediction = estimator(batch)
        total = torch.stack([loss(prediction, taught, batch) for loss in self.active(0)]).sum()
        if not total.requires_grad:  # frozen layers, compared without an adapter
            return [False for _ in estimator.parameters()]
        trained = [parameter for parameter in estimator.parameters() if parameter.requires_grad]
        gradients = iter(torch.autograd.grad(total, trained, allow_unused=True))
        return [parameter.requires_grad and next(gradients) is not None for parameter in estimator.parameters()]

    def state(self) -> dict[str, Tensor]:
        """What the distillers have learned, by name."""
        return {
            f"distill.{number}.{name}": value
            for number, distiller in enumerate(self.distillers)
            for name, value in distiller.state_dict().items()
        }

    def restore(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Put back what :meth:`state` took."""
        for number, distiller in enumerate(self.distillers):
            load_strictly(distiller, section(tensors, f"distill.{number}."), path)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is learned beside the student, to its advantage alone: adapters, projectors."""
        return [value for distiller in self.distillers for value in distiller.parameters() if value.requires_grad]
