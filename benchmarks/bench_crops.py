"""Crops a second, reader and augmentation together: Loader beside a naive per-image pipeline in the same process.

The naive side does per crop what data loaders usually do: decode the jpg and the masks, warp the full picture and its
mask, and chain float augmentation in numpy and OpenCV. It draws a like set of changes with the same probabilities.

On a busy machine the rate per second of processor time tells more than the clock on the wall. Aim: 300 crops a second
on 2 cores.

    python benchmarks/bench_crops.py [--size 256] [--batch 16] [--threads 2] [--seconds 5] [--device cpu]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from posedistill.data.formats.bop import BopDataset, Frame
from posedistill.data.formats.bop_writer import BopWriter, write_models
from posedistill.data.images import read_image, read_mask
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.pixels import MEAN, STD
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.render.shapes import code_objects
from posedistill.geometry.cameras import crop_cameras, project
from posedistill.geometry.rotations import random_rotations
from timing import rate

WIDTH, HEIGHT = 640, 480
K = np.array([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]])


def make_dataset(root: Path, frames: int) -> BopDataset:
    """Frames of three objects with masks; pictures are smooth noise, which decodes like a photograph."""
    rng, meshes = np.random.default_rng(0), code_objects()
    writer = BopWriter(root, "train")
    for im_id in range(frames):
        image = cv2.resize(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (WIDTH, HEIGHT))
        poses, masks = [], []
        for obj_id, x in zip(meshes, (-150.0, 0.0, 150.0), strict=False):
            R, t = random_rotations(1, rng)[0], np.array([x, rng.uniform(-80, 80), rng.uniform(500, 900)])
            hull = cv2.convexHull(np.rint(project(meshes[obj_id].vertices, R, t, K)).astype(np.int32))
            mask = cv2.fillConvexPoly(np.zeros((HEIGHT, WIDTH), np.uint8), hull, 1).astype(bool)
            masks = [earlier & ~mask for earlier in masks]
            image[mask] //= 2
            poses, masks = [*poses, (obj_id, R, t)], [*masks, mask]
        writer.add_frame(0, im_id, image, K, poses, None, masks, masks)
    writer.finish_scene(0)
    write_models(root, meshes)
    return BopDataset(root, split="train")


def naive_crops(dataset: BopDataset, size: int, photos: np.ndarray) -> Iterator[np.ndarray]:
    """One crop after the other, each from its files."""
    rng, chosen = np.random.default_rng(0), AugmentSettings()
    pairs = [(frame, index) for frame in dataset.frames for index in range(len(frame.instances))]
    while True:
        frame, index = pairs[rng.integers(len(pairs))]
        yield naive_crop(frame, index, size, chosen, photos, rng)


def naive_crop(
    frame: Frame, index: int, size: int, chosen: AugmentSettings, photos: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Decode, warp the full picture, augment in float."""
    image, instance = read_image(frame.rgb), frame.instances[index]
    masks = [read_mask(other.mask_visib, allow_empty=True) for other in frame.instances]
    x, y, w, h = instance.bbox_visib
    centre = np.array([[x + w / 2, y + h / 2]]) + rng.uniform(-0.25, 0.25, 2) * (w, h)
    side, angle = 1.5 * max(w, h) * rng.uniform(0.75, 1.25), np.deg2rad(rng.uniform(-30, 30))
    matrix = crop_cameras(frame.K[None], centre, np.array([side]), size, angle).homography[0]
    crop = cv2.warpPerspective(image, matrix, (size, size)).astype(np.float32) / 255
    foreground = cv2.warpPerspective(np.any(masks, axis=0).astype(np.uint8), matrix, (size, size), flags=0)
    cv2.warpPerspective(masks[index].astype(np.uint8), matrix, (size, size), flags=0)
    if rng.random() < chosen.background:
        photo = cv2.resize(photos[rng.integers(len(photos))], (size, size)).astype(np.float32) / 255
        crop = np.where(foreground[..., None] > 0, crop, photo)
    if rng.random() < chosen.occlusion:
        cv2.ellipse(crop, (*rng.integers(0, size, 2).tolist(),), (40, 25), 30, 0, 360, rng.random(3).tolist(), -1)
    if rng.random() < chosen.light:
        crop = crop * np.linspace(0.6, 1.4, size, dtype=np.float32)[:, None, None]
    if rng.random() < chosen.colour:
        hsv = cv2.cvtColor(np.clip(crop, 0, 1).astype(np.float32), cv2.COLOR_RGB2HSV)
        crop = cv2.cvtColor(hsv * np.array([1.0, 1.2, 0.9], dtype=np.float32), cv2.COLOR_HSV2RGB)
    if rng.random() < chosen.gamma:
        crop = np.clip(crop, 0, 1) ** rng.uniform(0.7, 1.4)
    if rng.random() < chosen.blur + chosen.motion + chosen.sharpen:
        crop = cv2.filter2D(crop, -1, np.full((11, 11), 1 / 121))
    if rng.random() < chosen.resolution:
        crop = cv2.resize(cv2.resize(crop, None, fx=0.5, fy=0.5), (size, size))
    if rng.random() < chosen.noise:
        crop = crop + rng.normal(0, 0.03, crop.shape)
    return ((np.clip(crop, 0, 1) - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    photos = np.random.default_rng(1).integers(0, 256, (32, 320, 480, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), options.frames)
        start = time.perf_counter()
        pack = build_pack(ObjectFrames(dataset, sorted(code_objects())), Path(folder) / "pack")
        built = len(pack.frames) / (time.perf_counter() - start)
        view = CropView([pack], dataset.objects(), AugmentSettings(), options.size, backgrounds=photos)
        loader = Loader(view, options.batch, 0, options.device, threads=options.threads)
        batches = loader.prefetch(0, 10**9)
        ours = rate(lambda: len(next(batches)), options.seconds, options.device)
        batches.close()

        streams = [naive_crops(dataset, options.size, photos) for _ in range(options.threads)]
        with ThreadPoolExecutor(options.threads) as pool:
            naive = rate(lambda: len(list(pool.map(next, streams))), options.seconds, "cpu")
    name = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"crops of {options.size} px, batch {options.batch}, {options.threads} threads, {name}")
    print(f"pack      {built:8.0f} frames/s decoded, once")
    for label, (wall, processor) in (("naive", naive), ("ours", ours)):
        print(f"{label:8}  {wall:8.0f} crops/s, {processor:6.0f} per second of processor time")
    print(f"ratio     {ours[0] / naive[0]:8.1f}          {ours[1] / naive[1]:6.1f}")


if __name__ == "__main__":
    main()
