"""A published ``.cfg`` and ``.weights`` pair: YOLO-LITE, its head of 20 filters in the text, of 125 in the weights."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_cfg() -> Path:
    """The text; the weights lie beside it."""
    folder = os.environ.get("POSEDISTILL_DATA")
    if not folder:
        pytest.skip("POSEDISTILL_DATA names no folder with yolo_lite_voc")
    return Path(folder) / "yolo_lite_voc/tiny-yolov2-trial3.cfg"
