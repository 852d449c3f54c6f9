"""The training loop, one for all families: a student learns from labels, and from a teacher where there is one."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from posedistill.errors import CheckpointError, TrainingError, describe
from posedistill.estimators.base import Estimator
from posedistill.interrupts import waiting
from posedistill.log import console
from posedistill.recipe.networks import TrainSettings
from posedistill.tasks.base import SELECT, Batches, Validate
from posedistill.training.checkpoints import (
    differing,
    load_strictly,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    section,
)
from posedistill.training.log import TrainingLog
from posedistill.training.schedule import AveragedWeights
from posedistill.training.step import TrainingStep
from posedistill.training.teaching.teaching import Teaching

SAVE_SECONDS = 120.0
"""Between two checkpoints, where the schedule's are further apart."""


def train(
    fabric: Fabric,
    estimator: Estimator,
    batches: Batches,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    signature: dict[str, Any],
    teaching: Teaching | None = None,
    validate: Validate | None = None,
    title: str = "train",
) -> None:
    """Train to the end of the schedule, or go on from ``folder/last.safetensors`` exactly as if never interrupted.

    ``folder/model.safetensors`` holds the (averaged) weights of the best validation; ``signature`` is stored with
    them and must be the same on resume. A checkpoint is written every ``checkpoint_every`` steps, every two minutes,
    and at an interrupt, once the step is done.

    Raises:
        KeyboardInterrupt: at the end of a step that is kept.
        RecipeError: the batches lack a target that the estimator learns from.
        TrainingError: the loss is NaN or infinite (the last good checkpoint is kept), or the disk is full.
        CheckpointError: the folder holds the run of another recipe or architecture.
    """
    stepping = TrainingStep(fabric, estimator, batches, settings, seed, teaching)
    optimizer, average = stepping.optimizer, stepping.average
    last = folder / "last.safetensors"
    start, best = 0, -math.inf
    if last.exists():
        start, best = _resume(last, estimator, optimizer, average, signature, teaching)
        if start < settings.steps:
            console.print(f"{title}: goes on from step {start} of {settings.steps}", highlight=False)
    stepping.begin()
    saved = time.monotonic()
    bad = torch.zeros((), dtype=torch.bool, device=fabric.device)
    recent: list[dict[str, Tensor]] = []

    def save(step: int) -> None:
        _stop_at_nan(bool(bad), step, last, teaching)
        if fabric.is_global_zero:
            tensors = {f"model.{name}": value for name, value in estimator.state_dict().items()}
            tensors |= {f"average.{name}": value for name, value in average.state.items()}
            tensors |= {} if teaching is None else teaching.state()
            save_tensors(
                last, tensors | optimizer_tensors(optimizer), {"step": step, "best": best, "signature": signature}
            )

    log = TrainingLog(folder, title, settings.steps, start, quiet=not fabric.is_global_zero)
    with log, waiting() as interrupted:
        for step, batch in enumerate(batches.prefetch(start, settings.steps), start):
            values = stepping(batch, step)
            bad |= ~(torch.isfinite(values["loss"]) & torch.isfinite(values["gradient"]))
            recent.append(values)
            done = step + 1
            log.advance(done, values["loss"])
            if done % settings.log_every == 0 or done == settings.steps:
                _stop_at_nan(bool(bad), done, last, teaching)
                names = dict.fromkeys(name for terms in recent for name in terms)
                means = {n: float(torch.stack([terms[n] for terms in recent if n in terms]).mean()) for n in names}
                speed = log.rate(done)
                images = speed * len(batch.images) * fabric.world_size
                rates = {"lr": stepping.rate(step), "steps_per_second": speed, "images_per_second": images}
                log.write(done, means | rates | estimator.progress_values())
                recent = []
            if validate is not None and (done % settings.validate_every == 0 or done == settings.steps):
                _stop_at_nan(bool(bad), done, last, teaching)
                scores = _validate_average(estimator, average, validate)
                log.write(done, scores)
                if scores[SELECT] >= best:  # of equals the later, trained longer
                    best = scores[SELECT]
                    _save_model(fabric, folder, estimator, average.state, signature, done, scores)
            late = interrupted() or time.monotonic() > saved + SAVE_SECONDS
            if late or done % settings.checkpoint_every == 0 or done == settings.steps:
                save(done)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    if not (folder / "model.safetensors").exists():  # there is no validation, or somebody has removed the file
        scores = {} if validate is None else _validate_average(estimator, average, validate)
        if validate is not None:
            console.print(
                f"[yellow]{title}: model.safetensors was gone; it now holds the weights of the last step, where "
                "it held those that validation had found best"
            )
        _save_model(fabric, folder, estimator, average.state, signature, settings.steps, scores)


def goes_on(title: str, last: Path) -> str:
    """What is true of a training that was interrupted."""
    if not last.exists():
        return f"{title} stopped before its first checkpoint; the same command begins this training again"
    return f"{title} stopped; the same command goes on from its step {load_tensors(last, names=())[1]['step']}"


def _stop_at_nan(bad: bool, step: int, last: Path, teaching: Teaching | None) -> None:
    kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written yet"
    if teaching is not None and not teaching.sound():
        found = f"NaN or infinite outputs of {teaching.origin} by step {step}"
        raise TrainingError(describe(last.parent, "teacher", found, "a teacher of finite outputs") + f"; {kept}.")
    if bad:
        raise TrainingError(
            describe(last.parent, "loss", f"NaN or infinite by step {step}", "a finite loss and gradient")
            + f"; {kept}. Lower train.lr or train.clip and run again to go on from it."
        )


def _validate_average(estimator: Estimator, average: AveragedWeights, validate: Validate) -> dict[str, float]:
    """Validate with the averaged weights in place, then put the training weights back."""
    training = {name: value.clone() for name, value in estimator.state_dict().items()}
    estimator.load_state_dict(average.state)
    estimator.eval()
    try:
        return validate(estimator)
    finally:
        estimator.load_state_dict(training)


def _save_model(
    fabric: Fabric,
    folder: Path,
    estimator: Estimator,
    state: dict[str, Tensor],
    signature: dict[str, Any],
    step: int,
    scores: dict[str, float],
) -> None:
    if fabric.is_global_zero:
        about = {"signature": signature, "step": step, "scores": scores, "objects": list(estimator.objects.obj_ids)}
        about |= {"categories": list(estimator.categories)} if estimator.categories else {}
        save_tensors(folder / "model.safetensors", state, about)


def _resume(
    last: Path,
    estimator: Estimator,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights,
    signature: dict[str, Any],
    teaching: Teaching | None,
) -> tuple[int, float]:
    tensors, metadata = load_tensors(last)
    found = metadata.get("signature", {})
    if keys := differing(found, signature):
        shown = "; ".join(f"{key} was {found.get(key)!r}, is {signature.get(key)!r}" for key in keys)
        raise CheckpointError(
            describe(last, "signature", shown, "the same recipe")
            + ". Give the recipe another name, or remove the folder."
        )
    load_strictly(estimator, section(tensors, "model."), last)
    device = next(estimator.parameters()).device
    if teaching is not None:
        teaching.restore(tensors, last)
    average.state = {name: value.to(device) for name, value in section(tensors, "average.").items()}
    restore_optimizer(optimizer, tensors)
    return metadata["step"], metadata["best"]
