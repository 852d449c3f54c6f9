"""What scene coordinates cost: poses from 500 cells and from all, a training step, and exported files.

    PYTHONPATH=. python benchmarks/bench_scene_coordinates.py [--sides 240 480] [--threads 1]

Decoders are timed by turns in one process on points of a known pose, 40 % of them wrong; exported files in a process of
their own, from a photograph of 640x480 to the pose, and their networks alone in processor time, which a busy machine
changes little.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tests.data.room import pinhole
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.scene_view import SceneView, ViewSettings
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.decode import Prepared, SceneCoordinatesDecoder, scene_coordinates
from posedistill.deploy.bench import bench
from posedistill.deploy.export import export_onnx
from posedistill.estimators.base import Estimator, FrozenPart
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.machine import processor
from posedistill.runtime import Predictor
from posedistill.training.teaching.repeated import FrozenMaps
from timing import milliseconds, rate

NETWORKS = {
    "Lite0@16, 192": {"backbone": "tf_efficientnet_lite0@16", "width": 192, "frozen": True},
    "Lite0@16, 64": {"backbone": "tf_efficientnet_lite0@16", "width": 64, "frozen": True},
    "MobileNetV3-small@16, 128": {"backbone": "mobilenetv3_small_100@16", "width": 128},
    "tiny-Q, 96": {"backbone": "darknet_tiny_q", "width": 96},
}


def network(settings: dict[str, object], cells: int) -> Estimator:
    torch.manual_seed(0)
    return build_estimator("scene_coordinates", NO_OBJECTS, settings | {"cells": cells}, 64)


def decoders(side: int, repeats: int) -> None:
    """Poses of the surest 500 cells, and of all."""
    shape = (side, 4 * side // 3)
    decoder = SceneCoordinatesDecoder(shape=shape, short_side=side, camera=pinhole(640, 480))
    prepared = decoder.prepare(decoder.example()[0])
    outputs, times = decoder.stand_in(prepared), {}
    most = decoder.grid[0] * decoder.grid[1]
    for _ in range(repeats + 2):
        for count in (500, most):
            scene_coordinates.CELLS = count
            chosen = outputs | {"confidence": outputs["confidence"].clip(0.5)}
            times.setdefault(count, []).append(milliseconds(lambda chosen=chosen: decoder.decode(chosen, prepared)))
    for count, found in times.items():
        print(f"decoder, {shape[1]}x{shape[0]}, {count} cells: {statistics.median(found[2:]):.2f} ms")


def steps(folder: Path, side: int, repeats: int) -> None:
    """Training steps a second: with the making of their pictures, and by turns with stored maps of what is frozen."""
    pack = build_pack(SceneFrames(open_scene(folder / "room", "train"), side), folder / f"pack{side}")
    loader = Loader(SceneView(pack, ViewSettings(roll=15, zoom=(0.67, 1.2)), None), 16, 0, "cpu")
    for name, settings in NETWORKS.items():
        estimator = network(settings, 3072).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW([weight for weight in estimator.parameters() if weight.requires_grad])
        sources: dict[str, Callable[[int], Batch]] = {"pictures": loader.batch}
        if part := estimator.frozen_part():
            sources["stored maps"] = stored_batches(loader, part, folder / f"maps {name} {side}")

        def step(batch: Batch, estimator: Estimator = estimator, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                prediction = estimator.train()(batch)
            torch.stack(list(estimator.loss(prediction, batch).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        times: dict[str, list[float]] = {kind: [] for kind in sources}
        for number in range(repeats + 2):
            for kind, make in sources.items():
                times[kind].append(milliseconds(lambda make=make, number=number: step(make(number))))  # type: ignore[misc]
        for kind, found in times.items():
            middle = statistics.median(found[2:])
            told = f"step, {loader.batch_size} pictures of {side} px, {name}, {kind}"
            print(f"{told}: {middle:.0f} ms, {1e3 / middle:.1f} a second")


def stored_batches(loader: Loader, part: FrozenPart, folder: Path, period: int = 4) -> Callable[[int], Batch]:
    """The first batches again and again, with the maps of what is frozen stored."""

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    maps = FrozenMaps(part, folder, period, 8.0, autocast)
    for step in range(period):
        maps.added(loader.batch(step), step)
    return lambda step: maps.read(step % period, torch.device("cpu")) or loader.batch(step)


def files(folder: Path, side: int, threads: int) -> None:
    """Exported files, photograph to outputs and to pose."""
    for name, settings in NETWORKS.items():
        estimator = network(settings, 2048).eval()
        shape = (side, 4 * side // 3)
        decoder = estimator.build_decoder(shape=shape, short_side=side, camera=pinhole(640, 480))
        path = export_onnx(estimator.network, folder / "model.onnx", decoder)
        parameters = sum(weight.numel() for weight in estimator.network.parameters())
        found, predictor = bench(path, threads=threads), Predictor.from_onnx(path, threads=threads)
        prepared = decoder.prepare(decoder.example()[0])

        def once(predictor: Predictor = predictor, prepared: Prepared = prepared) -> int:
            return len(predictor.outputs_of([prepared]))

        size = f"{parameters / 1e6:.2f} M, {found.megabytes:.1f} MiB"
        told = f"{found.p50_ms:.2f} / {found.p90_ms:.2f} / {found.p99_ms:.2f} ms"
        print(f"{shape[1]}x{shape[0]}, {name}, {size}, to pose: {told}")
        print(f"    the network alone, processor time: {1e3 / rate(once, 2.0)[1]:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[240, 480])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} thread(s)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_made_scene(folder / "room", "7-Scenes", sequences=2, frames=20, size=(640, 480))
        for side in args.sides:
            decoders(side, args.repeats)
            files(folder, side, args.threads)
            steps(folder, side, args.repeats)


if __name__ == "__main__":
    main()
