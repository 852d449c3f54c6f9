"""The network of ZebraPose (Su et al., CVPR 2022), and all that a recipe may say of the family."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from posedistill.backbones import build_backbone
from posedistill.backbones.cut import level_name
from posedistill.backbones.dense import PUBLISHED_STRIDES, Kind, build_decoder
from posedistill.data.codes import codes_digest
from posedistill.data.settings import Settings
from posedistill.decode.zebrapose import USUAL, ZebraPoseDecoding


class ZebraPoseSettings(Settings):
    """The network, its codes and its losses.

    Losses are means: of bits over the pixels on which the object is seen, of the mask over all pixels. ``faithful``
    gives the published ones instead (see ``estimators.losses.zebrapose``), three times the codes' plus the mask's, and
    decoding: every bit of all cells of the mask is read, all matches count alike, outliers are 2 px off (of a crop of
    128), a mask of fewer than four cells has no pose, and distances are as PnP gives them.
    """

    backbone: str = "darknet_tiny_h"
    """darknet_tiny, ..., or any timm model with maps of stride 4, cut at a stride by NAME@STRIDE."""
    pretrained: Path | None = None
    """State dict of the backbone; random weights without one."""
    decoder: Kind = "separable"
    """``separable``: the fastest at inference; ``dense``: trains twice as fast on processors; ``published``:
    ZebraPose's, for ``resnet34@8``."""
    width: int | None = Field(default=None, ge=8)
    """Of the decoder: 64, 48 where dense, 256 where published."""
    stride: Literal[2, 4] | None = None
    """Crop pixels to a cell of the output; 4, or 2 where published."""
    bits: int = Field(default=12, ge=1, le=16)
    """Of a code. Beyond 12, neighbouring cells of a 128 px crop are strangers."""
    codes: Path | None = None
    """Folder of ``posedistill data codes``; without one they are made of the training data's meshes."""
    fold: bool = False
    """Divide objects with a half-turn symmetry alike on both sides."""
    bit_weights: Literal["errors", "uniform"] = "errors"
    """Bits count by how often they are wrong (see ``estimators.losses.zebrapose``), or all the same."""
    code_weight: float = Field(default=1.0, ge=0, description="Of the loss of bits.")
    mask_weight: float = Field(default=1.0, ge=0, description="Of the cross entropy of the mask.")
    dice_weight: float = Field(default=0.0, ge=0)
    """Of the soft Dice loss of the mask, which helps where objects fill little of their crops."""
    confidence: float | None = Field(default=None, ge=0, lt=1)
    """At inference a code is read up to its first bit that is less sure (``|2 p - 1|``); null: 0.35, or what poses of
    held-back crops prefer when the training ends."""
    faithful: bool = False
    """The published losses and decoding."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.decoder == "published" and self.stride == 4:
            raise ValueError("the published decoder has stride 2")
        if self.codes is not None and self.fold:
            raise ValueError("codes that are given are folded or not: fold has no use beside codes")
        return self

    def resolved_width(self) -> int:
        """``width``, or its default for the decoder."""
        return self.width or {"separable": 64, "dense": 48, "published": 256}[self.decoder]

    def resolved_stride(self) -> int:
        """``stride``, or its default for the decoder."""
        return self.stride or (2 if self.decoder == "published" else 4)

    def origin(self) -> str:
        """What its codes are, before they are made: networks that learn from one another must share it."""
        if self.codes is not None:
            return f"codes {codes_digest(self.codes)} of a folder"
        return "codes of the meshes, folded" if self.fold else "codes of the meshes"

    def decoding(self) -> ZebraPoseDecoding:
        """The decoder's settings that go with these."""
        if self.faithful:
            return ZebraPoseDecoding(0.0, matches=None, weighted=False, threshold=2 / 128, always_answer=False)
        return USUAL if self.confidence is None else replace(USUAL, confidence=self.confidence)


class NetworkOutputs(NamedTuple):
    """All that one pass of the network gives; ``forward`` hands out the first two.

    ``mask`` ``[B, 1, G, G]`` and ``code`` ``[B, d, G, G]`` are logits of the wanted class, float32.
    """

    mask: Tensor
    code: Tensor
    features: dict[str, Tensor]
    embedding: Tensor


class ZebraPoseNetwork(nn.Module):
    """Backbone, decoder and predictor; the part of the estimator that is exported."""

    def __init__(self, classes: int, settings: ZebraPoseSettings) -> None:
        super().__init__()
        self.classes, self.bits = classes, settings.bits
        finest = PUBLISHED_STRIDES[0] if settings.decoder == "published" else 4
        self.backbone = build_backbone(settings.backbone, settings.pretrained, finest)
        width, stride = settings.resolved_width(), settings.resolved_stride()
        self.decoder = build_decoder(settings.decoder, self.backbone.channels, width, stride)
        self.predictor = nn.Conv2d(self.decoder.width, classes * (settings.bits + 1), 1)

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Mask and code, logits, of the object each crop was made for.

        Args:
            images: ``[B, 3, S, S]`` normalised. classes: ``[B]`` int64 class indices.
        """
        outputs = self.outputs(images, classes)
        return outputs.mask, outputs.code

    def outputs(self, images: Tensor, classes: Tensor) -> NetworkOutputs:
        """The same pass with everything a training step may use."""
        maps = self.backbone(images)
        dense = self.decoder(maps)
        values = self.predictor(dense.last).unflatten(1, (self.classes, self.bits + 1))
        wanted = classes[:, None, None, None, None].expand(-1, 1, *values.shape[2:])
        own = values.gather(1, wanted).squeeze(1).float()
        features = {level_name(stride): level for stride, level in dense.levels.items()}
        return NetworkOutputs(own[:, :1], own[:, 1:], features, maps[max(maps)].mean(dim=(2, 3)))
