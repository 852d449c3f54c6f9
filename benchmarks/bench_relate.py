"""The relational losses, forward and backward: time, memory, and how hard each pulls at the student's features.

    python benchmarks/bench_relate.py [--images 32] [--threads 2] [--device cuda] [--precision high]

Features are those of a network after its ReLU: a mean that all images share, what the pose changes, and noise; the
student's noise is larger. ``pull`` is the gradient's norm by the student's features, in units of what moves them by
their own norm: it says how far apart the weights of two forms must be to mean the same. ``memory`` is what the loss
holds for its backward pass, beside the features. The angles of RKD are also taken the usual way, by the differences of
all pairs of features.
"""

import argparse
import platform
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, Example, build_distiller
from posedistill.distill.functional.relations import rkd
from posedistill.estimators.views import Prediction
from posedistill.geometry.rotations import random_rotations
from timing import milliseconds

VIEWS = frozenset({"embedding", "features"})
MAPS = {"layer2": (128, 28), "layer3": (256, 14)}
Loss = Callable[[Prediction, Prediction, Batch], Tensor]
FORMS: dict[str, dict] = {
    "sckd-plus": {},
    "sckd-plus, rows 0.1": {"rows_weight": 0.1},
    "sckd-plus, full": {"full": True},
    "sckd-pub": {"profile": "sckd-pub"},
    "sckd-head": {"profile": "sckd-head"},
    "similarity_preserving": {"form": "similarity_preserving"},
    "similarity_preserving, faithful": {"form": "similarity_preserving", "faithful": True},
    "self_similarity": {"form": "self_similarity"},
    "self_similarity, faithful": {"form": "self_similarity", "faithful": True},
    "correlation_congruence": {"form": "correlation_congruence"},
    "correlation_congruence, faithful": {"form": "correlation_congruence", "faithful": True},
    "rkd": {"form": "rkd"},
    "rotation_rkd": {"form": "rotation_rkd"},
    "pkt": {"form": "pkt"},
    "pkt, faithful": {"form": "pkt", "faithful": True},
    "pose_rows": {"form": "pose_rows"},
}


def scene(count: int, device: str) -> Batch:
    """Cameras within a few metres of each other."""
    rng = np.random.default_rng(0)
    R, t = random_rotations(count, rng), 2 * rng.normal(size=(count, 3))
    rotations, translations = torch.from_numpy(R).float(), torch.from_numpy(t).float()
    batch = Batch.single(
        torch.zeros(count, 3, 8, 8), torch.eye(3).expand(count, 3, 3), rotations, translations, torch.arange(count)
    )
    return batch.to(device)


def view(batch: Batch, shape: tuple[int, ...], noise: float, seed: int) -> Tensor:
    """``[B, *shape]`` rectified features that know the pose."""
    rng = torch.Generator().manual_seed(seed)
    poses = torch.cat([batch.R.flatten(1).cpu(), batch.camera_centers().cpu() / 2], 1)
    signal = 0.15 * poses @ torch.randn(poses.shape[1], *[int(np.prod(shape))], generator=rng)
    mean = torch.randn(signal.shape[1], generator=rng)
    features = (mean + signal + noise * torch.randn(signal.shape, generator=rng)).relu()
    return features.view(len(batch), *shape).to(batch.R.device)


def predictions(batch: Batch, maps: bool) -> tuple[Prediction, Prediction]:
    pair = []
    for noise, width, seed in ((0.5, 1, 1), (0.25, 2, 2)):
        features = {name: view(batch, (width * c, side, side), noise, seed) for name, (c, side) in MAPS.items() if maps}
        pair.append(Prediction({}, features=features, embedding=view(batch, (512 * width,), noise, seed)))
    return pair[0], pair[1]


def leaves(prediction: Prediction) -> list[Tensor]:
    return list(prediction.features.values()) or [prediction.embedding]  # type: ignore[list-item]


def measure(loss: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[float, float, float]:
    """Milliseconds, MiB held for the backward pass, and the pull."""
    held: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    for tensor in inputs:
        tensor.requires_grad_().grad = None
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        loss().backward()
    pull = sum((tensor.grad.norm() * tensor.detach().norm()).item() for tensor in inputs if tensor.grad is not None)
    return milliseconds(lambda: loss().backward(), inputs[0].device), sum(held.values()) / 2**20, pull


def differences_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """The angles from the ``[B, B, D]`` differences, as they are usually computed."""
    ours, theirs = (functional.normalize(side[None] - side[:, None], dim=2) for side in (student, teacher))
    return functional.smooth_l1_loss(ours @ ours.mT, theirs @ theirs.mT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["highest", "high"], default="high")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    batch = scene(options.images, options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, {options.images} images, forward + backward")
    for maps in (False, True):
        compare(batch, maps, options.rounds)


def compare(batch: Batch, maps: bool, rounds: int) -> None:
    """All forms in turns, so that other work on the machine falls on all alike."""
    student, teacher = predictions(batch, maps)
    print("maps of layer2 and layer3, 128 and 256 wide" if maps else "embeddings, 512 wide", "(teacher twice as wide)")
    contenders: dict[str, Callable[[], Tensor]] = {}
    for form, settings in FORMS.items():
        if maps and "congruence" in settings.get("form", ""):
            continue  # its embeddings are for vectors
        spec = DistillSpec(name="relate", options=settings | ({"layers": "all"} if maps else {}))
        distiller = build_distiller(spec, VIEWS, VIEWS)
        distiller.prepare(Example(student, teacher, batch, lambda: iter(())))
        distiller.to(batch.R.device)
        contenders[form] = lambda distiller=distiller: distiller(student, teacher, batch)
    if not maps:
        ours, theirs = student.embedding, teacher.embedding
        assert ours is not None and theirs is not None
        contenders["angles, inner products"] = lambda: rkd(ours, theirs, 0.0, 1.0).mean()
        contenders["angles, differences"] = lambda: differences_angle(ours, theirs)
    inputs = leaves(student)
    results: dict[str, list[tuple[float, float, float]]] = {form: [] for form in contenders}
    for _ in range(rounds):
        for form, loss in contenders.items():
            results[form].append(measure(loss, inputs))
    for form, measured in results.items():
        times = [each[0] for each in measured]
        held, pull = measured[-1][1:]
        value = contenders[form]().item()
        print(
            f"{form:33s} median {statistics.median(times):8.2f} ms, best {min(times):8.2f} ms, "
            f"memory {held:7.2f} MiB, value {value:9.2e}, pull {pull:9.2e}"
        )


if __name__ == "__main__":
    main()
