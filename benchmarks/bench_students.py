"""Size, work and CPU time of the WDRNet+ networks: teacher, students, and the slim head, side by side.

    python benchmarks/bench_students.py [--threads 2] [--size 256] [--classes 1] [--repeats 20]

Times are of one image in float32 (median of interleaved runs, so that a busy machine slows all alike).
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from posedistill.estimators.wdrnet import WDRNetNetwork, WDRNetSettings

NETWORKS = {
    "DarkNet-53": WDRNetSettings(backbone="darknet53"),
    "DarkNet-tiny": WDRNetSettings(backbone="darknet_tiny"),
    "DarkNet-tiny-H": WDRNetSettings(backbone="darknet_tiny_h"),
    "DarkNet-tiny slim": WDRNetSettings(backbone="darknet_tiny", head="slim"),
    "DarkNet-tiny-H slim": WDRNetSettings(backbone="darknet_tiny_h", head="slim"),
}


def gmacs(network: nn.Module, images: Tensor, classes: Tensor) -> tuple[float, float]:
    """Giga multiply-adds of the whole network, and of its head."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images, classes)
    counts = counter.get_flop_counts()
    head = sum(counts[f"{type(network).__name__}.head"].values())
    return counter.get_total_flops() / 2e9, head / 2e9


def milliseconds(networks: dict[str, nn.Module], images: Tensor, classes: Tensor, repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for repeat in range(repeats + 2):
            for name, network in networks.items():
                start = time.perf_counter()
                network(images, classes)
                if repeat >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.randn(1, 3, options.size, options.size).to(memory_format=torch.channels_last)
    classes = torch.zeros(1, dtype=torch.int64)
    networks: dict[str, nn.Module] = {
        name: WDRNetNetwork(options.classes, settings, options.size).eval().to(memory_format=torch.channels_last)
        for name, settings in NETWORKS.items()
    }
    times = milliseconds(networks, images, classes, options.repeats)
    teacher = times["DarkNet-53"]
    print(f"device cpu, {options.threads} threads, float32, batch 1, {options.size} px, {options.classes} classes")
    print(f"{'network':20} {'parameters':>11} {'GMACs':>7} {'of head':>8} {'ms':>7} {'teacher/this':>13}")
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        work, head = gmacs(network, images, classes)
        ratio = teacher / times[name]
        print(f"{name:20} {count:11,} {work:7.2f} {head / work:8.0%} {times[name]:7.1f} {ratio:13.1f}")


if __name__ == "__main__":
    main()
