import cv2
import numpy as np
import pytest
from tests.data.category_writer import write_categories

from posedistill.data.check.dataset import check_dataset
from posedistill.data.faults import FaultKind
from posedistill.data.images import read_image
from posedistill.errors import DataError


@pytest.fixture
def made(tmp_path):
    return write_categories(tmp_path / "set", count=8)


def edit(made, *changes):
    path = made / "annotations.csv"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def test_a_sound_data_set(made, tmp_path):
    report = check_dataset(made, overlay=tmp_path / "check.png")
    assert report.ok, report.text()
    assert report.splits["train"].frames == 12 and report.splits["val"].frames == 4
    assert "table, 2 categories, 12 objects" in report.text() and "brick (6), tower (6)" in report.text()
    sheet = read_image(tmp_path / "check.png").astype(int)
    green = (sheet[..., 1] > 200) & (sheet[..., 0] < 90) & (sheet[..., 2] < 130)
    assert green.sum() > 500  # the clouds over the photographs
    assert set(check_dataset(made, "val").splits) == {"val"}
    with pytest.raises(DataError, match=r"'split': found 'test', expected one of train, val"):
        check_dataset(made, "test")


def test_every_fault_is_told(made):
    lines = (made / "annotations.csv").read_text().splitlines()
    first, second, third, fourth = (line.split(",") for line in lines[1:5])
    far = [*first[:7], "300", "300", "340", "340"]
    steep = [*second[:3], "99", *second[4:]]
    other = [*third[:5], "77", *third[6:]]
    other[5] = "77"
    edit(made, *((",".join(old), ",".join(new)) for old, new in ((first, far), (second, steep), (third, other))))
    (made / fourth[0]).unlink()
    cv2.imwrite(str(made / "images/brick005.png"), cv2.imread(str(made / "images/brick006.png")))
    report = check_dataset(made)
    assert report.counts == {
        FaultKind.BOX: 1,
        FaultKind.POSE: 1,
        FaultKind.MODEL_FILE: 1,
        FaultKind.MISSING_IMAGE: 1,
        FaultKind.DUPLICATE_FRAME: 1,
    }
    assert "elevation 99, beyond -90..90" in report.text() and "within the picture, 96x96" in report.text()


def test_what_merely_looks_wrong_is_told(made):
    lines = (made / "annotations.csv").read_text().splitlines()
    unmeasured = lines[1].split(",")
    unmeasured[2:5] = ["0", "0", "0"]
    edit(made, (lines[1], ",".join(unmeasured)))
    text = (made / "annotations.csv").read_text().splitlines()
    kept = [line for line in text if not ("tower" in line and ",val," in line)]
    (made / "annotations.csv").write_text("\n".join(kept) + "\n")
    report = check_dataset(made)
    assert report.ok
    assert any("1 objects whose angles are all 0" in warning for warning in report.warnings)
    assert any("split val" in warning and "no object of tower" in warning for warning in report.warnings)


def test_damaged_shapes_are_faults(made):
    np.save(made / "shapes/tower/01.npy", np.zeros((4, 3)))
    report = check_dataset(made)
    assert report.counts == {FaultKind.MODEL_FILE: 1} and "01.npy" in report.text()
