"""Steps a second of a training alone, beside busy processes and beside another training, by how OpenMP threads wait.

    python benchmarks/bench_busy_machine.py [--load 2] [--seconds 20] [--threads 2]

Each figure is taken in a process of its own, one after the other, since an OpenMP library reads its policy once. The
load is made of processes that count. The fair share is what the scheduler owes the training's threads: cores divided by
all that run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

POLICIES: dict[str, dict[str, str]] = {
    "as torch comes": {},
    "as set by posedistill": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"},
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
}
"""Torch is imported before posedistill, which would set the variables."""
WARM_UP = 3
"""Steps before the clock starts."""


def steps_per_second(seconds: float, threads: int, backbone: str, crop: int, batch_size: int) -> float:
    """Of a student on pictures of noise: forward pass, losses, backward pass, optimiser."""
    import numpy as np
    import torch

    from posedistill.estimators.registry import build_estimator
    from posedistill.geometry.objects import ObjectTable, box_corners
    from posedistill.recipe.networks import TrainSettings
    from posedistill.training.step import losses, make_optimizer
    from posedistill.training.teaching.build import noise_batch

    torch.set_num_threads(threads)
    half = np.array([40.0, 30.0, 50.0])
    objects = ObjectTable(
        (1,), box_corners(-half, half)[None], np.array([2 * np.linalg.norm(half)]), (np.eye(4)[None],)
    )
    estimator = build_estimator("wdrnet", objects, {"backbone": backbone, "strides": [8, 16]}, crop)
    estimator.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(list(estimator.parameters()), TrainSettings(), torch.device("cpu"))
    batch, generator = noise_batch(objects, crop, batch_size), torch.Generator()

    def step() -> None:
        terms = losses(lambda made, drawn: estimator(made(), drawn), estimator, batch, generator, None)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(WARM_UP):
        step()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - started)


def measured(policy: dict[str, str], load: int, words: list[str], trainings: int = 1) -> float:
    """Steps a second, in the mean over ``trainings`` in fresh processes at once, beside ``load`` busy processes."""
    environment = {
        name: os.environ[name] for name in os.environ if name not in POLICIES["as set by posedistill"]
    } | policy
    with ExitStack() as stack:
        for _ in range(load):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        command = [sys.executable, __file__, "--one", *words]
        runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(trainings)]
        return sum(float(json.loads(run.communicate()[0].splitlines()[-1])) for run in runs) / trainings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--load", type=int, default=cores, help="busy processes; default: as many as cores")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--backbone", default="darknet_tiny")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(steps_per_second(args.seconds, args.threads, args.backbone, args.crop, args.batch)))
        return
    words = [f"--seconds={args.seconds}", f"--threads={args.threads}", f"--backbone={args.backbone}"]
    words += [f"--crop={args.crop}", f"--batch={args.batch}"]
    fair = min(1.0, cores / (args.threads + args.load))
    print(f"{args.backbone}, {args.crop} px, batch {args.batch}, {args.threads} threads on {cores} cores")
    print(f"beside {args.load} busy processes the fair share is {fair:.0%}; load average {os.getloadavg()[0]:.1f}")
    heads = ("alone", "beside", "of its share", "two at once", "of alone")
    print(f"{'threads that wait':21}" + "".join(f"{head:>13}" for head in heads))
    for name, policy in POLICIES.items():
        alone, beside = (measured(policy, load, words) for load in (0, args.load))
        two = measured(policy, 0, words, trainings=2)
        print(
            f"{name:21}{alone:10.2f} /s{beside:10.2f} /s{beside / alone / fair:13.0%}{two:10.2f} /s{two / alone:13.0%}"
        )


if __name__ == "__main__":
    main()
