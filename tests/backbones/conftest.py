"""A published ``.cfg`` and ``.weights`` pair: YOLO-LITE, its head of 20 filters in the text, of 125 in the weights."""

from pathlib import Path

import pytest


@pytest.fixture
def real_cfg(real_data: Path) -> Path:
    """The text; the weights lie beside it."""
    return real_data / "yolo_lite_voc/tiny-yolov2-trial3.cfg"
