"""Packs of painted boxes, and loaders of their crops."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader
from posedistill.data.packs.pack import Instances, Pack
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations

HEIGHT, WIDTH, SIZE = 120, 160, 64
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_objects() -> ObjectTable:
    """Two boxes; the second looks the same after half a turn."""
    half = np.array([[30.0, 20.0, 40.0], [25.0, 25.0, 25.0]])
    keypoints = np.stack([box_corners(-h, h) for h in half])
    symmetries = (np.eye(4)[None], np.stack([np.eye(4), HALF_TURN]))
    return ObjectTable((7, 3), keypoints, 2 * np.linalg.norm(half, axis=1), symmetries)


def make_pack(objects: ObjectTable, seed: int, frames: int = 6) -> Pack:
    """Two convex objects a frame, the second before the first; each painted in a colour of its own."""
    rng = np.random.default_rng(seed)
    K = np.array([[220.0, 3.0, 81.0], [0.0, 200.0, 58.0], [0.0, 0.0, 1.0]])
    pixels = rng.integers(0, 40, (frames, HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    rows: list[dict[str, Any]] = []
    for frame in range(frames):
        for slot, depth in ((1, 520.0), (2, 400.0)):
            R, t = random_rotations(1, rng)[0], np.array([*rng.uniform(-45, 45, 2), depth])
            corners = project(objects.keypoints[slot - 1], R, t, K)
            hull = cv2.convexHull(np.rint(corners).astype(np.int32))
            region = cv2.fillConvexPoly(np.zeros((HEIGHT, WIDTH), np.uint8), hull, 1).view(bool)
            pixels[frame][region] = (255 if slot == 1 else 0, 255 if slot == 2 else 0, 128, slot)
            seen = {"visib_fract": 1.0, "score": 1.0}
            rows.append({"frame": frame, "slot": slot, "obj_id": objects.obj_ids[slot - 1], "R": R, "t": t, **seen})
    for row in rows:
        box = cv2.boundingRect((pixels[row["frame"], ..., 3] == row["slot"]).view(np.uint8))
        row |= {"bbox_obj": box, "bbox_visib": box}
    sizes, names = np.tile([HEIGHT, WIDTH], (frames, 1)), ("",) * frames
    table = Instances.of_rows(rows)
    return Pack(Path(f"pack-{seed}"), pixels, sizes, np.tile(K, (frames, 1, 1)), names, names, table)


def load(
    pack: Pack | list[Pack], objects: ObjectTable, chosen: AugmentSettings | None = None, **changes: Any
) -> Loader:
    """A loader of crops."""
    packs = pack if isinstance(pack, list) else [pack]
    policy = {name: changes.pop(name) for name in ("indices", "backgrounds") if name in changes}
    view = CropView(packs, objects, chosen or AugmentSettings(), changes.pop("crop_size", SIZE), **policy)
    return Loader(view, **{"batch_size": 5, "seed": 3, "device": "cpu", "threads": 2} | changes)


def tensors(batch: Batch) -> list[torch.Tensor]:
    """All that a batch holds."""
    columns = [getattr(batch, field.name) for field in fields(Batch) if field.name != "targets"]
    return columns + [batch.targets[name] for name in sorted(batch.targets)]


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(tensors(first), tensors(second), strict=True))
