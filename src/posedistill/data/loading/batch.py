"""Batch: what a training step consumes. Every picture has its own camera and its own pose."""

from dataclasses import dataclass, field, fields
from typing import NotRequired, Self, TypedDict

import torch
from torch import Tensor

from posedistill.errors import RecipeError, describe


class LoaderOptions(TypedDict):
    """What every loader of batches is told, of crops and of photographs alike."""

    seed: int
    """Of the order and of the variations."""
    batch_size: int
    """Pictures of the global batch, a multiple of ``world_size``."""
    device: torch.device | str
    augment: NotRequired[bool]
    """Shuffled and varied without end (the default), or in order, once, as they are."""
    rank: NotRequired[int]
    """This process's part of the global batch; 0."""
    world_size: NotRequired[int]
    """Processes that share the global batch; 1."""


@dataclass
class Batch:
    """``B`` pictures with one annotated pose each.

    Attributes:
        images: ``[B, 3, H, W]`` float32, RGB, ImageNet-normalised, channels-last memory.
        K: ``[B, 3, 3]`` intrinsics of the picture's camera (a crop is a camera; full-image pixels never appear).
        R: ``[B, 3, 3]``, t: ``[B, 3]``: from the frame of the object (mm) or the scene (m) to the picture's camera.
        ids: ``[B]`` int64, the number of the picture in the training data (for caches, banks and logs).
    """

    images: Tensor
    K: Tensor
    R: Tensor
    t: Tensor
    ids: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(**{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})

    def camera_centers(self) -> Tensor:
        """``[B, 3]`` where each camera stands, in the frame of the object or the scene."""
        return -(self.R.transpose(1, 2) @ self.t[:, :, None]).squeeze(2)

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class ObjectBatch(Batch):
    """Square crops of side ``S`` pixels, one object each; poses of symmetric objects are in canonical form.

    Attributes:
        masks: ``[B, S, S]`` bool, the visible mask of the object.
        classes: ``[B]`` int64, class index into the recipe's ObjectTable.
        keypoints3d: ``[B, K, 3]`` mm, object frame.
        keypoints: ``[B, K, 2]`` their projections, crop pixels.
        diameters: ``[B]`` mm.
        scores: ``[B]`` 0..1, of the estimator that made the pose; 1 where a person annotated it.
    """

    masks: Tensor
    classes: Tensor
    keypoints3d: Tensor
    keypoints: Tensor
    diameters: Tensor
    scores: Tensor = field(default_factory=lambda: torch.ones(()))

    def __post_init__(self) -> None:
        """One score for all becomes one each."""
        if not self.scores.ndim:
            self.scores = self.scores.to(self.images.device).expand(len(self.images))

    def sizes(self) -> Tensor:
        """``[B]`` projected diameters of the objects, in crop sides."""
        focal = (self.K[:, 0, 0] + self.K[:, 1, 1]).abs() / 2
        pixels = focal * self.diameters / self.t[:, 2].clamp(min=1e-6)
        return (pixels / self.images.shape[-1]).clamp(min=1e-3)


def of_objects(batch: Batch, asked_by: str) -> ObjectBatch:
    """The batch, known to show objects.

    Raises:
        RecipeError: it does not, as that of a camera family; ``asked_by`` names who needs objects.
    """
    if not isinstance(batch, ObjectBatch):
        raise RecipeError(describe("recipe", asked_by, "pictures of scenes", "crops of objects"))
    return batch
