"""Steps a second of a training whose process hands freed memory back, and keeps it, in turns in one process.

python benchmarks/bench_freed_memory.py [--seconds 5] [--rounds 3]
"""

import argparse
import ctypes
import resource
from statistics import median

from bench_busy_machine import steps_per_second
from posedistill.machine import cores, keep_freed_memory

HAND_BACK = {-1: 64 << 20, -3: 32 << 20, -4: 65536}
"""Parameters of ``mallopt`` where glibc's own adjustment ends, a lower bound of what is gained: from 64 MB on freed
memory goes back, from 32 MB on tensors are mapped, and how many such maps there may be."""


def hand_freed_memory_back() -> None:
    for parameter, value in HAND_BACK.items():
        ctypes.CDLL(None).mallopt(parameter, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides = {"handed back": hand_freed_memory_back, "kept": keep_freed_memory}
    for backbone, crop in (("darknet_tiny_h", 96), ("tf_efficientnet_lite0@16", 96), ("tf_efficientnet_lite0@16", 128)):
        found: dict[str, list[float]] = {name: [] for name in sides}
        system: dict[str, float] = dict.fromkeys(sides, 0.0)
        for _ in range(args.rounds):
            for name, choose in sides.items():
                choose()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_stime
                found[name].append(steps_per_second(args.seconds, cores(), backbone, crop, 16))
                system[name] += resource.getrusage(resource.RUSAGE_SELF).ru_stime - before
        rates = {name: median(each) for name, each in found.items()}
        told = ", ".join(f"{name} {rates[name]:.2f} steps/s ({system[name]:.1f} s in the system)" for name in sides)
        print(f"{backbone}, {crop} px: {told}; ratio {rates['kept'] / rates['handed back']:.2f}")


if __name__ == "__main__":
    main()
