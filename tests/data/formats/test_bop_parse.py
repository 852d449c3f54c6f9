from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posedistill.data.faults import FaultKind
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_parse import load_scene
from posedistill.errors import DataError

Edit = Callable[[Path, Callable[[Any], Any]], None]

SCENE = "test/000001"
FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "missing key": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["1"][2].pop("cam_t_m2c"),
        r"scene_gt.json: '1\[2\].cam_t_m2c': found no such key, expected 3 numbers",
    ),
    "wrong count": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["1"][0].update(cam_R_m2c=[1.0] * 8),
        r"'1\[0\].cam_R_m2c': found 8 numbers, expected 9 numbers",
    ),
    "text for numbers": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["1"][0].update(cam_t_m2c="far"),
        r"'1\[0\].cam_t_m2c': found 'far', expected 3 numbers",
    ),
    "nan": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["1"][0].update(cam_t_m2c=[0.0, float("nan"), 1.0]),
        r"'1\[0\].cam_t_m2c': found \[0.0, nan, 1.0\], expected 3 numbers, finite",
    ),
    "a rotation that is none": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["2"][1].update(cam_R_m2c=[2.0, 0, 0, 0, 1, 0, 0, 0, 1]),
        r"'2\[1\].cam_R_m2c': found a matrix with .* = 3 and determinant 2, expected a rotation",
    ),
    "a reflection": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["2"][1].update(cam_R_m2c=[-1.0, 0, 0, 0, 1, 0, 0, 0, 1]),
        "determinant -1, expected a rotation",
    ),
    "no list": (f"{SCENE}/scene_gt.json", lambda content: content.update({"0": 3}), "'0': found int"),
    "no object": (f"{SCENE}/scene_gt.json", lambda content: content["0"].append(3), r"'0\[3\]': found int"),
    "no integer key": (f"{SCENE}/scene_gt.json", lambda content: content.update(first=[]), "'first'"),
    "no focal length": (
        f"{SCENE}/scene_camera.json",
        lambda content: content["0"].update(cam_K=[0.0, 0, 80, 0, 300, 60, 0, 0, 1]),
        r"scene_camera.json: '0.cam_K'.*expected focal lengths > 0",
    ),
    "short camera": (
        f"{SCENE}/scene_camera.json",
        lambda content: content["0"].update(cam_K=[300.0, 300.0, 80.0, 60.0]),
        "'0.cam_K': found 4 numbers, expected 9 numbers",
    ),
    "box of three numbers": (
        f"{SCENE}/scene_gt_info.json",
        lambda content: content["0"][0].update(bbox_obj=[1, 2, 3]),
        r"scene_gt_info.json: '0\[0\].bbox_obj': found 3 numbers, expected 4 numbers",
    ),
    "lists of different lengths": (
        f"{SCENE}/scene_gt_info.json",
        lambda content: content["0"].pop(),
        "'0': found 2 entries, expected 3 as in scene_gt.json",
    ),
    "an object absent from models_info.json": (
        f"{SCENE}/scene_gt.json",
        lambda content: content["0"][0].update(obj_id=3),
        r"models_info.json: '3': found no such object, expected one of \[2, 7\]",
    ),
    "model without diameter": (
        "models_eval/models_info.json",
        lambda content: content["2"].pop("diameter"),
        "models_info.json: '2.diameter': found no such key",
    ),
    "model of no size": (
        "models_eval/models_info.json",
        lambda content: content["2"].update(diameter=0.0),
        "'2.diameter': found 0.0, expected a positive length",
    ),
    "symmetry of 9 numbers": (
        "models_eval/models_info.json",
        lambda content: content["7"].update(symmetries_discrete=[[1.0] * 9]),
        "found 9 numbers, expected 16 numbers",
    ),
    "symmetry without axis": (
        "models_eval/models_info.json",
        lambda content: content["7"].update(symmetries_continuous=[{"offset": [0, 0, 0]}]),
        r"'7.symmetries_continuous\[0\].axis': found no such key",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_key_found_and_expected(bop_root: Path, edit_json: Edit, fault: str) -> None:
    file, change, message = FAULTS[fault]
    edit_json(bop_root / file, change)
    with pytest.raises(DataError, match=message):
        BopDataset(bop_root)


@pytest.mark.parametrize("name", ["scene_gt.json", "scene_camera.json", "scene_gt_info.json"])
@pytest.mark.parametrize("text", ['{"0": [', "\x00\xff", "[]", ""])
def test_json_that_is_none(bop_root: Path, name: str, text: str) -> None:
    path = bop_root / "test" / "000004" / name
    path.write_text(text)
    with pytest.raises(DataError, match=f"{name}: '(json|text|top level)'"):
        BopDataset(bop_root)


def test_rounded_rotations_are_accepted(bop_root: Path, edit_json: Edit) -> None:
    def round_off(content: Any) -> None:
        for instances in content.values():
            for instance in instances:
                instance["cam_R_m2c"] = [round(value, 2) for value in instance["cam_R_m2c"]]

    edit_json(bop_root / "test" / "000001" / "scene_gt.json", round_off)
    assert len(BopDataset(bop_root)) == 5


def test_parsing_goes_on_where_faults_are_collected(bop_root: Path, edit_json: Edit) -> None:
    folder = bop_root / "test" / "000001"

    def damage(content: Any) -> None:
        content["0"][1]["cam_R_m2c"] = [0.0] * 9
        del content["1"][0]["obj_id"]
        content["2"][2]["cam_t_m2c"] = [1.0]

    edit_json(folder / "scene_gt.json", damage)
    edit_json(folder / "scene_camera.json", lambda content: content["2"].pop("cam_K"))
    found: list[FaultKind] = []
    scene = load_scene(folder, lambda fault: found.append(fault.kind))
    kinds = [FaultKind.MISSING_KEY, FaultKind.WRONG_COUNT, FaultKind.MISSING_KEY, FaultKind.ROTATION]
    assert found == kinds
    assert [frame.im_id for frame in scene.frames()] == [0, 1]
    masks = [instance.mask.name for frame in scene.frames() for instance in frame.instances if instance.mask]
    assert masks == [f"00000{image}_00000{number}.png" for image, number in ((0, 0), (0, 2), (1, 1), (1, 2))]
