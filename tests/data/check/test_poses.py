"""What looks wrong with poses and cameras, on walks through the made room that were spoiled on purpose."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.room import pinhole, walk

from posedistill.data.check.poses import concerns, extent, far_off, near_training, steps
from posedistill.data.formats.scene import CameraDataset, CameraFrame, hold_out_every
from posedistill.geometry.rotations import angle_between, axis_angle

Change = Callable[[CameraFrame], CameraFrame]


def recording(name: str, seed: int, frames: int = 40, change: Change = lambda frame: frame) -> list[CameraFrame]:
    """A walk of level, upright cameras."""
    camera = pinhole(640, 480, 585)
    return [
        change(CameraFrame(Path(f"{name}/frame-{row:06d}.color.png"), name, camera.K, 640, 480, R, t))
        for row, (R, t) in enumerate(zip(*walk(frames, seed), strict=True))
    ]


def dataset(*frames: CameraFrame, metric: bool = True) -> CameraDataset:
    return CameraDataset(Path("scene"), "all", frames, metric=metric)


def messages(
    train: list[CameraFrame], test: list[CameraFrame], form: str = "7-Scenes", metric: bool = True
) -> list[str]:
    whole = dataset(*sorted(train + test, key=lambda frame: frame.image), metric=metric)
    splits = {"train": dataset(*train, metric=metric), "test": dataset(*test, metric=metric)}
    return [concern.message for concern in concerns(whole, splits, form)]


def moved(frame: CameraFrame, by: object = 0.0, scale: float = 1.0) -> CameraFrame:
    return replace(frame, t=-frame.R @ (scale * frame.center + np.asarray(by)))


def in_frame(number: int, change: Change) -> Change:
    return lambda frame: change(frame) if frame.image.name.startswith(f"frame-{number:06d}") else frame


def test_a_sound_scene_worries_nobody():
    assert messages(recording("seq-01", 1) + recording("seq-02", 2), recording("seq-03", 3)) == []


def turned(frame: CameraFrame) -> np.ndarray:
    """The frame's rotation, turned about the vertical by its number, so that cameras look all ways."""
    number = int(frame.image.name[6:12])
    return frame.R @ axis_angle(np.array([0.0, 0.0, 1.0]), 2 * np.pi * number / 40)


IN_A_FRAME: dict[str, tuple[Change, list[str]]] = {
    "a lost pose": (
        in_frame(7, lambda frame: moved(frame, [0.0, 0.0, 500.0])),
        [r"'positions': found 1 cameras far from all others \(first: seq-01/frame-000007.color.png\)"],
    ),
}
IN_ALL_FRAMES: dict[str, tuple[Change, list[str]]] = {
    "millimetres": (lambda frame: moved(frame, scale=1000.0), [r"expected metres \(are these millimetres\?\)"]),
    "kilometres": (lambda frame: moved(frame, scale=0.001), [r"\(are these kilometres\?\)", "neighbouring"]),
    "inverted rotations": (
        lambda frame: replace(frame, R=turned(frame).T, t=-turned(frame).T @ frame.center),
        [r"'rotations': found cameras without a common up \(0\.\d+\), expected a common one \(there is one, 0.98, if"],
    ),
    "a narrow lens": (
        lambda frame: replace(frame, K=frame.K * [[9.0], [9.0], [1.0]]),
        [
            r"'field of view': found 6.956 degrees in 80 frames \(first: seq-01/frame-000000.color.png\), expected 20",
            r"'principal point'",
        ],
    ),
    "a cut picture": (
        lambda frame: replace(frame, K=frame.K + 200 * np.eye(3)[:, [1, 1, 0]] * [0, 0, 1]),
        [r"'principal point': found 31% of the width from the middle in 80 frames"],
    ),
    "a squeezed picture": (
        lambda frame: replace(frame, K=frame.K @ np.diag([0.75, 1.0, 1.0])),
        [r"'focal lengths': found fx and fy in a ratio of 1.33 in 80 frames"],
    ),
}


def turned_by(frame: CameraFrame, angle: float) -> CameraFrame:
    """The camera turned about its own vertical axis, where it stands."""
    R = axis_angle(np.array([0.0, 1.0, 0.0]), angle) @ frame.R
    return replace(frame, R=R, t=-R @ frame.center)


@pytest.mark.parametrize("what", [*IN_A_FRAME, *IN_ALL_FRAMES])
def test_what_was_spoiled_is_told_and_nothing_else(what: str):
    change, expected = (IN_A_FRAME | IN_ALL_FRAMES)[what]
    test = recording("seq-03", 3, change=change) if what in IN_ALL_FRAMES else recording("seq-03", 3)
    found = messages(recording("seq-01", 1, change=change), test)
    assert len(found) == len(expected), found
    for message, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, message), message


