import json

import numpy as np
import pytest

from posedistill.data.formats.viewpoint.annotations import open_categories, read_cars, read_pix3d, read_table
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.errors import DataError
from posedistill.geometry.rotations import angle_between
from posedistill.geometry.viewpoint import viewpoint_rotation

HEADER = (
    "source,set,cat,im_name,object,cad_index,truncated,occluded,difficult,azimuth,elevation,inplane_rotation,"
    "left,upper,right,lower,has_keypoints,distance,im_path"
)


VALUES = "imagenet,train,car,n1,1,3,0,0,0,-30,10.5,2,5,6,50,40,1,3.2,a.jpg"


def row(**changes):
    values = dict(zip(HEADER.split(","), VALUES.split(","), strict=True))
    return ",".join(str({**values, **changes}[name]) for name in HEADER.split(","))


def table(tmp_path, *rows, header=HEADER, name="annotations.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_tables_of_the_field_are_read(tmp_path):
    found = read_table(table(tmp_path, row(), row(set="val", has_keypoints=0, cad_index=12, object=2)))
    first, second = found
    assert first.image == tmp_path / "a.jpg"
    assert (first.category, first.shape, first.number, first.split) == ("car", "3", 1, "train")
    assert first.viewpoint.tolist() == [330.0, 10.5, 2.0]
    assert first.box == (5, 6, 50, 40)
    assert first.clean and not second.clean
    assert found.names == ("a.jpg#1", "a.jpg#2")


def test_either_name_of_the_category_and_any_order_of_columns(tmp_path):
    names = HEADER.replace(",cat,", ",cls_name,").split(",")
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = ",".join(np.array(row().split(","))[order])
    found = read_table(table(tmp_path, shuffled, header=",".join(np.array(names)[order])))
    assert found.views[0].category == "car"
    assert found.views[0].viewpoint.tolist() == [330.0, 10.5, 2.0]


def test_a_table_of_ones_own_needs_four_columns(tmp_path):
    found = read_table(table(tmp_path, "p/1.png,mug,400,-5", header="image,category,azimuth,elevation"))
    view = found.views[0]
    assert view.viewpoint.tolist() == [40.0, -5.0, 0.0]
    assert view.box is None and view.clean and view.split == "train"
    assert open_categories(tmp_path).names == ("p/1.png",)


def test_tables_of_click_here(tmp_path):
    header = "imgPath,bboxTLX,bboxTLY,bboxBRX,bboxBRY,imgKeyptX,imgKeyptY,keyptClass,objClass,a,e,r"
    found = read_table(table(tmp_path, r"Images\bus_pascal\x.JPEG,3,80,447,219,0,54,355,356", header=header))
    view = found.views[0]
    assert view.category == "bus"
    assert view.viewpoint.tolist() == [54.0, -5.0, -4.0]
    assert view.image == tmp_path / "Images/bus_pascal/x.JPEG"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"azimuth": "nan"}, r"line 2.*angles \[nan"),
        ({"azimuth": "east"}, r"line 2.*east"),
        ({"elevation": 346}, r"elevation 346, beyond -90..90 degrees: are columns swapped"),
        ({"right": 5}, r"a box of left 5.*it is empty"),
        ({"left": "nan"}, r"it is empty"),
        ({"truncated": "maybe"}, r"truncated 'maybe', neither 0 nor 1"),
        ({"cat": ""}, r"without a category"),
        ({"upper": ""}, r"a box of left, upper, right, lower.*all four, or none"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_table(table(tmp_path, row(**changes)))


def test_a_reader_may_go_on_without_faulty_rows(tmp_path):
    faults = []
    found = read_table(table(tmp_path, row(), row(elevation=99), "too,short", row(object=4)), on_fault=faults.append)
    assert [view.number for view in found] == [1, 4]
    assert len(faults) == 2 and "line 3" in str(faults[0]) and "2 columns under a header of 19" in str(faults[1])


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(DataError, match=r"'columns': found .*expected cat or cls_name or category, elevation too"):
        read_table(table(tmp_path, "a.jpg,3", header="im_path,azimuth"))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,category,azimuth,elevation,azimuth", r"found several of azimuth, expected one of each"),
        ("image,category,azimuth,elevation,cat", r"found several of cat or cls_name or category"),
        ("image,category,azimuth,elevation,left", r"expected upper, right, lower too"),
    ],
)
def test_ambiguous_columns_are_refused(tmp_path, header, message):
    with pytest.raises(DataError, match=message):
        read_table(table(tmp_path, "a.jpg,mug,3,4,5", header=header))


def test_a_field_beyond_what_a_csv_holds_is_named(tmp_path):
    with pytest.raises(DataError, match=r"annotations\.csv: 'file': found field larger than field limit"):
        read_table(table(tmp_path, row(im_path="a" * 131_073)))


def test_radians_in_a_table_are_refused(tmp_path):
    rows = [row(azimuth=angle, elevation=0.1, object=i) for i, angle in enumerate(np.linspace(-3.1, 3.1, 20).round(3))]
    with pytest.raises(DataError, match=r"azimuth.*these look like radians"):
        read_table(table(tmp_path, *rows))
    whole = [row(azimuth=i % 3, object=i) for i in range(20)]
    assert len(read_table(table(tmp_path, *whole))) == 20


def car(**changes):
    return {"azimuth": np.pi / 2, "elevation": 0.1, "theta": 0.05, "model_id": "abc", "split": "test"} | changes


def cars(tmp_path, **entries):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({f"{name}.jpg": entry for name, entry in entries.items()}))
    return path


