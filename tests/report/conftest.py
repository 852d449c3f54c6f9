"""A run folder with plausible numbers, as the stages of a run write it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import box_corners
from posedistill.report.gallery import Case, save_cases

TARGETS = 60
RECALL = {"teacher": 0.86, "student": 0.66, "distilled": 0.76, "exported": 0.76}
COST = {"teacher": (52.1e6, 208.4, 24.9, 0.182), "student": (2.1e6, 8.4, 0.62, 0.011)}
VARIANT_SEEDS = {"teacher": (0,), "student": (0, 1, 2), "distilled": (0, 1, 2), "exported": (0,)}


def evaluation(variant: str, seed: int, objects: tuple[int, ...] = (1, 5, 8, 11)) -> dict:
    """One record of evaluation.json: better variants tolerate harder targets, seeds shift a little."""
    hardness = np.random.default_rng(7).uniform(0.0, 1.0, TARGETS)
    skill = RECALL[variant] + 0.04 * (seed - 1)
    outcomes = (hardness < skill).astype(int)
    x = np.linspace(0.0, 0.3, 61)
    recall = float(outcomes.mean())
    parameters, megabytes, gmacs, seconds = COST["teacher" if variant == "teacher" else "student"]
    scores = {
        "add_0.1d": recall,
        "add_0.05d": recall * 0.7,
        "proj_5px": min(1.0, recall * 1.08),
        "cmdeg_5_5": recall * 0.8,
    }
    return {
        "variant": variant,
        "seed": seed,
        "boxes": "gt",
        "dataset": "lm cat, 60 real frames",
        "scores": scores,
        "per_object": {str(obj): {"add_0.1d": min(1.0, recall * (0.8 + 0.05 * n))} for n, obj in enumerate(objects)},
        "curves": {
            "add": {"x": x.tolist(), "y": (skill * (1 - np.exp(-x / 0.04)) / (1 - np.exp(-2.5))).clip(0, 1).tolist()}
        },
        "outcomes": outcomes.tolist(),
        "parameters": int(parameters),
        "megabytes": megabytes,
        "gmacs": gmacs,
        "seconds_per_image": seconds,
    }


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
        {"variant": name, "p50_ms": p50, "p90_ms": p50 * 1.1, "p99_ms": p50 * 1.4, "images_per_second": 1e3 / p50,
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


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture(name="make_case")
def make_case_fixture() -> Callable[..., Case]:
    return make_case
