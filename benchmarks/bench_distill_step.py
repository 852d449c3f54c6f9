"""What a distilled step costs beside its two unavoidable parts: the student's own step and the teacher's forward pass.

    python benchmarks/bench_distill_step.py [--device cuda] [--crop-size 256] [--batch 16]

All three are timed in turn in one process on the same batch, so that a drift of the machine's speed hits them alike.
"""

import argparse
import statistics

import torch

from posedistill.data.loading.batch import Batch
from posedistill.data.render.shapes import code_models_info
from posedistill.distill import DistillSpec, build_distiller
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.training.step import Untouched, losses
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching
from timing import milliseconds


def made_batch(objects: ObjectTable, count: int, size: int, device: torch.device) -> Batch:
    """Noise with an object in the middle of every crop: a step costs the same on any picture."""
    K = torch.tensor([[2.5 * size, 0.0, size / 2], [0.0, 2.5 * size, size / 2], [0.0, 0.0, 1.0]])
    keypoints3d = torch.tensor(objects.keypoints[0], dtype=torch.float32)
    t = torch.tensor([0.0, 0.0, 4.0 * float(objects.diameters[0])])
    pixels = (keypoints3d + t) @ K.T
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    masks[:, size // 4 : -size // 4, size // 4 : -size // 4] = True
    batch = Batch.single(
        images=torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last),
        masks=masks,
        label=torch.zeros(count, dtype=torch.int64),
        K=K.expand(count, 3, 3),
        R=torch.eye(3).expand(count, 3, 3),
        t=t.expand(count, 3),
        keypoints3d=keypoints3d.expand(count, 8, 3),
        keypoints=(pixels[:, :2] / pixels[:, 2:]).expand(count, 8, 2),
        diameters=torch.full((count,), float(objects.diameters[0])),
        ids=torch.arange(count),
    )
    return batch.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--teacher", default="darknet53")
    parser.add_argument("--student", default="darknet_tiny_h")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)
    objects = ObjectTable.from_models_info(code_models_info(), [1])
    student = build_estimator("wdrnet", objects, {"backbone": args.student}, args.crop_size)
    student = student.to(device).to(memory_format=torch.channels_last).train()

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16)

    network = build_estimator("wdrnet", objects, {"backbone": args.teacher}, args.crop_size)
    teacher = NetworkTeacher(network, device, autocast)
    teaching = Teaching(teacher, [build_distiller(DistillSpec(name="align"), student.offers, teacher.offers)])
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    generator = torch.Generator(device).manual_seed(0)
    batch = made_batch(objects, args.batch, args.crop_size, device)

    def step(taught: Teaching | None) -> None:
        with autocast():
            total = torch.stack(list(losses(Untouched(student), student, batch, generator, taught).values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def forward() -> None:
        teacher.predict(batch, step=0)

    work = {"student step": lambda: step(None), "teacher forward": forward, "distilled step": lambda: step(teaching)}
    for call in work.values():
        milliseconds(call, device)
    rounds = [{name: milliseconds(call, device) for name, call in work.items()} for _ in range(args.repeats)]
    medians = {name: statistics.median(entry[name] for entry in rounds) for name in work}
    ratios = [entry["distilled step"] / (entry["student step"] + entry["teacher forward"]) for entry in rounds]
    print(f"{args.device}, {torch.get_num_threads()} threads, bf16: {args.student} under {args.teacher},")
    print(f"{args.batch} crops of {args.crop_size} px")
    for name, value in medians.items():
        print(f"{name:<16}{value:9.1f} ms")
    print(f"distilled / (student + teacher): {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
