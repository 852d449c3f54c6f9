"""Validation on frames carved from the training data: what chooses the weights that are kept."""

import numpy as np
import torch

from posedistill.data.loading.batch import Batch
from posedistill.decode import Decoder
from posedistill.deploy.export import torch_run
from posedistill.estimators.base import Estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.recipe.recipe import Recipe
from posedistill.runtime.predictor import Run
from posedistill.tasks import object_sources as sources
from posedistill.tasks.scene_validation import log_area, poses_of
from posedistill.training.loop import SELECT

THRESHOLD = 0.1
"""Keypoint error of a correct pose, in diameters."""
BEST, WORST = 0.01, 10.0
"""Keypoint errors between which the score falls from 1 to 0, in diameters."""


class Validation:
    """Decodes poses of a fixed set of unaugmented validation crops and scores them against ground truth.

    The score is the area under the recall curve of the mean keypoint error over thresholds from 0.01 to 10 diameters,
    on a logarithmic axis (symmetric objects: the best of their equivalent poses). It tells networks apart that do not
    get a single pose right yet, as the short trainings of a sweep must be, and is smooth enough for few crops.
    """

    def __init__(self, recipe: Recipe, prepared: sources.TrainingData, device: torch.device, crops: int) -> None:
        chosen = _draw(prepared, recipe.objects_data.shares, crops, np.random.default_rng(recipe.seed))
        batch_size = min(64, len(chosen))
        loader = sources.loader(
            recipe, prepared, chosen, seed=recipe.seed, device=device, batch_size=batch_size, augment=False
        )
        self.batches = [loader.batch(step) for step in range(loader.steps)]
        self.objects = prepared.objects

    def __call__(self, estimator: Estimator) -> dict[str, float]:
        """Score the estimator's weights as they are."""
        decoder = estimator.build_decoder()
        run = torch_run(estimator.network, decoder, next(estimator.parameters()).device)
        errors = np.concatenate([_keypoint_errors(run, decoder, batch, self.objects) for batch in self.batches])
        return {
            SELECT: float(np.mean(log_area(errors, BEST, WORST))),
            "val/keypoints_0.1d": float(np.mean(errors < THRESHOLD)),
            "val/median_error": float(np.median(np.minimum(errors, 10.0))),
        }


def _draw(
    prepared: sources.TrainingData, shares: list[float] | None, crops: int, rng: np.random.Generator
) -> np.ndarray:
    """Validation instances, of each source as large a share as in training (as far as they last)."""
    ends = np.cumsum([len(pack) for pack in prepared.packs])
    parts = np.split(prepared.validation, np.searchsorted(prepared.validation, ends[:-1]))
    weights = np.array([len(part) for part in parts] if shares is None else shares, dtype=np.float64)
    counts = np.ceil(crops * weights / max(weights.sum(), 1e-9)).astype(np.int64).tolist()
    return np.concatenate([rng.permutation(part)[:count] for part, count in zip(parts, counts, strict=True)])


def _keypoint_errors(run: Run, decoder: Decoder, batch: Batch, objects: ObjectTable) -> np.ndarray:
    """``[B]`` mean keypoint error in diameters; infinite where no pose was found."""
    R, t = (value.cpu().double().numpy() for value in (batch.R, batch.t))
    errors = np.full(len(batch), np.inf)
    for found in poses_of(run, decoder, batch):
        row, label = found.row, int(batch.label[found.row])
        keypoints, symmetries = objects.keypoints[label], objects.symmetries[label]
        turned = keypoints @ np.swapaxes(symmetries[:, :3, :3], 1, 2) + symmetries[:, None, :3, 3]
        truth = turned @ R[row].T + t[row]
        estimate = keypoints @ found.R.T + found.t
        errors[row] = np.linalg.norm(truth - estimate, axis=-1).mean(axis=-1).min() / objects.diameters[label]
    return errors
