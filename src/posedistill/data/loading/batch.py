"""Batch: what a training step consumes: pictures with their cameras, and rows of instances with their poses."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from posedistill.errors import RecipeError, describe


@dataclass
class Batch:
    """``P`` pictures and the ``I`` annotated instances in them.

    Votes, trust, embeddings and poses are per instance, feature maps per picture. In crops and in photographs of
    scenes the two are the same rows; what mixes both indexes the pictures' side by ``picture``.

    Attributes:
        images: ``[P, 3, H, W]`` float32, RGB, ImageNet-normalised, channels-last memory; where nobody looks at them a
            stand-in of that shape, which is a single number repeated.
        K: ``[P, 3, 3]`` intrinsics of the picture's camera (a crop is a camera; full-image pixels never appear).
        picture: ``[I]`` int64, in which picture an instance is.
        R: ``[I, 3, 3]``, t: ``[I, 3]``: from the frame of the object (mm) or the scene (m) to the picture's camera;
            of symmetric objects the canonical pose.
        label: ``[I]`` int64, class index into the recipe's ObjectTable; 0 for a scene.
        score: ``[I]`` 0..1, of the estimator that made the pose; 1 where a person annotated it.
        ids: ``[I]`` int64, the number of the instance in the training data (for caches, banks and logs).
        targets: what only some families need (``Estimator.targets``), under these names:
            masks ``[I, H, W]`` bool, the visible mask; keypoints3d ``[I, K, 3]`` mm, object frame;
            keypoints ``[I, K, 2]`` their projections, picture pixels; diameters ``[I]`` mm; clouds ``[I, P, 3]``
            shapes of categories, views ``[I, V, 3, side, side]`` renderings of them in 0..1; frames ``[I]`` degrees
            by which their own frames may be turned; turns ``[I]`` degrees about the upright axis after which a thing of
            a category looks the same (360, 180, 90, or 0 for any), where any is symmetric; places ``[I, 3, 3]`` from
            pixels to where in the photograph they are, its outer edges at 0 and 1; surface/N ``[I, H / N, W / N, 3]``
            mm, object frame: the point seen at each cell of N pixels, NaN beside the object; frozen maps ``[P, N, C]``:
            what the first layers of the network in training make of the pictures, where they are frozen and that is
            stored.
    """

    images: Tensor
    K: Tensor
    picture: Tensor
    R: Tensor
    t: Tensor
    label: Tensor
    score: Tensor
    ids: Tensor
    targets: dict[str, Tensor]

    @classmethod
    def single(
        cls,
        images: Tensor,
        K: Tensor,
        R: Tensor,
        t: Tensor,
        ids: Tensor,
        label: Tensor | None = None,
        score: Tensor | None = None,
        **targets: Tensor,
    ) -> Self:
        """Pictures with one instance each, of label 0 and annotated by a person where nothing else is said."""
        label = torch.zeros_like(ids) if label is None else label
        score = torch.ones_like(t[:, 0]) if score is None else score
        return cls(images, K, torch.arange(len(ids), device=ids.device), R, t, label, score, ids, targets)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "targets"}
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return type(self)(**moved, targets={name: tensor.to(device) for name, tensor in self.targets.items()})

    @property
    def pictured(self) -> bool:
        """Whether there are pictures, and no stand-in."""
        return any(self.images.stride())

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.ids)

    def select(self, rows: Tensor | slice) -> Self:
        """The batch of some instances, each with a picture of its own."""
        pictures, targets = self.picture[rows], {name: tensor[rows] for name, tensor in self.targets.items()}
        columns = (tensor[rows] for tensor in (self.R, self.t, self.ids, self.label, self.score))
        return self.single(self.images[pictures], self.K[pictures], *columns, **targets)

    def target(self, name: str, asked_by: str) -> Tensor:
        """The target of that name.

        Raises:
            RecipeError: the batch has none; ``asked_by`` is the setting that needs it.
        """
        if name not in self.targets:
            found = f"batches with {listed(self.targets)}"
            raise RecipeError(describe("recipe", asked_by, found, f"the target {name!r}"))
        return self.targets[name]

    def camera_centers(self) -> Tensor:
        """``[I, 3]`` where each instance's camera stands, in the frame of the object or the scene."""
        return -(self.R.transpose(1, 2) @ self.t[:, :, None]).squeeze(2)

    def cameras(self) -> Tensor:
        """``[I, 3, 3]`` intrinsics of each instance's picture."""
        return self.K[self.picture]

    def box_centers(self, asked_by: str) -> Tensor:
        """``[I, 2]`` where the centre of each object's box appears, picture pixels; needs ``keypoints3d``."""
        center = self.target("keypoints3d", asked_by).mean(1)
        seen = (self.cameras() @ (self.R @ center[:, :, None] + self.t[:, :, None])).squeeze(2)
        return seen[:, :2] / seen[:, 2:].clamp(min=1e-6)

    def sizes(self, asked_by: str) -> Tensor:
        """``[I]`` projected diameters of the objects, in picture widths; needs the target ``diameters``."""
        K = self.cameras()
        focal = (K[:, 0, 0] + K[:, 1, 1]).abs() / 2
        pixels = focal * self.target("diameters", asked_by) / self.t[:, 2].clamp(min=1e-6)
        return (pixels / self.images.shape[-1]).clamp(min=1e-3)


def listed(targets: Collection[str]) -> str:
    """Names of targets in words.

    >>> listed({"masks", "diameters"}), listed(())
    ('the targets diameters, masks', 'no targets')
    """
    return f"the targets {', '.join(sorted(targets))}" if targets else "no targets"
