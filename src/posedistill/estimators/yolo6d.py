"""YOLO6D: a grid of cells over a whole picture finds the box of every object in it, in one pass and without a detector.

Tekin, Sinha and Fua, "Real-Time Seamless Single Shot 6D Object Pose Prediction", CVPR 2018, and its small students in
Felix et al., "Squeezed Deep 6DoF Object Detection Using Knowledge Distillation", IJCNN 2020.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posedistill.backbones import build_backbone
from posedistill.backbones.cfg.library import is_cfg
from posedistill.backbones.cfg.network import CfgNetwork, CfgOutputs, pose_network, unit_images
from posedistill.backbones.cut import level_name
from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.decode.yolo6d import YOLO6DDecoding
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.losses.region import (
    BORDER,
    Answers,
    Region,
    answering,
    class_loss,
    confidence_goals,
    confidence_losses,
    point_loss,
    published_losses,
    read_region,
)
from posedistill.estimators.views import PUBLISHED_REACH, Prediction, Votes, cell_ids, published_pixels
from posedistill.geometry.objects import BOX_POINTS, ObjectTable

Side = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class YOLO6DSettings(Settings):
    """The network, its targets and its losses.

    By default errors of points are smooth L1 distances in units of the picture's diagonal and confidences learn by a
    binary cross entropy, each a mean over its own count; the cells around an object's own learn its corners too; the
    reach of a confidence is a share of the picture's width; and what lies outside of the picture stays there.

    ``faithful`` gives the published form: half squared errors in cells, summed over all cells, a mean over pictures
    (which is what its learning rate over the batch size makes of them); one cell an object; labels clamped to the
    picture; distances in pixels of a 640 x 480 picture whatever the real one. Its code weighs cells without an object
    1.0 where the paper says 0.1: ``noobject_scale: 0.1`` is what the published students were trained with. Distances
    are not calibrated.
    """

    backbone: str = "yolo_lite_bn"
    """``yolo_pose``, ``tiny_yolo``, ``yolo_lite``, ``yolo_lite_bn``, ``cfg:FILE``, or any other backbone, on whose
    coarsest map the head is put."""
    pretrained: Path | None = None
    """Weights to start from: of a ``.cfg`` Darknet's ``.weights``, whole or in part; random ones without."""
    anchors: tuple[tuple[Side, Side], ...] = ()
    """Widths and heights in cells; each has a predictor of its own in every cell. None: one predictor a cell."""
    pretrain: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training in which points are learned alone, before confidences."""
    neighbours: bool | None = None
    """Whether the cells around an object's own learn its corners too; by default they do, unless faithful."""
    reach: float = Field(default=30 / 640, gt=0)
    """Distance at which a point is worth nothing to a confidence, in widths of the picture."""
    point_scale: float | None = Field(default=None, ge=0)
    """Weights of the losses of points, of confidences where there is an object and where there is none, of classes:
    10, 1, 1, 1, or faithful 1, 5, 1, 1."""
    object_scale: float | None = Field(default=None, ge=0, description="See point_scale.")
    noobject_scale: float | None = Field(default=None, ge=0, description="See point_scale.")
    class_scale: float | None = Field(default=None, ge=0, description="See point_scale.")
    score_threshold: float = Field(default=0.1, ge=0, lt=1)
    """Cells below it take no part at inference."""
    vote: Literal["neighbourhood", "all"] = "neighbourhood"
    """At inference: the weighted mean of a cell and its neighbours, or all confident cells one by one (RANSAC)."""
    student_votes: Literal["own", "confident"] = "own"
    """What a distiller sees in training: votes of the object's own cell and its neighbours, or of confident cells."""
    faithful: bool = Field(False, description="The published form.")

    @property
    def scales(self) -> tuple[float, ...]:
        """The four weights, defaults filled in."""
        given = (self.point_scale, self.object_scale, self.noobject_scale, self.class_scale)
        defaults = (1.0, 5.0, 1.0, 1.0) if self.faithful else (10.0, 1.0, 1.0, 1.0)
        return tuple(default if value is None else value for value, default in zip(given, defaults, strict=True))

    def decoding(self) -> YOLO6DDecoding:
        """The decoder's settings that go with these."""
        return YOLO6DDecoding(score_threshold=self.score_threshold, vote=self.vote)


class HeadedBackbone(nn.Module):
    """Any backbone with a region head on its coarsest map, which gives what the network of a ``.cfg`` gives."""

    def __init__(self, backbone: str, pretrained: Path | None, channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained)
        self.stride = max(self.backbone.channels)
        self.head = nn.Conv2d(self.backbone.channels[self.stride], channels, 1)

    def outputs(self, images: Tensor) -> CfgOutputs:
        """The region map, and the backbone's maps, of pictures ``[P, 3, H, W]``."""
        maps = self.backbone(images)
        return CfgOutputs(self.head(maps[self.stride]), maps)


