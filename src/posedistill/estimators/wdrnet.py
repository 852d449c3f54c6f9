"""WDRNet+: every cell of a feature pyramid votes for the eight corners of the object's box.

Hu et al., "Wide-Depth-Range 6D Object Pose Estimation in Space", CVPR 2021, on a zoomed-in crop as in Guo et al.,
"Knowledge Distillation for 6D Pose Estimation by Aligning Distributions of Local Predictions", CVPR 2023.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from posedistill.backbones import FeaturePyramid, build_backbone
from posedistill.backbones.cut import level_name, split_cut
from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.decode.cells import PUBLISHED_STRIDES, CellLayout, level_anchors
from posedistill.decode.wdrnet import WDRNetDecoding
from posedistill.estimators.base import Estimator
from posedistill.estimators.cells import IGNORED, Selection, draw_positives, level_budgets, select_per_level
from posedistill.estimators.heads import CellHead
from posedistill.estimators.losses.wdrnet import focal_loss, line_of_sight_loss, masked_mean
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.geometry.objects import ObjectTable

_NARROW = ("darknet_tiny_h", "darknet_tiny_q")


def _runs(strides: tuple[int, ...]) -> set[tuple[int, ...]]:
    """All unbroken runs of a sequence, among them the whole."""
    count = len(strides)
    return {strides[start:stop] for start in range(count) for stop in range(start + 1, count + 1)}


class WDRNetSettings(Settings):
    """The network, its targets and its losses.

    Both losses are means: the score loss over the cells an object may have (``B * positives``), the vote loss over the
    positive cells there are. Neither the batch size nor the crop size changes them, and a batch of background gives no
    vote loss. The two counts are nearly equal, so the published balance of 0.1 to 1 between the sums is kept. It is a
    sound one: both start between 0.1 and 0.2; a few hundred steps take the score loss to 0.01, cells are then found
    in every crop, and the votes, the harder half, send a few times the score's gradient into the shared layers.

    ``faithful`` gives the published form instead: losses summed over the batch, the score loss over the channels of
    all classes, and at inference budgets normalised over five levels even where the network has four, PnP that takes
    votes 5 px off (of 256) for outliers, and distances as it gives them, not calibrated.
    """

    backbone: str = Field(
        "darknet_tiny_h",
        description="darknet53, darknet_tiny, ..., a .cfg's network or any timm model, cut at a stride by NAME@STRIDE.",
    )
    pretrained: Path | None = None
    """State dict of the backbone; random weights without one."""
    width: int | None = Field(default=None, ge=32, multiple_of=32)
    """Channels of pyramid and head; 256, or 128 for the narrow backbones and the slim head."""
    strides: tuple[int, ...] | None = None
    """Levels; 8 to 128 for backbones that reach stride 32, else 8 to 64. The slim head leaves out 8 (see below)."""
    head: Literal["full", "slim"] = "full"
    """``full``: two towers of four 3x3 convolutions. ``slim``: two of two depthwise-separable 5x5."""
    positives: int = Field(default=10, ge=1)
    """Cells that speak for one object, over all levels."""
    scale_lambda: float = Field(default=1.0, gt=0)
    """How sharply an object's size picks its levels."""
    focal_gamma: float = Field(default=2.0, ge=0, description="Exponent of the focal loss of scores.")
    focal_alpha: float = Field(default=0.25, gt=0, lt=1, description="Weight of positives in the focal loss.")
    vote_sharpness: float = Field(default=50.0, gt=0)
    """The vote loss is quadratic below ``1 / vote_sharpness`` object diameters."""
    score_weight: float = Field(default=0.1, ge=0, description="Of the loss of scores.")
    vote_weight: float = Field(default=1.0, ge=0, description="Of the loss of votes.")
    score_threshold: float = Field(default=0.1, ge=0, lt=1)
    """Cells below it take no part at inference."""
    student_votes: Literal["positives", "top"] = "positives"
    """Which cells a distiller sees in training: those drawn from the mask, or the most confident ones."""
    faithful: bool = Field(False, description="The published form.")

    @field_validator("strides")
    @classmethod
    def _published_range(cls, strides: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if strides is not None and strides not in _runs(PUBLISHED_STRIDES):
            raise ValueError(f"expected a run of {PUBLISHED_STRIDES}, fine to coarse")
        return strides

    def decoding(self) -> WDRNetDecoding:
        """The decoder's settings that go with these."""
        return WDRNetDecoding(
            cells=self.positives,
            score_threshold=self.score_threshold,
            scale_lambda=self.scale_lambda,
            threshold=0.02 if self.faithful else WDRNetDecoding.threshold,
            faithful=self.faithful,
        )

    def resolved_width(self) -> int:
        """``width``, or its default for the backbone and head."""
        if self.width is not None:
            return self.width
        return 128 if split_cut(self.backbone)[0] in _NARROW or self.head == "slim" else 256

    def resolved_strides(self, deepest: int, crop_size: int) -> tuple[int, ...]:
        """``strides``, or their default for a backbone whose deepest map has stride ``deepest``.

        Stride 8 holds three quarters of the cells but at most one of the ten an object of a 128 px crop may choose,
        and none at 256 px: the slim head leaves it out there.
        """
        if self.strides is not None:
            return self.strides
        strides = PUBLISHED_STRIDES if deepest >= 32 else PUBLISHED_STRIDES[:4]
        return strides[1:] if self.head == "slim" and crop_size >= 128 else strides


class NetworkOutputs(NamedTuple):
    """All that one pass of the network gives; ``forward`` hands out the first two."""

    logits: Tensor
    """``[B, N]`` score logits of the wanted class."""
    votes: Tensor
    """``[B, N, 8, 2]`` crop pixels."""
    class_logits: Tensor
    """``[B, N, C]`` score logits of all classes."""
    features: dict[str, Tensor]
    embedding: Tensor


class WDRNetNetwork(nn.Module):
    """Backbone, pyramid and shared head; the part of the estimator that is exported."""

    centers: Tensor
    anchors: Tensor

    def __init__(self, classes: int, settings: WDRNetSettings, crop_size: int) -> None:
        super().__init__()
        self.backbone = build_backbone(settings.backbone, settings.pretrained)
        channels = self.backbone.channels
        strides = settings.resolved_strides(max(channels), crop_size)
        self.pyramid = FeaturePyramid(channels, strides, settings.resolved_width())
        self.head = CellHead(settings.resolved_width(), classes, slim=settings.head == "slim")
        self.cells = CellLayout.build(strides, crop_size)
        centers = torch.as_tensor(self.cells.centers, dtype=torch.float32)
        self.register_buffer("centers", centers[:, None, :], persistent=False)
        anchors = torch.as_tensor(self.cells.anchors, dtype=torch.float32)
        self.register_buffer("anchors", anchors[:, None, None], persistent=False)

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and votes for the object each crop was made for.

        Args:
            images: ``[B, 3, S, S]`` normalised. classes: ``[B]`` int64 class indices.

        Returns:
            Logits ``[B, N]`` and votes ``[B, N, 8, 2]`` in crop pixels, float32 under autocast too.
        """
        outputs = self.outputs(images, classes)
        return outputs.logits, outputs.votes

    def outputs(self, images: Tensor, classes: Tensor) -> NetworkOutputs:
        """The same pass with everything a training step may use."""
        maps = self.backbone(images)
        pyramid = self.pyramid(maps)
        class_logits, offsets = self.head(pyramid, classes)
        logits = class_logits.gather(2, classes[:, None, None].expand(-1, class_logits.shape[1], 1)).squeeze(2)
        features = {level_name(stride): level for stride, level in pyramid.items()}
        embedding = maps[max(maps)].mean(dim=(2, 3))
        return NetworkOutputs(logits, self.centers + self.anchors * offsets, class_logits, features, embedding)


class WDRNet(Estimator):
    """The estimator around :class:`WDRNetNetwork`."""

    offers: ClassVar[frozenset[str]] = frozenset({"votes", "cells", "features", "embedding"})
    targets: ClassVar[frozenset[str]] = frozenset({"masks", "keypoints3d", "keypoints", "diameters"})
    decoder: ClassVar[str] = "wdrnet"
    network: WDRNetNetwork
    level_anchors: Tensor
    inference_anchors: Tensor
    center_pixels: Tensor
    cell_ids: Tensor

    def __init__(self, objects: ObjectTable, settings: WDRNetSettings, crop_size: int) -> None:
        super().__init__()
        self.objects = objects
        self.settings = settings
        self.crop_size = crop_size
        self.calibrates = not settings.faithful
        self.network = WDRNetNetwork(len(objects), settings, crop_size)
        cells = self.network.cells
        pixels = torch.as_tensor(cells.centers).clamp(max=crop_size - 1).long()
        self.register_buffer("center_pixels", pixels[:, 1] * crop_size + pixels[:, 0], persistent=False)
        sides = [-(-crop_size // stride) for stride in cells.strides]
        ids = [cell_ids(stride, side, side) for stride, side in zip(cells.strides, sides, strict=True)]
        self.register_buffer("cell_ids", torch.cat(ids), persistent=False)
        anchors = torch.as_tensor(level_anchors(cells.strides), dtype=torch.float32)
        self.register_buffer("level_anchors", anchors, persistent=False)
        norm = torch.as_tensor(level_anchors(PUBLISHED_STRIDES), dtype=torch.float32) if settings.faithful else anchors
        self.register_buffer("inference_anchors", norm, persistent=False)
        shared = [PUBLISHED_STRIDES.index(s) for s in cells.strides] if settings.faithful else range(len(anchors))
        self._inference_levels = slice(min(shared), max(shared) + 1)

    @property
    def cells(self) -> CellLayout:
        """The grid the network's outputs are laid out on."""
        return self.network.cells

    def record(self) -> dict[str, Any]:
        """Objects, crop size, strides and how cells are chosen."""
        layout = {"crop_size": self.crop_size, "strides": self.cells.strides}
        return {"objects": self.objects, **layout, "decoding": self.settings.decoding()}

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; in train mode the positive cells are drawn with ``generator`` (best of the same device).

        ``heads``: logits ``[B, N]``, class_logits ``[B, N, C]``, votes ``[B, N, 8, 2]`` crop pixels; in train mode
        also labels ``[B, N]``, positive_index and positive_mask ``[B, M]``.
        """
        outputs = self.network.outputs(batch.images, batch.label)
        cells = self._all_votes(outputs)
        prediction = Prediction(
            {"logits": outputs.logits, "class_logits": outputs.class_logits, "votes": outputs.votes},
            cells=cells,
            features=outputs.features,
            embedding=outputs.embedding,
        )
        if self.training:
            positives, labels = self._targets(batch, generator)
            prediction.heads |= {"labels": labels, "positive_index": positives.index, "positive_mask": positives.mask}
            seen = positives if self.settings.student_votes == "positives" else self._top_cells(outputs, batch)
        else:
            seen = self._confident_cells(outputs)
        prediction.votes = replace(cells.at(seen.index), mask=seen.mask)
        return prediction

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """``score`` (focal) and ``votes`` (line of sight), weighted; both zero where no cell is positive.

        A prediction made in eval mode has no draw: its positives are drawn here, the same ones each time.
        """
        heads = prediction.heads
        if "labels" in heads:
            positives, labels = Selection(heads["positive_index"], heads["positive_mask"]), heads["labels"]
        else:
            generator = torch.Generator(batch.images.device).manual_seed(0)
            positives, labels = self._targets(batch, generator)
        score = self._score_loss(heads, labels, batch.label)
        keypoints3d, diameters = (batch.target(name, "family: wdrnet") for name in ("keypoints3d", "diameters"))
        points = keypoints3d @ batch.R.transpose(1, 2) + batch.t[:, None]
        votes = positives.gather(heads["votes"])
        per_cell = line_of_sight_loss(votes, points, batch.cameras(), diameters, self.settings.vote_sharpness)
        mask = positives.mask
        if self.settings.faithful:
            vote = torch.where(mask, per_cell, 0.0).sum()
        else:
            score, vote = score / (len(batch) * self.settings.positives), masked_mean(per_cell, mask)
        return {"score": self.settings.score_weight * score, "votes": self.settings.vote_weight * vote}

    def _score_loss(self, heads: dict[str, Tensor], labels: Tensor, classes: Tensor) -> Tensor:
        """Focal loss summed over the labelled cells, of the crop's class or (faithful) of all classes.

        The detector has named the class, so by default the other classes' channels learn nothing from this crop.
        """
        settings = self.settings
        if not settings.faithful:
            losses = focal_loss(heads["logits"], labels == 1, settings.focal_gamma, settings.focal_alpha)
            return torch.where(labels != IGNORED, losses, 0.0).sum()
        logits = heads["class_logits"]
        own = torch.arange(logits.shape[2], device=logits.device) == classes[:, None]
        targets = (labels == 1)[:, :, None] & own[:, None]
        losses = focal_loss(logits, targets, settings.focal_gamma, settings.focal_alpha)
        return torch.where((labels != IGNORED)[:, :, None], losses, 0.0).sum()

    def _targets(self, batch: Batch, generator: torch.Generator | None) -> tuple[Selection, Tensor]:
        """Positive cells and the label ``[B, N]`` of every cell.

        Those whose centre lies in the visible mask are drawn from, as many a level as the size asks for.
        """
        inside = batch.target("masks", "family: wdrnet").flatten(1).index_select(1, self.center_pixels)
        budgets = self._training_budgets(batch)
        return draw_positives(inside, budgets, self.cells, self.settings.positives, generator)

    def _training_budgets(self, batch: Batch) -> Tensor:
        keypoints = batch.target("keypoints", "family: wdrnet")
        spans = (keypoints.amax(1) - keypoints.amin(1)).amax(1) + 1
        return level_budgets(spans, self.level_anchors, self.settings.positives, self.settings.scale_lambda)

    def _top_cells(self, outputs: NetworkOutputs, batch: Batch) -> Selection:
        """The most confident cells of each level, for an object of the known size; no threshold."""
        scores = outputs.logits.detach().sigmoid()
        return select_per_level(scores, self._training_budgets(batch), self.cells, self.settings.positives)

    def _confident_cells(self, outputs: NetworkOutputs) -> Selection:
        """What the decoder would choose: the object's size is read off the votes of the most confident cell."""
        settings = self.settings
        scores = outputs.logits.detach().sigmoid()
        best = Selection(scores.argmax(1, keepdim=True), torch.ones_like(scores[:, :1], dtype=torch.bool))
        corners = best.gather(outputs.votes.detach())[:, 0]
        spans = (corners.amax(1) - corners.amin(1)).amax(1)
        budgets = level_budgets(spans, self.inference_anchors, settings.positives, settings.scale_lambda)
        keys = torch.where(scores > settings.score_threshold, scores, -1.0)
        return select_per_level(keys, budgets[:, self._inference_levels], self.cells, settings.positives)

    def _all_votes(self, outputs: NetworkOutputs) -> Votes:
        """The votes of every cell, in crop sides."""
        weights = outputs.logits.sigmoid().clamp(1e-3, 1 - 1e-3)
        mask = torch.ones_like(weights, dtype=torch.bool)
        return Votes(outputs.votes / self.crop_size, weights, mask, self.cell_ids.expand(len(weights), -1))
