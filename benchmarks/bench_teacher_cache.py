"""What a cached teacher saves: a distilled step with the teacher's forward pass against one with its stored outputs.

    python benchmarks/bench_teacher_cache.py [--teacher darknet53] [--crop-size 128] [--device cuda]

Both are timed in turn in one process on the same batches, so that a drift of the machine's speed hits them alike. The
cache lies in a temporary folder (``--folder`` names a disk); its files are read through the page cache, as in training.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import torch

from bench_distill_step import made_batch
from posedistill.data.render.shapes import code_models_info
from posedistill.distill import DistillSpec, build_distiller
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.training.step import Untouched, losses
from posedistill.training.teaching.cache import CachedTeacher, views_of
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching
from timing import milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--teacher", default="darknet53")
    parser.add_argument("--student", default="darknet_tiny_h")
    parser.add_argument("--loss", default="align", help="align needs votes alone, match those of every cell.")
    parser.add_argument("--epoch", type=int, default=500, help="Steps an epoch, for the figures an epoch.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    objects = ObjectTable.from_models_info(code_models_info(), [1])
    student = build_estimator("wdrnet", objects, {"backbone": args.student}, args.crop_size)
    student = student.to(device).to(memory_format=torch.channels_last).train()

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16)

    network = build_estimator("wdrnet", objects, {"backbone": args.teacher, "score_threshold": 0.0}, args.crop_size)
    teacher = NetworkTeacher(network, device, autocast)
    distillers = [build_distiller(DistillSpec(name=args.loss), student.offers, teacher.offers)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    generator = torch.Generator(device).manual_seed(0)
    batch = made_batch(objects, args.batch, args.crop_size, device)

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:

        def cached() -> CachedTeacher:
            views = views_of(distillers, teacher)
            return CachedTeacher(teacher, Path(folder) / "cache", {}, views, args.epoch, limit=math.inf)

        writer = cached()
        writing = [
            milliseconds(lambda step=step: writer.predict(batch, step), device) for step in range(args.repeats + 1)
        ]
        reader = cached()
        reader.predict(batch, 0)  # compares one step with what is stored

        def step(number: int, taught: Teaching) -> None:
            with autocast():
                terms = losses(Untouched(student), student, batch, generator, taught, number)
                total = torch.stack(list(terms.values())).sum()
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        plain, replayed = Teaching(teacher, distillers), Teaching(reader, distillers)
        step(0, plain)
        rounds = []
        for number in range(1, args.repeats + 1):
            rounds.append(
                {
                    "teacher's forward pass": milliseconds(lambda: teacher.predict(batch, number), device),  # noqa: B023
                    "replay": milliseconds(lambda: reader.predict(batch, number), device),  # noqa: B023
                    "step, with the pass": milliseconds(lambda: step(number, plain), device),  # noqa: B023
                    "step, cached": milliseconds(lambda: step(number, replayed), device),  # noqa: B023
                }
            )
        size = sum(path.stat().st_size for path in (Path(folder) / "cache").glob("*.npy")) / 64
    medians = {name: statistics.median(entry[name] for entry in rounds) for name in rounds[0]}
    medians["pass and storing"] = statistics.median(writing[1:])
    ratio = statistics.median(entry["step, with the pass"] / entry["step, cached"] for entry in rounds)
    saved = medians["step, with the pass"] - medians["step, cached"]
    print(f"{args.device}, {torch.get_num_threads()} threads, bf16: {args.student} under {args.teacher}, {args.loss}")
    print(f"{args.batch} crops of {args.crop_size} px")
    for name, value in medians.items():
        print(f"{name:<24}{value:9.2f} ms")
    print(f"step with the pass / cached: {ratio:.2f}")
    print(f"{args.epoch} steps: {args.epoch * saved / 1e3:.0f} s saved, {args.epoch * size / 1e6:.0f} MB stored")


if __name__ == "__main__":
    main()
