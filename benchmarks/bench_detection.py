"""6D detection scores of many estimates, vectorised, against the same errors one estimate at a time, in one process.

    python benchmarks/bench_detection.py [--images 300] [--loop-images 3]

The data set is made here: 300 images of 640 x 480 with 8 objects of about 7,000 vertices (one with a half turn, one
with a continuous symmetry), two to four instances of each of four of them, and 50 estimates an image, 15,000 in all:
most near an instance, several of one instance, some anywhere, some of what is not there. The loop measures every pair
of an estimate and an instance; it runs on some of the images and its time is scaled up. Aim: 10 s for 15,000 estimates
on two cores. The reference toolkit's authors report 324 s for 15,000 estimates with 10 workers.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from bench_scores import HEIGHT, WIDTH, K, make_models
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_writer import BopWriter, write_models
from posedistill.geometry.rotations import axis_angle, random_rotations
from posedistill.metrics import load_scoring_models
from posedistill.metrics.detection import score_detections
from posedistill.metrics.pose_errors import mspd, mssd
from posedistill.poses import Poses

ESTIMATES = 50


def make_dataset(root: Path, images: int) -> None:
    """Several instances of several objects; each is said to be visible, whatever hides it."""
    meshes, infos = make_models()
    infos[8] = {**infos[8], "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}
    write_models(root, meshes, infos=infos)
    writer, rng, mask = BopWriter(root, "test"), np.random.default_rng(1), np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[200:300, 200:300] = True
    for im_id in range(images):
        shown = rng.permutation(list(meshes))[:4].tolist()
        poses = [
            (obj_id, random_rotations(1, rng)[0], rng.uniform([-250, -180, 700], [250, 180, 1300]))
            for obj_id in shown
            for _ in range(rng.integers(2, 5))
        ]
        masks = [mask] * len(poses)
        writer.add_frame(1, im_id, np.zeros((HEIGHT, WIDTH, 3), np.uint8), K, poses, None, masks, masks)
    writer.finish_scene(1)


def guesses(dataset: BopDataset) -> Poses:
    """As of an estimator that finds most things, some twice, and some that are not there."""
    rng, rows = np.random.default_rng(2), []
    for frame in dataset.frames:
        for index in rng.integers(len(frame.instances), size=ESTIMATES).tolist():
            instance = frame.instances[index]
            R = instance.R @ axis_angle(random_rotations(1, rng)[0, 0], rng.exponential(0.1))
            t = instance.t + rng.normal(size=3) * [3.0, 3.0, 15.0] * rng.choice([1.0, 1.0, 1.0, 20.0])
            obj_id = instance.obj_id if rng.random() < 0.85 else rng.integers(1, 9)
            rows.append((frame.scene_id, frame.im_id, int(obj_id), rng.uniform(), R, t, -1.0))
    return Poses(*map(np.array, zip(*rows, strict=True)))


def loop_errors(estimates: Poses, dataset: BopDataset) -> int:
    """MSSD and MSPD of every pair on all vertices, one estimate at a time; returns how many pairs there were."""
    models, pairs = load_scoring_models(dataset), 0
    for row in range(len(estimates)):
        model = models[int(estimates.obj_id[row])]
        frame = dataset.frame(int(estimates.scene_id[row]), int(estimates.im_id[row]))
        for instance in frame.instances:
            if instance.obj_id == estimates.obj_id[row]:
                poses = [value[None] for value in (estimates.R[row], estimates.t[row], instance.R, instance.t)]
                mssd(*poses, model.mesh.vertices, model.symmetries)
                mspd(*poses, model.mesh.vertices, model.symmetries, frame.K[None])
                pairs += 1
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--loop-images", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options.images)
        dataset = BopDataset(folder)
        estimates = guesses(dataset)
        few = estimates.select(estimates.im_id < options.loop_images)
        clock, cpu = time.perf_counter(), time.process_time()
        found = score_detections(estimates, dataset)
        ours, cpu = time.perf_counter() - clock, time.process_time() - cpu
        clock = time.perf_counter()
        found.intervals()
        intervals = time.perf_counter() - clock
        clock = time.perf_counter()
        pairs = loop_errors(few, dataset)
        loop = (time.perf_counter() - clock) * len(estimates) / len(few)
    print(f"{len(estimates)} estimates, {found.instances} instances, {found.images} images; {pairs} pairs in the loop")
    print(", ".join(f"{name} {100 * value:.1f}" for name, value in found.scores.items()))
    print(f"scores     {ours:7.2f} s ({cpu:.2f} s of processor time)")
    print(f"intervals  {intervals:7.2f} s")
    print(f"loop       {loop:7.1f} s for its errors alone, scaled up from {options.loop_images} images")
    print(f"({platform.machine()}, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
