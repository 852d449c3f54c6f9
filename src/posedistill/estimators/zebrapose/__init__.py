"""ZebraPose: dense surface codes (Su et al., CVPR 2022)."""

from posedistill.estimators.zebrapose.estimator import ZebraPose
from posedistill.estimators.zebrapose.network import ZebraPoseNetwork, ZebraPoseSettings

__all__ = ["ZebraPose", "ZebraPoseNetwork", "ZebraPoseSettings"]