class YOLO6DNetwork(nn.Module):
    """The part of the estimator that is exported."""

    def __init__(self, settings: YOLO6DSettings, classes: int) -> None:
        super().__init__()
        self.anchors = max(len(settings.anchors), 1)
        name, pretrained = settings.backbone, settings.pretrained
        self.from_cfg = is_cfg(name)
        self.grid: CfgNetwork | HeadedBackbone
        if self.from_cfg:
            cfg, anchors = name.removeprefix("cfg:").strip(), settings.anchors
            self.grid = pose_network(cfg, classes=classes, keypoints=BOX_POINTS, anchors=anchors, pretrained=pretrained)
        else:
            self.grid = HeadedBackbone(name, pretrained, self.anchors * (2 * BOX_POINTS + 1 + classes))
        self.stride = self.grid.stride

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Pictures ``[P, 3, H, W]``, normalised, to the region map ``[P, A * (19 + C), rows, columns]``, float32."""
        return (self.outputs(images).head.float(),)

    def outputs(self, images: Tensor) -> CfgOutputs:
        """The same pass with the maps behind it."""
        return self.grid.outputs(unit_images(images) if self.from_cfg else images)


class YOLO6D(Estimator):
    """The estimator around :class:`YOLO6DNetwork`.

    ``votes`` and ``cells`` are of nine points, the centre first, in picture widths. In train mode an instance's votes
    are those of its own cell and the cells around; in eval mode those of the confident cells, each of which goes to
    the nearest instance of the class in its picture.
    """

    view: ClassVar[str] = "picture"
    offers: ClassVar[frozenset[str]] = frozenset({"votes", "cells", "features", "embedding"})
    targets: ClassVar[frozenset[str]] = frozenset({"keypoints3d", "keypoints", "diameters"})
    decoder: ClassVar[str] = "yolo6d"
    network: YOLO6DNetwork

    def __init__(self, objects: ObjectTable, settings: YOLO6DSettings, size: tuple[int, int] | int) -> None:
        super().__init__()
        self.objects, self.settings, self.calibrates = objects, settings, not settings.faithful
        self.size = (size, size) if isinstance(size, int) else size
        self.network = YOLO6DNetwork(settings, len(objects))
        if any(length % self.network.stride for length in self.size):
            expected = f"a height and width that the network's stride, {self.network.stride}, divides"
            raise RecipeError(describe("recipe", "data.picture.size", list(self.size), expected))

    def record(self) -> dict[str, Any]:
        """Objects, size of the pictures, the grid, and how cells are chosen."""
        grid = {"size": self.size, "stride": self.network.stride, "anchors": self.network.anchors}
        return {"objects": self.objects, **grid, "decoding": self.settings.decoding()}

    @property
    def darknet(self) -> CfgNetwork | None:
        """The grid, head and all, where a ``.cfg`` makes it."""
        return self.network.grid if isinstance(self.network.grid, CfgNetwork) else None

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch.

        ``heads``: points ``[P, N, 9, 2]`` cells, confidence ``[P, N]`` and classes ``[P, N, C]`` logits.
        """
        outputs = self.network.outputs(batch.images)
        region = read_region(outputs.head, len(self.objects))
        heads = {"points": region.points, "confidence": region.confidence, "classes": region.classes}
        cells = self._cells(region, batch)
        own = self.training and self.settings.student_votes == "own"
        votes = self._own_votes(region, cells, batch) if own else self._confident_votes(cells, batch)
        features = {level_name(stride): level for stride, level in sorted(outputs.features.items())}
        return Prediction(heads, votes, cells, features, embedding=self._embedding(outputs, batch))

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """``points``, ``confidence`` (but for the share ``pretrain`` of the training) and, of several, ``classes``."""
        region, settings, picture = self._region(prediction, batch), self.settings, batch.picture
        truth = self._truth(batch)
        answers = self._answers(region, truth, batch)
        goals = confidence_goals(region, truth, picture, answers, *self._measure(batch))
        point_scale, object_scale, noobject_scale, class_scale = settings.scales
        if settings.faithful:
            pictures = len(batch.images)
            sums = published_losses(region, truth, picture, answers, goals, object_scale, noobject_scale)
            points, confidence = point_scale * sums[0] / pictures, sums[1] / pictures
            class_scale /= pictures
        else:
            diagonal = math.hypot(*region.shape[:2])
            points = point_scale * point_loss(region, truth, picture, answers, 1 / diagonal)
            there, elsewhere = confidence_losses(region, goals)
            confidence = object_scale * there + noobject_scale * elsewhere
        terms = {"points": points}
        if self.progress >= settings.pretrain:
            terms["confidence"] = confidence
        if len(self.objects) > 1:
            named = class_loss(region, batch.label, picture, answers, mean=not settings.faithful)
            terms["classes"] = class_scale * named
        return terms

    def _region(self, prediction: Prediction, batch: Batch) -> Region:
        heads, stride = prediction.heads, self.network.stride
        rows, columns = (length // stride for length in batch.images.shape[2:])
        return Region(heads["points"], heads["confidence"], heads["classes"], (rows, columns, self.network.anchors))

    def _truth(self, batch: Batch) -> Tensor:
        """``[I, 9, 2]`` the true points in cells; published ones are kept within the picture."""
        truth = true_points(batch) / self.network.stride
        if not self.settings.faithful:
            return truth
        x, y = truth.clamp(min=0).unbind(2)
        height, width = (BORDER * length / self.network.stride for length in batch.images.shape[2:])
        return torch.stack([x.clamp(max=width), y.clamp(max=height)], 2)

    def _answers(self, region: Region, truth: Tensor, batch: Batch, neighbours: bool | None = None) -> Answers:
        if neighbours is None:
            chosen = self.settings.neighbours
            neighbours = not self.settings.faithful if chosen is None else chosen
        return answering(truth, batch.picture, len(batch.images), region.shape, self.settings.anchors, neighbours)

    def _measure(self, batch: Batch) -> tuple[tuple[float, float], float]:
        """Pixels of a cell's width and height, and the reach of confidences in the same pixels."""
        stride, (height, width) = self.network.stride, batch.images.shape[2:]
        if not self.settings.faithful:
            return (float(stride), float(stride)), self.settings.reach * width
        per_x, per_y = published_pixels((height, width))
        return (stride * per_x, stride * per_y), PUBLISHED_REACH

    def _cells(self, region: Region, batch: Batch) -> Votes:
        """``[I, N, ...]`` the votes of all predictors of each instance's picture, for its class."""
        rows, columns, anchors = region.shape
        stride = self.network.stride
        values = region.points[batch.picture] * (stride / batch.images.shape[-1])
        weights = region.scores(batch.label, batch.picture).clamp(1e-3, 1 - 1e-3)
        ids = cell_ids(stride, rows, columns, anchors, values.device).expand(len(weights), -1)
        return Votes(values, weights, torch.ones_like(weights, dtype=torch.bool), ids)

    def _own_votes(self, region: Region, cells: Votes, batch: Batch) -> Votes:
        """``[I, 9, ...]`` votes of the cells that answer for an instance, and of those around."""
        truth = self._truth(batch)
        answers = self._answers(region, truth.detach(), batch, neighbours=True)
        return replace(cells.at(answers.predictor), mask=answers.mask)

    @torch.no_grad()
    def _nearest(self, cells: Votes, batch: Batch) -> Tensor:
        """``[I, N]`` bool: of the instances of one class in one picture, the predictor's points lie nearest to this."""
        truth = true_points(batch) / batch.images.shape[-1]
        distances = (cells.values.mean(2) - truth.mean(1)[:, None]).square().sum(2)
        group = batch.picture * len(self.objects) + batch.label
        nearest = distances.new_full((len(batch.images) * len(self.objects), distances.shape[1]), torch.inf)
        nearest = nearest.scatter_reduce(0, group[:, None].expand_as(distances), distances, "amin")
        return distances <= nearest[group]

    def _confident_votes(self, cells: Votes, batch: Batch) -> Votes:
        """``[I, MOST_VOTES, ...]`` the surest predictors above the threshold."""
        keys = cells.weights.detach().where(self._nearest(cells, batch), -1.0)
        top = keys.topk(min(MOST_VOTES, keys.shape[1]), 1)
        return replace(cells.at(top.indices), mask=top.values > self.settings.score_threshold)

    def _embedding(self, outputs: CfgOutputs, batch: Batch) -> Tensor:
        """``[I, D]`` what the coarsest map holds in an instance's own cell (or the nearest to it) and around."""
        deepest = outputs.features[max(outputs.features)]
        stride = batch.images.shape[-1] // deepest.shape[-1]
        smooth = nn.functional.avg_pool2d(deepest, 3, 1, 1, count_include_pad=False)
        place = (true_points(batch)[:, 0] / stride).floor().long()
        column, row = place[:, 0].clamp(0, deepest.shape[3] - 1), place[:, 1].clamp(0, deepest.shape[2] - 1)
        return smooth[batch.picture, :, row, column]


MOST_VOTES = 25
"""Of a network in eval mode for one instance."""


def true_points(batch: Batch) -> Tensor:
    """``[I, 9, 2]`` where the centre and the corners of each instance's box appear, picture pixels."""
    asked_by = "family: yolo6d"
    return torch.cat([batch.box_centers(asked_by)[:, None], batch.target("keypoints", asked_by)], 1)
