"""Camera models in float and in 8 bits: photograph to pose, both in one process, and what the photographs' poses lose.

    python benchmarks/bench_quantise.py [model.onnx ...] [--photos DIR] [--threads 2] [--size 224] [--rounds 30]

Without a model, networks with random weights are exported: their speed and size are those of trained ones, and how far
their poses move says nothing. Aim: a ResNet twice as fast in 8 bits where the processor has VNNI.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from posedistill.data.images import read_image
from posedistill.decode import Request
from posedistill.deploy.export import export_onnx
from posedistill.deploy.quantise import drift, quantise
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.draw.poses import Image
from posedistill.machine import cores, processor
from posedistill.runtime import Predictor

BACKBONES = ("resnet18", "resnet34", "resnet50", "efficientnet_b0", "mobilenetv3_large_100", "mobilenetv3_small_100")
WARM_UP, BLOCK, CALIBRATION = 2, 6, 48
"""Calls of one side before the other's turn: both see the same busy moments, but not each other's threads."""


def instructions() -> str:
    """Those for sums of 8-bit products that this processor has."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    return ", ".join(sorted(words & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"})) or "unknown"


def export_random(backbone: str, size: int, folder: Path) -> Path:
    torch.manual_seed(0)
    estimator = build_estimator("posenet", None, {"backbone": backbone}, size)
    decoder = estimator.build_decoder(shape=(size, size), short_side=round(size * 256 / 224))
    return export_onnx(estimator.network, folder / f"{backbone}.onnx", decoder)


def seconds(sides: dict[str, Predictor], photo: Image, rounds: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Photograph to pose, and the network alone, of each side in turn."""
    inputs = next(iter(sides.values())).decoder.prepare(Request(photo)).inputs
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, predictor in sides.items():
            time.sleep(0.05)  # the other side's idle threads spin for a while
            for call in range(WARM_UP + BLOCK):
                start = time.perf_counter()
                predictor.predict(photo)
                middle = time.perf_counter()
                predictor.run(inputs)
                if call >= WARM_UP:
                    spent[name].append((middle - start, time.perf_counter() - middle))
    return {name: (np.array(rows)[:, 0], np.array(rows)[:, 1]) for name, rows in spent.items()}


def compare(path: Path, photos: list[Image], threads: int, rounds: int, folder: Path) -> None:
    exported = Predictor.from_onnx(path, threads=threads)
    decoder = exported.decoder
    photos = photos or [decoder.example(seed=seed)[0].image for seed in range(4)]
    measured = photos[: len(photos) // 2][-CALIBRATION:]
    small = quantise(path, folder / "int8.onnx", (decoder.prepare(Request(photo)).inputs for photo in measured))
    sides = {"float32": exported, "int8": Predictor.from_onnx(small, threads=threads)}
    height, width = decoder.inputs["images"][1:]
    print(f"\n{path.stem}, {width}x{height} px: {exported.record.parameters / 1e6:.2f} M parameters")
    spent = seconds(sides, photos[0], rounds)
    for (name, (whole, network)), file in zip(spent.items(), (path, small), strict=True):
        print(
            f"  {name:<8} {1e3 * np.median(whole):7.2f} ms p50 photograph to pose; "
            f"network {1e3 * np.median(network):7.2f} p50, {1e3 * network.min():7.2f} best; "
            f"{file.stat().st_size / 2**20:6.2f} MiB"
        )
    whole, best = ([float(f(spent[name][column])) for name in sides] for f, column in ((np.median, 0), (np.min, 1)))
    print(f"  float32 / int8 = {whole[0] / whole[1]:.2f} photograph to pose, {best[0] / best[1]:.2f} network at best")
    print(f"  {drift(*sides.values(), photos[len(photos) // 2 :])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--photos", type=Path, help="folder of photographs: half to calibrate, half to compare")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = (
        sorted(path for path in options.photos.rglob("*") if path.suffix in (".jpg", ".png")) if options.photos else []
    )
    photos = [read_image(path) for path in files[:: max(len(files) // 96, 1)]]
    print(f"{processor()} ({instructions()}), {cores()} core(s); {options.threads} thread(s)")
    print(f"onnxruntime {onnxruntime.__version__}; {len(photos) or 'no'} photographs")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models or options.backbones:
            path = model if isinstance(model, Path) else export_random(model, options.size, Path(folder))
            compare(path, photos, options.threads, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
