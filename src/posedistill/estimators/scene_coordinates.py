"""Scene coordinates: a network tells for each cell of a picture which point of one known scene it shows.

Shotton et al., CVPR 2013; Brachmann and Rother (DSAC*), PAMI 2021; Brachmann et al. (ACE), CVPR 2023, for the head
with homogeneous outputs and the schedule of the loss. Batches are whole pictures, of whose cells each step draws some.
"""

import copy
import hashlib
import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from posedistill.backbones import build_backbone
from posedistill.backbones.cut import level_name
from posedistill.data.loading.batch import Batch
from posedistill.data.settings import Settings
from posedistill.decode.scene_coordinates import CELLS, REFERENCE_SIDE
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import FROZEN_MAPS, Estimator, FrozenPart, fit_places
from posedistill.estimators.losses.scene_coordinates import (
    Reprojection,
    confidence_loss,
    coordinate_loss,
    reproject,
    soft_limit,
)
from posedistill.estimators.views import Prediction, Votes, cell_ids, place_of_cells
from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import NO_OBJECTS, ObjectTable

STRIDE = 8
"""Of the cells, in pixels of what the trunk sees."""
NEAREST, FARTHEST = 0.05, 500.0
"""Depths between which a point can be, in likely depths."""
LARGEST_DIVISOR = 100.0
_SMALLEST_DIVISOR = 0.25
_BETA = math.log(2) / (1 - _SMALLEST_DIVISOR)
"""Of the softplus, so that an output of 0 divides by 1."""
_SETTLED = 0.05
"""Share of a training after which the statistics of frozen features are held."""


class SceneCoordinatesSettings(Settings):
    """The network, what of a picture is learned from, and the units of its losses."""

    backbone: str = "tf_efficientnet_lite0@16"
    """With a map of stride 8, and one of stride 16 at least for what surrounds a cell; deeper ones are used too."""
    pretrained: Path | None = None
    """State dict of the backbone; random weights without one."""
    frozen: bool = False
    """Whether the backbone stays as it is: sensible with pretrained weights alone, and faster."""
    width: int = Field(default=192, ge=8)
    """Of the head; its cost grows with the square."""
    blocks: int = Field(default=2, ge=1)
    """Of three layers each."""
    reduce: int = Field(default=1, ge=1, le=4)
    """Pixels of a picture that are averaged along a side first: 2 looks at pictures of 640x480 as at 320x240."""
    cells: int = Field(default=3072, ge=16)
    """Most cells that a step learns from, over all its pictures."""
    depth: float = Field(default=2.0, gt=0)
    """Likely depth of what is seen, in root mean square distances of the training cameras from their middle."""
    right: float = Field(default=5.0, gt=0)
    """Reprojection error up to which a point is right, to the confidence: pixels of a picture 640 wide."""


class NetworkOutputs(NamedTuple):
    """All that one pass of the network gives, of ``N`` cells of each picture."""

    points: Tensor
    """``[B, N, 3]`` in the scene."""
    logits: Tensor
    """``[B, N]`` of the confidence."""
    ids: Tensor
    """``[B, N]`` int64, which cells these are."""
    counted: Tensor
    """``[B, N]`` bool, whether there is something of the photograph."""
    grid: tuple[int, int]
    """Rows and columns of all cells."""
    features: dict[str, Tensor]
    embedding: Tensor | None
    """Mean features of all cells; neither these nor maps of the trunk where its outputs were stored."""


class CoordinateHead(nn.Module):
    """1x1 convolutions: features of a cell -> a homogeneous point and the logit of its confidence."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, width, 1)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3)) for _ in range(blocks))
        self.hidden = nn.Conv2d(width, width, 1)
        self.point = nn.Conv2d(width, 4, 1)
        self.sure = nn.Conv2d(width, width // 4, 1)
        self.confidence = nn.Conv2d(width // 4, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, h, w]`` to points ``[B, 3, h, w]`` about the middle of the scene in its unit, and logits."""
        x = functional.relu(self.stem(x))
        for block in self.blocks:
            y = x
            for layer in block:  # type: ignore[attr-defined]
                y = functional.relu(layer(y))
            x = x + y
        x = functional.relu(self.hidden(x))
        numbers = self.point(x)
        divisor = functional.softplus(numbers[:, 3:], beta=_BETA) + _SMALLEST_DIVISOR
        # How sure a cell is must not change what it says.
        logits = self.confidence(functional.relu(self.sure(x.detach())))
        return numbers[:, :3] / divisor.clamp(max=LARGEST_DIVISOR), logits


