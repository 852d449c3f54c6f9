"""Images a second of the renderer on one core, 640x480 with three objects, where the time goes, and what casting only
where objects can be saves over casting every pixel's ray at every object.

    OMP_NUM_THREADS=1 python benchmarks/bench_render.py [--models DIR] [--backgrounds DIR] [--count 60]

One process, one thread. Rates are of processor time and of wall-clock time; on a busy machine the former tells more.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.formats.bop_writer import BopWriter
from posedistill.data.render.layout import sample_scene
from posedistill.data.render.raycast import cast
from posedistill.data.render.settings import RenderSettings
from posedistill.data.render.shapes import code_objects
from posedistill.data.render.studio import Studio, render_frame
from posedistill.geometry.meshes import Mesh, load_mesh

TARGET = 25.0
STAGES = {
    "scene sampling": ("scenes.py", "sample_scene"),
    "camera rays": ("raycast.py", "cast"),
    "background": ("backgrounds.py", "picture"),
    "table texture": ("backgrounds.py", "table_top"),
    "table light and shadow": ("shading.py", "table_light"),
    "table warp": ("backgrounds.py", "lay_table"),
    "visible surface": ("shading.py", "surfaces"),
    "shading": ("shading.py", "shade"),
    "  of it shadow rays": ("shading.py", "in_shadow"),
    "edges, lens, sensor": ("studio.py", "_photograph"),
    "files": ("bop_writer.py", "add_frame"),
    "  of it encoding": ("~", "<cv2.imencode>"),
}


def render(studio: Studio, writer: BopWriter, first: int, count: int) -> None:
    for index in range(first, first + count):
        frame = render_frame(studio, index)
        writer.add_frame(0, index, frame.image, frame.K, frame.poses, frame.depth, frame.masks, frame.masks_visib)


def rate(studio: Studio, writer: BopWriter, count: int) -> tuple[float, float]:
    """Images a second of wall clock and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    render(studio, writer, 10, count)
    return count / (time.perf_counter() - wall), count / (time.process_time() - processor)


def breakdown(studio: Studio, writer: BopWriter, count: int) -> None:
    profile = cProfile.Profile(time.process_time)
    profile.runcall(render, studio, writer, 10, count)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = max(entry[3] for entry in stats.values())
    print(f"\n{'stage':<24} ms/image  share   (processor time, under the profiler, which slows small calls)")
    for stage, (file, name) in STAGES.items():
        seconds = sum(v[3] for k, v in stats.items() if k[0].endswith(file) and name.strip("<>").split(".")[-1] in k[2])
        print(f"{stage:<24} {1e3 * seconds / count:8.2f} {seconds / total:6.1%}")


def ray_saving(studio: Studio, count: int) -> None:
    """Camera rays in the boxes of the objects against every pixel's ray at every object."""
    boxes = everywhere = 0.0
    rays = studio.rays.reshape(-1, 3)
    for index in range(count):
        scene = sample_scene(studio.bodies, studio.settings, np.random.default_rng([studio.seed, index]))
        for placement in scene.placements:
            model = studio.models[placement.body]
            start = time.process_time()
            cast(model, placement.R, placement.t, studio.K, studio.rays)
            boxes += time.process_time() - start
            start = time.process_time()
            model.caster.hits(-placement.R.T @ placement.t, rays @ placement.R.astype(np.float32))
            everywhere += time.process_time() - start
    inside, outside = 1e3 * boxes / count, 1e3 * everywhere / count
    print(f"\ncamera rays: {inside:.1f} ms/image in boxes, {outside:.1f} ms everywhere, ratio {outside / inside:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of obj_*.ply; objects made in code if absent")
    parser.add_argument("--backgrounds", type=Path, help="folder of photographs; procedural if absent")
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    meshes: dict[int, Mesh] = code_objects()
    if options.models:
        meshes = {int(path.stem[-6:]): load_mesh(path) for path in sorted(options.models.glob("obj_*.ply"))}
    cv2.setNumThreads(1)
    settings = RenderSettings(objects_per_image=(3, 3), backgrounds=options.backgrounds)
    start = time.perf_counter()
    studio = Studio(meshes, settings, 0)
    size = f"{settings.width}x{settings.height}"
    print(f"{size}, 3 of {len(meshes)} objects, {settings.distractors} distractors, depth, masks")
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(
        f"one process, OMP_NUM_THREADS={threads}, {os.cpu_count()} cores in the machine, load {os.getloadavg()[0]:.1f}"
    )
    print(f"set-up {time.perf_counter() - start:.1f} s (once a process)")
    with tempfile.TemporaryDirectory() as folder:
        writer = BopWriter(folder, "bench", settings.jpeg_quality)
        render(studio, writer, 0, 10)
        wall, processor = rate(studio, writer, options.count)
        print(f"{processor:.1f} images/s per core of processor time, {wall:.1f} of wall clock; aim {TARGET:g}")
        breakdown(studio, writer, options.count)
    ray_saving(studio, min(options.count, 20))


if __name__ == "__main__":
    main()
