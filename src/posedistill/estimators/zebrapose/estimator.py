"""ZebraPose: a mask and a binary code of the object's surface at every pixel (Su et al., CVPR 2022).

Votes for distillation are codes too, pooled over small blocks of pixels: Guo et al. (CVPR 2023) align distributions of
dense predictions by optimal transport; how they pool is not public, so sizes and weights here are our own.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.codes import code_path, kept_codes, not_folded
from posedistill.data.loading.batch import Batch
from posedistill.decode.zebrapose import READINGS, ZebraPoseDecoder
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator, Translation
from posedistill.estimators.losses import zebrapose as losses
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.estimators.zebrapose.network import ZebraPoseNetwork, ZebraPoseSettings
from posedistill.estimators.zebrapose.translate import keypoints_of_codes, pose_logits
from posedistill.geometry.codes import load_tree, node_count
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.surfaces import Surfaces
from posedistill.log import console

_MOST_BLOCKS = 16
"""Pooled blocks along a side of the crop, at most."""
_GUESSED = 0.4
"""Share of wrong bits from which on a depth is hardly better than guessed."""
_MOST_VOTES = 96
"""Blocks of a crop that vote."""


class ZebraPose(Estimator):
    """The estimator around :class:`ZebraPoseNetwork`; it keeps the codes that it has learned."""

    offers: ClassVar[frozenset[str]] = frozenset({"votes", "cells", "features", "embedding", "logits"})
    targets: ClassVar[frozenset[str]] = frozenset({"masks", "surface/4"})
    decoder: ClassVar[str] = "zebrapose"
    network: ZebraPoseNetwork
    planes: Tensor
    points: Tensor
    radii: Tensor
    bit_errors: Tensor
    block_ids: Tensor

    def __init__(self, objects: ObjectTable, settings: ZebraPoseSettings, crop_size: int) -> None:
        super().__init__()
        self.objects, self.settings, self.crop_size = objects, settings, crop_size
        self.calibrates = not settings.faithful
        self.network = ZebraPoseNetwork(len(objects), settings)
        self.stride = settings.resolved_stride()
        needed = max(16, *self.network.backbone.channels)
        if crop_size % needed:
            expected = f"a multiple of {needed}, the coarsest stride of {settings.backbone}"
            raise RecipeError(describe("recipe", "crop_size", crop_size, expected))
        self.surface = f"surface/{self.stride}"
        self.targets = frozenset({"masks", self.surface})  # type: ignore[misc]
        count, nodes = len(objects), node_count(settings.bits)
        self.register_buffer("planes", torch.zeros(count, 2**settings.bits - 1, 4))
        self.register_buffer("points", torch.zeros(count, nodes, 3))
        self.register_buffer("radii", torch.zeros(count, nodes))
        self.register_buffer("bit_errors", torch.full((settings.bits,), losses.UNSEEN))
        self.block = block_side(crop_size, self.stride)
        side = crop_size // self.block
        self.register_buffer("block_ids", cell_ids(self.block, side, side), persistent=False)

    def fit_shapes(self, mesh: Callable[[int], Mesh], folder: Path) -> None:
        """Take the codes of the objects, read or made."""
        settings = self.settings
        for index, obj_id in enumerate(self.objects.obj_ids):
            if settings.codes is not None:
                tree = load_tree(code_path(settings.codes, obj_id))
            else:
                symmetries = self.objects.symmetries[index]
                if settings.fold and (note := not_folded(symmetries)):
                    console.print(f"[yellow]zebrapose, fold: object {obj_id} is {note}", highlight=False)
                tree = kept_codes(mesh(obj_id), symmetries, folder, settings.fold)
            tree = tree.cut(settings.bits)
            for name in ("planes", "points", "radii"):
                getattr(self, name)[index] = torch.from_numpy(getattr(tree, name))

    def check_teacher(self, teacher: Estimator) -> None:
        """Refuse a teacher of the same family whose codes mean, or will mean, other parts of the surface."""
        if not isinstance(teacher, ZebraPose):
            return
        ours, theirs = (side.settings.origin() for side in (self, teacher))
        if ours != theirs:
            raise RecipeError(describe("recipe", "teacher.settings", theirs, f"{ours}, as the student's"))
        shared = min(self.planes.shape[1], teacher.planes.shape[1])
        known = bool(self.planes.any() and teacher.planes.any())  # before anything trains they may not be
        if known and not torch.equal(self.planes[:, :shared].cpu(), teacher.planes[:, :shared].cpu()):
            found, expected = (f"codes {_digest(side.planes[:, :shared])}" for side in (teacher, self))
            raise RecipeError(describe("recipe", "teacher", found, f"{expected}, as the student's"))

    def from_keypoints(self, mesh: Callable[[int], Mesh]) -> Translation:
        """Codes under the poses that a teacher's keypoints give."""
        surfaces = Surfaces(self.objects.obj_ids, mesh)

        def translate(taught: Prediction, batch: Batch, step: int) -> Prediction:
            def encode(points: Tensor, index: int) -> Tensor:
                return self.encode(points, torch.full((len(points),), index, device=points.device))

            size = (self.settings.bits, self.stride)
            return self.said(*pose_logits(taught.votes, batch, self.objects, surfaces, encode, *size))

        return Translation(frozenset({"votes", "cells", "logits"}), translate)

    def to_keypoints(self) -> Translation:
        """Votes for the corners of the box, by poses of few matches each; they have no cells."""
        decoder = ZebraPoseDecoder(**self.record())

        def translate(taught: Prediction, batch: Batch, step: int) -> Prediction:
            return Prediction({}, keypoints_of_codes(taught.logits, batch, decoder, step))

        return Translation(frozenset({"votes"}), translate)

    def record(self) -> dict[str, Any]:
        """Objects, crop size, grid, the cells of the surfaces, and how codes are read."""
        tables = {name: getattr(self, name).cpu().numpy() for name in ("points", "radii")}
        layout = {"crop_size": self.crop_size, "grid": self.crop_size // self.stride}
        return {"objects": self.objects, **layout, **tables, "decoding": self.settings.decoding()}

    def decodings(self) -> tuple[dict[str, Any], ...]:
        """Codes that are sure of themselves are read less far than those that are not, whose matches are forgiven more.

        None where the settings say how far.
        """
        return () if self.settings.confidence is not None else tuple(asdict(way) for way in READINGS)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; nothing is drawn.

        ``heads``: mask ``[B, 1, G, G]``, code ``[B, d, G, G]`` logits. In train mode the blocks that are at least
        half on the visible object vote, else those whose mask is likelier than not.
        """
        outputs = self.network.outputs(batch.images, batch.label)
        visible = self._visible(batch) if self.training else None
        said = self.said(outputs.mask, outputs.code, visible)
        said.features, said.embedding = outputs.features, outputs.embedding
        return said

    def said(self, mask: Tensor, code: Tensor, visible: Tensor | None = None) -> Prediction:
        """The views of logits ``[B, 1, G, G]`` and ``[B, d, G, G]``; ``visible`` ``[B, G, G]`` bool tells who votes."""
        cells = self._blocks(mask, code)
        seen = cells.weights.detach() > 0.5
        if visible is not None:
            shown = visible.to(mask.dtype)[:, None]
            seen = functional.avg_pool2d(shown, self.block // self.stride).flatten(1) >= 0.5
        logits = {"mask": mask, "code": code}
        return Prediction(dict(logits), _strongest(cells, seen), cells, logits=logits)

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """``code`` and ``mask``, weighted; the code's is zero where the object is seen nowhere."""
        settings, mask, code = self.settings, prediction.heads["mask"], prediction.heads["code"]
        surface = batch.target(self.surface, "family: zebrapose")
        hit = surface[..., 0].isfinite()
        bits = self.encode(surface, batch.label)
        seen, visible = self._seen(batch), self._visible(batch)
        if settings.faithful:
            terms = losses.published_code_terms(code, bits * hit[:, None], mask)
            of_mask, code_weight, mask_weight = losses.published_mask_loss(mask, seen), 3.0, 1.0
        else:
            terms = losses.code_terms(code, bits, visible * batch.score[:, None, None])
            of_mask, code_weight = losses.mask_loss(mask, seen, batch.score), settings.code_weight
            mask_weight = settings.mask_weight
        if self.training:
            self.bit_errors.copy_(losses.running_errors(self.bit_errors, terms))
        errors = torch.where(self.bit_errors < 0, terms.errors, self.bit_errors)
        weights = losses.bit_weights(errors, 0.51 if settings.faithful else 0.5)
        if settings.bit_weights == "uniform":
            weights = torch.full_like(weights, 1 / len(weights))
        found = {"code": code_weight * (weights * terms.losses).sum(), "mask": mask_weight * of_mask}
        if settings.dice_weight:
            found["dice"] = settings.dice_weight * losses.soft_dice(mask, seen)
        return found

    def progress_values(self) -> dict[str, float]:
        """``bit_error/1``, ... the running share of wrong bits by depth, and ``effective_bits``, those before the first
        that is wrong in more than 40 %; nothing before the first step."""
        errors: list[float] = self.bit_errors.tolist()
        if errors[0] < 0:
            return {}
        guessed = [error > _GUESSED for error in errors]
        told = {f"bit_error/{depth}": error for depth, error in enumerate(errors, 1)}
        return told | {"effective_bits": float([*guessed, True].index(True))}

    @torch.no_grad()
    def encode(self, surface: Tensor, label: Tensor) -> Tensor:
        """``[B, d, G, G]`` float bits of surface points ``[B, G, G, 3]`` mm; of NaN those of some cell."""
        planes, start = self.planes.flatten(0, 1), (label * self.planes.shape[1])[:, None, None]
        cell = torch.zeros_like(surface[..., 0], dtype=torch.int64)
        bits = []
        for level in range(self.settings.bits):
            plane = planes[start + (1 << level) - 1 + cell]
            bit = (plane[..., :3] * surface).sum(-1) > plane[..., 3]
            bits.append(bit)
            cell = 2 * cell + bit
        return torch.stack(bits, dim=1).to(surface.dtype)

    def _seen(self, batch: Batch) -> Tensor:
        """``[B, G, G]`` bool: at least half of the cell's pixels show the object."""
        masks = batch.target("masks", "family: zebrapose").to(batch.images.dtype)
        return functional.avg_pool2d(masks[:, None], self.stride)[:, 0] >= 0.5

    def _visible(self, batch: Batch) -> Tensor:
        """``[B, G, G]`` bool: of these the cells whose ray meets the mesh, for masks may be wider."""
        surface = batch.target(self.surface, "family: zebrapose")
        return self._seen(batch) & surface[..., 0].isfinite()

    def _blocks(self, mask: Tensor, code: Tensor) -> Votes:
        """Bit probabilities of all blocks, means weighted by the mask."""
        inside, size = mask.sigmoid(), self.block // self.stride
        weights = functional.avg_pool2d(inside, size)
        values = functional.avg_pool2d(inside * code.sigmoid(), size) / weights.clamp(min=1e-6)
        values = values.flatten(2).transpose(1, 2)[:, :, None]
        weights = weights.flatten(1)
        every = torch.ones_like(weights, dtype=torch.bool)
        return Votes(values, weights, every, self.block_ids.expand(len(weights), -1))


def block_side(crop_size: int, stride: int) -> int:
    """Crop pixels along a pooled block: the fewest cells that divide the crop into 16 blocks a side at most.

    >>> block_side(128, 4), block_side(256, 4), block_side(64, 4)
    (8, 16, 4)
    """
    sides = range(stride, crop_size + 1, stride)
    return next(side for side in sides if crop_size % side == 0 and crop_size // side <= _MOST_BLOCKS)


def _strongest(cells: Votes, seen: Tensor) -> Votes:
    """The blocks ``seen`` ``[B, N]``, at most ``_MOST_VOTES``, those of the largest weights."""
    keys = torch.where(seen, cells.weights.detach(), -1.0)
    index = keys.topk(min(_MOST_VOTES, keys.shape[1]), dim=1).indices
    return replace(cells.at(index), mask=seen.gather(1, index))


def _digest(planes: Tensor) -> str:
    """A short name for codes."""
    return hashlib.sha256(planes.cpu().numpy().tobytes()).hexdigest()[:12]