class SceneCoordinatesNetwork(nn.Module):
    """Trunk and head; the part of the estimator that is exported.

    Buffers ``center`` ``[3]`` and ``radius`` hold where the training cameras stand: the unit of the head.
    """

    center: Tensor
    radius: Tensor

    def __init__(self, settings: SceneCoordinatesSettings) -> None:
        super().__init__()
        self.reduce, self.frozen = settings.reduce, settings.frozen
        self.trunk = build_backbone(settings.backbone, settings.pretrained)
        strides = sorted(self.trunk.channels)
        if STRIDE not in strides or len(strides) < 2:
            expected = (
                f"one with maps of stride {STRIDE} and 16: from stride {STRIDE} alone, cells see too little around"
            )
            raise RecipeError(
                describe("recipe", "backbone", f"{settings.backbone!r}, of strides {strides}", f"{expected} them")
            )
        width = sum(self.trunk.channels.values())
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.head = CoordinateHead(width, settings.width, settings.blocks)
        self.register_buffer("center", torch.zeros(3))
        self.register_buffer("radius", torch.ones(()))

    @property
    def stride(self) -> int:
        """From cell to cell, in pixels of the pictures."""
        return STRIDE * self.reduce

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the cells of a picture."""
        return -(-height // self.stride), -(-width // self.stride)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` normalised images to points ``[B, 3, h, w]`` and their confidence ``[B, 1, h, w]``."""
        x, _ = self.features(images)
        points, logits = self.head(self.norm(x))
        return self.center.view(1, 3, 1, 1) + self.radius * points, logits.sigmoid()

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the head sees of every cell ``[B, C, h, w]``, and the trunk's maps by name."""
        rows, columns = self.grid(*images.shape[2:])
        coarsest = max(self.trunk.channels) * self.reduce
        below, right = (-length % coarsest for length in images.shape[2:])
        if below or right:
            images = functional.pad(images, (0, right, 0, below))
        if self.reduce > 1:
            images = functional.avg_pool2d(images, self.reduce)
        maps = self.trunk(images)
        wide = [maps[STRIDE]]
        for stride, level in maps.items():
            if stride > STRIDE:
                size = maps[STRIDE].shape[2:]
                wide.append(functional.interpolate(level, size=size, mode="bilinear", align_corners=False))
        x = torch.cat(wide, dim=1)[:, :, :rows, :columns]
        return x, {level_name(stride): level for stride, level in maps.items()}

    def cells_of(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``[B, N, C]`` the features of every cell, row by row of the grid, and the trunk's maps by name."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x, features = self.features(images)
        return x.permute(0, 2, 3, 1).flatten(1, 2), features

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[B, N, 3]`` in the scene and logits ``[B, N]`` of cells with features ``[B, N, C]``."""
        # bfloat16 knows points to a hundredth at best. The cells of all pictures in one row are a third faster.
        with torch.autocast(x.device.type, enabled=False):
            row = x.float().flatten(0, 1).T[None, :, :, None]
            points, logits = (out[0, :, :, 0].T.unflatten(0, x.shape[:2]) for out in self.head(self.norm(row)))
            return self.center + self.radius * points, logits[..., 0]


class SceneCoordinates(Estimator):
    """The estimator around :class:`SceneCoordinatesNetwork`.

    Its votes are points of the scene, one a cell, in likely depths: so a difference of 0.02 is about what a fiftieth of
    the distance is. ``cells`` are all of them (in train mode those that were drawn) and in eval mode their means over
    two by two as well, for students whose cells are twice as wide; ``votes`` the surest (in train mode the drawn ones).
    """

    task: ClassVar[str] = "scene"
    view: ClassVar[str] = "scene"
    offers: ClassVar[frozenset[str]] = frozenset({"votes", "cells", "features", "embedding"})
    decoder: ClassVar[str] = "scene_coordinates"
    projects: ClassVar[bool] = True
    calibrates = True
    network: SceneCoordinatesNetwork

    def __init__(self, objects: ObjectTable | None, settings: SceneCoordinatesSettings, crop_size: int) -> None:
        """Neither ``objects`` nor ``crop_size`` is looked at: a scene has none, and pictures may have any shape."""
        super().__init__()
        self.objects = NO_OBJECTS
        self.settings = settings
        self.network = SceneCoordinatesNetwork(settings)
        self.freeze(["trunk"] * settings.frozen)

    def train(self, mode: bool = True) -> Self:
        """As any module, but for what is known of a frozen trunk's features by then."""
        super().train(mode)
        if self.settings.frozen:
            self.network.norm.train(self.network.norm.training and self.progress < _SETTLED)
        return self

    def fit_targets(self, R: Array, t: Array) -> None:
        """Take where the training cameras stand, ``[N, 3, 3]`` and ``[N, 3]`` world to camera; before training."""
        fit_places(self.network.center, self.network.radius, R, t)

    def record(self) -> dict[str, Any]:
        """How far apart its cells are."""
        return {"stride": self.network.stride}

    def frozen_part(self) -> FrozenPart | None:
        """The trunk, where it is frozen."""
        if not self.settings.frozen:
            return None
        weights = hashlib.sha256()
        for name, value in self.network.trunk.state_dict().items():
            weights.update(name.encode() + value.cpu().numpy().tobytes())
        about = f"{self.settings.backbone}, reduce {self.settings.reduce}, weights {weights.hexdigest()[:12]}"
        # A copy, for maps are made beside the training, whose steps set modes and weights.
        network = copy.deepcopy(self.network).eval().to(memory_format=torch.channels_last)
        return FrozenPart(lambda images: network.to(images.device).cells_of(images)[0], about)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; in train mode ``generator`` draws the cells.

        ``heads``: points ``[B, N, 3]`` in the scene and in the ``camera``, logits ``[B, N]``, pixels ``[B, N, 2]``,
        error ``[B, N]`` (pixels of a picture 640 wide), valid, counted ``[B, N]`` bool.
        """
        outputs = self._outputs(batch, generator)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._prediction(outputs, batch)

    def _outputs(self, batch: Batch, generator: torch.Generator | None) -> NetworkOutputs:
        """Of the cells that a step draws, or in eval mode of all."""
        network = self.network
        grid = network.grid(*batch.images.shape[2:])
        ids = cell_ids(network.stride, *grid, device=batch.images.device).expand(len(batch), -1)
        counted = _photographed(cell_pixels(ids), batch)
        stored = batch.targets.get(FROZEN_MAPS) if self.training else None
        x, features = network.cells_of(batch.images) if stored is None else (stored, {})
        embedding = x.float().mean(dim=1) if stored is None else None
        if self.training:
            drawn = _drawn(counted, max(self.settings.cells // len(batch), 1), generator)
            x = x[torch.arange(len(x))[:, None], drawn.to(x.device)].to(batch.images.device)
            ids, counted = ids.gather(1, drawn), counted.gather(1, drawn)
        points, logits = network.outputs(x)
        return NetworkOutputs(points, logits, ids, counted, grid, features, embedding)

    def _prediction(self, outputs: NetworkOutputs, batch: Batch) -> Prediction:
        ids, counted = outputs.ids, outputs.counted
        pixels = cell_pixels(ids)
        camera, found = self._seen(outputs.points, pixels, batch)
        weights = outputs.logits.sigmoid()
        cells = votes = self._votes(outputs.points, weights, found, counted, ids)
        if not self.training:
            chosen = weights.where(counted, -1.0).topk(min(CELLS, weights.shape[1]), dim=1).indices
            votes = cells.at(chosen)
            cells = self._with_wider(cells, outputs, batch)
        return Prediction(
            {
                "points": outputs.points,
                "camera": camera,
                "logits": outputs.logits,
                "pixels": pixels,
                "error": found.error,
                "valid": found.valid,
                "counted": counted,
            },
            votes=votes,
            cells=cells,
            features=outputs.features,
            embedding=outputs.embedding,
        )

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """``points``, in pixels of a picture 640 wide, and ``confidence``: means over the drawn cells."""
        heads, depth = prediction.heads, self._depth()
        found = Reprojection(heads["error"], heads["camera"][..., 2], heads["valid"])
        rays = _rays(heads["pixels"], batch.cameras())
        limit = soft_limit(self.progress)
        points = coordinate_loss(heads["camera"], found, rays, heads["counted"], limit, depth)
        sure = confidence_loss(heads["logits"], found.error, found.valid, heads["counted"], self.settings.right)
        return {"points": points, "confidence": sure}

    def _depth(self) -> Tensor:
        """The likely one, in the scene's unit."""
        return self.settings.depth * self.network.radius

    def _seen(self, points: Tensor, pixels: Tensor, batch: Batch) -> tuple[Tensor, Reprojection]:
        """Points ``[B, N, 3]`` in the camera's frame, and where they appear there."""
        camera = points @ batch.R.transpose(1, 2) + batch.t[:, None]
        scale = REFERENCE_SIDE / max(batch.images.shape[2:])
        K = batch.cameras() * batch.K.new_tensor([scale, scale, 1.0])[:, None]
        depth = self._depth()
        return camera, reproject(camera, K, scale * pixels, NEAREST * depth, FARTHEST * depth)

    def _votes(self, points: Tensor, weights: Tensor, found: Reprojection, counted: Tensor, ids: Tensor) -> Votes:
        values = (points / self._depth())[:, :, None]
        errors = found.error.detach().where(found.valid, torch.inf)
        return Votes(values, weights, counted, ids, errors)

    def _with_wider(self, cells: Votes, outputs: NetworkOutputs, batch: Batch) -> Votes:
        """The cells, and behind them their means over two by two."""
        if min(outputs.grid) < 2:
            return cells
        numbers = torch.cat([outputs.points, cells.weights[..., None]], dim=-1)
        maps = numbers.transpose(1, 2).reshape(len(numbers), -1, *outputs.grid)
        means = functional.avg_pool2d(maps, 2)
        points, weights = means[:, :3].flatten(2).transpose(1, 2), means[:, 3].flatten(1)
        height, width = means.shape[2:]
        ids = cell_ids(2 * self.network.stride, height, width, device=points.device).expand(len(points), -1)
        pixels = cell_pixels(ids)
        wide = self._votes(points, weights, self._seen(points, pixels, batch)[1], _photographed(pixels, batch), ids)
        pairs = (
            (getattr(cells, name), getattr(wide, name)) for name in ("values", "weights", "mask", "cells", "errors")
        )
        return Votes(*(torch.cat(pair, dim=1) for pair in pairs))


def _drawn(counted: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``[B, n]`` which of the cells ``[B, N]`` a step learns from: those with something of the photograph first."""
    chance = torch.rand(counted.shape, generator=generator, device=counted.device)
    return chance.where(counted, -1.0).topk(min(count, counted.shape[1]), dim=1).indices


def cell_pixels(ids: Tensor) -> Tensor:
    """``[..., 2]``: (x, y) of the centres of cells that ``cell_ids`` numbers so.

    >>> cell_pixels(cell_ids(8, 1, 2)).tolist()
    [[3.5, 3.5], [11.5, 3.5]]
    """
    stride, row, column = place_of_cells(ids)
    return stride[..., None] * torch.stack([column, row], dim=-1) + (stride[..., None] - 1) / 2


def _rays(pixels: Tensor, K: Tensor) -> Tensor:
    """``[B, N, 3]`` directions of pixels ``[B, N, 2]``, of depth 1."""
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1) @ torch.linalg.inv(K).transpose(1, 2)


def _photographed(pixels: Tensor, batch: Batch) -> Tensor:
    """``[B, N]`` whether there is something of the photograph at these pixels: a turned view reaches beyond it."""
    places = batch.targets.get("places")
    if places is None:
        return torch.ones_like(pixels[..., 0], dtype=torch.bool)
    ends = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1) @ places.transpose(1, 2)
    shares = ends[..., :2] / ends[..., 2:]
    return ((shares >= 0) & (shares <= 1)).all(dim=-1)
