"""PooledTrunk: any backbone as a trunk, its last map averaged."""

from torch import Tensor, nn

from posedistill.backbones.cfg.network import CfgBackbone
from posedistill.backbones.cut import level_name
from posedistill.backbones.darknet import DarkNet


class PooledTrunk(nn.Module):
    """A backbone whose last map is averaged to one vector, as families that regress a pose want it.

    Attributes:
        channels: name of each map (``p3`` for stride 8, ...) -> its channels, fine to coarse.
        width: of the pooled features.
    """

    def __init__(self, backbone: CfgBackbone | DarkNet) -> None:
        super().__init__()
        self.backbone = backbone
        strides = backbone.channels
        self.channels = {level_name(stride): count for stride, count in strides.items()}
        self.width = strides[max(strides)]

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """``[B, 3, H, W]``, ImageNet-normalised -> maps ``[B, C, H / stride, W / stride]``, and ``[B, width]``."""
        maps = self.backbone(images)
        return dict(zip(self.channels, maps.values(), strict=True)), maps[max(maps)].mean(dim=(2, 3))
