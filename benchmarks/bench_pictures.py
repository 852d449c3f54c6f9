"""Whole pictures a second, reader and augmentation together: Loader beside the published pipeline in one process.

The published side (Tekin et al., CVPR 2018) makes one picture after the other: it decodes the image, its mask and a
background, puts them together, cuts with a jitter, resizes, changes hue, saturation and exposure with Pillow, and moves
the labels along. Ours turns pictures besides, and adds light, gamma, blur and noise (``PictureSettings()``);
``--faithful`` leaves these out.

On a busy machine the rate per second of processor time tells more than the clock on the wall. Aim: 100 pictures a
second on 2 cores at 416 px.

    python benchmarks/bench_pictures.py [--size 416] [--batch 16] [--threads 2] [--seconds 5] [--faithful]
"""

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from bench_crops import HEIGHT, WIDTH, make_dataset
from posedistill.data.formats.bop import BopDataset, Frame
from posedistill.data.images import write_image
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.picture_view import PictureSettings, PictureView
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.render.shapes import code_objects
from posedistill.geometry.cameras import project
from timing import rate


def published_pictures(dataset: BopDataset, size: int, photos: list[Path], seed: int) -> Iterator[np.ndarray]:
    """One picture after the other, each from its files."""
    rng, keypoints = np.random.default_rng(seed), dataset.objects().keypoints
    while True:
        frame = dataset.frames[rng.integers(len(dataset.frames))]
        photo = Image.open(photos[rng.integers(len(photos))]).convert("RGB").resize((WIDTH, HEIGHT))
        yield published_picture(frame, size, photo, keypoints, rng)


def published_picture(
    frame: Frame, size: int, photo: Image.Image, keypoints: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Background, jitter, resize, colours and labels, in the order of the published code."""
    image = Image.open(frame.rgb).convert("RGB")
    mask = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8))
    for instance in frame.instances:
        layer = Image.open(instance.mask_visib).convert("L")
        mask.paste(255, mask=layer)
    image = Image.composite(image, photo, mask)
    left, right = (int(value) for value in rng.integers(-0.2 * WIDTH, 0.2 * WIDTH, 2))
    top, bottom = (int(value) for value in rng.integers(-0.2 * HEIGHT, 0.2 * HEIGHT, 2))
    image = image.crop((left, top, WIDTH - right - 1, HEIGHT - bottom - 1)).resize((size, size))
    hue, saturation, value = (np.array(channel) for channel in image.convert("HSV").split())
    hue = hue + np.uint8(rng.integers(-25, 26) % 256)
    saturation, value = (np.clip(c * rng.uniform(2 / 3, 1.5), 0, 255).astype(np.uint8) for c in (saturation, value))
    image = Image.merge("HSV", [Image.fromarray(channel) for channel in (hue, saturation, value)]).convert("RGB")
    scale = np.array([WIDTH - left - right, HEIGHT - top - bottom])
    for instance in frame.instances:
        pixels = project(keypoints[instance.obj_id - 1], instance.R, instance.t, frame.K)
        np.clip((pixels - [left, top]) / scale, 0, 0.999)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--faithful", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(1)
    photos = np.stack([cv2.resize(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (384, 384)) for _ in range(64)])
    settings = (PictureSettings.faithful if options.faithful else PictureSettings)(size=options.size)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), options.frames)
        files = [Path(folder) / f"photo{number}.jpg" for number in range(len(photos))]
        for file, photo in zip(files, photos, strict=True):
            write_image(file, photo)
        pack = build_pack(ObjectFrames(dataset, sorted(code_objects())), Path(folder) / "pack")
        view = PictureView([pack], dataset.objects(), settings, backgrounds=photos)
        batches = Loader(view, options.batch, 0, options.device, threads=options.threads).prefetch(0, 10**9)
        ours = rate(lambda: len(next(batches).images), options.seconds, options.device)
        batches.close()
        streams = [published_pictures(dataset, options.size, files, seed) for seed in range(options.threads)]
        with ThreadPoolExecutor(options.threads) as pool:
            published = rate(lambda: len(list(pool.map(next, streams))), options.seconds, "cpu")
    name = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"pictures of {options.size} px, batch {options.batch}, {options.threads} threads, {name}")
    for label, (wall, processor) in (("published", published), ("ours", ours)):
        print(f"{label:9}  {wall:8.0f} pictures/s, {processor:6.0f} per second of processor time")
    print(f"ratio      {ours[0] / published[0]:8.1f}             {ours[1] / published[1]:6.1f}")


if __name__ == "__main__":
    main()
