"""Bench: what an exported file costs on this machine, measured in a fresh process."""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.errors import CheckpointError, DataError
from posedistill.geometry.cameras import Array, project
from posedistill.machine import cores, processor
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import Outputs, Predictor, Request

WARM_UP = 5
"""Calls that are not counted, besides the first one, which is reported on its own."""


@dataclass(frozen=True)
class BenchResult:
    """Speed and size of one exported file on one machine.

    Attributes:
        file: path. megabytes: of the file, MiB. parameters: of the network.
        crop_size: pixels. batch: crops a call. with_pnp: whether the calls ended in poses or in raw votes.
        poses: share of the timed crops that gave a pose (0 without PnP).
        repeats: timed calls. p50_ms, p90_ms, p99_ms, mean_ms: of a call, cutting the crops included.
        images_per_second: crops over the mean time of a call.
        load_ms: opening the file. first_inference_ms: the first call.
        peak_memory_mb: peak resident memory of the whole process; model_memory_mb: by how much the model raised it.
        device, threads, runtime, versions: what it was measured on; threads 0 means onnxruntime's choice.
    """

    file: str
    megabytes: float
    parameters: int
    crop_size: int
    batch: int
    with_pnp: bool
    poses: float
    repeats: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_second: float
    load_ms: float
    first_inference_ms: float
    peak_memory_mb: float
    model_memory_mb: float
    device: str
    threads: int
    runtime: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For a report's json."""
        return asdict(self)

    def table(self) -> str:
        """A plain-text table of two columns."""
        rows = [
            ("file", f"{self.file} ({self.megabytes:.2f} MiB, {self.parameters / 1e6:.2f} M parameters)"),
            ("a call", f"{self.batch} crop(s) of {self.crop_size} px, {'with' if self.with_pnp else 'without'} PnP"),
            ("time p50 / p90 / p99", f"{self.p50_ms:.2f} / {self.p90_ms:.2f} / {self.p99_ms:.2f} ms"),
            ("rate", f"{self.images_per_second:.1f} images/s over {self.repeats} calls"),
            ("load, first call", f"{self.load_ms:.0f} ms, {self.first_inference_ms:.1f} ms"),
            ("peak memory", f"{self.peak_memory_mb:.0f} MiB, of which the model {self.model_memory_mb:.0f} MiB"),
            ("device", f"{self.device}, {self.threads or 'all'} thread(s)"),
            ("runtime", f"{self.runtime}, " + ", ".join(f"{name} {value}" for name, value in self.versions.items())),
        ]
        if self.with_pnp:
            rows.insert(4, ("crops with a pose", f"{100 * self.poses:.0f} %"))
        return "\n".join(f"{name:<22}{value}" for name, value in rows)


