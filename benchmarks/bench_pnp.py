"""PnP with weighted refinement against OpenCV's solvePnPRansac (EPnP), the same matches in one process.

    python benchmarks/bench_pnp.py [--poses 500] [--outliers 0.4] [--threshold 5]

80 votes (10 cells x 8 corners) a pose, of which 40 % are off by up to 60 px; half of the others are good to 0.5 px and
half to 2 px, and the weights say which. Aim: at most 0.3 ms a pose.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np

from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import box_corners
from posedistill.geometry.pnp import solve_pnp
from posedistill.geometry.rotations import angle_between, random_rotations

K = np.array([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]])
POINTS = np.tile(box_corners(np.array([-38.0, -39.0, -46.0]), np.array([38.0, 39.0, 46.0])), (10, 1))

Case = tuple[Array, Array, Array]
Solver = Callable[[Array, Array], Array | None]


def votes(rng: np.random.Generator, outliers: float) -> Case:
    """Pixels ``[80, 2]``, weights ``[80]`` and the true R."""
    R, t = random_rotations(1, rng)[0], rng.uniform([-100, -100, 700], [100, 100, 1200])
    sigma = rng.choice([0.5, 2.0], size=len(POINTS))
    pixels = project(POINTS, R, t, K) + rng.normal(size=(len(POINTS), 2)) * sigma[:, None]
    wrong = rng.permutation(len(POINTS))[: int(outliers * len(POINTS))]
    pixels[wrong] += rng.uniform(-60, 60, (len(wrong), 2))
    return pixels, 1.0 / sigma**2, R


def measure(solve: Solver, cases: list[Case]) -> tuple[float, Array]:
    """Milliseconds a pose and rotation errors in degrees, 180 where there is no pose.

    Each pose counts with the best of five rounds, so that other work on the machine does not.
    """
    seconds, found = np.empty((5, len(cases))), []
    for row in seconds:
        found = []
        for i, (pixels, weights, _) in enumerate(cases):
            start = time.perf_counter()
            found.append(solve(pixels, weights))
            row[i] = time.perf_counter() - start
    errors = [
        180.0 if R is None else float(np.degrees(angle_between(R, true)))
        for R, (*_, true) in zip(found, cases, strict=True)
    ]
    return float(seconds.min(axis=0).mean() * 1e3), np.array(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poses", type=int, default=500)
    parser.add_argument("--outliers", type=float, default=0.4)
    parser.add_argument("--threshold", type=float, default=5.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)

    def ours(pixels: Array, weights: Array) -> Array | None:
        result = solve_pnp(pixels, POINTS, K, weights, options.threshold)
        return None if result is None else result.R

    def unweighted(pixels: Array, weights: Array) -> Array | None:
        result = solve_pnp(pixels, POINTS, K, None, options.threshold)
        return None if result is None else result.R

    def opencv(pixels: Array, weights: Array) -> Array | None:
        found, rotation, _, _ = cv2.solvePnPRansac(
            POINTS, pixels, K, None, reprojectionError=options.threshold, flags=cv2.SOLVEPNP_EPNP
        )
        return cv2.Rodrigues(rotation)[0] if found else None

    rng = np.random.default_rng(0)
    cases = [votes(rng, options.outliers) for _ in range(options.poses)]
    sides = {"posedistill, weighted": ours, "posedistill, no weights": unweighted, "OpenCV EPnP RANSAC": opencv}
    results = {name: measure(solve, cases) for name, solve in sides.items()}
    print(f"{options.poses} poses of {len(POINTS)} matches, {options.outliers:.0%} outliers")
    for name, (milliseconds, errors) in results.items():
        quantiles = np.percentile(errors, [50, 95])
        print(f"{name:25s} {milliseconds:7.3f} ms a pose   error {quantiles[0]:.2f} deg (p95 {quantiles[1]:.2f})")
    ratio = results["OpenCV EPnP RANSAC"][0] / results["posedistill, weighted"][0]
    print(f"ratio {ratio:.1f} x   ({platform.machine()}, {os.cpu_count()} cores, 1 thread)")


if __name__ == "__main__":
    main()
