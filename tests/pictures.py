"""Batches of whole pictures."""

import numpy as np
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable


def batch_of_pictures(
    objects: ObjectTable,
    counts: tuple[int, ...],
    label: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Batch:
    """Pictures of noise, height and width ``size``, all by the camera ``K``; so many of the instances in each."""
    corners = objects.keypoints[label]
    keypoints = np.array([project(*row, K) for row in zip(corners, R, t, strict=True)]).reshape(-1, 8, 2)
    targets = {"keypoints3d": corners, "keypoints": keypoints, "diameters": objects.diameters[label]}

    def tensor(values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    return Batch(
        images=tensor(rng.normal(size=(len(counts), 3, *size))),
        K=tensor(K).repeat(len(counts), 1, 1),
        picture=torch.as_tensor(np.repeat(np.arange(len(counts)), counts)),
        R=tensor(R),
        t=tensor(t),
        label=torch.as_tensor(label),
        score=torch.ones(len(label)),
        ids=torch.arange(len(label)),
        targets={name: tensor(values) for name, values in targets.items()},
    )
