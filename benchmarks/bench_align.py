"""The transport divergence, forward and backward, against geomloss on the same problems in one process.

    python benchmarks/bench_align.py [--images 16] [--points 10 30] [--threads 2] [--device cuda]

16 images x 8 keypoints, 10 votes of the student against 30 of the teacher. geomloss runs looped over the images, as the
published system calls it, and batched over all of them. ``agreement`` compares values with geomloss at scaling 0.998,
close to its fixed point; the masses are equal there, since geomloss does not converge where they are not. Aim: at most
8 ms on two cores.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import geomloss
import torch
from torch import Tensor

from posedistill.distill.transport import Solver, sinkhorn_divergence

KEYPOINTS = 8
BLUR, REACH = 0.02, 0.3
Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def problems(images: int, points: list[int], device: str) -> list[Tensor]:
    """Votes in object diameters: the student's 0.05 off, the teacher's 0.02, scores as masses that sum to 1."""
    rng = torch.Generator().manual_seed(0)
    center = torch.rand(images * KEYPOINTS, 1, 2, generator=rng)
    x, y = (
        center + spread * torch.randn(len(center), count, 2, generator=rng)
        for spread, count in zip((0.05, 0.02), points, strict=True)
    )
    a, b = (0.2 + torch.rand(len(center), count, generator=rng) for count in points)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    return [tensor.to(device) for tensor in (x, a, y, b)]


def ours(solver: Solver) -> Divergence:
    def divergence(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
        return sinkhorn_divergence(x, a, y, b, blur=BLUR, reach=REACH, solver=solver, group=KEYPOINTS)

    return divergence


def theirs(images: int, scaling: float = 0.5) -> Divergence:
    """Geomloss, called once for each of ``images`` equal parts of the batch."""
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=BLUR, reach=REACH, scaling=scaling, backend="tensorized")

    def divergence(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
        parts = [tensor.chunk(images) for tensor in (a, x, b, y)]
        return torch.cat([loss(*part) for part in zip(*parts, strict=True)])

    return divergence


def step(divergence: Divergence, tensors: list[Tensor]) -> float:
    """Milliseconds of one value and its gradients by the student's positions and masses."""
    x, a, y, b = tensors
    x, a = x.clone().requires_grad_(), a.clone().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    divergence(x, a, y, b).mean().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--points", type=int, nargs=2, default=[10, 30])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tensors = problems(options.images, options.points, options.device)
    contenders = {
        "align, converged": ours("converged"),
        "align, faithful": ours("faithful"),
        "geomloss, one call": theirs(1),
        "geomloss, looped": theirs(options.images),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # In turns, so that other work on the machine falls on all alike.
    for _ in range(options.rounds):
        for name, divergence in contenders.items():
            times[name].append(step(divergence, tensors))

    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, geomloss {geomloss.__version__}")
    print(
        f"{options.images} images x {KEYPOINTS} keypoints, {options.points[0]} x {options.points[1]} votes, fwd + bwd"
    )
    base = statistics.median(times["align, converged"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:20s} median {median:7.2f} ms, best {min(values):7.2f} ms, {median / base:5.2f} x converged")

    exact = theirs(1, scaling=0.998)(*tensors)
    difference = ((contenders["align, converged"](*tensors) - exact) / exact).abs()
    print(f"agreement with geomloss at scaling 0.998: median {difference.median():.1e}, largest {difference.max():.1e}")
    published = theirs(options.images)(*tensors)
    difference = ((contenders["align, faithful"](*tensors) - published) / published).abs()
    print(
        f"agreement of faithful with geomloss, looped: median {difference.median():.1e}, largest {difference.max():.1e}"
    )


if __name__ == "__main__":
    main()
