"""A small data set of categories: boxes with painted sides, before noise, with their clouds. Made in a second."""

from pathlib import Path

import cv2
import numpy as np

from posedistill.geometry.cameras import pixel_box, project
from posedistill.geometry.viewpoint import viewpoint_rotation

SIZES = {"brick": (0.5, 0.8, 0.33), "tower": (0.4, 0.4, 0.82), "slab": (0.8, 0.55, 0.2)}
"""Width, length and height of each category's box; its front, towards -y, is red."""
COLOURS = {
    (1, -1): (220, 40, 40),
    (1, 1): (40, 60, 200),
    (0, -1): (60, 170, 70),
    (0, 1): (230, 200, 60),
    (2, 1): (240, 240, 240),
    (2, -1): (40, 40, 40),
}
"""By axis and side: front, rear, left, right, top, bottom."""
_SIDE = 96


def faces_of(size: tuple[float, float, float]) -> list[tuple[tuple[int, int, int], np.ndarray]]:
    """Colour and corners ``[4, 3]`` of the six sides."""
    found = []
    for (axis, side), colour in COLOURS.items():
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2.0
        points = np.insert(corners, axis, side / 2, axis=1) * size
        found.append((colour, points))
    return found


def picture(size: tuple[float, float, float], viewpoint: np.ndarray, rng: np.random.Generator) -> tuple:
    """A picture ``[96, 96, 3]`` and the box (left, upper, right, lower) of what it shows."""
    image = rng.integers(90, 160, (_SIDE, _SIDE, 3)).astype(np.uint8)
    K = np.array([[110.0, 0.0, _SIDE / 2], [0.0, 110.0, _SIDE / 2], [0.0, 0.0, 1.0]])
    R, t = viewpoint_rotation(viewpoint), np.array([0.0, 0.0, 2.2])
    sides = faces_of(size)
    for colour, points in sorted(sides, key=lambda side: -(side[1].mean(axis=0) @ R[2])):
        pixels = project(points, R, t, K)
        cv2.fillConvexPoly(image, np.round(pixels).astype(np.int32), colour)
    x, y, w, h = pixel_box(project(np.concatenate([points for _, points in sides]), R, t, K))
    return image, (round(x), round(y), round(x + w), round(y + h))


def write_categories(
    root: Path, count: int = 24, seed: int = 0, categories: tuple[str, ...] = ("brick", "tower")
) -> Path:
    """``count`` pictures of each category, a quarter of them of the split val, and ``shapes/CATEGORY/01.npy``."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    lines = ["image,category,azimuth,elevation,inplane,shape,split,left,upper,right,lower"]
    for category in categories:
        for number in range(count):
            viewpoint = np.array([rng.uniform(0, 360), rng.uniform(-10, 40), rng.uniform(-15, 15)]).round(3)
            image, box = picture(SIZES[category], viewpoint, rng)
            name = f"images/{category}{number:03d}.png"
            cv2.imwrite(str(root / name), image[..., ::-1])
            split = "val" if number % 4 == 3 else "train"
            lines.append(",".join(map(str, [name, category, *viewpoint, "1", split, *box])))
        points = rng.uniform(-0.5, 0.5, (300, 3)) * SIZES[category]
        (root / "shapes" / category).mkdir(parents=True)
        np.save(root / "shapes" / category / "01.npy", points)
    (root / "annotations.csv").write_text("\n".join(lines) + "\n")
    return root
