"""Pictures a second with camera poses: views by Loader beside a naive pipeline that decodes each photograph anew.

The naive side does what data loaders usually do: decode the png, scale its shorter side, warp, and chain the same
changes of colour, blur and noise in float with OpenCV. On a busy machine the rate per second of processor time tells
more than the clock on the wall. Aim: 500 pictures of 224 px a second on 2 cores.

    PYTHONPATH=. python benchmarks/bench_camera_loader.py [--size 224] [--batch 32] [--threads 2] [--device cpu]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.formats.seven_scenes import read_seven_scenes
from posedistill.data.images import read_image
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.pixels import MEAN, STD
from posedistill.data.loading.scene_view import SceneView, ViewSettings, place_views
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.geometry.cameras import scaled_camera
from timing import rate


def naive_picture(frame: CameraFrame, side: int, size: int, chosen: ViewSettings, seed: int) -> np.ndarray:
    """One picture from its file, all in float."""
    rng = np.random.default_rng(seed)
    scale = side / min(frame.width, frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    image = cv2.resize(read_image(frame.image), (width, height), interpolation=cv2.INTER_AREA)
    K = scaled_camera(frame.K, (frame.width, frame.height), (width, height))[None]
    views = place_views(K, np.array([[height, width]]), (size, size), chosen, rng.random((1, 3)))
    picture = cv2.warpPerspective(image.astype(np.float32) / 255, views.homography[0], (size, size))
    if rng.random() < chosen.colour:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV) * np.array([1.0, 1.2, 0.9], dtype=np.float32)
        picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < chosen.gamma:
        picture = np.clip(picture, 0, 1) ** rng.uniform(0.7, 1.4)
    if rng.random() < chosen.blur + chosen.motion:
        picture = cv2.filter2D(picture, -1, np.full((9, 9), 1 / 81))
    if rng.random() < chosen.noise:
        picture = picture + rng.normal(0, 0.03, picture.shape)
    return ((np.clip(picture, 0, 1) - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def naive_batches(dataset: CameraDataset, options: argparse.Namespace, pool: ThreadPoolExecutor) -> Callable[[], int]:
    settings, counter = ViewSettings(), iter(range(10**9))

    def make(_: int) -> np.ndarray:
        number = next(counter)
        return naive_picture(dataset.frames[number % len(dataset)], options.side, options.size, settings, number)

    return lambda: len(torch.from_numpy(np.stack(list(pool.map(make, range(options.batch))))).to(options.device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--side", type=int, default=256, help="shorter side of the stored frames")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "scene"
        write_made_scene(root, sequences=2, frames=options.frames, size=(640, 480))
        dataset = read_seven_scenes(root)
        start = time.perf_counter()
        pack = build_pack(SceneFrames(dataset, options.side), Path(folder) / "pack")
        built = len(pack) / (time.perf_counter() - start)
        view = SceneView(pack, ViewSettings(), options.size)
        loader = Loader(view, options.batch, 0, options.device, threads=options.threads)
        batches = loader.prefetch(0, 10**9)
        ours = rate(lambda: len(next(batches)), options.seconds, options.device)
        batches.close()
        with ThreadPoolExecutor(options.threads) as pool:
            naive = rate(naive_batches(dataset, options, pool), options.seconds, options.device)
    name = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(
        f"pictures of {options.size} px from frames of {options.side} px, batch {options.batch}, "
        f"{options.threads} threads, {name}"
    )
    print(f"pack      {built:8.0f} frames/s decoded, once")
    for label, (wall, processor) in (("naive", naive), ("ours", ours)):
        print(f"{label:8}  {wall:8.0f} pictures/s, {processor:6.0f} per second of processor time")
    print(f"ratio     {ours[0] / naive[0]:8.1f}             {ours[1] / naive[1]:6.1f}")


if __name__ == "__main__":
    main()
