import dataclasses
import json

import cv2
import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.report.cases import GUESS, TRUTH, draw_case, save_cases, select_cases


def near(picture, color, tolerance=12):
    return np.abs(picture.astype(int) - color).max(axis=-1) < tolerance


def test_best_and_worst_share_no_case():
    for count in range(7):
        best, worst = select_cases(list(range(count)), 4)
        assert not set(best) & set(worst) and len(best) + len(worst) == count
    assert select_cases([np.nan, 1.0, np.inf, 0.5], 1) == ([3], [2])


def test_a_good_prediction_lies_on_the_truth_and_a_bad_one_does_not(make_case):
    good, bad = draw_case(make_case(0.5)), draw_case(make_case(40.0))
    for picture in (good, bad):
        assert picture.shape == (400, 400, 3) and picture.dtype == np.uint8

    def far_from_truth(picture):
        truth = cv2.dilate(near(picture, TRUTH).astype(np.uint8), np.ones((9, 9)))
        return (near(picture, GUESS) & (truth == 0)).sum() / near(picture, GUESS).sum()

    assert far_from_truth(good) < 0.15 and far_from_truth(bad) > 0.5


def test_a_missed_object_shows_the_truth_alone(make_case):
    case = dataclasses.replace(make_case(1.0), R=None, t=None, error=np.inf)
    picture = draw_case(case)
    assert near(picture, TRUTH).sum() > 300 and not near(picture, GUESS).any()
    assert "no pose found" in case.caption()


def test_the_whole_true_box_is_in_the_picture_even_if_the_prediction_is_absurd(make_case):
    case = make_case(1.0)
    for t in ([0.0, 0.0, -600.0], [9e4, 0.0, 600.0], [0.0, 0.0, 1e-9], [1e7, 1e7, 50.0]):
        picture = draw_case(dataclasses.replace(case, t=np.array(t)))
        rows, columns = np.nonzero(near(picture, TRUTH))
        assert len(rows) > 150 and min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 399


def test_pictures_and_their_facts_are_saved_and_replaced(tmp_path, make_case):
    cases = [make_case(shift) for shift in (5.0, 1.0, 60.0, 20.0, 3.0)]
    paths = save_cases(tmp_path, "student", cases, count=2)
    assert [path.name for path in paths] == [
        f"student_{kind}_0{rank}.jpg" for kind in ("best", "worst") for rank in (0, 1)
    ]
    facts = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
    assert [fact["error"] for fact in facts] == [1.0, 3.0, 60.0, 20.0]
    assert facts[2]["kind"] == "worst" and facts[2]["caption"] == "object 5, scene 2, image 60: error 60.0 mm"
    save_cases(tmp_path, "distilled", cases[:1], count=2)
    save_cases(tmp_path, "student", cases[:1], count=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{stage}_best_00.{suffix}" for stage in ("distilled", "student") for suffix in ("jpg", "json")
    ]


def test_images_are_read_from_files_only_when_drawn(tmp_path, make_case):
    picture = np.zeros((240, 320, 3), dtype=np.uint8)
    picture[..., 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), picture[..., ::-1])
    drawn = draw_case(make_case(1.0, tmp_path / "red.png"))
    assert near(drawn, (200, 0, 0)).mean() > 0.5
    middling = make_case(30.0, tmp_path / "not_there.png")
    save_cases(tmp_path / "cases", "student", [make_case(1.0), middling, make_case(90.0)], count=1)
    with pytest.raises(DataError, match="not_there"):
        draw_case(middling)
