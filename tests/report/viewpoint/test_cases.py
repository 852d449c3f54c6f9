import json

import numpy as np
import pytest

from posedistill.data.images import read_image, write_image
from posedistill.geometry.viewpoint import viewpoint_rotation
from posedistill.report.cases import GUESS, TRUTH
from posedistill.report.viewpoint.cases import SIDE, ViewCase, block, draw_shape, save_view_cases


def case(path, error, shape=None, found=(100.0, 10.0, 0.0)):
    truth, other = (viewpoint_rotation(np.array(angles)) for angles in ((90.0, 10.0, 0.0), found))
    return ViewCase(path, (20.0, 10.0, 60.0, 30.0), shape, truth, other, error, "images/a.png", "car")


@pytest.fixture
def photo(tmp_path):
    image = np.full((50, 80, 3), 40, np.uint8)
    image[10:30, 20:60] = (200, 30, 30)
    write_image(tmp_path / "a.png", image)
    return tmp_path / "a.png"


def test_best_and_worst_with_crop_truth_and_guess(photo, tmp_path):
    cloud = tmp_path / "cloud.npy"
    np.save(cloud, np.random.default_rng(0).normal(size=(200, 3)))
    made = [case(photo, 5.0), case(photo, 170.0, cloud), case(photo, 2.0)]
    pictures = save_view_cases(tmp_path / "cases", "teacher", made, count=1)
    assert [path.name for path in pictures] == ["teacher_best_00.jpg", "teacher_worst_00.jpg"]
    about = json.loads(pictures[1].with_suffix(".json").read_text())
    assert about["caption"] == "car, images/a.png: true 90°/10°/0°, found 100°/10°/0°: 170.0° off"
    assert about["error"] == 170.0 and about["unit"] == "deg" and about["kind"] == "worst"
    drawn = read_image(pictures[0])
    assert drawn.shape == (SIDE, 3 * SIDE, 3)
    assert np.abs(drawn[SIDE // 2, SIDE // 2].astype(int) - (200, 30, 30)).max() < 12  # the middle of the box
    for place, colour in ((1, TRUTH), (2, GUESS)):
        assert np.abs(drawn[SIDE // 2, place * SIDE + 2].astype(int) - colour).max() < 40


def test_a_shape_is_drawn_as_it_is_turned():
    """From azimuth 90 the front, a wedge, is on the left; from 270 on the right."""
    inked = []
    for azimuth in (90.0, 270.0):
        picture = draw_shape(block(), viewpoint_rotation(np.array([azimuth, 0.0, 0.0])))
        columns = np.flatnonzero((picture[..., 0] < 240).any(axis=0))
        heights = (picture[..., 0] < 240).sum(axis=0)
        inked.append(heights[columns[0]] < heights[columns[-1]])
    assert inked == [True, False]


def test_near_faces_hide_far_ones_and_nothing_found_is_blank():
    near, far = np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0.0]]), np.array([[-1, -1, 1], [1, -1, 1], [0, 1, 1.2]])
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    first = draw_shape((np.concatenate([near, far]), faces), np.eye(3))
    second = draw_shape((np.concatenate([near, far]), faces[::-1]), np.eye(3))
    np.testing.assert_array_equal(first, second)
    assert (draw_shape(block(), np.full((3, 3), np.nan)) == 245).all()
