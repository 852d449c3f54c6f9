"""Every form of every distillation loss on one batch: milliseconds and memory of a value with its gradients.

    python benchmarks/bench_losses.py [--images 32] [--threads 2] [--device cuda] [--only contrast feature]

Losses and forms are found by their settings, in the default and, where there is one, the published form. The batch is
what a narrow WDRNet+ student and its teacher make of 128 px crops: 10 chosen of 336 cells against 30, 8 corners each;
maps of 16, 8 and 4 cells a side, 128 channels against 256; embeddings of 320 against 1280; and, of other families, a
regression of 7 numbers, three angles in bins, and codes of 16 bits on 32 x 32 pixels. ``crd`` draws from a bank of 4096
pictures. The memory is the largest sum of what is allocated during the call and not yet freed: on processors by the
allocator's own records (torch.profiler), on a GPU by torch.cuda.max_memory_allocated.
"""

import argparse
import os
import pkgutil
import platform
import statistics
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, DistillSpec, Example, build_distiller
from posedistill.distill.base import DISTILLERS
from posedistill.errors import RecipeError
from posedistill.estimators.views import VIEWS, Prediction, Votes, cell_ids
from posedistill.machine import processor
from timing import milliseconds

CROP, STRIDES, KEYPOINTS = 128, (8, 16, 32), 8
PICTURES, AT_ONCE = 4096, 512
PUBLISHED = ("faithful", "published")


def variants(verb: str) -> list[dict[str, Any]]:
    """Options of every form of a loss, by default and as published."""
    settings = pkgutil.resolve_name(DISTILLERS[verb]).Settings
    field = settings.model_fields.get("form")
    forms = [{}] if field is None else [{"form": form} for form in get_args(field.annotation)]
    found = []
    for form in forms:
        found.append(form)
        for name in PUBLISHED:
            if name in settings.model_fields:
                try:
                    settings.model_validate(form | {name: True})
                except ValidationError:
                    continue
                found.append(form | {name: True})
    return found


def make_batch(images: int, device: str, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, KEYPOINTS, 3, generator=rng) * 100 - 50
    camera = torch.tensor([[600.0, 0, CROP / 2], [0, 600.0, CROP / 2], [0, 0, 1]]).repeat(images, 1, 1)
    R = torch.linalg.qr(torch.randn(images, 3, 3, generator=rng))[0]
    R = R * torch.linalg.det(R)[:, None, None]
    t = torch.tensor([0.0, 0.0, 800.0]).repeat(images, 1)
    points = (corners @ R.transpose(1, 2) + t[:, None]) @ camera.transpose(1, 2)
    return Batch.single(
        images=torch.randn(images, 3, CROP, CROP, generator=rng),
        K=camera,
        R=R,
        t=t,
        ids=torch.arange(images) + images * seed,
        masks=torch.rand(images, CROP, CROP, generator=rng) < 0.5,
        label=torch.zeros(images, dtype=torch.int64),
        keypoints3d=corners,
        keypoints=points[..., :2] / points[..., 2:],
        diameters=torch.full((images,), 150.0),
    ).to(device)


def prediction(batch: Batch, form: str, *, teacher: bool, seed: int) -> tuple[Prediction, list[Tensor]]:
    """What one side predicts, and, of a student, the tensors its network would be taught through."""
    device, images = batch.images.device, len(batch)
    rng = torch.Generator().manual_seed(seed)
    leaves: list[Tensor] = []

    def leaf(values: Tensor) -> Tensor:
        values = values.to(device).requires_grad_(not teacher)
        leaves.append(values)
        return values

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return leaf(scale * torch.randn(images, *shape, generator=rng))

    ids = torch.cat([cell_ids(stride, CROP // stride, CROP // stride) for stride in STRIDES])
    noise = 0.02 * torch.randn(images, len(ids), KEYPOINTS, 2, generator=rng)
    truth = batch.targets["keypoints"].cpu()[:, None] / CROP
    cells = Votes(
        leaf(truth + noise),
        leaf(torch.rand(images, len(ids), generator=rng) * 0.9 + 0.05),
        torch.ones(images, len(ids), dtype=torch.bool, device=device),
        ids.repeat(images, 1).to(device),
    )
    chosen = slice(0, 30 if teacher else 10)
    assert cells.cells is not None
    votes = Votes(cells.values[:, chosen], cells.weights[:, chosen], cells.mask[:, chosen], cells.cells[:, chosen])
    logits = {"code": (16, 32, 32)} if form == "bits" else {"azimuth": (24,), "elevation": (12,), "inplane": (24,)}
    made = Prediction(
        {},
        votes,
        cells,
        {f"p{s.bit_length() - 1}": random(256 if teacher else 128, CROP // s, CROP // s) for s in STRIDES},
        random(1280 if teacher else 320),
        random(7),
        torch.zeros(images, 7, device=device),
        {name: random(*shape) for name, shape in logits.items()},
    )
    return made, leaves


def build(verb: str, options: dict[str, Any], images: int, device: str) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The loss as a function of nothing, and the tensors that gradients are wanted of."""
    batch, form = make_batch(images, device), options.get("form", "")
    student, leaves = prediction(batch, form, teacher=False, seed=1)
    teacher, _ = prediction(batch, form, teacher=True, seed=2)

    def training_pictures() -> Iterator[tuple[Prediction, Batch]]:
        for number in range(PICTURES // AT_ONCE):
            pictures = make_batch(AT_ONCE, device, seed=number)
            yield Prediction({}, embedding=torch.randn(AT_ONCE, 1280, device=device)), pictures

    views = frozenset(VIEWS)
    distiller: Distiller = build_distiller(DistillSpec(name=verb, options=options), views, views)
    distiller.prepare(Example(student, teacher, batch, training_pictures, PICTURES))
    distiller.to(device)
    return lambda: distiller(student, teacher, batch), [*leaves, *distiller.parameters()]


def step(loss: Callable[[], Tensor], leaves: list[Tensor]) -> float:
    """Milliseconds of one value and its gradients."""
    for tensor in leaves:
        tensor.grad = None
    return milliseconds(lambda: loss().backward(), leaves[0].device)


def peak_memory(loss: Callable[[], Tensor], leaves: list[Tensor]) -> float:
    """MiB that a call holds at most, above what was there before; the gradients it leaves count."""
    for tensor in leaves:
        tensor.grad = None
    if leaves[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss().backward()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def row(verb: str, options: dict[str, Any], images: int, device: str, rounds: int) -> str:
    published = ", published" if any(options.get(name) for name in PUBLISHED) else ""
    title = f"| {verb} | {options.get('form', '')}{published} |"
    try:
        loss, leaves = build(verb, options, images, device)
        step(loss, leaves)
    except RecipeError as refusal:
        return f"{title} refused: {refusal} | |"
    times = [step(loss, leaves) for _ in range(rounds)]
    return f"{title} {statistics.median(times):.2f} | {min(times):.2f} | {peak_memory(loss, leaves):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="+", default=sorted(DISTILLERS), help="verbs")
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of each start and stop
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    print(f"{name}, {options.threads} threads, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{options.images} images, forward and backward, {options.rounds} rounds\n")
    print("| verb | form | median, ms | best, ms | peak memory, MiB |")
    print("| --- | --- | ---: | ---: | ---: |")
    for verb in options.only:
        for variant in variants(verb):
            print(row(verb, variant, options.images, options.device, options.rounds), flush=True)


if __name__ == "__main__":
    main()
