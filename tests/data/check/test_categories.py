import json

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


def drawn_green(sheet):
    pixels = read_image(sheet).astype(int)
    return (pixels[..., 1] > 200) & (pixels[..., 0] < 90) & (pixels[..., 2] < 130)


def test_shapes_may_lie_elsewhere(made, tmp_path):
    (made / "shapes").rename(tmp_path / "cad")
    assert check_dataset(made, overlay=tmp_path / "check.png").ok
    assert drawn_green(tmp_path / "check.png").sum() < 100
    assert check_dataset(made, overlay=tmp_path / "check.png", shapes=tmp_path / "cad").ok
    assert drawn_green(tmp_path / "check.png").sum() > 500
    with pytest.raises(DataError, match=r"none: 'shapes': found no such folder"):
        check_dataset(made, shapes=tmp_path / "none")
    with pytest.raises(DataError, match=r"'shapes'.*only viewpoints of categories have them"):
        check_dataset(tmp_path / "cad", shapes=tmp_path / "cad")


def test_models_of_pix3d_are_drawn_in_their_own_axes(tmp_path):
    """A pole that points to the model's left, seen from the front: from the middle of the picture to its left."""
    (tmp_path / "img").mkdir()
    cv2.imwrite(str(tmp_path / "img/1.png"), np.full((100, 100, 3), 90, np.uint8))
    (tmp_path / "model/lamp").mkdir(parents=True)
    corners = [(0, 0, 0), (1, 0, 0), (1, 0.02, 0), (0, 0.3, 0)]  # thick at x = 0
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + ["f 1 2 3", "f 1 3 4"]
    (tmp_path / "model/lamp/model.obj").write_text("\n".join(lines))
    entry = {"img": "img/1.png", "category": "lamp", "model": "model/lamp/model.obj", "bbox": [10, 35, 90, 65]}
    entry |= {"cam_position": [0, 0, -1], "inplane_rotation": 0, "truncated": False, "occluded": False}
    (tmp_path / "pix3d.json").write_text(json.dumps([entry]))
    report = check_dataset(tmp_path, overlay=tmp_path / "check.png")
    assert report.ok, report.text()
    rows, columns = np.nonzero(drawn_green(tmp_path / "check.png"))
    left, right = np.quantile(columns, [0.2, 0.8])
    assert np.ptp(rows[columns > right]) > 1.5 * np.ptp(rows[columns < left])


def test_damaged_shapes_are_faults(made):
    np.save(made / "shapes/tower/01.npy", np.zeros((4, 3)))
    report = check_dataset(made)
    assert report.counts == {FaultKind.MODEL_FILE: 1} and "01.npy" in report.text()