def test_splits_of_two_places():
    test = recording("seq-03", 3, change=lambda frame: moved(frame, [20.0, 0.0, 0.0]))
    (text,) = messages(recording("seq-01", 1), test)
    assert "100% of test frames far from all training frames (first: seq-03/frame-000000.color.png)" in text


def test_other_axes_hang_upside_down():
    """A transforms.json with OpenCV's axes, read as OpenGL's."""
    wrong = [replace(f, R=np.diag([1, -1, -1]) @ f.R, t=np.diag([1, -1, -1]) @ f.t) for f in recording("images", 1)]
    test = recording("other", 3)[:10]
    assert any("upside down, expected OpenGL's axes" in text for text in messages(wrong, test, "transforms.json"))
    assert not any("upside down" in text for text in messages(recording("images", 1), test, "transforms.json"))


def test_several_cameras():
    wide = recording("seq-02", 2, change=lambda frame: replace(frame, K=frame.K * [[0.8], [0.8], [1.0]]))
    small = recording("seq-03", 3, change=lambda frame: replace(frame, width=320, height=240, K=frame.K / 2 + 0.5 * K2))
    assert [text for text in messages(recording("seq-01", 1), wide) if "photographs of several cameras" in text]
    (text,) = messages(recording("seq-01", 1), small)
    assert "'image size': found 320x240 (40), 640x480 (40)" in text


K2 = np.array([[0.0, 0, -0.5], [0, 0, -0.5], [0, 0, 1]])
"""Halves the picture of ``pinhole``: its principal point is the middle of pixels that begin at -0.5."""


def test_neighbouring_frames():
    """The same walk again, 3 cm beside it; and what is near but looks elsewhere is no neighbour."""
    train = recording("seq-01", 1)
    beside = recording("seq-03", 1, change=lambda frame: moved(frame, [0.0, 0.0, 0.03]))
    (text,) = messages(train, beside)
    assert "100% of test frames stand within 5 cm and 5 degrees of a training frame: neighbouring frames" in text
    elsewhere = recording("seq-03", 1, change=lambda frame: turned_by(frame, np.radians(60.0)))
    assert not near_training(dataset(*train), dataset(*elsewhere)).any()
    far = recording("seq-03", 1, frames=10, change=lambda frame: moved(frame, [0.0, 0.0, 3.0]))
    assert near_training(dataset(*train), dataset(*beside[:4], *far)).tolist() == [True] * 4 + [False] * 10


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_without_a_unit_neighbours_are_told_by_the_extent(scale: float):
    """A reconstruction may be of any size, and knows no centimetres, metres or kilometres."""
    scaled = lambda frame: moved(frame, scale=scale)  # noqa: E731
    train = recording("seq-01", 1, change=scaled)
    room = float(np.linalg.norm(extent(dataset(*train).centers)))
    for share, count in ((0.015, 1), (0.06, 0)):
        beside = [moved(frame, [0.0, 0.0, share * room]) for frame in recording("seq-03", 1, change=scaled)]
        texts = messages(train, beside, metric=False)
        assert len(texts) == count, texts
        assert all("100% of test frames stand within 2% of the scene's extent and 5 degrees" in text for text in texts)


def test_a_share_of_neighbours_is_measured_by_hand():
    """Distances and angles one by one."""
    train, test = dataset(*recording("seq-01", 1)), dataset(*recording("seq-03", 9, frames=60))
    distances = np.linalg.norm(test.centers[:, None] - train.centers, axis=2)
    angles = np.degrees(angle_between(test.R[:, None], train.R))
    expected = ((distances < 0.05) & (angles < 5.0)).any(axis=1)
    np.testing.assert_array_equal(near_training(train, test), expected)


def test_every_eighth_frame_is_a_neighbour():
    frames = recording("images", 1, change=lambda frame: moved(frame, scale=10.0))
    held = set(hold_out_every(len(frames), "test", 8).tolist())
    train, test = ([f for row, f in enumerate(frames) if (row in held) == wanted] for wanted in (False, True))
    (text,) = messages(train, test)
    assert "100% of test frames come next to a training frame in the same recording" in text


def test_the_usual_step_is_the_median_within_recordings():
    first, second = recording("seq-01", 1), recording("seq-02", 2, change=lambda frame: moved(frame, [9.0, 0.0, 0.0]))
    ways = [np.diff([frame.center for frame in frames], axis=0) for frames in (first, second)]
    expected = np.median(np.linalg.norm(np.concatenate(ways), axis=1))
    assert steps(dataset(*first, *second)) == pytest.approx(expected)
    assert steps(dataset(first[0])) == 0.0


def test_extent_and_outliers():
    centers = np.array([[0.0, 0, 0], [1, 2, 3], [0.5, 1, 1], [1e9, 0, 0]])
    assert far_off(centers).tolist() == [False, False, False, True]
    np.testing.assert_allclose(extent(centers), [1, 2, 3])
    assert not far_off(np.zeros((5, 3))).any()
