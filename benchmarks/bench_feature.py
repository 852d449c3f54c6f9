"""What each form of the loss between feature maps costs, beside one step of the student without it.

    python benchmarks/bench_feature.py [--images 32] [--crop 128] [--threads 1] [--device cuda]

The student is darknet_tiny_h with the slim head, whose maps of strides 16, 32 and 64 have 128 channels; the teacher's
are random, of the same shapes. ``memory`` is what a form keeps for its backward pass: the storages that autograd saves,
each counted once, the maps and parameters that exist anyway left out. ``learned`` counts a form's parameters.
"""

import argparse
import platform
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, DistillSpec, Example, build_distiller
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction
from posedistill.geometry.objects import ObjectTable, box_corners
from timing import milliseconds

FORMS = {
    "hint (sckd-plus)": {"form": "hint"},
    "hint (fitnet)": {"form": "hint", "profile": "fitnet"},
    "hint (sckd-pub)": {"form": "hint", "profile": "sckd-pub"},
    "attention_transfer": {"form": "attention_transfer"},
    "attention_guided": {"form": "attention_guided"},
    "variational": {"form": "variational"},
    "factor_transfer": {"form": "factor_transfer"},
    "factor_transfer, p6": {"form": "factor_transfer", "layers": {"p6": "p6"}},
    "activation_boundary": {"form": "activation_boundary"},
    "solution_flow": {"form": "solution_flow"},
    "neuron_selectivity": {"form": "neuron_selectivity"},
}


def make_student(crop: int, device: str) -> Estimator:
    half = np.array([40.0, 30.0, 50.0])
    objects = ObjectTable((1,), box_corners(-half, half)[None], np.array([141.0]), (np.eye(4)[None],))
    settings = {"backbone": "darknet_tiny_h", "head": "slim", "strides": [16, 32, 64]}
    return build_estimator("wdrnet", objects, settings, crop).to(device).to(memory_format=torch.channels_last)


def make_batch(images: int, crop: int, device: str) -> Batch:
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(images, 8, 3, generator=rng) * 80 - 40
    pixels = crop * (0.3 + 0.4 * torch.rand(images, 8, 2, generator=rng))
    focal = 4.0 * crop
    return Batch.single(
        images=torch.randn(images, 3, crop, crop, generator=rng).contiguous(memory_format=torch.channels_last),
        K=torch.tensor([[focal, 0, crop / 2], [0, focal, crop / 2], [0, 0, 1]]).expand(images, 3, 3),
        R=torch.eye(3).expand(images, 3, 3),
        t=torch.tensor([0.0, 0.0, 800.0]).expand(images, 3),
        ids=torch.arange(images),
        masks=torch.ones(images, crop, crop, dtype=torch.bool),
        label=torch.zeros(images, dtype=torch.int64),
        keypoints3d=corners,
        keypoints=pixels,
        diameters=torch.full((images,), 141.0),
    ).to(device)


def kept(compute: Callable[[], Tensor], exists: set[int]) -> float:
    """Mebibytes of the storages that autograd saves, but for those at the addresses that ``exists`` names."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in exists:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    assert result.isfinite()
    return sum(sizes.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    student, batch = (
        make_student(options.crop, options.device),
        make_batch(options.images, options.crop, options.device),
    )
    generator = torch.Generator(options.device)

    def plain() -> None:
        sum(student.loss(student.train()(batch, generator), batch).values()).backward()

    seen = student.train()(batch, generator).features
    features = {name: x.detach().clone().requires_grad_() for name, x in seen.items()}
    ours = Prediction({}, features=features)
    theirs = Prediction({}, features={name: torch.randn_like(x) for name, x in features.items()})
    views = frozenset({"features"})
    forms: dict[str, Distiller] = {}
    for name, settings in FORMS.items():
        forms[name] = build_distiller(DistillSpec(name="feature", options=settings), views, views)
        forms[name].prepare(Example(ours, theirs, batch, lambda: iter(())))
        forms[name].to(options.device)

    def step(distiller: Distiller) -> Callable[[], None]:
        return lambda: distiller(ours, theirs, batch).backward()

    steps = {"the student's step": plain} | {name: step(form) for name, form in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    # In turns, so that other work on the machine falls on all alike.
    for _ in range(options.rounds):
        for name, one in steps.items():
            times[name].append(milliseconds(one, options.device))

    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} threads, torch {torch.__version__}")
    print(
        f"{options.images} crops of {options.crop} px, maps {[list(x.shape[1:]) for x in features.values()]}, fwd + bwd"
    )
    base = statistics.median(times["the student's step"])
    for name, values in times.items():
        median = statistics.median(values)
        line = f"{name:20s} median {median:8.2f} ms, best {min(values):8.2f} ms, {100 * median / base:6.1f} %"
        if name in forms:
            form = forms[name]
            maps = [*features.values(), *theirs.features.values()]
            exists = {x.untyped_storage().data_ptr() for x in [*form.parameters(), *form.buffers(), *maps]}
            memory = kept(lambda form=form: form(ours, theirs, batch), exists)
            line += f", memory {memory:6.1f} MiB, learned {sum(x.numel() for x in form.parameters()) / 1e3:7.1f} k"
        print(line)


if __name__ == "__main__":
    main()
