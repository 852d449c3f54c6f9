"""Viewpoints: crops a second of reader and augmentation, PointNet, a distilled step, and an exported student.

    python benchmarks/bench_viewpoint.py FOLDER [--size 224] [--batch 32] [--bank 1024] [--threads 2] [--seconds 5]
        [--repeats 5]

FOLDER holds annotated viewpoints with ``shapes`` beside them, as ``posedistill data categories`` makes. Aims on 2
cores: 400 crops of 224 pixels a second, a distilled step of 1.05 times the student's own step and the teacher's forward
pass, one with a stored teacher of 1.10 times the student's own, and 150 images a second of MobileNetV3-small. The
losses are the preset ``plus``, whose contrast compares with a bank of ``--bank`` training pictures. Both sides of a
ratio are timed in turn in one process. Times are of the processor, all threads together, and rates are told per second
of it too, as a busy machine shares its cores.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posedistill.backbones.pointnet import PointNet
from posedistill.data.loading.batch import Batch
from posedistill.deploy.export import export_onnx
from posedistill.distill import DistillSpec, build_distiller
from posedistill.estimators.base import Estimator
from posedistill.recipe.recipe import Recipe
from posedistill.runtime.predictor import Predictor
from posedistill.tasks.base import Task
from posedistill.tasks.registry import open_task
from posedistill.training.networks import build_network
from posedistill.training.step import Untouched, losses
from posedistill.training.teaching.cache import CachedTeacher, views_of
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching
from timing import processor_milliseconds, rate

TRUST = {"by": "error", "limit": 0.75}
HEADS = ["azimuth", "elevation", "inplane"]
LOSSES: list[dict[str, Any]] = [
    {"name": "match", "options": {"form": "logits", "heads": HEADS, "temperature": 2.0}, "trust": TRUST},
    {"name": "match", "weight": 0.5, "options": {"form": "regression", "beta": 0.1}, "trust": TRUST},
    {"name": "contrast", "options": {"form": "crd", "weighting": "linear"}},
]
"""The preset ``plus``."""
STEP = 1
"""A step at which stored outputs are not compared with fresh pictures; every 64th is."""


def made_recipe(args: argparse.Namespace, runs: str) -> Recipe:
    network = {"family": "viewpoint"}
    return Recipe.model_validate(
        {
            "name": "bench",
            "runs": runs,
            "data": {"annotations": args.folder, "shapes": str(Path(args.folder) / "shapes"), "crop_size": args.size},
            "teacher": network | {"settings": {"backbone": args.teacher, "shape": "cloud"}},
            "student": network | {"settings": {"backbone": args.student}},
            "distill": LOSSES,
        }
    )


def reader(task: Task, batch: int, seconds: float) -> None:
    """Crops with their clouds, varied as a training varies them."""
    loader = task.loader(task.training_set.train, seed=0, device="cpu", batch_size=batch)
    steps = iter(range(10**9))
    wall, own = rate(lambda: len(loader.batch(next(steps)).images), seconds)
    print(f"reader and augmentation: {wall:.0f} crops/s, {own:.0f} a second of processor time")


def cloud(repeats: int) -> None:
    """32 clouds of 2,500 points."""
    network, clouds = PointNet().eval(), torch.randn(32, 2500, 3)
    with torch.inference_mode():
        network(clouds)
        times = [processor_milliseconds(lambda: network(clouds)) for _ in range(repeats)]
    print(f"PointNet, 32 clouds of 2,500 points: {statistics.median(times):.0f} ms forward")


def step(task: Task, recipe: Recipe, batch: Batch, bank: int, repeats: int) -> None:
    """A distilled step, its teacher computed or stored, beside the student's own and the teacher's forward pass."""
    nets = [build_network(recipe, section, task.objects) for section in (recipe.student, recipe.teacher)]
    student, network = (net.to(memory_format=torch.channels_last) for net in nets)
    student.train()

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    teacher = NetworkTeacher(network, torch.device("cpu"), autocast)
    chosen = [build_distiller(DistillSpec(**loss), student.offers, teacher.offers) for loss in LOSSES]
    pictures = task.loader(
        task.training_set.train[:bank], seed=0, device="cpu", batch_size=len(batch.images), augment=False
    )
    teaching = Teaching(teacher, chosen, lambda: pictures.prefetch(0, pictures.steps), len(pictures))
    teaching.prepare(student, batch)
    stored = CachedTeacher(teacher, recipe.folder / "cache", {}, views_of(chosen, teacher), STEP + 1, 1.0)
    replayed = Teaching(stored, chosen)
    optimizer = torch.optim.AdamW([*student.parameters(), *teaching.parameters()], lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def train(taught: Teaching | None) -> None:
        with autocast():
            terms = losses(Untouched(student), student, batch, generator, taught, STEP)
            total = torch.stack(list(terms.values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    work: dict[str, Callable[[], object]] = {
        "student step": lambda: train(None),
        "teacher forward": lambda: teacher.predict(batch, step=0),
        "distilled step": lambda: train(teaching),
        "with a stored teacher": lambda: train(replayed),
    }
    for call in [*work.values()] * 2:  # the first stores, and replays once beside a fresh answer
        call()
    rounds = [{name: processor_milliseconds(call) for name, call in work.items()} for _ in range(repeats)]
    told = ", ".join(f"{name} {statistics.median(entry[name] for entry in rounds):.0f} ms" for name in work)
    ratios = [entry["distilled step"] / (entry["student step"] + entry["teacher forward"]) for entry in rounds]
    kept = [entry["with a stored teacher"] / entry["student step"] for entry in rounds]
    print(f"{told} (a bank of {len(pictures)} pictures)")
    print(f"distilled / (student + teacher): {statistics.median(ratios):.3f};", end=" ")
    print(f"with a stored teacher / student: {statistics.median(kept):.3f}")


def shipped(task: Task, student: Estimator, args: argparse.Namespace, folder: str) -> None:
    """The exported student: crops through the network, and photographs to viewpoints, one at a time."""
    path = Path(folder) / "student.onnx"
    network, decoder = task.deployed(student.eval())
    export_onnx(network, path, decoder, "a benchmark")
    predictor = Predictor.from_onnx(path, threads=args.threads)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    crop = np.zeros((1, 3, args.size, args.size), np.float32)

    def times(call: Callable[[], object]) -> Callable[[], int]:
        return lambda: 1 if call() is not None else 0

    inner, own = rate(times(lambda: predictor.run({"images": crop})), args.seconds)
    whole, _ = rate(times(lambda: predictor.predict(image)), args.seconds)
    print(f"exported {args.student}: {inner:.0f} crops/s ({own:.0f} a second of processor time),", end=" ")
    print(f"{whole:.0f} photographs of 640x480 a second to the viewpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--bank", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--student", default="mobilenetv3_small_100")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {args.student} under {args.teacher}, {args.batch} crops of {args.size} px")
    with tempfile.TemporaryDirectory() as folder:
        recipe = made_recipe(args, folder)
        task = open_task(recipe)
        reader(task, args.batch, args.seconds)
        cloud(args.repeats)
        rows = task.training_set.train
        batch = task.loader(rows, seed=0, device="cpu", batch_size=args.batch).batch(0)
        step(task, recipe, batch, args.bank, args.repeats)
        shipped(task, build_network(recipe, recipe.student, task.objects), args, folder)


if __name__ == "__main__":
    main()
