"""Viewpoint: one network for all categories tells how the thing in a crop is turned; a teacher sees its shape too.

Xiao et al., "Pose from Shape", BMVC 2019 (bins, offsets, a shape as second input); Xiao et al., "PoseContrast", 3DV
2021 (contrast weighted by pose); Liu et al., "3D-Augmented Contrastive Knowledge Distillation for Image-based Object
Pose Estimation", ICMR 2022: the teacher's image feature is drawn to the feature of image and shape together, and the
student, which sees the image alone, to the teacher's image feature.
"""

import itertools
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from posedistill.backbones import build_trunk
from posedistill.backbones.pointnet import PointNet
from posedistill.backbones.timm_trunk import POOLED
from posedistill.backbones.view_encoder import ViewEncoder
from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.decode import Decoder
from posedistill.decode.viewpoint import Grid, Head
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.contrast import (
    nce,
    nearest_equivalent,
    negative_weights,
    shared_turns,
    unit,
    viewpoint_distances,
)
from posedistill.estimators.viewpoint_heads import build_head
from posedistill.estimators.views import Prediction
from posedistill.geometry.objects import NO_OBJECTS, ObjectTable
from posedistill.log import console


class ViewpointSettings(Settings):
    """The network and its losses.

    ``faithful`` is what the published code computes: bins that begin at 0 with hard targets, weights drawn so narrowly
    that both networks begin from nothing, a fused feature that ends in a tanh, a contrast that counts its positive
    twice and pulls at both sides, and offsets and embedding offered as logits (which they are not) for the published
    distillation.
    """

    backbone: str = "resnet18"
    """darknet53, darknet_tiny, ..., a .cfg's network or any timm model, cut at a stride by NAME@STRIDE."""
    pretrained: Path | None = None
    """State dict of the backbone; random weights without one."""
    shape: Literal["none", "cloud", "views"] = "none"
    """What the network, a teacher's, sees of the thing's shape: a point ``cloud``, or renderings (``views``)."""
    features: int = Field(default=1024, ge=1)
    """Width of the image feature; published: 1024 with shapes, 2048 without."""
    shape_features: int = Field(default=1024, ge=1)
    """``cloud``: width of the shape's feature."""
    view_backbone: str = "resnet18"
    """``views``: any backbone, one for all views."""
    view_count: int = Field(default=12, ge=1)
    """``views``: as many as ``data.view_count``."""
    view_features: int = Field(default=256, ge=1)
    """``views``: width of the feature of each."""
    width: int = Field(default=200, ge=1)
    """Of the vector that angles are read from, and of the embedding; hidden layers are 4 and 2 times as wide."""
    bin_size: float = Field(default=15.0, gt=0)
    """Degrees; they divide 180."""
    head: Head = "bins"
    """``bins``: angles in bins, with offsets. ``6d``, ``fisher``: a rotation, see ``viewpoint_heads``; no logits."""
    faithful: bool = Field(False, description="The published form.")
    contrast: float = Field(default=0.5, ge=0)
    """With shapes: weight of the contrast between image feature and fused feature; 0 leaves it out."""
    temperature: float = Field(
        default=0.1, ge=0.01, le=1, description="By which similarities of the contrast are divided."
    )
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """With shapes: of the fused feature within the contrast, in training."""
    turned_frames: bool = False
    """``cloud``: learn poses from shapes whose own frame is turned (``data.turn_frames``), as PoseFromShape does, so
    that the frame must be read from the shape. The contrast sees the shape as it is, for no picture tells the frame."""

    @model_validator(mode="after")
    def _consistent(self) -> "ViewpointSettings":
        if not (180 / self.bin_size).is_integer():
            raise ValueError(f"found bin_size {self.bin_size:g}, expected degrees that divide 180")
        if self.faithful and self.head != "bins":
            raise ValueError(f"found head {self.head} with faithful, expected bins: what was published has no other")
        if self.turned_frames and self.shape != "cloud":
            raise ValueError(f"found turned_frames with shape: {self.shape}, expected shape: cloud")
        return self

    @property
    def grid(self) -> Grid:
        """Where bins begin."""
        return "published" if self.faithful else "centred"


class NetworkOutputs(NamedTuple):
    """All that one pass of the network gives; ``forward`` hands out the first."""

    heads: dict[str, Tensor]
    """By the names of the decoder's outputs, ``[B, K]``."""
    pose_feature: Tensor
    """``[B, width]`` what the angles are read from: with shapes, the feature of both."""
    embedding: Tensor
    """``[B, width]`` of the image alone."""
    features: dict[str, Tensor]


_SHAPES = {"none": None, "cloud": "clouds", "views": "views"}
"""The target that holds each kind of shape, which is also the decoder's input and field."""


