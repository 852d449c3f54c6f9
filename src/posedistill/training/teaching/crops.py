"""A teacher that looks at crops, for students that look at whole pictures: it cuts them out of the same pixels."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.estimators.views import Prediction, Votes
from posedistill.training.teaching.teachers import Teacher

PAD = 1.5
"""Side of a crop over the longer side of the object's box, as crops are cut everywhere."""
_AT_ONCE = 16
"""Instances whose pictures are held at the same time."""


class Windows(NamedTuple):
    """Where crops lie: ``center`` and ``sides`` ``[I, 2]`` in pixels of their pictures."""

    center: Tensor
    sides: Tensor


class CropTeacher:
    """Shows a teacher a crop of each instance, about its labelled box, and carries the votes back into the picture.

    Votes and embeddings are of instances, so they have a meaning there; cells and maps of crops have none.

    Args:
        teacher: which looks at crops. size: of its crops, pixels.
    """

    def __init__(self, teacher: Teacher, size: int) -> None:
        self.teacher, self.size = teacher, size

    @property
    def offers(self) -> frozenset[str]:
        """What of the teacher's views is of instances."""
        return self.teacher.offers & {"votes", "embedding"}

    def predict(self, batch: Batch, step: int) -> Prediction:
        """Votes in picture widths, as everywhere in pictures."""
        windows = windows_of(batch)
        taught = self.teacher.predict(cut_instances(batch, windows, self.size), step)
        votes = taught.votes
        if votes is not None:
            places = (votes.values.float() - 0.5) * windows.sides[:, None, None] + windows.center[:, None, None]
            votes = Votes(places / batch.images.shape[-1], votes.weights, votes.mask)
        return Prediction({}, votes, embedding=taught.embedding)


def windows_of(batch: Batch) -> Windows:
    """Squares of the world about the boxes of projected keypoints: a squeezed picture has them squeezed."""
    keypoints = batch.target("keypoints", "teacher: crops of whole pictures")
    low, high = keypoints.amin(1), keypoints.amax(1)
    K = batch.cameras()
    squeeze = torch.stack([torch.ones_like(K[:, 0, 0]), K[:, 1, 1] / K[:, 0, 0]], 1)
    side = PAD * ((high - low) / squeeze).amax(1, keepdim=True)
    return Windows((low + high) / 2, side * squeeze)


def cut_instances(batch: Batch, windows: Windows, size: int) -> Batch:
    """Crops ``[I, 3, size, size]`` of the pictures, each a new camera; beyond the picture they have the mean colour."""
    height, width = batch.images.shape[2:]
    scale = size / windows.sides
    shift = size / 2 - windows.center * scale
    line = torch.arange(size, device=scale.device, dtype=torch.float32)
    x, y = ((line - shift[:, axis, None]) / scale[:, axis, None] for axis in (0, 1))
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    parts = zip(torch.split(batch.picture, _AT_ONCE), torch.split(grid, _AT_ONCE), strict=True)
    crops = [functional.grid_sample(batch.images[rows], part, align_corners=False) for rows, part in parts]
    K = batch.cameras().clone()
    K[:, :2] *= scale[:, :, None]
    K[:, :2, 2] += shift
    targets = dict(batch.targets)
    targets["keypoints"] = targets["keypoints"] * scale[:, None] + shift[:, None]
    images = torch.cat(crops).contiguous(memory_format=torch.channels_last)
    return Batch.single(images, K, batch.R, batch.t, batch.ids, batch.label, batch.score, **targets)