def bench(
    path: str | Path,
    threads: int | None = None,
    repeats: int = 100,
    batch: int = 1,
    with_pnp: bool = True,
    image: str | Path | None = None,
    box: Sequence[float] | None = None,
) -> BenchResult:
    """Measure a file in a process of its own, so that memory and load time are those of a deployed runtime.

    Args:
        path: the exported file.
        threads: of the network; None lets onnxruntime choose.
        repeats: timed calls.
        batch: crops a call, all of one image.
        with_pnp: time poses, not just raw votes.
        image: a photograph to cut the crops from, with ``box`` (x, y, w, h) around the first object of the file.
            Without it the crops are noise and the decoder is given votes of a known pose, 40 % of them outliers.
        box: see ``image``; default: the image's middle.

    Raises:
        CheckpointError: the file is none of ours. DataError: the image or box is unusable.
    """
    job = {
        "path": str(path), "threads": threads, "repeats": repeats, "batch": batch, "with_pnp": with_pnp,
        "image": None if image is None else str(image), "box": None if box is None else [float(v) for v in box],
    }  # fmt: skip
    command = [sys.executable, "-m", "posedistill.deploy.bench", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the bench process ended with code {done.returncode}"]
        kind, _, message = lines[-1].rpartition("Error: ")
        error = DataError if kind.endswith("Data") else CheckpointError
        raise error(message)
    return BenchResult(**json.loads(done.stdout.splitlines()[-1]))


def measure(
    path: str, threads: int | None, repeats: int, batch: int, with_pnp: bool, image: str | None, box: list[float] | None
) -> BenchResult:
    """``bench`` in this process; the arguments are the same."""
    before = peak_memory_mb()
    start = time.perf_counter()
    predictor = Predictor.from_onnx(path, threads=threads, batch=batch)
    load = time.perf_counter() - start
    request = _request(predictor.metadata, batch, image, box)
    stand_in = None if image else synthetic_outputs(predictor, request)
    first, _ = _timed_call(predictor, request, with_pnp, stand_in)
    for _ in range(WARM_UP):
        _timed_call(predictor, request, with_pnp, stand_in)
    seconds, poses = zip(*(_timed_call(predictor, request, with_pnp, stand_in) for _ in range(repeats)), strict=True)
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(seconds, (50, 90, 99)))
    return BenchResult(
        file=path,
        megabytes=Path(path).stat().st_size / 2**20,
        parameters=predictor.metadata.parameters,
        crop_size=predictor.metadata.crop_size,
        batch=batch,
        with_pnp=with_pnp,
        poses=sum(poses) / (repeats * batch),
        repeats=repeats,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=1e3 * float(np.mean(seconds)),
        images_per_second=batch / float(np.mean(seconds)),
        load_ms=1e3 * load,
        first_inference_ms=1e3 * first,
        peak_memory_mb=peak_memory_mb(),
        model_memory_mb=peak_memory_mb() - before,
        device=f"{processor()}, {cores()} core(s)",
        threads=threads or 0,
        runtime=_runtime(),
        versions={
            "posedistill": predictor.metadata.version,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    )


def _timed_call(predictor: Predictor, request: Request, with_pnp: bool, stand_in: Outputs | None) -> tuple[float, int]:
    """Seconds from image to poses (or votes), and how many poses there were."""
    start = time.perf_counter()
    prepared = predictor.prepare(*request)
    outputs = predictor.run_network(prepared.crops, prepared.classes)
    poses = predictor.decode_outputs(stand_in or outputs, prepared) if with_pnp else []
    return time.perf_counter() - start, sum(pose is not None for pose in poses)


def _request(metadata: ModelMetadata, batch: int, image: str | None, box: list[float] | None) -> Request:
    """``batch`` crops of the first object, from the given photograph or from noise."""
    from posedistill.data.images import read_image

    if image is None:
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    else:
        pixels = read_image(Path(image))
    height, width = pixels.shape[:2]
    K = metadata.default_K(width, height)
    if K is None:
        K = np.array([[width, 0.0, (width - 1) / 2], [0.0, width, (height - 1) / 2], [0.0, 0.0, 1.0]])
    if box is None:
        side = min(width, height) / 3
        box = [(width - side) / 2, (height - side) / 2, side, side]
    return Request(
        pixels, K, np.tile(np.asarray(box, dtype=np.float64), (batch, 1)), metadata.objects.obj_ids[:1] * batch
    )


def synthetic_outputs(predictor: Predictor, request: Request, noise: float = 0.004, outliers: float = 0.4) -> Outputs:
    """Network outputs for a pose seen in the middle of each crop: logits ``[B, N]`` and votes ``[B, N, 8, 2]``.

    Args:
        predictor: tells the cells and the object.
        request: tells the crop cameras.
        noise: standard deviation of a vote, crop sides. outliers: share of votes that are anywhere.
    """
    rng = np.random.default_rng(0)
    K = predictor.prepare(*request).cameras.K
    size, cells = predictor.metadata.crop_size, predictor.cells
    corners = predictor.metadata.objects.keypoints[0]
    middle = np.array([size / 2, size / 2, 1.0])
    distance = K[0, 0, 0] * float(predictor.metadata.objects.diameters[0]) / (0.6 * size)
    t = distance * np.linalg.solve(K[0], middle) - corners.mean(axis=0)
    pixels: Array = project(corners, np.eye(3), t, K[0])
    votes = pixels + rng.normal(scale=noise * size, size=(len(K), len(cells), len(corners), 2))
    wild = rng.random((len(K), len(cells), len(corners))) < outliers
    votes[wild] = rng.uniform(0, size, (int(wild.sum()), 2))
    near = np.linalg.norm(cells.centers - size / 2, axis=1) < 0.3 * size
    logits = np.where(near, 2.0, -6.0) + rng.normal(scale=0.2, size=(len(K), len(cells)))
    return logits.astype(np.float32), votes.astype(np.float32)


def peak_memory_mb() -> float:
    """Peak resident memory of this process, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its maximum is inherited from the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 2**10
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _runtime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"


def main() -> None:
    """Entry of the process that ``bench`` starts: one JSON argument in, one JSON line out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    try:
        print(json.dumps(measure(**json.loads(parser.parse_args().job)).to_dict()))
    except (CheckpointError, DataError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
