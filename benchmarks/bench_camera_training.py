"""Images a second of a camera teacher's step, a student's, and a distilled one; data, and poses from files.

    PYTHONPATH=. python benchmarks/bench_camera_training.py [--teacher resnet34] [--student ...] [--size 112]

Steps are timed by turns in one process on views of a made room, which the loader makes as in training; then each
network is exported and timed from photograph to pose by ONNX Runtime in a process of its own, as float32 and int8.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.scene_view import SceneView, ViewSettings
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.deploy.bench import bench
from posedistill.deploy.export import export_onnx
from posedistill.deploy.quantise import quantise
from posedistill.distill import DistillSpec, build_distiller
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.machine import processor
from posedistill.training.step import Untouched, losses
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching
from timing import milliseconds


def made_loader(folder: Path, size: int, batch: int, device: torch.device) -> Loader:
    """Views of a made room, from frames of 4:3."""
    write_made_scene(folder / "room", "7-Scenes", sequences=2, frames=60, size=(2 * size, 3 * size // 2))
    pack = build_pack(SceneFrames(open_scene(folder / "room", "train"), 8 * size // 7), folder / "pack")
    return Loader(SceneView(pack, ViewSettings(), size), batch, 0, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--teacher", default="resnet34")
    parser.add_argument("--student", default="mobilenetv3_small_100")
    parser.add_argument("--hidden", type=int, default=256, help="of the student")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    device = torch.device(args.device)

    def network(backbone: str, hidden: int) -> Estimator:
        made = build_estimator("posenet", NO_OBJECTS, {"backbone": backbone, "hidden": hidden}, args.size)
        return made.to(device).to(memory_format=torch.channels_last)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16)

    large, student = network(args.teacher, 1024).train(), network(args.student, args.hidden).train()
    teacher = NetworkTeacher(network(args.teacher, 1024), device, autocast)
    distillers = [build_distiller(DistillSpec(name="relate"), student.offers, teacher.offers)]
    teaching = Teaching(teacher, distillers)
    generator = torch.Generator(device).manual_seed(0)

    def step(estimator: Estimator, batch: object, taught: Teaching | None) -> None:
        with autocast():
            terms = losses(Untouched(estimator), estimator, batch, generator, taught)  # type: ignore[arg-type]
            total = torch.stack(list(terms.values())).sum()
        total.backward()
        for weight in estimator.parameters():
            weight.grad = None

    with tempfile.TemporaryDirectory() as folder:
        loader = made_loader(Path(folder), args.size, args.batch, device)
        batch = loader.batch(0)
        work: dict[str, Callable[[], object]] = {
            "loader": lambda: loader.batch(1),
            f"teacher, {args.teacher}": lambda: step(large, batch, None),
            f"student, {args.student}": lambda: step(student, batch, None),
            "distilled": lambda: step(student, batch, teaching),
        }
        rounds = [{name: milliseconds(call, device) for name, call in work.items()} for _ in range(args.repeats + 2)][
            2:
        ]
        print(f"{processor()}, {torch.get_num_threads()} threads, bf16; {args.batch} pictures of {args.size} px")
        for name in work:
            median = statistics.median(entry[name] for entry in rounds)
            print(f"{name:<34}{median:9.1f} ms{1e3 * args.batch / median:9.0f} images/s")
        ratio = statistics.median(entry["distilled"] / list(entry.values())[2] for entry in rounds)
        print(f"distilled / student: {ratio:.2f}")
        pictures = [loader.batch(number).images.float().cpu().numpy() for number in range(4)]
        for name, estimator in ((args.teacher, large), (args.student, student)):
            _latencies(name, estimator, Path(folder), args.size, pictures)


def _latencies(name: str, estimator: Estimator, folder: Path, size: int, pictures: list[np.ndarray]) -> None:
    """Export as float32 and int8 and time both."""
    decoder = estimator.build_decoder(shape=(size, size), short_side=8 * size // 7)
    path = export_onnx(estimator.network, folder / f"{name}.onnx", decoder)
    batches = [{"images": images} for images in pictures]
    for kind, file in (("float32", path), ("int8", quantise(path, folder / f"{name}.int8.onnx", batches))):
        found = bench(file)
        times = f"{found.p50_ms:6.2f} / {found.p90_ms:6.2f} / {found.p99_ms:6.2f} ms"
        print(f"{name:<24}{kind:<9}{found.megabytes:6.1f} MiB   photograph to pose, p50 / p90 / p99 {times}")


if __name__ == "__main__":
    main()
