"""Validation of cameras on blocks held out of the training sequences: what chooses the weights that are kept."""

import numpy as np
import torch

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader
from posedistill.decode import Decoder, Pose, Prepared
from posedistill.deploy.export import torch_run
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.metrics.relocalisation import orientation_errors, position_errors
from posedistill.poses import Poses
from posedistill.runtime.predictor import Run
from posedistill.training.loop import SELECT

POSITION = (0.01, 10.0)
"""Errors between which the score of a position falls from 1 to 0, in spreads of the training positions."""
ORIENTATION = (0.1, 180.0)
"""Likewise of a rotation, degrees."""


class CameraValidation:
    """Scores estimators on a fixed set of pictures that are not varied.

    The score is the area under the recall curves over thresholds, evenly spread on a logarithmic axis: mean of the
    position's and the orientation's. Unlike a median it is smooth enough for the few frames there are.

    Args:
        loader: of the held-out photographs, without augmentation.
        spread: of the training positions, metres.
    """

    def __init__(self, loader: Loader, spread: float) -> None:
        self.batches = [loader.batch(step) for step in range(loader.steps)]
        self.spread = max(spread, 1e-6)

    @torch.no_grad()
    def __call__(self, estimator: Estimator) -> dict[str, float]:
        """Score the estimator's weights as they are."""
        height, width = self.batches[0].images.shape[-2:]
        decoder = estimator.build_decoder(shape=(height, width), short_side=min(height, width))
        run = torch_run(estimator.network, decoder, next(estimator.parameters()).device)
        found, truth = [], []
        for batch in self.batches:
            poses = poses_of(run, decoder, batch)
            found.append((np.stack([pose.R for pose in poses]), np.stack([pose.t for pose in poses])))
            truth.append((_numpy(batch.R), _numpy(batch.t)))
        estimates, wanted = (
            Poses.of_cameras(*map(np.concatenate, zip(*poses, strict=True))) for poses in (found, truth)
        )
        metres, degrees = position_errors(estimates, wanted), orientation_errors(estimates, wanted)
        scores = log_area(metres / self.spread, *POSITION) + log_area(degrees, *ORIENTATION)
        return {
            SELECT: float(scores.mean() / 2),
            "val/median_position": float(np.median(metres)),
            "val/median_orientation": float(np.median(degrees)),
        }


def poses_of(run: Run, decoder: Decoder, batch: Batch) -> list[Pose]:
    """What a network says of the pictures of a batch, in their own cameras."""
    inputs = {"images": batch.images.cpu().numpy(), "classes": batch.label.cpu().numpy()}
    prepared = Prepared.of_pictures(inputs, _numpy(batch.K))
    return decoder.decode(run(inputs), prepared)


def log_area(errors: Array, best: float, worst: float) -> Array:
    """Share of the thresholds from ``best`` to ``worst``, evenly spread on a logarithmic axis, that each error meets.

    >>> log_area(np.array([0.001, 0.1, 1.0, np.inf]), 0.01, 10.0).round(3).tolist()
    [1.0, 0.667, 0.333, 0.0]
    """
    scores: Array = np.log(worst / np.clip(errors, best, worst)) / np.log(worst / best)
    return scores


def _numpy(value: torch.Tensor) -> Array:
    return value.double().cpu().numpy()
