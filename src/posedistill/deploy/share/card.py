"""A model card out of what a model file says of itself. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path

from posedistill.decode.objects import ObjectDecoder
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Frames

WORDS = {
    "objects": "poses of objects: rotation and translation (mm) from the object to the camera",
    "scene": "where a camera stands and looks in one known scene",
    "categories": "how a thing of a known category is turned",
}


PAGE = """---
library_name: posedistill
tags: [{tags}]
---

# {title}

| | |
| --- | --- |
{table}

## Use

    pip install posedistill
    posedistill predict {name} photo.jpg

```python
from posedistill import Predictor, read_image

predictor = Predictor.from_onnx("{name}")
poses = predictor.predict(read_image("photo.jpg"))
```

The file holds weights, decoder and tables; nothing else is needed. How good it is, `posedistill evaluate` measures.
"""


def model_card(path: str | Path) -> str:
    """Markdown with the front matter that model hubs read.

    Raises:
        CheckpointError: no such file, or none that posedistill exported.
    """
    path = Path(path)
    record = Predictor.from_onnx(path, threads=1).record
    decoder = record.decoder
    facts = {
        "what it tells": WORDS[decoder.task],
        "family": decoder.family,
        **(_objects(decoder) if isinstance(decoder, ObjectDecoder) else {}),
        "inputs": _shapes(decoder.inputs),
        "outputs": _shapes(decoder.outputs),
        "parameters": f"{record.parameters:,}",
        "file": f"{path.name}, {path.stat().st_size / 2**20:.2f} MiB",
        "trained by": record.training or "not stated",
        "real frames trained on": _frames(record.frames),
        "score threshold": str(record.threshold or "none chosen").removeprefix("score threshold "),
        "made by": f"posedistill {record.version}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    tags = f"6d-pose, {decoder.family}, {decoder.task}, onnx"
    return PAGE.format(tags=tags, title=path.stem, table=table, name=path.name)


def _objects(decoder: ObjectDecoder) -> dict[str, str]:
    objects = decoder.objects
    told = [f"{decoder.name(i)} ({d:.0f} mm)" for i, d in zip(objects.obj_ids, objects.diameters, strict=True)]
    camera = decoder.camera
    facts = {"objects (diameter)": ", ".join(told)}
    if camera is not None:
        focal, size = camera.K[0, 0], f"{camera.width}x{camera.height}"
        facts["default camera"] = f"focal length {focal:.0f} px at {size}"
    return facts


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape)) or 'one number'}" for name, shape in shapes.items())


def _frames(frames: Frames | None) -> str:
    if frames is None:
        return "unknown"
    return ", ".join(f"{len(ids)} of {name}" for name, ids in frames.items()) or "none: renders alone"
