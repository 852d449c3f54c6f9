"""Run folders with plausible numbers, as the stages of a run write them: one of objects, one of cameras."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import box_corners
from posedistill.geometry.rotations import axis_angle, random_rotations
from posedistill.metrics.error_analysis import ErrorAnalysis
from posedistill.metrics.evaluation import Curve, Evaluation, Metric, Places
from posedistill.metrics.relocalisation import constant_pose, nearest_position, score_cameras
from posedistill.poses import Poses
from posedistill.report.cases import Case, save_cases

TARGETS = 60
RECALL = {"teacher": 0.86, "student": 0.66, "distilled": 0.76, "exported": 0.76}
COST = {"teacher": (52.1e6, 208.4, 24.9), "student": (2.1e6, 8.4, 0.62)}
VARIANT_SEEDS = {"teacher": (0,), "student": (0, 1, 2), "distilled": (0, 1, 2), "exported": (0,)}


def evaluation(stage: str, seed: int, objects: tuple[int, ...] = (1, 5, 8, 11)) -> dict:
    """One record of evaluation.json: better stages tolerate harder targets, seeds shift a little."""
    hardness = np.random.default_rng(7).uniform(0.0, 1.0, TARGETS)
    skill = RECALL[stage] + 0.04 * (seed - 1)
    hits = {
        Metric("add_0.1d", "ADD(-S) 0.1 d", level="headline"): hardness < skill,
        Metric("proj_5px", "2D proj. 5 px"): hardness < 1.08 * skill,
        Metric("cmdeg_5_5", "5 cm 5°"): hardness < 0.8 * skill,
        Metric("add_0.05d", "ADD(-S) 0.05 d", level="detail"): hardness < 0.7 * skill,
    }
    x = np.linspace(0.0, 30, 61)
    y = (skill * (1 - np.exp(-x / 4)) / (1 - np.exp(-2.5))).clip(0, 1)
    parameters, megabytes, gmacs = COST["teacher" if stage == "teacher" else "student"]
    off = 0.02 * hardness + 0.01 * (1 - skill)  # too far
    errors = ErrorAnalysis(off, 900 * off, 4 * hardness, 9 * hardness, 1 - 0.8 * hardness)
    return Evaluation.of(
        {metric: row.astype(float) for metric, row in hits.items()},
        labels=np.resize(objects, TARGETS).tolist(),
        curves={"add_0.1d": Curve("tolerated ADD(-S) error, % of the diameter", x.tolist(), y.tolist())},
        stage=stage,
        seed=seed,
        boxes="gt",
        dataset="lm cat, 60 real frames",
        parameters=parameters,
        megabytes=megabytes,
        gmacs=gmacs,
        errors=errors,
    ).to_dict()


def write_metrics(path: Path, level: float, seed: int, terms: tuple[str, ...]) -> None:
    """A training log: a loss that falls to ``level``, and a validation score that rises."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(0, 4000, 10):
        values = {f"loss/{term}": (level + np.exp(-step / 600)) * (1 + 0.1 * rng.standard_normal()) for term in terms}
        lines.append({"step": step, "lr": 1e-3, "loss": sum(values.values()), "steps_per_second": 12.5, **values})
        if step % 400 == 0:
            lines.append({"step": step, "val/add_0.1d": (1 - level) * (1 - np.exp(-step / 900)) + 0.02 * rng.random()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_case(shift: float, image: np.ndarray | Path | None = None) -> Case:
    """A box seen from 600 mm, predicted ``shift`` mm beside where it is."""
    K: Array = np.array([[570.0, 0.0, 160.0], [0.0, 570.0, 120.0], [0.0, 0.0, 1.0]])
    angle = 0.6
    R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    t = np.array([20.0, -10.0, 600.0])
    corners = box_corners(np.array([-40.0, -30.0, -50.0]), np.array([40.0, 30.0, 50.0]))
    if image is None:
        image = np.full((240, 320, 3), 90, dtype=np.uint8)
    return Case(
        image, K, corners, R, t, R, t + np.array([shift, 0.0, 0.0]), error=shift, obj_id=5, scene_id=2, im_id=int(shift)
    )


def write_run(folder: Path) -> Path:
    """The whole folder."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [evaluation(variant, seed) for variant, seeds in VARIANT_SEEDS.items() for seed in seeds]
    (folder / "evaluation.json").write_text(json.dumps(records))
    bench = [
        {"stage": name, "p50_ms": p50, "p90_ms": p50 * 1.1, "p99_ms": p50 * 1.4, "images_per_second": 1e3 / p50,
         "first_inference_ms": p50 * 9, "peak_memory_mb": 310.0, "threads": 2, "device": "cpu",
         "runtime": "onnxruntime 1.20", "megabytes": size}
        for name, p50, size in [("exported", 10.4, 8.4), ("teacher", 171.0, 208.4), ("distilled", 13.1, 8.4)]
    ]  # fmt: skip
    (folder / "bench.json").write_text(json.dumps(bench))
    write_metrics(folder / "teacher" / "metrics.jsonl", 0.12, 0, ("score", "keypoints"))
    for seed in range(3):
        write_metrics(folder / "student" / f"seed{seed}" / "metrics.jsonl", 0.3, seed, ("score", "keypoints"))
        write_metrics(
            folder / "distilled" / f"seed{seed}" / "metrics.jsonl", 0.22, seed, ("score", "keypoints", "align")
        )
    environment = {"command": "posedistill run recipes/demo.yaml", "hardware": {"cpu": "2 cores", "memory_gb": 8},
                   "versions": {"torch": "2.11"}, "seeds": [0, 1, 2], "wall_clock_s": {"teacher": 310.25}}  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "recipe.yaml").write_text("data:\n  root: <generated>\nstudent:\n  backbone: darknet_tiny_h\n")
    for variant in ("student", "distilled"):
        save_cases(folder / "cases", variant, [make_case(shift) for shift in (1.0, 4.0, 9.0, 30.0, 80.0, 2.5)], count=2)
    return folder


PHOTOGRAPHS = 80
METRES = {"teacher": 0.22, "student": 0.36, "distilled": 0.28, "exported": 0.28}
"""Median distance of the estimates."""


def walk(count: int, phase: float) -> Poses:
    """A way around a room of 6 x 3 m, the camera at the height of the eyes; y points down, as cameras have it."""
    angle = np.linspace(0, 2 * np.pi, count) + phase
    centers = np.stack([3 * np.cos(angle), -1.6 + 0.1 * np.sin(5 * angle), 1.5 * np.sin(angle) + 0.3 * phase], axis=1)
    R: Array = axis_angle(np.array([0.0, 1.0, 0.0]), angle)
    return Poses.of_cameras(R, centers=centers)


def camera_evaluation(stage: str, seed: int, metres: float | None = None) -> dict:
    """One record of a camera run: what is hard is hard for all, seeds differ a little."""
    truth = walk(PHOTOGRAPHS, 0.4)
    hard, rng = np.random.default_rng(3), np.random.default_rng([seed, *stage.encode()])
    median = (METRES[stage] if metres is None else metres) * (1 + 0.04 * (seed - 1))
    distances = median * np.exp(0.6 * hard.standard_normal(PHOTOGRAPHS) + 0.15 * rng.standard_normal(PHOTOGRAPHS))
    away = random_rotations(PHOTOGRAPHS, rng)[:, 0] * distances[:, None]
    turn = axis_angle(random_rotations(PHOTOGRAPHS, rng)[:, 0], np.deg2rad(25 * distances))
    R: Array = turn @ truth.R
    found = Poses.of_cameras(R, centers=truth.centers + away)
    parameters, megabytes, gmacs = COST["teacher" if stage == "teacher" else "student"]
    return camera_record(stage, found, seed=seed, parameters=parameters, megabytes=megabytes, gmacs=gmacs)


def camera_record(stage: str, found: Poses, **about: Any) -> dict:
    """Scores and places."""
    truth, train = walk(PHOTOGRAPHS, 0.4), walk(150, 0.0)
    places = Places(truth.centers, found.centers, train.centers, np.array([0.0, -1.0, 0.0]))
    return score_cameras(found, truth, stage=stage, dataset="room/test", places=places, **about).to_dict()


def references() -> list[dict]:
    """The naive baselines; the training image that looks most alike is taken for one that stands near."""
    truth, train = walk(PHOTOGRAPHS, 0.4), walk(150, 0.0)
    near = nearest_position(truth, train)
    alike = Poses.of_cameras(np.roll(near.R, 5, axis=0), np.roll(near.t, 5, axis=0))
    return [
        camera_record("constant pose", constant_pose(train, PHOTOGRAPHS), baseline="mean of the training poses"),
        camera_record("nearest image", alike, baseline="retrieval by the teacher's features"),
        camera_record("nearest position", near, baseline="looks at the truth: a mark, no method"),
    ]


CAMERA_RECIPE = """
name: room
expected: a median below 0.3 m
seed: 0
seeds: 3
data: {scene: data/room, short_side: 256, crop: 224, validation: 0.1, gap: 5}
distill:
  - {name: relate, weight: 100.0}
"""


def write_camera_run(folder: Path) -> Path:
    """A whole run of cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [camera_evaluation(variant, seed) for variant, seeds in VARIANT_SEEDS.items() for seed in seeds]
    (folder / "evaluation.json").write_text(json.dumps([*records, *references()], allow_nan=False))
    bench = [{"stage": "exported", "p50_ms": 6.4}, {"stage": "teacher", "p50_ms": 61.0}]
    (folder / "bench.json").write_text(json.dumps(bench))
    for seed in range(3):
        write_metrics(folder / "student" / f"seed{seed}" / "metrics.jsonl", 0.3, seed, ("position", "rotation"))
    (folder / "environment.json").write_text(json.dumps({"seeds": [0, 1, 2]}))
    (folder / "recipe.yaml").write_text(CAMERA_RECIPE)
    return folder


@pytest.fixture
def camera_folder(tmp_path: Path) -> Path:
    return write_camera_run(tmp_path / "room")


@pytest.fixture(name="camera_evaluation")
def camera_evaluation_fixture() -> Callable[..., dict]:
    return camera_evaluation


@pytest.fixture(name="references")
def references_fixture() -> list[dict]:
    return references()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture(name="make_case")
def make_case_fixture() -> Callable[..., Case]:
    return make_case
