"""PoseNet: one network looks at a picture of a known scene and tells where the camera stands and how it is turned.

Kendall et al., ICCV 2015; Kendall and Cipolla, CVPR 2017 (learned weights); Brahmbhatt et al., CVPR 2018 (log
quaternions); Zhou et al., CVPR 2019 (6D rotations).
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from posedistill.backbones import build_trunk
from posedistill.backbones.timm_trunk import POOLED
from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.decode.posenet import ROTATION_SIZES
from posedistill.estimators.base import Estimator, fit_places
from posedistill.estimators.losses.posenet import (
    Norm,
    Sign,
    frustum_points,
    homoscedastic,
    nearer_sign,
    point_distance,
    residual_norm,
    squared_pose_loss,
)
from posedistill.estimators.rotations import chordal_distance, from_matrix, geodesic_angle, to_matrix
from posedistill.estimators.views import Prediction
from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import NO_OBJECTS, ObjectTable
from posedistill.geometry.rotations import mean_rotation

Rotation = Literal["6d", "quaternion", "log_quaternion"]


class PoseNetSettings(Settings):
    """The network, its targets and its losses.

    The original form is rotation: quaternion, loss: published, init: published, normalise: false and sign: fixed.
    """

    backbone: str = "resnet18"
    """darknet53, darknet_tiny, ..., a .cfg's network or any timm model, cut at a stride by NAME@STRIDE."""
    pretrained: Path | None = None
    """State dict of the backbone; random weights without one."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's only hidden layer; 256 makes it a quarter of the published."""
    dropout: float = Field(default=0.5, ge=0, lt=1, description="In training, before the last layers.")
    init: Literal["kaiming", "published"] = "kaiming"
    """``published``: deviations 0.01 (hidden), 0.5 (position) and 0.01 (rotation), for targets in metres.
    ``kaiming``: the hidden layer by its size, small output layers that begin at the middle of the training poses."""
    rotation: Rotation = "6d"
    """``6d`` is the only one without a jump."""
    normalise: bool = True
    """Positions count from the mean of the training ones, in their root mean square distance from it; rotations from
    their mean (see ``PoseNet.fit_targets``). Without, both are as the data has them, in metres."""
    loss: Literal["homoscedastic", "weighted", "geometric", "published"] = "homoscedastic"
    """``homoscedastic``: norms, weighted by learned variances. ``weighted``: norms, rotation times ``beta`` (Kendall
    2015). ``geometric``: distances of points in view. ``published``: mean squares, rotation times ``beta``."""
    beta: float = Field(default=500.0, ge=0, description="Weight of rotation in the published loss.")
    log_weights: tuple[float, float] = (0.0, -3.0)
    """``homoscedastic``: s of position and rotation at the start; (-3, -6.5) is usual outdoors."""
    norm: Norm = "l2"
    """Of position errors, and of ``parameters``."""
    rotation_error: Literal["geodesic", "chordal", "parameters"] = "geodesic"
    """The angle, the distance of matrices, or the distance of the network's own numbers."""
    sign: Sign = "either"
    """Distances of quaternions: to the truth or its negative, whichever is nearer, or to the one with w >= 0."""
    depth: float = Field(default=2.0, gt=0)
    """``geometric``: distance of what is seen, in units of positions."""

    @model_validator(mode="after")
    def _published_needs_quaternions(self) -> "PoseNetSettings":
        if self.loss == "published" and self.rotation != "quaternion":
            raise ValueError(f"found loss: published with rotation: {self.rotation}, expected rotation: quaternion")
        return self


class NetworkOutputs(NamedTuple):
    """All that one pass of the network gives; ``forward`` hands out the first two."""

    position: Tensor
    """``[B, 3]`` camera centre, metres."""
    rotation: Tensor
    """``[B, k]`` parameters, relative to the reference."""
    normalised: Tensor
    """``[B, 3]`` position in units of training."""
    features: dict[str, Tensor]
    embedding: Tensor


