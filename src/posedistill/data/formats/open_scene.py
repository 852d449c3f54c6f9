"""open_scene: a scene of photographs with poses, in whichever of the known formats it is."""

from collections.abc import Callable
from pathlib import Path

from posedistill.data.faults import OnFault, raise_fault
from posedistill.data.formats import cambridge, seven_scenes
from posedistill.data.formats.colmap import colmap_models, read_colmap
from posedistill.data.formats.scene import CameraDataset
from posedistill.data.formats.scene_parse import Split
from posedistill.data.formats.transforms_json import read_transforms
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Calibration

FORMATS: dict[str, tuple[str, Callable[..., CameraDataset]]] = {
    "7-Scenes": ("TrainSplit.txt or seq-XX folders", seven_scenes.read_seven_scenes),
    "Cambridge Landmarks": ("dataset_train.txt or dataset_test.txt", cambridge.read_cambridge),
    "transforms.json": ("transforms.json (or transforms_train.json)", read_transforms),
    "COLMAP": ("sparse/0/images.bin or images.txt", read_colmap),
}
"""The formats: what tells each, and its reader."""


def scene_format(path: str | Path) -> str | None:
    """The format of a folder (or of a ``transforms.json``), one of ``FORMATS``; None where it is none of them."""
    path = Path(path)
    if path.is_file():
        return "transforms.json" if path.suffix == ".json" else None
    if any((path / name).is_file() for name in cambridge.SPLIT_FILES.values()):
        return "Cambridge Landmarks"
    if any((path / name).is_file() for name in seven_scenes.SPLIT_FILES.values()) or any(path.glob("seq-*/frame-*")):
        return "7-Scenes"
    if any(path.glob("transforms.json")) or any(path.glob("transforms_*.json")):
        return "transforms.json"
    return "COLMAP" if colmap_models(path) else None


def open_scene(
    path: str | Path,
    split: Split = "train",
    on_fault: OnFault = raise_fault,
    calibration: Calibration = "depth",
) -> CameraDataset:
    """Read a split of a scene; see the reader of each format for what its options mean.

    ``calibration`` is of 7-Scenes alone; the others know one camera a photograph.

    Raises:
        DataError: a folder of none of the formats, or any fault of the data.
    """
    form = scene_format(path)
    if form is not None:
        options = {"calibration": calibration} if form == "7-Scenes" else {}
        return FORMATS[form][1](path, split, on_fault=on_fault, **options)
    found = "no such folder" if not Path(path).exists() else "files of another kind"
    expected = "; ".join(f"{name}: {sign}" for name, (sign, _) in FORMATS.items())
    raise DataError(describe(path, "scene", found, expected))
