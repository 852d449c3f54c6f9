"""A small synthetic world: boxes with coloured faces, drawn by OpenCV."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from posedistill.data.loading.batch import Batch
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable, box_corners

HALF = np.array([40.0, 30.0, 50.0])
COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220), (220, 40, 220)]
FACES = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]


def make_objects(classes: int = 1) -> ObjectTable:
    corners = box_corners(-HALF, HALF)
    return ObjectTable(
        obj_ids=tuple(range(1, classes + 1)),
        keypoints=np.stack([corners] * classes),
        diameters=np.full(classes, 2 * float(np.linalg.norm(HALF))),
        symmetries=(np.eye(4)[None],) * classes,
    )


def draw(R: np.ndarray, t: np.ndarray, K: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image ``[S, S, 3]`` and mask of a box, its faces painted far to near."""
    corners = box_corners(-HALF, HALF)
    pixels = project(corners, R, t, K)
    depths = [float(((R @ corners[face].T).T + t)[:, 2].mean()) for face in FACES]
    image, mask = np.full((size, size, 3), 90, np.uint8), np.zeros((size, size), np.uint8)
    for index in np.argsort(depths)[::-1]:
        polygon = np.round(pixels[FACES[index]]).astype(np.int32)
        cv2.fillPoly(image, [polygon], COLOURS[index])
        cv2.fillPoly(mask, [polygon], 1)
    return image, mask.astype(bool)


def make_batch(count: int, size: int, seed: int = 0, classes: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    objects = make_objects(classes)
    images, masks, poses, points = [], [], [], []
    K = np.array([[4.0 * size, 0.5, size / 2 + 2], [0.0, 4.1 * size, size / 2 - 3], [0.0, 0.0, 1.0]])
    for _ in range(count):
        axis = rng.normal(size=3)
        R = cv2.Rodrigues(axis / np.linalg.norm(axis) * rng.uniform(0, np.pi))[0]
        t = np.array([rng.uniform(-15, 15), rng.uniform(-15, 15), rng.uniform(600, 750)])
        image, mask = draw(R, t, K, size)
        images.append(image)
        masks.append(mask)
        poses.append((R, t))
        points.append(project(objects.keypoints[0], R, t, K))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (np.stack(images) / 255.0 - mean) / std

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    return Batch.single(
        images=tensor(normalised).permute(0, 3, 1, 2),
        masks=torch.as_tensor(np.stack(masks)),
        label=torch.arange(count) % classes,
        K=tensor(K).repeat(count, 1, 1),
        R=tensor([R for R, _ in poses]),
        t=tensor([t for _, t in poses]),
        keypoints3d=tensor(objects.keypoints[0]).repeat(count, 1, 1),
        keypoints=tensor(points),
        diameters=torch.full((count,), float(objects.diameters[0])),
        ids=torch.arange(count),
    )


@pytest.fixture
def objects() -> Callable[..., ObjectTable]:
    """``objects(classes=1)``: a table of equal boxes."""
    return make_objects


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """``batch(count, size, seed=0, classes=1)``: crops of a box in random poses."""
    return make_batch
