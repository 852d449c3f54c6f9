"""The transport divergence, value and gradient, against GeomLoss and POT at equal accuracy, in one process.

    python benchmarks/bench_align.py [--points 10x30 50x100 200x200] [--threads 2] [--balanced] [--device cuda]

16 images x 8 keypoints; the votes of a student against those of a teacher. How exact each contender is at a setting, is
the relative error of its gradient by the student's positions (median over problems) against plain Sinkhorn iterations
in double precision until nothing moves. Each climbs its own ladder of settings until it is as exact as ``--accuracy``,
and is timed there, and at its default. GeomLoss runs as the published system calls it, looped over the images; in one
call; and by its newer solve_batch. POT runs by solve_batch where transport is balanced, and has no batches otherwise: a
loop over problems, timed on few and multiplied. Contenders take turns, so that other work on the machine falls on all
alike, and the best of their times counts.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import geomloss
import torch
from torch import Tensor

from posedistill.distill.functional.transport import sinkhorn_divergence
from posedistill.machine import processor
from timing import milliseconds

try:
    import geomloss.ot as geomloss_ot
except ImportError:
    geomloss_ot = None
try:
    import ot
except ImportError:
    ot = None

IMAGES, KEYPOINTS = 16, 8
BLUR, REACH = 0.02, 0.3
EPS, RHO = BLUR**2, REACH**2
CHECKED = 8
Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Contender:
    """A divergence, a function of one setting; ``share`` of all problems is what a step times."""

    name: str
    make: Callable[[float], Divergence]
    ladder: list[float]
    default: float
    share: float = 1.0
    times: dict[float, list[float]] = field(default_factory=dict)


def make_problems(points: tuple[int, int], device: str) -> list[Tensor]:
    """Votes in object diameters: the student's 0.05 off, the teacher's 0.02, scores as masses that sum to 1."""
    rng = torch.Generator().manual_seed(0)
    center = torch.rand(IMAGES * KEYPOINTS, 1, 2, generator=rng)
    x, y = (
        center + spread * torch.randn(len(center), count, 2, generator=rng)
        for spread, count in zip((0.05, 0.02), points, strict=True)
    )
    a, b = (0.2 + torch.rand(len(center), count, generator=rng) for count in points)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    return [tensor.to(device) for tensor in (x, a, y, b)]


def costs(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, :, None] - y[:, None]).square().sum(-1) / 2


def exact_gradient(tensors: list[Tensor], rho: float | None) -> Tensor:
    """``dS/dx`` of the first few problems by 600 plain iterations in the log domain and in double precision."""
    x, a, y, b = (tensor[:CHECKED].double() for tensor in tensors)
    forces = []
    for other, masses in ((y, b), (x, a)):
        cost, f, g = costs(x, other), torch.zeros_like(a), torch.zeros_like(masses)
        for step in range(600):
            eps = max(EPS, 0.5 ** (step / 10))
            damping = 1.0 if rho is None else rho / (rho + eps)
            f = -damping * eps * (masses.log()[:, None] + (g[:, None] - cost) / eps).logsumexp(2)
            g = -damping * eps * (a.log()[:, :, None] + (f[:, :, None] - cost) / eps).logsumexp(1)
            if rho is not None and step % 10 == 0:
                kept_f, kept_g = (m.log().sub(h / rho).logsumexp(1, keepdim=True) for m, h in ((a, f), (masses, g)))
                f, g = f + rho / 2 * (kept_f - kept_g), g - rho / 2 * (kept_f - kept_g)
        plan = a[:, :, None] * masses[:, None] * ((f[:, :, None] + g[:, None] - cost) / EPS).exp()
        forces.append(plan.sum(2, keepdim=True) * x - plan @ other)
    return forces[0] - forces[1]


def ours(reach: float | None) -> Callable[[float], Divergence]:
    return lambda iterations: (
        lambda *problem: sinkhorn_divergence(*problem, blur=BLUR, reach=reach, iterations=int(iterations)).value
    )


def geomloss_samples(reach: float | None, parts: int) -> Callable[[float], Divergence]:
    """GeomLoss, called once for each of ``parts`` equal parts of the batch."""

    def make(scaling: float) -> Divergence:
        loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=BLUR, reach=reach, scaling=scaling, backend="tensorized")

        def divergence(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
            chunks = [tensor.chunk(parts) for tensor in (a, x, b, y)]
            return torch.cat([loss(*chunk) for chunk in zip(*chunks, strict=True)])

        return divergence

    return make


def by_plans(plans: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Divergence:
    """A function with the divergence's gradient by positions, of a solver that returns plans (envelope theorem)."""

    def divergence(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(len(x), device=x.device)
        for (one, p), (two, q), share in (((x, a), (y, b), 1.0), ((x, a), (x, a), -0.5), ((y, b), (y, b), -0.5)):
            cost = costs(one, two)
            total = total + share * (plans(cost.detach(), p.detach(), q.detach()) * cost).sum((1, 2))
        return total

    return divergence


def geomloss_batch(rho: float | None) -> Callable[[float], Divergence]:
    return lambda steps: by_plans(
        lambda cost, a, b: geomloss_ot.solve_batch(cost, a=a, b=b, reg=EPS, unbalanced=rho, max_iter=int(steps)).plan
    )


def pot_batch(steps: float) -> Divergence:
    return by_plans(
        lambda cost, a, b: (
            ot.solve_batch(
                cost, reg=EPS, a=a, b=b, max_iter=int(steps), reg_type="kl", method="log_sinkhorn", grad="detach"
            ).plan
        )
    )


def pot_looped(steps: float) -> Divergence:
    def plans(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        options = {"method": "sinkhorn_translation_invariant", "numItermax": int(steps)}
        solve = ot.unbalanced.sinkhorn_unbalanced
        return torch.stack([solve(*one, EPS, RHO, **options) for one in zip(a, b, cost, strict=True)])

    return by_plans(plans)


def contenders(balanced: bool) -> list[Contender]:
    reach, rho = (None, None) if balanced else (REACH, RHO)
    scalings, steps = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99], [5, 10, 20, 50, 100, 200, 500]
    found = [
        Contender("align", ours(reach), [2, 4, 8, 16, 32], 16),
        Contender("geomloss, looped", geomloss_samples(reach, IMAGES), scalings, 0.5),
        Contender("geomloss, one call", geomloss_samples(reach, 1), scalings, 0.5),
    ]
    if geomloss_ot is not None:
        found.append(Contender("geomloss, solve_batch", geomloss_batch(rho), steps, 100))
    if ot is not None and balanced:
        found.append(Contender("POT, solve_batch", pot_batch, steps, 1000))
    elif ot is not None:
        found.append(Contender("POT, looped", pot_looped, steps, 1000, share=CHECKED / (IMAGES * KEYPOINTS)))
    return found


def step(divergence: Divergence, tensors: list[Tensor]) -> tuple[float, Tensor]:
    """Milliseconds of one value with its gradients by the student's positions and masses; and that by positions."""
    x, a, y, b = tensors
    x, a = x.clone().requires_grad_(), a.clone().requires_grad_()
    elapsed = milliseconds(lambda: divergence(x, a, y, b).sum().backward(), x.device)
    assert x.grad is not None
    return elapsed, x.grad


def measure(points: tuple[int, int], options: argparse.Namespace) -> None:
    tensors = make_problems(points, options.device)
    truth = exact_gradient(tensors, None if options.balanced else RHO)
    entrants = contenders(options.balanced)

    def part(contender: Contender) -> list[Tensor]:
        return [tensor[: round(len(tensor) * contender.share)] for tensor in tensors]

    def error(contender: Contender, setting: float) -> float:
        gradient = step(contender.make(setting), part(contender))[1][:CHECKED].double()
        return ((gradient - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).median().item()

    rows = []
    for contender in entrants:
        errors = {contender.default: error(contender, contender.default)}
        for setting in contender.ladder:
            errors[setting] = error(contender, setting)
            if errors[setting] <= options.accuracy:
                break
        rows += [(contender, value, errors[value]) for value in dict.fromkeys((setting, contender.default))]
    for _ in range(options.rounds):
        for contender, setting, _ in rows:
            times = contender.times.setdefault(setting, [])
            if len(times) < 3 or sum(times) < 1e3 * options.seconds:
                times.append(step(contender.make(setting), part(contender))[0] / contender.share)
    base = min(rows[0][0].times[rows[0][1]])
    print(f"\n{points[0]} x {points[1]} votes: ms, best of several; ratio to the first line; error of the gradient")
    for contender, setting, off in rows:
        best, reached = min(contender.times[setting]), "" if off <= options.accuracy else "  (less exact)"
        print(f"  {contender.name:22s} {setting:<6g} {best:9.1f} {best / base:7.1f} x   {off:.0e}{reached}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=["10x30", "50x100", "200x200"])
    parser.add_argument("--accuracy", type=float, default=0.02, help="relative error of the gradient to be reached")
    parser.add_argument("--balanced", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10, help="at most so long for one setting, but three rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    name = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    pot = "no POT" if ot is None else f"POT {ot.__version__}"
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, geomloss {geomloss.__version__}, {pot}")
    transport = "balanced" if options.balanced else f"reach {REACH}"
    print(f"{IMAGES} images x {KEYPOINTS} keypoints, blur {BLUR}, {transport}, value and gradient")
    for points in options.points:
        n, _, m = points.partition("x")
        measure((int(n), int(m)), options)


if __name__ == "__main__":
    main()