class PoseHead(nn.Module):
    """Pooled features -> hidden layer -> position and rotation."""

    def __init__(self, width: int, settings: PoseNetSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.hidden = nn.Linear(width, settings.hidden)
        self.position = nn.Linear(settings.hidden, 3)
        self.rotation = nn.Linear(settings.hidden, ROTATION_SIZES[settings.rotation])
        published = settings.init == "published"
        deviations = (0.01, 0.5, 0.01) if published else ((2 / width) ** 0.5, 0.01, 0.01)
        for layer, deviation in zip((self.hidden, self.position, self.rotation), deviations, strict=True):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        if not published:
            with torch.no_grad():
                self.rotation.bias.copy_(from_matrix(torch.eye(3), settings.rotation))

    def forward(self, pooled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``[B, width] -> [B, 3], [B, k]``; in train mode ``generator`` drives the dropout, so that runs resume."""
        x = functional.relu(self.hidden(pooled))
        if self.training and self.dropout > 0:
            kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
            x = x * kept / (1 - self.dropout)
        return self.position(x), self.rotation(x)


class PoseNetNetwork(nn.Module):
    """Trunk and head; the part of the estimator that is exported.

    Buffers ``center`` ``[3]``, ``radius`` and ``reference`` ``[3, 3]`` hold what normalises the targets.
    """

    center: Tensor
    radius: Tensor
    reference: Tensor

    def __init__(self, settings: PoseNetSettings) -> None:
        super().__init__()
        self.trunk = build_trunk(settings.backbone, settings.pretrained)
        self.head = PoseHead(self.trunk.width, settings)
        self.is_quaternion = settings.rotation == "quaternion"
        self.register_buffer("center", torch.zeros(3))
        self.register_buffer("radius", torch.ones(()))
        self.register_buffer("reference", torch.eye(3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` normalised images to camera centres ``[B, 3]`` (m) and rotations ``[B, k]``, both float32.

        Quaternions come out with norm 1.
        """
        outputs = self.outputs(images)
        return outputs.position, outputs.rotation

    def outputs(self, images: Tensor, generator: torch.Generator | None = None) -> NetworkOutputs:
        """The same pass with everything a training step may use."""
        features, pooled = self.trunk(images)
        if torch.is_autocast_enabled(images.device.type):  # bfloat16 knows positions to a hundredth at best
            with torch.autocast(images.device.type, enabled=False):
                position, rotation = self.head(pooled.float(), generator)
        else:
            position, rotation = self.head(pooled, generator)
        if self.is_quaternion:
            rotation = functional.normalize(rotation, dim=-1)
        features[POOLED] = pooled[:, :, None, None]
        return NetworkOutputs(self.center + self.radius * position, rotation, position, features, pooled)


class PoseNet(Estimator):
    """The estimator around :class:`PoseNetNetwork`.

    Its ``regression`` view is the position in units of training followed by the rotation: as a unit quaternion where
    the network puts out quaternions (7 numbers, of the truth's sign unless ``sign: fixed``), else as a matrix, row by
    row (12 numbers), which networks with 6D and log quaternions share.
    """

    task: ClassVar[str] = "scene"
    view: ClassVar[str] = "scene"
    offers: ClassVar[frozenset[str]] = frozenset({"features", "embedding", "regression"})
    decoder: ClassVar[str] = "posenet"
    network: PoseNetNetwork

    def __init__(self, objects: ObjectTable | None, settings: PoseNetSettings, crop_size: int) -> None:
        """Neither ``objects`` nor ``crop_size`` is looked at: a scene has none, and pictures may have any shape."""
        super().__init__()
        self.objects = NO_OBJECTS
        self.settings = settings
        self.network = PoseNetNetwork(settings)
        if settings.loss == "homoscedastic":
            self.log_weights = nn.Parameter(torch.tensor(settings.log_weights))

    def fit_targets(self, R: Array, t: Array) -> None:
        """Take middle and spread of the training poses, ``[N, 3, 3]`` and ``[N, 3]`` world to camera; before training.

        They are saved with the weights. Without ``normalise`` nothing happens.
        """
        if not self.settings.normalise:
            return
        fit_places(self.network.center, self.network.radius, R, t)
        self.network.reference.copy_(torch.as_tensor(mean_rotation(R)))

    def record(self) -> dict[str, Any]:
        """What the numbers of its rotations mean."""
        return {"rotation": self.settings.rotation, "reference": self.network.reference.double().cpu().numpy()}

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; in train mode ``generator`` drives the dropout.

        ``heads``: position ``[B, 3]`` m, rotation ``[B, k]``, normalised ``[B, 3]`` position in units of training, R
        ``[B, 3, 3]`` world to camera.
        """
        outputs = self.network.outputs(batch.images, generator)
        with torch.autocast(batch.images.device.type, enabled=False):
            relative = to_matrix(outputs.rotation, self.settings.rotation)
            regression, truth = self._regression(outputs, relative, batch)
            return Prediction(
                {
                    "position": outputs.position,
                    "rotation": outputs.rotation,
                    "normalised": outputs.normalised,
                    "R": relative @ self.network.reference,
                },
                features=outputs.features,
                embedding=outputs.embedding,
                regression=regression,
                regression_truth=truth,
            )

    def _regression(self, outputs: NetworkOutputs, relative: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The view of that name ``[B, 7 or 12]``, and what it should be."""
        position, rotation = self._targets(batch)
        if self.settings.rotation == "quaternion":
            truth, ours = from_matrix(rotation, "quaternion"), outputs.rotation
            if self.settings.sign == "either":
                ours = nearer_sign(truth, ours)
        else:
            truth, ours = rotation.flatten(1), relative.flatten(1)
        return torch.cat([outputs.normalised, ours], 1), torch.cat([position, truth], 1)

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """``position`` and ``rotation``, weighted, or ``points`` alone (``geometric``): means over the batch.

        With learned weights the terms hold their logarithms too and may fall below zero.
        """
        settings, heads = self.settings, prediction.heads
        position, rotation = self._targets(batch)
        if settings.loss == "geometric":
            height, width = batch.images.shape[-2:]
            points = frustum_points(batch.cameras(), height, width, settings.depth)
            return {"points": point_distance(heads["R"], heads["normalised"], batch.R, position, points).mean()}
        if settings.loss == "published":
            truth = from_matrix(rotation, "quaternion")
            squares = squared_pose_loss(heads["normalised"], heads["rotation"], position, truth, settings.sign)
            return {"position": squares[0], "rotation": settings.beta * squares[1]}
        off = residual_norm(heads["normalised"] - position, settings.norm).mean()
        turned = self._rotation_error(heads["rotation"], rotation).mean()
        if settings.loss == "weighted":
            return {"position": off, "rotation": settings.beta * turned}
        off, turned = homoscedastic(off, turned, self.log_weights)
        return {"position": off, "rotation": turned}

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``[B, 3]`` positions in units of training, and ``[B, 3, 3]`` rotations relative to the reference."""
        network = self.network
        position = (batch.camera_centers() - network.center) / network.radius
        return position, batch.R @ network.reference.T

    def _rotation_error(self, parameters: Tensor, truth: Tensor) -> Tensor:
        """``[B]`` by the setting of that name."""
        kind = self.settings.rotation
        if self.settings.rotation_error != "parameters":
            distance = geodesic_angle if self.settings.rotation_error == "geodesic" else chordal_distance
            return distance(to_matrix(parameters, kind), truth)
        wanted = from_matrix(truth, kind)
        if kind == "quaternion" and self.settings.sign == "either":
            wanted = nearer_sign(parameters, wanted)
        return residual_norm(parameters - wanted, self.settings.norm)
