"""YOLO6D: its decoder beside loops over cells, its loss in a training step, and its exported networks.

    python benchmarks/bench_yolo6d.py [--objects 8] [--batch 32] [--size 416] [--backbone yolo_lite_bn]

Both decoders get the same region map, in which so many objects are seen by nine cells each. The loops visit every cell
and every number in it as published code does; both end before PnP, which is told apart. Times are the best of many
rounds, so that other work on the machine does not count. Exported networks (random weights, one object, outputs of a
known pose) go from a picture of 640 x 480 to the pose, each in a process of its own. Aim on two cores: 60 pictures a
second of YOLO-LITE at 416 px.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from posedistill.data.loading.batch import Batch
from posedistill.decode.yolo6d import YOLO6DDecoder, find_objects
from posedistill.deploy.bench import bench
from posedistill.deploy.export import export_onnx
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import BOX_POINTS, ObjectTable
from posedistill.geometry.rotations import random_rotations
from posedistill.machine import cores, processor
from timing import milliseconds


def best(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest of several calls."""
    return min(milliseconds(call) for _ in range(rounds))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loops(region: np.ndarray, classes: int, threshold: float) -> list[tuple[list[float], float, int]]:
    """Points, score and class of every confident cell, number by number."""
    _, rows, columns = region.shape
    found = []
    for row in range(rows):
        for column in range(columns):
            score = sigmoid(float(region[2 * BOX_POINTS, row, column]))
            powers = [math.exp(float(region[2 * BOX_POINTS + 1 + index, row, column])) for index in range(classes)]
            for index in range(classes):
                if score * powers[index] / sum(powers) > threshold:
                    points = []
                    for point in range(BOX_POINTS):
                        x, y = (float(region[2 * point + axis, row, column]) for axis in (0, 1))
                        x, y = (sigmoid(x), sigmoid(y)) if point == 0 else (x, y)
                        points += [(x + column) / columns, (y + row) / rows]
                    found.append((points, score, index))
    return found


def time_decoder(objects: int, size: int) -> None:
    decoder = YOLO6DDecoder(objects=ObjectTable.of_cubes(range(1, objects + 1)), size=(size, size))
    prepared = decoder.prepare(decoder.example()[0])
    outputs = decoder.stand_in(prepared)
    region, settings = outputs["region"][0], decoder.decoding

    def votes_and_objects() -> None:
        find_objects(decoder.votes_of(region, prepared.labels), settings)

    poses = decoder.decode(outputs, prepared)
    assert len(poses) == objects
    ours, whole = best(votes_and_objects, 500), best(lambda: decoder.decode(outputs, prepared), 100)
    theirs = best(lambda: loops(region, objects, settings.score_threshold), 10)
    rows, columns = region.shape[1:]
    print(
        f"decoder of {rows}x{columns} cells, {objects} objects of nine cells each: {ours:.3f} ms to votes and objects"
    )
    print(f"loops over cells and numbers: {theirs:.1f} ms ({theirs / ours:.0f} x)")
    print(f"with a pose by PnP for each object: {whole:.2f} ms, {(whole - ours) / objects:.3f} ms an object")


def make_batch(objects: ObjectTable, pictures: int, size: int) -> Batch:
    """Pictures of noise with every object in each."""
    rng, count = np.random.default_rng(0), len(objects)
    K = np.array([[1.3 * size, 0, size / 2], [0, 1.3 * size, size / 2], [0, 0, 1]])
    total, label = pictures * count, np.tile(np.arange(count), pictures)
    R, corners = random_rotations(total, rng), objects.keypoints[label]
    t = rng.uniform([-3, -3, 8], [3, 3, 12], (total, 3))
    keypoints = [project(*row, K) for row in zip(corners, R, t, strict=True)]

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    return Batch(
        images=torch.randn(pictures, 3, size, size).contiguous(memory_format=torch.channels_last),
        K=tensor(K).repeat(pictures, 1, 1),
        picture=torch.arange(pictures).repeat_interleave(count),
        R=tensor(R),
        t=tensor(t),
        label=torch.as_tensor(label),
        score=torch.ones(total),
        ids=torch.arange(total),
        targets={
            "keypoints3d": tensor(corners),
            "keypoints": tensor(keypoints),
            "diameters": tensor(objects.diameters[label]),
        },
    )


def time_loss(objects: int, pictures: int, size: int, backbone: str) -> None:
    estimator = build_estimator(
        "yolo6d", ObjectTable.of_cubes(range(1, objects + 1)), {"backbone": backbone}, (size, size)
    )
    estimator.to(memory_format=torch.channels_last).train()
    batch = make_batch(estimator.objects, pictures, size)

    def step() -> None:
        estimator.zero_grad(set_to_none=True)
        torch.stack(list(estimator.loss(estimator(batch), batch).values())).sum().backward()

    prediction = estimator(batch)
    heads = {name: value.detach().requires_grad_() for name, value in prediction.heads.items()}

    def loss() -> None:
        prediction.heads = heads
        torch.stack(list(estimator.loss(prediction, batch).values())).sum().backward()

    whole, ours = best(step, 3), best(loss, 20)
    print(f"step of {pictures} pictures of {size} px, {backbone}, {objects} object(s) in each: {whole:.0f} ms")
    print(f"targets and loss with their gradients: {ours:.2f} ms, {100 * ours / whole:.2f} % of it")


def time_files(size: int) -> None:
    objects = ObjectTable.of_cubes([1])
    for backbone in ("yolo_lite_bn", "tiny_yolo", "yolo_pose"):
        estimator = build_estimator("yolo6d", objects, {"backbone": backbone}, (size, size)).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(estimator.network, Path(folder) / "model.onnx", estimator.build_decoder())
            found = bench(path, repeats=30)
        print(
            f"{backbone}, {found.parameters / 1e6:.2f} M, {size} px: {found.images_per_second:.1f} pictures/s, "
            f"{found.p50_ms:.1f} / {found.p90_ms:.1f} / {found.p99_ms:.1f} ms (p50 / p90 / p99)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--backbone", default="yolo_lite_bn")
    options = parser.parse_args()
    time_decoder(options.objects, options.size)
    for objects in sorted({1, options.objects}):
        time_loss(objects, options.batch, options.size, options.backbone)
    time_files(options.size)
    print(f"{processor()}, {cores()} core(s), torch threads {torch.get_num_threads()}")


if __name__ == "__main__":
    main()
