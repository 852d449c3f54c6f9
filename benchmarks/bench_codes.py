"""Surface codes: how long trees, labels, decoding and transport take, beside the published way where there is one.

Times are of processor time of one thread, which a busy machine changes least.

    python benchmarks/bench_codes.py [--mesh models/obj_000008.ply] [--crops 40]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from posedistill import machine
from posedistill.data.render.shapes import code_objects
from posedistill.decode.zebrapose import ZebraPoseDecoder, ZebraPoseDecoding
from posedistill.deploy.export import export_onnx
from posedistill.distill import DistillSpec, build_distiller
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.views import Prediction, Votes, cell_ids
from posedistill.estimators.zebrapose import ZebraPose
from posedistill.geometry.codes import CodeTree, build_tree
from posedistill.geometry.codes.published import published_codes
from posedistill.geometry.meshes import Mesh, diameter, load_mesh
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.geometry.surfaces import Surfaces
from posedistill.runtime.predictor import Predictor
from posedistill.training.teaching.build import noise_batch

SIZE, BITS = 128, 12


def processor(work: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds of processor time of one call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def trees(mesh: Mesh) -> CodeTree:
    """Build, the published way too."""
    plain = processor(lambda: build_tree(mesh.vertices, mesh.faces, refinements=0))
    ours = processor(lambda: build_tree(mesh.vertices, mesh.faces))
    theirs = processor(lambda: published_codes(mesh.vertices, mesh.faces))
    took = f"{plain:.2f} s unrefined, {ours:.2f} s, published {theirs:.2f} s"
    print(f"codes of {len(mesh.vertices)} vertices, 16 bits: {took}")
    return build_tree(mesh.vertices, mesh.faces).cut(BITS)


def labels(mesh: Mesh, tree: CodeTree, crops: int) -> dict[str, np.ndarray]:
    """Cast and encode; returns what a network without faults says of the crops, at 64 x 64."""
    surfaces, size = Surfaces([1], lambda _: mesh), diameter(mesh.vertices)
    K = np.tile([[600.0, 0, 63.5], [0, 600.0, 63.5], [0, 0, 1]], (crops, 1, 1))
    R, t = random_rotations(crops, np.random.default_rng(0)), np.tile([0, 0, 600 * size / 85], (crops, 1))
    label = np.zeros(crops, np.int64)
    surfaces.seen(label, K, R, t, SIZE, 4)
    for stride in (4, 2):
        points = surfaces.seen(label, K, R, t, SIZE, stride)
        cast = processor(lambda stride=stride: surfaces.seen(label, K, R, t, SIZE, stride), 5)
        encode = processor(lambda points=points: tree.encode(points.reshape(-1, 3)), 5)
        rates = f"{crops / cast:.0f} crops/s cast, {crops / (cast + encode):.0f} with {BITS} bits"
        print(f"labels {SIZE // stride} x {SIZE // stride}: {rates}")
    hit = np.isfinite(points[..., 0])
    bits = tree.encode(np.nan_to_num(points).reshape(-1, 3)).reshape(hit.shape)[:, None]
    bits = bits >> np.arange(BITS)[::-1, None, None] & 1
    return {"mask": np.where(hit, 4.0, -4.0)[:, None], "code": np.where(bits, 6.0, -6.0), "K": K}


def decoding(mesh: Mesh, tree: CodeTree, outputs: dict[str, np.ndarray]) -> None:
    """Read codes and solve poses, a fifth of the cells wild: the best matches beside all bits of all cells."""
    rng = np.random.default_rng(1)
    code = outputs["code"]
    wild = rng.random((len(code), 1, *code.shape[2:])) < 0.2
    code = np.where(wild, rng.normal(scale=2.0, size=code.shape), code)
    crops = [{"mask": mask, "code": own} for mask, own in zip(outputs["mask"], code, strict=True)]
    ours, published = ZebraPoseDecoding(), ZebraPoseDecoding(confidence=0.0, matches=64**2)
    for name, settings in (("512 best, sure bits", ours), ("all cells, all bits", published)):
        read, pose = decoded(decoder_of(mesh, tree, settings), crops, outputs["K"])
        print(f"decode 64 x 64, {name}: {1e3 * read:.2f} ms to matches, {1e3 * pose:.2f} ms to a pose")


def decoder_of(mesh: Mesh, tree: CodeTree, settings: ZebraPoseDecoding) -> ZebraPoseDecoder:
    """Of one object."""
    corners = box_corners(mesh.vertices.min(axis=0), mesh.vertices.max(axis=0))
    objects = ObjectTable((1,), corners[None], np.array([diameter(mesh.vertices)]), (np.eye(4)[None],))
    tables = {"points": tree.points[None], "radii": tree.radii[None]}
    return ZebraPoseDecoder(objects=objects, crop_size=SIZE, grid=64, decoding=settings, **tables)


def decoded(decoder: ZebraPoseDecoder, crops: list[dict[str, np.ndarray]], K: np.ndarray) -> tuple[float, float]:
    """Median seconds of a crop, to its matches and to its pose."""
    read = [processor(partial(decoder.matches, crop, 0)) for crop in crops]
    pose = [processor(partial(decoder.decode_crop, crop, K[0], 0)) for crop in crops]
    return float(np.median(read)), float(np.median(pose))


def transport() -> None:
    """One align of pooled codes, forwards and backwards; the larger the blur, the fewer iterations it needs."""
    rng, count, cells = torch.Generator().manual_seed(0), 32, 64
    batch = noise_batch(ObjectTable.of_cubes([1]), SIZE, count)
    ids = cell_ids(8, 16, 16)[:cells].expand(count, -1)
    student, teacher = (torch.rand(count, cells, 1, BITS, generator=rng) for _ in range(2))
    ones = torch.ones(count, cells)
    sides = [Prediction({}, Votes(values, 0.9 * ones, ones > 0, ids)) for values in (student.requires_grad_(), teacher)]
    for blur in (0.02, 0.05):
        options = {"unit": "code", "bit_decay": 0.7, "place_weight": 4.0, "reach": 0.5, "blur": blur}
        align = build_distiller(DistillSpec(name="align", options=options), frozenset({"votes"}), frozenset({"votes"}))
        seconds = processor(lambda align=align: align(*sides, batch).backward(), 5)
        print(f"align on codes, blur {blur}, batch {count}, {cells} cells: {1e3 * seconds:.0f} ms")


def estimator_of(mesh: Mesh, folder: Path, decoder: str) -> ZebraPose:
    """A student of one object, with its codes."""
    corners = box_corners(mesh.vertices.min(axis=0), mesh.vertices.max(axis=0))
    objects = ObjectTable((1,), corners[None], np.array([diameter(mesh.vertices)]), (np.eye(4)[None],))
    estimator = build_estimator("zebrapose", objects, {"backbone": "darknet_tiny_h", "decoder": decoder}, SIZE)
    assert isinstance(estimator, ZebraPose)
    estimator.fit_shapes(lambda _: mesh, folder)
    return estimator


def exported_forward(mesh: Mesh, folder: Path, threads: int = 2) -> None:
    """The exported student on one crop: the shortest and the median time on the clock."""
    estimator = estimator_of(mesh, folder, "separable").eval()
    path = export_onnx(estimator.network, folder / "model.onnx", estimator.build_decoder(), "benchmark")
    predictor, times = Predictor.from_onnx(path, threads=threads), []
    prepared = predictor.decoder.prepare(predictor.decoder.example(1)[0])
    for _ in range(200):
        start = time.perf_counter()
        predictor.outputs_of([prepared])
        times.append(1e3 * (time.perf_counter() - start))
    took = f"{min(times):.1f} ms at best, {np.median(times):.1f} ms in the median"
    print(f"exported darknet_tiny_h, separable, {SIZE} px, {threads} threads: {took}")


def training_overhead(mesh: Mesh, folder: Path, count: int = 16) -> None:
    """What labels and the loss of bits and mask add to a step of the network alone."""
    estimator = estimator_of(mesh, folder, "dense").train().to(memory_format=torch.channels_last)
    batch = noise_batch(estimator.objects, SIZE, count)
    batch.targets["masks"] = torch.ones(count, SIZE, SIZE, dtype=torch.bool)
    surfaces, arrays = Surfaces([1], lambda _: mesh), [value.double().numpy() for value in (batch.K, batch.R, batch.t)]

    def cast() -> None:
        points = surfaces.seen(batch.label.numpy(), *arrays, SIZE, 4)
        batch.targets["surface/4"] = torch.from_numpy(points)

    def step(labelled: bool) -> None:
        prediction = estimator(batch)
        if labelled:
            total = torch.stack(list(estimator.loss(prediction, batch).values())).sum()
        else:
            total = sum(head.mean() for head in prediction.heads.values())
        total.backward()

    cast()
    labels = processor(cast, 9)
    with_loss, alone = (processor(partial(step, labelled), 9) for labelled in (True, False))
    added = f"labels {1e3 * labels:.1f} ms, loss {1e3 * (with_loss - alone):.1f} ms"
    share = (labels + with_loss - alone) / (labels + with_loss)
    print(
        f"training step of {count}, darknet_tiny_h dense: network {1e3 * alone:.0f} ms, {added}: {share:.0%} of a step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh")
    parser.add_argument("--crops", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine.processor()}, {load}; one thread where no other number is told")
    mesh = load_mesh(options.mesh, looks=False) if options.mesh else code_objects()[1]
    tree = trees(mesh)
    decoding(mesh, tree, labels(mesh, tree, options.crops))
    transport()
    with tempfile.TemporaryDirectory() as folder:
        exported_forward(mesh, Path(folder))
        training_overhead(mesh, Path(folder))


if __name__ == "__main__":
    main()
