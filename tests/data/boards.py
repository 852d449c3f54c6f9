"""Photographs of a checkerboard that a known camera takes from seven sides."""

from pathlib import Path

import cv2
import numpy as np

TURNS = (
    (0, 0, 0),
    (0.4, 0, 0),
    (-0.4, 0.1, 0),
    (0, 0.45, 0),
    (0.1, -0.45, 0.2),
    (0.3, 0.3, -0.2),
    (-0.3, 0.35, 0.1),
)


def board_shots(folder: Path, board: tuple[int, int], K: np.ndarray) -> list[Path]:
    """Pictures of 640x480, of a board of so many inner corners along and across."""
    squares, pixels = (board[0] + 1, board[1] + 1), 60
    flat = 255 * (np.indices(squares[::-1]).sum(axis=0) % 2).astype(np.uint8)
    flat = np.kron(flat, np.ones((pixels, pixels), np.uint8))
    flat = cv2.copyMakeBorder(flat, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)
    to_board = np.array([[1 / pixels, 0, -2.0], [0, 1 / pixels, -2.0], [0, 0, 1.0]])  # pixels of the drawing to squares
    paths = []
    for number, turn in enumerate(TURNS):
        R = cv2.Rodrigues(np.array(turn, dtype=float))[0]
        middle = np.array([board[0] / 2 - 0.5, board[1] / 2 - 0.5, 0.0])
        t = np.array([0.0, 0.0, 2.0 * board[0] + number % 3]) - R @ middle
        homography = K @ np.column_stack([R[:, 0], R[:, 1], t]) @ to_board
        image = cv2.warpPerspective(flat, homography, (640, 480), flags=cv2.INTER_AREA, borderValue=200)
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), cv2.GaussianBlur(image, (3, 3), 0.7))
    return paths