def _layers(*widths: int, last: type[nn.Module] | None = nn.ReLU, norm_last: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between; after the last, batch norm and ``last``, or nothing at all."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(widths), start=1):
        layers.append(nn.Linear(before, after))
        is_last = place == len(widths) - 1
        layers += [nn.BatchNorm1d(after)] if norm_last or not is_last else []
        layers += [nn.ReLU()] if not is_last else ([last()] if last is not None else [])
    return nn.Sequential(*layers)


class ViewpointNetwork(nn.Module):
    """The part of the estimator that is exported: of a crop (and a shape), the numbers that tell a rotation."""

    def __init__(self, settings: ViewpointSettings) -> None:
        super().__init__()
        width, features = settings.width, settings.features
        self.trunk = build_trunk(settings.backbone, settings.pretrained)
        self.image = nn.Linear(self.trunk.width, features)
        self.shape: PointNet | ViewEncoder | None = None
        hidden = (4 * width, 2 * width, width)
        if settings.shape == "cloud":
            self.shape = PointNet(settings.shape_features)
        elif settings.shape == "views":
            self.shape = ViewEncoder(settings.view_backbone, settings.view_count, settings.view_features)
        if self.shape is not None:
            fused = features + self.shape.width
            widths = (fused, fused, fused // 2, fused // 4, width)
            self.fusion = _layers(*widths, last=nn.Tanh, norm_last=False) if settings.faithful else _layers(*widths)
            self.projector = _layers(features, *hidden, last=None, norm_last=False)
        else:
            self.fusion = _layers(features, *hidden)
            self.projector = _layers(width, width, width, last=None, norm_last=False)
        self.head = build_head(width, settings.head, settings.grid, settings.bin_size)
        if settings.faithful:
            for name, part in self.named_children():
                if name != "trunk" or settings.pretrained is None:
                    part.apply(published_start)

    def forward(self, images: Tensor, shapes: Tensor | None = None) -> tuple[Tensor, ...]:
        """``[B, 3, H, W]`` crops (and clouds ``[B, P, 3]`` or views ``[B, V, 3, side, side]``) -> decoder's outputs."""
        return tuple(self.outputs(images, shapes).heads.values())

    def outputs(self, images: Tensor, shapes: Tensor | None = None) -> NetworkOutputs:
        """The same pass with everything a training step may use."""
        maps, pooled = self.trunk(images)
        maps[POOLED] = pooled[:, :, None, None]
        seen = self.image(pooled)
        x = self.fused(seen, shapes)
        embedding = self.projector(x if self.shape is None else seen)
        return NetworkOutputs(self.head(x), x, embedding, maps)

    def fused(self, seen: Tensor, shapes: Tensor | None) -> Tensor:
        """``[B, width]`` of the image feature ``[B, features]`` and, where the network looks at it, the shape."""
        if self.shape is None:
            return self.fusion(seen)  # type: ignore[no-any-return]
        assert shapes is not None
        return self.fusion(torch.cat([self.shape(shapes), seen], 1))  # type: ignore[no-any-return]


def _frame_turns(batch: Batch) -> Tensor:
    """``[B, 3, 3]`` about z, by which the frames of a batch's shapes are turned."""
    angle = torch.deg2rad(batch.target("frames", "turned_frames: true"))
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)


def published_start(layer: nn.Module) -> None:
    """Initialise as the published code does, layer by layer."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, a=0.2)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(layer.bias)


class Viewpoint(Estimator):
    """The estimator around :class:`ViewpointNetwork`.

    Its ``regression`` view is the decoded rotation, row by row, of symmetric things in the form nearest to the label's;
    its ``embedding`` is of the image alone.
    """

    task: ClassVar[str] = "categories"
    view: ClassVar[str] = "category"
    offers: ClassVar[frozenset[str]] = frozenset({"features", "embedding", "regression", "logits"})
    decoder: ClassVar[str] = "viewpoint"
    network: ViewpointNetwork

    def __init__(self, objects: ObjectTable | None, settings: ViewpointSettings, crop_size: int) -> None:
        """Neither ``objects`` nor ``crop_size`` is looked at: one network knows all categories, at any size."""
        super().__init__()
        self.objects = NO_OBJECTS
        self.settings = settings
        self.network = ViewpointNetwork(settings)
        self.shown = _SHAPES[settings.shape]
        if self.shown is not None:
            frames = {"frames"} if settings.turned_frames else set()
            self.targets = frozenset({self.shown} | frames)  # type: ignore[misc]
        if settings.head != "bins":
            self.offers = self.offers - {"logits"}  # type: ignore[misc]

    def noise_targets(self, count: int) -> dict[str, Tensor]:
        """Shapes, as far as the network looks at any."""
        settings = self.settings
        if self.shown == "views":
            return {"views": torch.rand(count, settings.view_count, 3, 32, 32)}
        return {} if self.shown is None else {"clouds": torch.randn(count, 16, 3), "frames": torch.zeros(count)}

    def check_teacher(self, teacher: Estimator) -> None:
        """Refuse a teacher that has learned none of the categories, and tell of those that it has not learned."""
        missing = sorted(set(self.categories) - set(teacher.categories))
        if not teacher.categories or not missing:
            return
        found = f"a network that has learned {', '.join(teacher.categories)}"
        told = describe("recipe", "teacher", found, f"{', '.join(missing)} too")
        if len(missing) == len(self.categories):
            raise RecipeError(told)
        console.print(f"[yellow]{told}: what it says of the others is a guess", highlight=False)

    def record(self) -> dict[str, Any]:
        """What its outputs mean."""
        return {"head": self.settings.head, "grid": self.settings.grid, "bin_size": self.settings.bin_size}

    def build_decoder(self, **known: Any) -> Decoder:
        """Its decoder, with those shapes alone that the network looks at."""
        unseen = {name for name in _SHAPES.values() if name != self.shown}
        return super().build_decoder(**{name: value for name, value in known.items() if name not in unseen})

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; in train mode ``generator`` drives the dropout within the contrast.

        ``heads``: logits and offsets by the names of the decoder's outputs; with shapes ``fused`` ``[B, width]``, the
        feature of image and shape.
        """
        shapes = self._shapes(batch)
        outputs = self.network.outputs(batch.images, shapes)
        with torch.autocast(batch.images.device.type, enabled=False):
            heads, head = outputs.heads, self.network.head
            rotations, logits = head.rotations(heads), head.class_logits(heads)
            if "turns" in batch.targets:
                rotations = nearest_equivalent(rotations, batch.R, batch.targets["turns"])
            if self.settings.faithful:
                logits |= {name: heads[name] for name in heads if name not in logits} | {"embedding": outputs.embedding}
            prediction = Prediction(
                dict(heads),
                features=outputs.features,
                embedding=outputs.embedding,
                regression=rotations.flatten(1),
                regression_truth=batch.R.flatten(1),
                logits=logits,
            )
        if shapes is not None:
            prediction.heads["fused"] = self._dropped(outputs.pose_feature, generator)
            if self.training and self.settings.turned_frames:
                prediction.heads |= self._reframed(outputs, shapes, batch)
        return prediction

    def _shapes(self, batch: Batch) -> Tensor | None:
        """What the network sees of shapes; a RecipeError where that are not as many views as it was built for."""
        if self.shown is None:
            return None
        shapes, count = batch.target(self.shown, f"shape: {self.settings.shape}"), self.settings.view_count
        if self.shown == "views" and shapes.shape[1] != count:
            found = f"{count} with data.view_count {shapes.shape[1]}"
            raise RecipeError(describe("recipe", "settings.view_count", found, "as many as the data give"))
        return shapes

    def _dropped(self, fused: Tensor, generator: torch.Generator | None) -> Tensor:
        rate = self.settings.dropout
        if not self.training or rate == 0:
            return fused
        kept = torch.rand(fused.shape, generator=generator, device=fused.device) >= rate
        return fused * kept / (1 - rate)

    def _reframed(self, outputs: NetworkOutputs, clouds: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What the heads say of shapes whose frame is turned: a second pass of shape and fusion alone.

        Points become ``Rz(turn) points``, the azimuth ``a + turn``; PoseFromShape's public code turned shape and label
        by different angles.
        """
        turned = clouds @ _frame_turns(batch).transpose(1, 2)
        seen = self.network.image(outputs.features[POOLED].flatten(1))
        return self.network.head(self.network.fused(seen, turned))  # type: ignore[no-any-return]

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Those of the head (``bins`` and ``offset``, ...), and with shapes ``contrast``: means over the batch."""
        settings, heads, R = self.settings, prediction.heads, batch.R
        if self.training and settings.turned_frames:
            R = R @ _frame_turns(batch).transpose(1, 2)
        terms = self.network.head.losses(heads, R)
        if "fused" in heads and settings.contrast > 0:
            terms["contrast"] = settings.contrast * self._contrast(prediction, batch)
        return terms

    def _contrast(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The image's embedding against the fused features of the batch.

        Others count the more the farther their poses are, and the fused side is left where it is; ``faithful``: all
        others alike, the positive once more among them, and both sides move.
        """
        assert prediction.embedding is not None
        fused = prediction.heads["fused"].float()
        fused = fused if self.settings.faithful else fused.detach()
        scores = unit(prediction.embedding.float()) @ unit(fused).T / self.settings.temperature
        if self.settings.faithful:
            return nce(scores.diagonal(), scores, torch.ones_like(scores)).mean()
        turns = batch.targets.get("turns")
        distances = viewpoint_distances(batch.R, batch.R, shared_turns(turns, turns))
        weights = negative_weights(distances, "linear").fill_diagonal_(0)
        return nce(scores.diagonal(), scores, weights).mean()
