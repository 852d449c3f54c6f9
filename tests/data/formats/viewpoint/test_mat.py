"""Records as PASCAL3D+ and ObjectNet3D hand them out, written by scipy as MATLAB writes them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from tests.data.test_fuzz import fuzz

from posedistill.data.formats.viewpoint.annotations import categories_file, open_categories
from posedistill.data.formats.viewpoint.mat import VOC_VAL, _require_whole
from posedistill.data.images import write_image
from posedistill.errors import DataError

EMPTY = ("azimuth", "elevation", "theta", "azimuth_coarse", "elevation_coarse")


def thing(category="car", azimuth=30.0, **changes):
    """An object of a record; ``None`` for an empty field, ``...`` for one that is not there."""
    viewpoint = {"azimuth": azimuth, "elevation": 10.0, "theta": -5.0, "distance": 6.0}
    viewpoint |= {"azimuth_coarse": 45.0, "elevation_coarse": 15.0}
    viewpoint |= changes.pop("viewpoint", {})
    fields = {"class": category, "bbox": [10.0, 20.0, 60.0, 50.0], "cad_index": 3.0}
    fields |= {"truncated": 0.0, "occluded": 0.0, "difficult": 0.0}
    fields |= {"anchors": {"wheel": {"location": [1.0, 2.0], "status": 1.0}}, "viewpoint": viewpoint} | changes
    return {key: _plain(value) for key, value in fields.items() if value is not ...}


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not ...}
    return np.zeros((0, 0)) if value is None else value


def write(path: Path, *things):
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = np.zeros(len(things), dtype=object)
    objects[:] = things
    keys = list(dict.fromkeys(key for entry in things for key in entry))
    rows = np.zeros((1, len(things)), dtype=[(key, object) for key in keys])
    for place, entry in enumerate(things):
        for key in keys:
            rows[0, place][key] = entry.get(key, np.zeros((0, 0)))
    savemat(path, {"record": {"filename": path.stem, "objects": rows}})


@pytest.fixture
def pascal(tmp_path) -> Path:
    root = tmp_path / "PASCAL3D+"
    write(root / "Annotations/car_imagenet/n1.mat", thing(azimuth=350.0), thing("bus"))
    write(root / "Annotations/car_pascal/2008_000001.mat", thing(azimuth=90.0, occluded=1.0))
    write(root / "Annotations/car_pascal/2008_000002.mat", thing(azimuth=120.0, anchors=None))
    zero = {"azimuth": 0.0, "elevation": 0.0, "theta": 0.0}
    write(root / "Annotations/bus_pascal/2008_000002.mat", thing("bus"), thing("bus", viewpoint=zero))
    for name in ("car_imagenet/n1.JPEG", "car_pascal/2008_000001.jpg"):
        write_image(root / "Images" / name.replace("JPEG", "jpg"), np.zeros((60, 80, 3), np.uint8))
    (root / "Images/car_imagenet/n1.jpg").rename(root / "Images/car_imagenet/n1.JPEG")
    path = root / VOC_VAL
    path.parent.mkdir(parents=True)
    path.write_text("2008_000002\n2008_000009\n")
    return root


def test_pascal3d(pascal):
    found = open_categories(pascal)
    assert categories_file(pascal) == (pascal, "PASCAL3D+")
    told = {(view.category, view.image.parent.name, view.split) for view in found}
    expected = {("car", "car_imagenet", "train"), ("car", "car_pascal", "train"), ("car", "car_pascal", "val")}
    assert told == expected | {("bus", "bus_pascal", "val")} and len(found) == 4  # no bus of a car's folder, no zeros
    first = next(view for view in found if view.image.name == "n1.JPEG")
    assert first.viewpoint.tolist() == [350.0, 10.0, -5.0] and first.shape == "3" and first.clean
    assert first.box == (10.0, 20.0, 60.0, 50.0) and first.image.is_file()
    clean = {view.image.name: view.clean for view in found if view.category == "car"}
    assert clean == {"n1.JPEG": True, "2008_000001.jpg": False, "2008_000002.JPEG": False}


def test_objectnet3d(tmp_path):
    root = tmp_path / "ObjectNet3D"
    coarse = {"azimuth": None, "elevation": None, "theta": None}
    write(root / "Annotations/a.mat", thing("bed", viewpoint=coarse), thing("cup", anchors=...))
    write(root / "Annotations/b.mat", thing("bed", azimuth=-20.0), thing("cup", viewpoint=dict.fromkeys(EMPTY)))
    write(root / "Annotations/c.mat", thing("bed"))
    (root / "Image_sets").mkdir()
    (root / "Image_sets/train.txt").write_text("a\n")
    (root / "Image_sets/val.txt").write_text("b\n")
    found = open_categories(root)
    assert categories_file(root) == (root, "ObjectNet3D")
    told = [(view.category, view.split, view.number, view.viewpoint.tolist(), view.keypoints) for view in found]
    assert told[0] == ("bed", "train", 0, [45.0, 15.0, 0.0], True)
    assert told[1] == ("cup", "train", 1, [30.0, 10.0, -5.0], False)
    assert told[2][:4] == ("bed", "val", 0, [340.0, 10.0, -5.0]) and len(told) == 3
    assert list(found.names) == ["Images/a.JPEG", "Images/a.JPEG#1", "Images/b.JPEG"]


def test_faults_are_named(pascal, tmp_path):
    path = pascal / "Annotations/car_imagenet/n2.mat"
    path.write_bytes(b"no matrix")
    with pytest.raises(DataError, match=r"n2\.mat.*record"):
        open_categories(pascal)
    write(path, thing(), thing(bbox=[60.0, 20.0, 10.0, 50.0]))
    with pytest.raises(DataError, match=r"n2\.mat.*object 1.*it is empty"):
        open_categories(pascal)
    write(path, thing(viewpoint={"elevation": 200.0}))
    with pytest.raises(DataError, match=r"n2\.mat.*object 0.*elevation 200"):
        open_categories(pascal)
    faults = []
    assert len(open_categories(pascal, faults.append)) == 4 and len(faults) == 1
    (tmp_path / "other/Annotations").mkdir(parents=True)
    (tmp_path / "other/Image_sets").mkdir()
    with pytest.raises(DataError, match=r"Image_sets.*found none, expected train\.txt"):
        open_categories(tmp_path / "other")


BOX = struct.pack("=8I", 6, 8, 6, 0, 5, 8, 1, 4)
"""How the array of a box begins: flags of doubles, 1 x 4."""


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (BOX, struct.pack("=8I", 6, 8, 6 | 0x0800, 0, 5, 8, 1, 4), "4 values in an array of 8"),
        (BOX, struct.pack("=8I", 6, 8, 6, 0, 5, 8, 1, 9), "4 values in an array of 9"),
        (BOX, struct.pack("=8I", 6, 1 << 15, 6, 0, 5, 8, 1, 4), "an element of type 6 and 32768 bytes"),
        (b"IM", b"II", "no header of a MATLAB 5 file"),
    ],
)
def test_damage_at_which_scipy_may_end_the_process_is_named(pascal, old, new, found):
    """An imaginary part that is not there, other dimensions, a size beyond the file."""
    path = pascal / "Annotations/car_imagenet/n1.mat"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match=rf"n1\.mat: 'record': found ValueError: .*{found}"):
        open_categories(pascal)


@pytest.mark.parametrize("compressed", [False, True])
def test_compressed_records_are_read(tmp_path, compressed):
    path = tmp_path / "a.mat"
    savemat(
        path, {"record": {"objects": np.array([1 + 2j, 3.0]), "empty": np.zeros((0, 0))}}, do_compression=compressed
    )
    _require_whole(path.read_bytes())


def test_damaged_records_end_in_data_errors(pascal):
    fuzz(pascal / "Annotations/car_imagenet/n1.mat", lambda: open_categories(pascal), 1)


def test_the_table_of_posefromshape_for_pix3d(tmp_path):
    header = "img_source,model_source,truncated,occluded,slightly_occluded,image_path,cat_id,example_id,model_name,"
    header += "azimuth,elevation,inplane_rotation\n"
    row = "a,b,False,False,True,crops/0001.png,chair,IKEA_X,model,30.0,12.0,0.1\n"
    (tmp_path / "Pix3D.txt").write_text(header + row)
    (view,) = open_categories(tmp_path / "Pix3D.txt")
    np.testing.assert_allclose(view.viewpoint, [330.0, 12.0, -np.rad2deg(0.1)])
    assert view.split == "val" and view.occluded and view.box is None and view.image == tmp_path / "crops/0001.png"
    (tmp_path / "Pix3D.txt").write_text(header + row.replace("0.1\n", "5.7\n"))
    with pytest.raises(DataError, match=r"line 2.*inplane_rotation 5\.7, beyond pi: this table has radians"):
        open_categories(tmp_path / "Pix3D.txt")
