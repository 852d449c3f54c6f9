"""Bench: what an exported file costs on this machine, measured in a fresh process."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from platform import python_version

import numpy as np

from posedistill.data.images import read_image
from posedistill.decode.base import Arrays, Decoder, Request
from posedistill.errors import CheckpointError, DataError
from posedistill.machine import cores, processor
from posedistill.runtime.predictor import Predictor

WARM_UP = 5
"""Calls that are not counted, besides the first one, which is reported on its own."""


@dataclass(frozen=True)
class BenchResult:
    """Speed and size of one exported file on one machine. A call's time includes the preparation of its pixels."""

    file: str
    megabytes: float  # of the file, MiB
    parameters: int
    call: str  # what a call is, in words
    batch: int  # network inputs (crops, photographs) a call
    poses: float  # found for each input; 0 where calls end in the network's outputs
    repeats: int  # timed calls
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_second: float  # inputs over the mean time of a call
    load_ms: float  # opening the file
    first_inference_ms: float
    peak_memory_mb: float  # resident, of the whole process, MiB
    model_memory_mb: float  # by how much the model raised it
    device: str
    threads: int  # 0: onnxruntime's choice
    runtime: str
    versions: dict[str, str]

    def table(self) -> str:
        """A plain-text table of two columns."""
        rows = [
            ("file", f"{self.file} ({self.megabytes:.2f} MiB, {self.parameters / 1e6:.2f} M parameters)"),
            ("a call", self.call),
            ("time p50 / p90 / p99", f"{self.p50_ms:.2f} / {self.p90_ms:.2f} / {self.p99_ms:.2f} ms"),
            ("rate", f"{self.images_per_second:.1f} images/s over {self.repeats} calls"),
            ("load, first call", f"{self.load_ms:.0f} ms, {self.first_inference_ms:.1f} ms"),
            ("peak memory", f"{self.peak_memory_mb:.0f} MiB, of which the model {self.model_memory_mb:.0f} MiB"),
            ("device", f"{self.device}, {self.threads or 'all'} thread(s)"),
            ("runtime", f"{self.runtime}, " + ", ".join(f"{name} {value}" for name, value in self.versions.items())),
        ]
        return "\n".join(f"{name:<22}{value}" for name, value in rows)


def bench(
    path: str | Path,
    threads: int | None = None,
    repeats: int = 100,
    batch: int = 1,
    poses: bool = True,
    image: str | Path | None = None,
) -> BenchResult:
    """Measure a file in a process of its own, so that memory and load time are those of a deployed runtime.

    Args:
        path: the exported file.
        threads: of the network; None lets onnxruntime choose.
        repeats: timed calls.
        batch: crops a call, all of one image; or photographs.
        poses: time poses, not just the network's outputs.
        image: a photograph to look at; boxes are about its middle. Without it the pixels are noise, and the decoder is
            given outputs of a known pose, 40 % of its votes outliers, where the family's decoder depends on them.

    Raises:
        CheckpointError: the file is none of ours. DataError: the image is unusable.
    """
    job = {"path": str(path), "threads": threads, "repeats": repeats, "batch": batch, "poses": poses}
    job["image"] = None if image is None else str(image)
    command = [sys.executable, "-m", "posedistill.deploy.bench", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the bench process ended with code {done.returncode}"]
        kind, _, message = lines[-1].rpartition("Error: ")
        error = DataError if kind.endswith("Data") else CheckpointError
        raise error(message)
    return BenchResult(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: str, threads: int | None, repeats: int, batch: int, poses: bool, image: str | None) -> BenchResult:
    """``bench`` in this process; the arguments are the same."""
    before = peak_memory_mb()
    start = time.perf_counter()
    predictor = Predictor.from_onnx(path, threads=threads, batch=batch)
    load = time.perf_counter() - start
    import onnxruntime  # only now, so that loading the file tells its cost

    requests = predictor.decoder.example(batch, None if image is None else read_image(Path(image)))
    stand_in = None if image else predictor.decoder.stand_in(predictor.decoder.prepare(requests[0]))
    calls = [_timed_call(predictor, requests, stand_in, poses) for _ in range(1 + WARM_UP + repeats)]
    (first, _), calls = calls[0], calls[1 + WARM_UP :]
    seconds = [spent for spent, _ in calls]
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(seconds, (50, 90, 99)))
    return BenchResult(
        file=path,
        megabytes=Path(path).stat().st_size / 2**20,
        parameters=predictor.record.parameters,
        call=_in_words(predictor.decoder, requests, batch, poses),
        batch=batch,
        poses=sum(found for _, found in calls) / (repeats * batch),
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
        runtime=f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
        versions={"posedistill": predictor.record.version, "python": python_version(), "numpy": np.__version__},
    )


def _timed_call(
    predictor: Predictor, requests: Sequence[Request], stand_in: Arrays | None, poses: bool
) -> tuple[float, int]:
    """Seconds from pixels to poses (or outputs), and how many poses there were; ``stand_in`` is decoded instead."""
    start, found = time.perf_counter(), 0
    prepared = [predictor.decoder.prepare(request) for request in requests]
    for entry, outputs in zip(prepared, predictor.outputs_of(prepared), strict=True):
        found += len(predictor.decoder.decode(stand_in or outputs, entry)) if poses else 0
    return time.perf_counter() - start, found


def _in_words(decoder: Decoder, requests: Sequence[Request], batch: int, poses: bool) -> str:
    """What a call is."""
    height, width = requests[0].image.shape[:2]
    rows, columns = decoder.inputs["images"][1:]
    what = f"{len(requests)} photograph(s) of {width}x{height}, {batch} input(s) of {columns}x{rows} px"
    return f"{what}, to {'poses' if poses else 'the outputs of the network'}"


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


def main() -> None:
    """Entry of the process that ``bench`` starts: one JSON argument in, one JSON line out."""
    try:
        print(json.dumps(asdict(measure(**json.loads(sys.argv[1])))))
    except (CheckpointError, DataError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
