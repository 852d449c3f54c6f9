"""Batch: what a training step consumes. One object per crop, every crop with its own camera."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Batch:
    """``B`` square crops of side ``S`` pixels with one annotated object each.

    Attributes:
        images: ``[B, 3, S, S]`` float32, RGB, ImageNet-normalised, channels-last memory.
        masks: ``[B, S, S]`` bool, the visible mask of the object.
        classes: ``[B]`` int64, class index into the recipe's ObjectTable.
        K: ``[B, 3, 3]`` intrinsics of the crop's camera (full-image pixels never appear).
        R: ``[B, 3, 3]``, t: ``[B, 3]`` mm: pose in the crop's camera, symmetric objects already in canonical form.
        keypoints3d: ``[B, K, 3]`` mm, object frame.
        keypoints: ``[B, K, 2]`` their projections, crop pixels.
        diameters: ``[B]`` mm.
        ids: ``[B]`` int64, index of the instance in its pack (for caches and logs).
    """

    images: Tensor
    masks: Tensor
    classes: Tensor
    K: Tensor
    R: Tensor
    t: Tensor
    keypoints3d: Tensor
    keypoints: Tensor
    diameters: Tensor
    ids: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.images)
