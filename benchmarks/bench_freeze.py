"""What frozen early layers save of a training step: the same student, all of it trained and all but its first layers.

    python benchmarks/bench_freeze.py [--threads 2] [--repeats 10]

The student is the shipped one of surface codes: EfficientNet-Lite0 cut at stride 16, 128 px, 16 crops of noise a step.
Steps are timed by turns in one process; data are made beside a training and are not part of them.
"""

import argparse
import statistics

import torch

from posedistill.data.loading.batch import Batch
from posedistill.data.render.shapes import code_models_info
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import ObjectTable
from timing import milliseconds

FROZEN = ["backbone.net.conv_stem", "backbone.net.bn1", "backbone.net.blocks.0", "backbone.net.blocks.1"]
"""The layers up to the map of stride 4."""
SIZE, CROPS = 128, 16
SETTINGS = {"backbone": "tf_efficientnet_lite0@16", "decoder": "dense", "width": 64}


def made_batch() -> Batch:
    """Noise with a patch of surface in the middle of every crop: a step costs the same on any picture."""
    cells = SIZE // 4
    surface = torch.full((CROPS, cells, cells, 3), torch.nan)
    surface[:, 8:24, 8:24] = torch.rand(CROPS, 16, 16, 3) * 50
    masks = torch.zeros(CROPS, SIZE, SIZE, dtype=torch.bool)
    masks[:, 32:96, 32:96] = True
    images = torch.randn(CROPS, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    poses = {"R": torch.eye(3).expand(CROPS, 3, 3), "t": torch.tensor([0.0, 0.0, 900.0]).expand(CROPS, 3)}
    targets = {"masks": masks, "surface/4": surface}
    return Batch.single(images, torch.eye(3).expand(CROPS, 3, 3), ids=torch.arange(CROPS), **poses, **targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    objects = ObjectTable.from_models_info(code_models_info(), [1])
    batch = made_batch()
    steps = {}
    for name, frozen in (("all layers", []), ("from stride 4 on", FROZEN)):
        estimator = build_estimator("zebrapose", objects, SETTINGS, SIZE).to(memory_format=torch.channels_last)
        estimator.freeze(frozen)
        optimizer = torch.optim.AdamW(estimator.parameters(), lr=1e-3)

        def step(estimator=estimator, optimizer=optimizer) -> None:
            estimator.train()
            torch.stack(list(estimator.loss(estimator(batch), batch).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 2):
        for name, step in steps.items():
            spent = milliseconds(step)
            times[name] += [spent] if repeat >= 2 else []
    print(f"a step of {CROPS} crops of {SIZE} px, {options.threads} threads, float32")
    for name, values in times.items():
        print(f"  trained: {name:18} {statistics.median(values):6.0f} ms")
    whole, part = (statistics.median(values) for values in times.values())
    print(f"  ratio {whole / part:.2f}")


if __name__ == "__main__":
    main()
