"""One step of a training, the same for the loop and for whoever times it."""

import os
from collections.abc import Callable, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.estimators.base import Estimator
from posedistill.estimators.views import Prediction
from posedistill.machine import keep_freed_memory
from posedistill.recipe.networks import TrainSettings
from posedistill.tasks.base import Batches
from posedistill.training.schedule import AveragedWeights, learning_rate
from posedistill.training.teaching.teaching import Teaching


def make_fabric(precision: str = "auto") -> Fabric:
    """Devices and precision: one GPU if there is one, all processes of a torchrun launch, bf16 where it is fast.

    The number of processes is told to the engine: left to guess, it takes each process of torchrun on processors for
    a run of its own, and nothing is synchronised.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" or torch.cpu._is_avx512_bf16_supported() else "float32"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    names = {"bf16": "bf16-mixed", "float32": "32-true"}
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    fabric = Fabric(accelerator=accelerator, devices=local, num_nodes=world // local, precision=names[precision])
    fabric.launch()
    return fabric


class TrainingStep:
    """What a training changes from step to step, and one step of it.

    Args:
        estimator: put on the engine's device. batches: the first is shown to what distillers learn or store.
        seed: drives whatever the family draws at random in a step.

    Raises:
        RecipeError: the batches lack a target that the estimator learns from, or losses do not fit the networks.
    """

    def __init__(
        self,
        fabric: Fabric,
        estimator: Estimator,
        batches: Batches,
        settings: TrainSettings,
        seed: int,
        teaching: Teaching | None = None,
    ) -> None:
        estimator.check_targets(batches.targets)
        keep_freed_memory()
        self.fabric, self.estimator, self.teaching = fabric, estimator, teaching
        self.settings, self.seed = settings, seed
        estimator.to(fabric.device).to(memory_format=torch.channels_last)
        parameters = list(estimator.parameters())
        if teaching is not None:
            teaching.prepare(estimator, batches.batch(0))
            parameters += teaching.parameters()
        self.optimizer = make_optimizer(parameters, settings, fabric.device)
        self.average = AveragedWeights(estimator, settings.ema)
        self._generator = torch.Generator(device=fabric.device)

    def begin(self) -> None:
        """Hand network and optimiser to the distributed engine, once they hold the weights to begin with."""
        self._model, self._stepper = self.fabric.setup(Untouched(self.estimator), self.optimizer)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        settings = self.settings
        drops = ((settings.drop, 0.1),) if settings.drops is None else settings.drops
        return learning_rate(step, settings.steps, settings.lr, settings.schedule, settings.warmup, drops)

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take a step; returns ``loss``, the norm of its ``gradient`` and each ``loss/TERM``, still on the device."""
        self.estimator.train()
        self.estimator.progress = step / self.settings.steps
        if self.teaching is not None:
            self.teaching.rest(self.estimator, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self._generator.manual_seed(_step_seed(self.seed, step, self.fabric.global_rank))
        terms = losses(self._model, self.estimator, batch, self._generator, self.teaching, step)
        total = torch.stack(list(terms.values())).sum()
        self.fabric.backward(total)
        if self.teaching is not None and self.fabric.world_size > 1:
            # The engine averages the student's gradients alone.
            for parameter in self.teaching.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.fabric.all_reduce(parameter.grad)
        clip = self.settings.clip
        norm = self.fabric.clip_gradients(self._model, self.optimizer, max_norm=clip, error_if_nonfinite=False)
        self._stepper.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.estimator, step)
        values = {"loss": total.detach(), "gradient": torch.as_tensor(norm)}
        return values | {f"loss/{name}": value.detach() for name, value in terms.items()}


class Untouched(torch.nn.Module):
    """An estimator whose batches the engine cannot see into.

    Under bfloat16 it would round all they hold before the forward pass: poses and cameras too, to three digits.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, batch: Callable[[], Batch], generator: torch.Generator | None = None) -> Prediction:
        """What the estimator makes of the batch that the function hands out."""
        return self.estimator(batch(), generator)  # type: ignore[no-any-return]


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter], settings: TrainSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Weights decay; what is one number a channel or a loss (biases, norms, learned weights) does not."""
    groups = [
        {"params": [weight for weight in parameters if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in parameters if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    fused = device.type == "cuda"
    if settings.optimizer == "sgd":
        return torch.optim.SGD(filled, lr=settings.lr, momentum=settings.momentum, fused=fused)
    return torch.optim.AdamW(filled, lr=settings.lr, fused=fused)


def losses(
    model: torch.nn.Module,
    estimator: Estimator,
    batch: Batch,
    generator: torch.Generator | None,
    teaching: Teaching | None,
    step: int = 0,
) -> dict[str, Tensor]:
    """All weighted loss terms of one step: the family's own, then one for each distiller.

    ``model`` is the estimator, :class:`Untouched`, and on several devices wrapped by the distributed engine.
    """
    prediction = model(lambda: batch, generator)
    terms = dict(estimator.loss(prediction, batch)) if teaching is None or teaching.labelled(step) else {}
    if teaching is not None:
        taught = teaching.predict(batch, step)
        for distiller in teaching.active(step):
            term = distiller.weight * distiller(prediction, taught, batch)
            terms[distiller.name] = terms.get(distiller.name, 0.0) + term
    return terms


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 1_009 + rank) % (2**63)
