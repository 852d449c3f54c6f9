"""Exported tiny-H with PnP: onnxruntime against PyTorch eager, the same crops and decoder in one process.

    python benchmarks/bench_runtime.py [--threads 2] [--crop 256] [--rounds 60]

Aim: 60 images/s or more on 2 cores with the full head at 256 px, image to pose.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from posedistill.decode import Request
from posedistill.decode.base import Arrays
from posedistill.deploy.export import export_onnx, torch_predictor
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.machine import cores, processor
from posedistill.runtime import Predictor

WARM_UP, BLOCK = 3, 10
"""Calls of one side before the other's turn: both see the same busy moments, but not each other's threads."""


def stages(predictor: Predictor, request: Request, votes: Arrays) -> tuple[float, float, float]:
    """Seconds for cutting the crop, the network, and the pose (decoded from votes that hold one)."""
    start = time.perf_counter()
    prepared = predictor.decoder.prepare(request)
    cut = time.perf_counter()
    predictor.run_network(prepared.inputs)
    ran = time.perf_counter()
    assert len(predictor.decoder.decode(votes, prepared)) == 1
    return cut - start, ran - cut, time.perf_counter() - ran


def compare(head: str, crop: int, threads: int, rounds: int) -> None:
    corners = box_corners(np.array([-33.5, -63.9, -58.7]), np.array([33.5, 63.9, 58.7]))
    objects = ObjectTable((6,), corners[None], np.array([154.5]), (np.eye(4)[None],))
    estimator = build_estimator("wdrnet", objects, {"backbone": "darknet_tiny_h", "head": head}, crop).eval()
    decoder = estimator.build_decoder()
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(estimator.network, Path(folder) / "model.onnx", decoder)
        megabytes = path.stat().st_size / 2**20
        exported = Predictor.from_onnx(path, threads=threads)
    sides = {"onnxruntime": exported, "torch eager": torch_predictor(estimator.network, decoder)}
    (request,) = decoder.example()
    votes = decoder.stand_in(decoder.prepare(request))
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for _ in range(rounds // BLOCK):
        for name, predictor in sides.items():
            time.sleep(0.05)  # the other side's idle threads spin for a while
            times[name] += [stages(predictor, request, votes) for _ in range(WARM_UP + BLOCK)][WARM_UP:]
    parameters = sum(weight.numel() for weight in estimator.network.parameters())
    print(f"\ntiny-H, {head} head, {crop} px: {parameters / 1e6:.2f} M parameters, {megabytes:.1f} MiB")
    medians = {}
    for name, spent in times.items():
        cut, net, pose = 1e3 * np.median(spent, axis=0)
        total = 1e3 * np.sum(spent, axis=1)
        medians[name] = float(np.median(total))
        print(
            f"  {name:<12} {medians[name]:6.2f} ms p50, {np.percentile(total, 90):6.2f} p90, {total.min():6.2f} best "
            f"= crop {cut:.2f} + network {net:.2f} + pose {pose:.2f}; {1e3 / medians[name]:.1f} images/s"
        )
    print(f"  torch eager / onnxruntime = {medians['torch eager'] / medians['onnxruntime']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    print(f"{processor()}, {cores()} core(s); {options.threads} thread(s); {versions}")
    for head in ("full", "slim"):
        compare(head, options.crop, options.threads, options.rounds)


if __name__ == "__main__":
    main()
