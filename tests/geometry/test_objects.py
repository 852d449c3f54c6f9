import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.objects import ObjectTable, box_corners

INFO = {
    3: {"diameter": 10.0, "min_x": -1, "min_y": -2, "min_z": -3, "size_x": 2, "size_y": 4, "size_z": 6},
    8: {
        **{"diameter": 20.0, "min_x": 0, "min_y": 0, "min_z": 0, "size_x": 1, "size_y": 1, "size_z": 1},
        "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0.5, 0.5, 0]}],
    },
}


def test_table_from_models_info():
    table = ObjectTable.from_models_info(INFO, [8, 3])
    assert table.obj_ids == (8, 3) and len(table) == 2
    assert table.index(3) == 1
    np.testing.assert_array_equal(table.diameters, [20.0, 10.0])
    np.testing.assert_array_equal(table.keypoints[1], box_corners(np.array([-1, -2, -3.0]), np.array([1, 2, 3.0])))
    np.testing.assert_array_equal(table.keypoints[1][[0, 1, 2, 4, 7]][:, 2], [-3, 3, -3, -3, 3])
    assert [len(symmetries) for symmetries in table.symmetries] == [315, 1]
    assert ObjectTable.from_models_info(INFO).obj_ids == (3, 8)


def test_tables_round_trip():
    table = ObjectTable.from_models_info(INFO)
    back = ObjectTable.from_tables(table.to_tables())
    assert back.obj_ids == table.obj_ids
    np.testing.assert_array_equal(back.keypoints, table.keypoints)
    np.testing.assert_array_equal(back.diameters, table.diameters)
    for ours, theirs in zip(back.symmetries, table.symmetries, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_absent_object_is_named():
    with pytest.raises(DataError, match=r"models_info.json: '5': found \[3, 8\], expected objects \[5\]"):
        ObjectTable.from_models_info(INFO, [3, 5])
    with pytest.raises(KeyError, match="object 5 is not one of"):
        ObjectTable.from_models_info(INFO).index(5)


def test_absent_keys_and_bad_diameters_are_named():
    with pytest.raises(DataError, match=r"3\.size_y"):
        ObjectTable.from_models_info({3: {key: value for key, value in INFO[3].items() if key != "size_y"}})
    for diameter in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match=r"3\.diameter"):
            ObjectTable.from_models_info({3: {**INFO[3], "diameter": diameter}})
