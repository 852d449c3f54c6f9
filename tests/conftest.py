"""A small BOP set of two boxes drawn with OpenCV, a recipe that trains on it in seconds, and the smallest network."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings

from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.loading.batch import Batch
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.recipe.recipe import Recipe, load_recipe

K = np.array([[300.0, 0.0, 79.5], [0.0, 300.0, 59.5], [0.0, 0.0, 1.0]])
SIZE = (160, 120)
HALVES = {1: np.array([40.0, 30.0, 50.0]), 2: np.array([25.0, 45.0, 35.0])}
QUADS = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220), (220, 40, 220)]
SMALLEST = {"backbone": "darknet_tiny_q", "head": "slim", "width": 32, "strides": [8, 16]}
"""Settings of a network of 50,000 parameters."""
CROP = 64

MakeRecipe = Callable[..., Recipe]

settings.register_profile("untimed", deadline=None)  # a machine with other work is slow
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def on_processors() -> Iterator[None]:
    """Everything runs on processors, with an accelerator at hand too: only there are results equal to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; without it the test is skipped."""
    folder = os.environ.get("POSEDISTILL_DATA")
    if not folder or not (Path(folder) / "lmo").is_dir():
        pytest.skip("real data is not part of the repository: POSEDISTILL_DATA does not name a folder with lmo")
    return Path(folder).resolve()


@pytest.fixture
def full_disk() -> Callable[..., AbstractContextManager[None]]:
    """``with full_disk(limit=0)``: every file stops growing at so many bytes."""

    @contextmanager
    def limited(limit: int = 0) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


def box_mesh(half: np.ndarray) -> Mesh:
    corners = box_corners(-half, half)
    faces = np.array([triangle for a, b, c, d in QUADS for triangle in ((a, b, c), (a, c, d))])
    normals = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    return Mesh(corners, faces, np.full((8, 3), 200, dtype=np.uint8), None, None, normals)


def draw(obj_id: int, R: np.ndarray, t: np.ndarray, image: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Paint a box into ``image``, faces far to near; returns its mask."""
    corners = box_corners(-HALVES[obj_id], HALVES[obj_id])
    pixels, depth = project(corners, R, t, K), (corners @ R.T + t)[:, 2]
    mask = np.zeros(image.shape[:2], np.uint8)
    for face in np.argsort([depth[quad].mean() for quad in QUADS])[::-1]:
        polygon = np.round(pixels[QUADS[face]]).astype(np.int32)
        cv2.fillPoly(image, [polygon], COLOURS[face])
        cv2.fillPoly(mask, [polygon], 1)
    return mask.astype(bool)


@pytest.fixture(scope="session")
def bop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both boxes side by side: 8 frames in split ``train``, 3 in split ``test``. Read-only."""
    root, rng = tmp_path_factory.mktemp("bop") / "boxes", np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        writer = BopWriter(root, split, jpeg_quality=None)
        for im_id in range(count):
            image = rng.integers(60, 110, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
            places = np.array([[-90.0, 0.0, 680.0], [80.0, 10.0, 640.0]]) + rng.uniform(-20, 20, (2, 3))
            poses = [(o, R, t) for o, R, t in zip(HALVES, random_rotations(2, rng), places, strict=True)]
            masks = [draw(*pose, image, K) for pose in poses]
            writer.add_frame(1, im_id, image, K, poses, None, masks, masks)
        writer.finish_scene(1)
    write_models(root, {obj_id: box_mesh(half) for obj_id, half in HALVES.items()})
    write_camera(root, K, *SIZE)
    return root


@pytest.fixture(scope="session")
def smallest() -> dict[str, Any]:
    """Settings of the smallest network."""
    return SMALLEST


@pytest.fixture(scope="session")
def drawn_data(bop: Path) -> dict[str, Any]:
    """A recipe's section ``data`` of the drawn boxes."""
    return {
        "objects": [1, 2],
        "train": [{"bop": str(bop), "split": "train"}],
        "test": {"source": {"bop": str(bop), "split": "test"}},
        "crop_size": CROP,
        "validation": 0.25,
    }


@pytest.fixture
def raw_recipe(drawn_data: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The recipe as a mapping, to be changed at will; its runs land in ``tmp_path``."""
    schedule = {"steps": 4, "batch_size": 4, "lr": 1e-3, "precision": "float32", "ema": 0.9}
    return {
        "name": "mini",
        "data": deepcopy(drawn_data),
        "teacher": {"settings": SMALLEST},
        "student": {"settings": SMALLEST},
        "distill": [{"name": "align"}],
        "train": schedule | {"validate_every": 2, "validation_crops": 4, "checkpoint_every": 1, "log_every": 1},
        "runs": str(tmp_path / "runs"),
    }


@pytest.fixture
def recipe_file(raw_recipe: dict[str, Any], tmp_path: Path) -> Path:
    """The recipe as a file."""
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(raw_recipe))
    return path


@pytest.fixture
def recipe(recipe_file: Path) -> MakeRecipe:
    """``recipe("train.steps=3", ...)``: the recipe with overrides."""
    return lambda *overrides: load_recipe(recipe_file, overrides)


def boxes() -> ObjectTable:
    """The object table of both boxes."""
    corners = np.stack([box_corners(-half, half) for half in HALVES.values()])
    diameters = 2 * np.linalg.norm(np.stack(list(HALVES.values())), axis=1)
    return ObjectTable(tuple(HALVES), corners, diameters, (np.eye(4)[None],) * 2)


@pytest.fixture
def network() -> Callable[..., Estimator]:
    """``network(seed=0)``: the smallest estimator for both boxes."""

    def make(seed: int = 0, **settings: Any) -> Estimator:
        torch.manual_seed(seed)
        return build_estimator("wdrnet", boxes(), {**SMALLEST, **settings}, CROP)

    return make


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """``batch(count=4, seed=0)``: crops filled by a drawn box each."""
    return make_batch


def make_batch(count: int = 4, seed: int = 0) -> Batch:
    rng, objects = np.random.default_rng(seed), boxes()
    camera = np.array([[300.0, 0, CROP / 2], [0, 300.0, CROP / 2], [0, 0, 1]])
    classes = np.arange(count) % 2
    R, t = random_rotations(count, rng), np.array([0.0, 0.0, 700.0]) + rng.uniform(-20, 20, (count, 3))
    images = np.full((count, CROP, CROP, 3), 90, np.uint8)
    masks = [draw(objects.obj_ids[classes[i]], R[i], t[i], images[i], camera) for i in range(count)]
    keypoints = [project(objects.keypoints[classes[i]], R[i], t[i], camera) for i in range(count)]
    pixels = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    return Batch.single(
        images=tensor(pixels).permute(0, 3, 1, 2),
        masks=torch.as_tensor(np.stack(masks)),
        label=torch.as_tensor(classes),
        K=tensor(camera).repeat(count, 1, 1),
        R=tensor(R),
        t=tensor(t),
        keypoints3d=tensor(objects.keypoints[classes]),
        keypoints=tensor(keypoints),
        diameters=tensor(objects.diameters[classes]),
        ids=torch.arange(count),
    )