def test_cars_are_seen_as_every_other_category(tmp_path):
    found = read_cars(cars(tmp_path, a=car(), b=car(split="train")))
    view = found.views[0]
    assert view.viewpoint == pytest.approx([0, np.rad2deg(0.1), -np.rad2deg(0.05)])
    assert [view.split for view in found] == ["val", "train"]
    assert (view.category, view.shape, view.image) == ("car", "abc", tmp_path / "images/a.jpg")
    assert np.rad2deg(angle_between(found.R[0], viewpoint_rotation(np.zeros(3)))) < 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"azimuth": 90.0, "elevation": 5.0}, r"a\.jpg.*these look like degrees"),
        ({"theta": float("nan")}, r"a\.jpg.*angles \[.*nan"),
        ({"theta": None}, r"a\.jpg"),
    ],
)
def test_cars_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_cars(cars(tmp_path, a=car(**changes)))
    faults = []
    assert len(read_cars(cars(tmp_path, a=car(**changes), b=car()), on_fault=faults.append)) == len(faults) == 1


def test_pix3d_is_read_by_its_camera(tmp_path):
    entry = {
        **{"img": "img/bed/0001.png", "category": "bed", "model": "model/bed/1/model.obj"},
        **{"cam_position": [1.0, 0.0, 0.0], "inplane_rotation": 0.1, "bbox": [1, 2, 30, 40]},
        **{"truncated": False, "occluded": False, "slightly_occluded": True},
    }
    path = tmp_path / "pix3d.json"
    path.write_text(json.dumps([entry]))
    view = open_categories(tmp_path).views[0]
    assert view.viewpoint == pytest.approx([270.0, 0.0, -np.rad2deg(0.1)])
    assert view.split == "val" and view.occluded and not view.clean
    path.write_text(json.dumps([{key: value for key, value in entry.items() if key != "cam_position"}]))
    with pytest.raises(DataError, match=r"entry 0.*no 'cam_position'"):
        read_pix3d(path)
    for changes, message in (
        ({"inplane_rotation": 5.7}, r"entry 0.*inplane_rotation 5\.7, beyond pi: this file has radians"),
        ({"cam_position": [0, 0, 0]}, r"entry 0.*a camera within the model"),
    ):
        path.write_text(json.dumps([entry, entry | changes]))
        faults = []
        assert len(read_pix3d(path, on_fault=faults.append)) == len(faults) == 1
        path.write_text(json.dumps([entry | changes]))
        with pytest.raises(DataError, match=message):
            read_pix3d(path)


def test_a_folder_of_no_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"files of another kind.*annotations\.csv"):
        open_categories(tmp_path)
    with pytest.raises(DataError, match=r"no such folder"):
        open_categories(tmp_path / "none")


def test_a_table_named_like_its_folder(tmp_path):
    folder = tmp_path / "Pascal3D"
    folder.mkdir()
    table(folder, row(), name="Pascal3D.txt")
    assert len(open_categories(folder)) == 1


@pytest.fixture
def dataset(tmp_path):
    views = [
        AnnotatedView(
            tmp_path / f"{category}{number}.jpg",
            category,
            np.array([number, 90.0 if number == 7 else 0.0, 0.0]),
            split="train" if number % 2 else "val",
            difficult=number == 5,
            occluded=number == 2,
        )
        for category in ("bed", "car", "pen")
        for number in range(1, 13)
    ]
    return CategoryDataset(tmp_path, tuple(views))


def test_published_filters(dataset):
    numbers = lambda found: sorted({view.viewpoint[0] for view in found})  # noqa: E731
    assert numbers(dataset.of_split("train")) == [1, 3, 9, 11]  # neither from above nor difficult
    assert numbers(dataset.of_split("val")) == [2, 4, 6, 8, 10, 12]
    assert numbers(dataset.of_split("val", clean=True)) == [4, 6, 8, 10, 12]
    with pytest.raises(DataError, match=r"no objects of split test \(there are 18 of train, 18 of val\)"):
        dataset.of_split("test")


def test_unknown_categories_are_named(dataset):
    assert dataset.of_categories({"bed", "pen"}).categories == ("bed", "pen")
    with pytest.raises(DataError, match=r"no object of sofa.*bed, car, pen"):
        dataset.of_categories({"bed", "sofa"})


def test_shots_are_the_same_for_the_same_seed(dataset, tmp_path):
    drawn = dataset.few(4, seed=1)
    assert sorted(drawn.category) == ["bed"] * 4 + ["car"] * 4 + ["pen"] * 4
    assert drawn.names == dataset.few(4, seed=1).names != dataset.few(4, seed=2).names
    assert drawn.of_categories({"pen"}).names == dataset.of_categories({"pen"}).few(4, seed=1).names
    drawn.write_list(tmp_path / "shots.txt")
    assert dataset.listed(tmp_path / "shots.txt").names == drawn.names
    with pytest.raises(DataError, match=r"shots of bed.*12 objects.*at least 13"):
        dataset.few(13, seed=0)


def test_a_list_of_unknown_names_is_refused(dataset, tmp_path):
    (tmp_path / "shots.txt").write_text("bed1.jpg\nbed99.jpg\n")
    with pytest.raises(DataError, match=r"1 unknown names, the first 'bed99.jpg'"):
        dataset.listed(tmp_path / "shots.txt")


def test_real_cars_and_annotations(real_data):
    found = open_categories(real_data / "cars")
    assert (len(found.of_split("train")), len(found.of_split("val", clean=True))) == (1142, 149)
    assert np.abs(found.viewpoint[:, 1]).max() < 45
    poses = read_table(real_data / "pascal3d_annotations" / "train.csv")
    assert len(poses) == 12735 and len(poses.categories) == 12
