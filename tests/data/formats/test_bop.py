import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset, Target, read_depth, read_detections
from posedistill.data.images import read_image, read_mask
from posedistill.errors import DataError
from posedistill.geometry.rotations import is_rotation

Edit = Callable[[Path, Callable[[Any], Any]], None]


def test_frames_and_instances(bop_root: Path) -> None:
    dataset = BopDataset(bop_root)
    assert [(frame.scene_id, frame.im_id) for frame in dataset.frames] == [(1, 0), (1, 1), (1, 2), (4, 10), (4, 11)]
    frame = dataset.frame(4, 11)
    assert frame.rgb == bop_root / "test" / "000004" / "rgb" / "000011.jpg"
    assert read_image(frame.rgb).shape == (120, 160, 3)
    np.testing.assert_allclose(frame.K[0], [300.0, 0.0, 79.5])
    assert [instance.obj_id for instance in frame.instances] == [2, 7, 2]
    behind, before, _ = frame.instances
    assert behind.visib_fract < 1.0 == before.visib_fract
    assert is_rotation(before.R) and before.t.shape == (3,)
    assert before.mask is not None and before.mask_visib is not None
    assert read_mask(before.mask_visib).sum() == read_mask(before.mask).sum()
    np.testing.assert_allclose(np.median(read_depth(frame)[read_mask(before.mask_visib)]), before.t[2], atol=0.06)
    assert len(pickle.loads(pickle.dumps(frame)).instances) == 3


def test_boxes_follow_the_masks(bop_root: Path) -> None:
    for frame in BopDataset(bop_root).frames:
        for instance in frame.instances:
            assert instance.mask is not None and instance.bbox_obj is not None
            rows, columns = np.nonzero(read_mask(instance.mask))
            expected = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
            np.testing.assert_array_equal(instance.bbox_obj, expected)


def test_every_json_is_parsed_once(bop_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bop_root / "test_targets_bop19.json").write_text('[{"scene_id": 1, "im_id": 0, "obj_id": 2, "inst_count": 2}]')
    parsed: Counter[int] = Counter()
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda data: (parsed.update([hash(data)]), loads(data))[1])
    dataset = BopDataset(bop_root)
    for _ in range(2):
        for frame in dataset.frames:
            assert len(frame.instances) == 3 and frame.K.shape == (3, 3)
        assert len(dataset.objects()) == 2 and len(dataset.targets()) == 1
    assert len(parsed) == 2 * 3 + 1 + 1, "three files a scene, the models and the targets"
    assert set(parsed.values()) == {1}


def test_objects_and_meshes(bop_root: Path) -> None:
    dataset = BopDataset(bop_root)
    assert dataset.models_dir == dataset.eval_models_dir == bop_root / "models_eval"
    assert dataset.objects().obj_ids == (2, 7)
    table = dataset.objects([7])
    np.testing.assert_allclose(table.diameters, [np.sqrt(30**2 + 50**2 + 70**2)], rtol=1e-6)
    assert dataset.mesh_path(7).name == "obj_000007.ply"
    (bop_root / "models_eval" / "obj_000007.ply").unlink()
    with pytest.raises(DataError, match=r"obj_000007.ply"):
        dataset.mesh_path(7)
    with pytest.raises(DataError, match=r"models_info.json: '9': found no such object"):
        dataset.objects([9])
    shutil.copytree(bop_root / "models_eval", bop_root / "models")
    assert dataset.models_dir == bop_root / "models"
    assert dataset.eval_models_dir == bop_root / "models_eval"


def test_object_filter_keeps_mask_numbers(bop_root: Path, edit_json: Edit) -> None:
    dataset = BopDataset(bop_root, obj_ids=[7])
    assert len(dataset) == 5
    assert [instance.obj_id for frame in dataset.frames for instance in frame.instances] == [7] * 5
    mask = dataset.frame(1, 2).instances[0].mask
    assert mask is not None and mask.name == "000002_000001.png"
    assert dataset.objects().obj_ids == (7,)
    with pytest.raises(DataError, match="'99': found no such object"):
        BopDataset(bop_root, obj_ids=[99]).objects()


def test_scenes(bop_root: Path) -> None:
    assert len(BopDataset(bop_root, scenes=[4])) == 2
    with pytest.raises(DataError, match=r"no scene \[5\]"):
        BopDataset(bop_root, scenes=[4, 5])
    with pytest.raises(DataError, match="'train'"):
        BopDataset(bop_root, split="train")
    (bop_root / "empty").mkdir()
    with pytest.raises(DataError, match="no numbered folder"):
        BopDataset(bop_root, split="empty")


def test_frame_lists(bop_root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "frames.txt"

    def ids(text: str, **options: Any) -> list[tuple[int, int]]:
        listed.write_text(text)
        return [(frame.scene_id, frame.im_id) for frame in BopDataset(bop_root, frames=listed, **options).frames]

    assert ids("000011\n\n# comment\n000000\n000011\r\n") == [(4, 11), (1, 0)]
    assert ids("4/10\ntest/000001/rgb/000002.jpg\nLINEMOD/cat/JPEGImages/000001.jpg\n") == [(4, 10), (1, 2), (1, 1)]
    shutil.copytree(bop_root / "test" / "000001", bop_root / "test" / "000005")
    assert ids("000002", scenes=[1]) == [(1, 2)]
    with pytest.raises(DataError, match=r"'line 1': found '000002', which is in scenes \[1, 5\]"):
        ids("000002")
    with pytest.raises(DataError, match=r"'line 2': found '000012', no frame"):
        ids("000011\n000012")
    with pytest.raises(DataError, match="'line 1': found 'first image'"):
        ids("first image")
    with pytest.raises(DataError, match=r"missing.txt"):
        BopDataset(bop_root, frames=tmp_path / "missing.txt")
    (bop_root / "beside.txt").write_text("000011\n")
    assert [frame.im_id for frame in BopDataset(bop_root, frames="beside.txt").frames] == [11], "as recipes name it"


def test_targets(bop_root: Path, tmp_path: Path) -> None:
    assert BopDataset(bop_root).targets()[:2] == [Target(1, 0, 2, 2), Target(1, 0, 7, 1)], (
        "no file: what is annotated and visible"
    )
    path = bop_root / "test_targets_bop24.json"
    path.write_text('[{"scene_id": 4, "im_id": 10}]')
    assert BopDataset(bop_root).targets() == [Target(4, 10, 2, 2), Target(4, 10, 7, 1)]
    path = bop_root / "test_targets_bop19.json"
    rows = [{"scene_id": 1, "im_id": 2, "obj_id": 2, "inst_count": 2}, {"scene_id": 4, "im_id": 10, "obj_id": 7}]
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"test_targets_bop19.json: '\[1\].inst_count': found no such key"):
        BopDataset(bop_root).targets()
    path.write_text(json.dumps([rows[0], {**rows[1], "inst_count": 1}]))
    assert BopDataset(bop_root).targets() == [Target(1, 2, 2, 2), Target(4, 10, 7, 1)]
    assert BopDataset(bop_root, obj_ids=[7]).targets() == [Target(4, 10, 7, 1)]
    assert BopDataset(bop_root, scenes=[1]).targets() == [Target(1, 2, 2, 2)]
    shutil.copytree(bop_root / "test", bop_root / "val")
    assert BopDataset(bop_root, split="val").targets()[0] == Target(1, 0, 2, 2), "the file is about the test split"
    path.write_text("{}")
    with pytest.raises(DataError, match="found dict, expected a list"):
        BopDataset(bop_root).targets()


def test_gray_tif_scenes(bop_root: Path) -> None:
    scene = bop_root / "test" / "000004"
    (scene / "gray").mkdir()
    for path in (scene / "rgb").iterdir():
        cv2.imwrite(str(scene / "gray" / f"{path.stem}.tif"), read_image(path)[..., 0])
    shutil.rmtree(scene / "rgb")
    frame = BopDataset(bop_root).frame(4, 10)
    assert frame.rgb == scene / "gray" / "000010.tif"
    assert read_image(frame.rgb).shape == (120, 160, 3)


def test_masks_depth_and_info_are_optional(bop_root: Path) -> None:
    scene = bop_root / "test" / "000001"
    for folder in ("mask", "mask_visib", "depth"):
        shutil.rmtree(scene / folder)
    (scene / "scene_gt_info.json").unlink()
    frame = BopDataset(bop_root, scenes=[1]).frames[0]
    instance = frame.instances[0]
    assert instance.mask is instance.mask_visib is instance.bbox_obj is instance.bbox_visib is frame.depth is None
    assert instance.visib_fract == 1.0
    with pytest.raises(DataError, match=r"000000.*found no such file, expected a depth image"):
        read_depth(frame)


def test_pure_test_sets_have_no_annotations(bop_root: Path) -> None:
    shutil.rmtree(bop_root / "models_eval")
    for scene in (bop_root / "test").iterdir():
        (scene / "scene_gt.json").unlink()
        (scene / "scene_gt_info.json").unlink()
    dataset = BopDataset(bop_root)
    assert len(dataset) == 5 and not dataset.frames[0].instances and not dataset.targets()
    assert len(BopDataset(bop_root, obj_ids=[7])) == 5, "what is not annotated is not filtered"
    with pytest.raises(DataError, match=r"models.*no such folder"):
        dataset.objects()


def test_a_hidden_instance_has_no_visible_box(bop_root: Path, edit_json: Edit) -> None:
    info = bop_root / "test" / "000001" / "scene_gt_info.json"
    edit_json(info, lambda content: content["0"][0].update(bbox_visib=[-1, -1, -1, -1], visib_fract=0.0))
    instance = BopDataset(bop_root).frames[0].instances[0]
    assert instance.bbox_visib is None and instance.visib_fract == 0.0 and instance.bbox_obj is not None


def test_missing_files(bop_root: Path) -> None:
    frame = BopDataset(bop_root).frames[0]
    frame.rgb.unlink()
    frame = BopDataset(bop_root).frames[0]
    with pytest.raises(DataError, match=r"000000.*no such file"):
        read_image(frame.rgb)
    (bop_root / "test" / "000001" / "scene_camera.json").unlink()
    with pytest.raises(DataError, match=r"scene_camera.json: 'file': found no such file"):
        BopDataset(bop_root)


def test_frame_of_other_ids(bop_root: Path) -> None:
    with pytest.raises(DataError, match="no frame 7 in scene 1"):
        BopDataset(bop_root).frame(1, 7)


def test_detections(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    row = {"scene_id": 2, "image_id": 3, "category_id": 5, "score": 0.5, "bbox": [1.5, 2, 3, 4], "time": 0.25}
    untimed = {key: value for key, value in row.items() if key != "time"}
    path.write_text(json.dumps([row, {**untimed, "segmentation": {}}]))
    (first, second), left_out = read_detections(path)
    assert left_out == ""
    assert (first.scene_id, first.im_id, first.obj_id, first.score, first.time) == (2, 3, 5, 0.5, 0.25)
    np.testing.assert_array_equal(first.bbox, [1.5, 2.0, 3.0, 4.0])
    assert second.time == -1.0
    path.write_text("[]")
    assert read_detections(path) == ([], "")
    path.write_text(json.dumps([row, {**row, "bbox": [1, 2]}]))
    with pytest.raises(DataError, match=r"detections.json: '\[1\].bbox': found 2 numbers, expected 4 numbers"):
        read_detections(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"detections.json: 'json'"):
        read_detections(path)
    with pytest.raises(DataError, match="no such file"):
        read_detections(tmp_path / "none.json")


def test_detections_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    row = {"scene_id": 2, "image_id": 3, "category_id": 5, "score": 0.5, "bbox": [1.5, 2, 3, 4]}
    bad = [{**row, "score": -0.1}, {**row, "bbox": [1, 2, -3, 4]}, {**row, "bbox": [-9, 2, 3, 4]}]
    path.write_text(json.dumps([row, *bad, {**row, "bbox": [1, 2, 3, 0]}]))
    kept, left_out = read_detections(path)
    assert [found.bbox.tolist() for found in kept] == [[1.5, 2, 3, 4]]
    assert left_out == (
        "4 of 5 detections are left out: 1 with a score below 0, 2 with a width or height of 0 or less, "
        "1 with a box outside"
    )
    path.write_text(json.dumps(bad[:2]))
    with pytest.raises(
        DataError, match="'detections': found 2 of 2 detections are left out: 1 with a score below 0, 1"
    ):
        read_detections(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_frame_lists_from_windows(bop_root: Path, encoding: str) -> None:
    (bop_root / "list.txt").write_bytes("000001\\rgb\\000002.jpg\r\n10\r\n".encode(encoding))
    assert [frame.im_id for frame in BopDataset(bop_root, frames="list.txt").frames] == [2, 10]


def test_two_images_of_one_id(bop_root: Path) -> None:
    folder = bop_root / "test" / "000001" / "rgb"
    shutil.copy(folder / "000002.jpg", folder / "000002.png")
    with pytest.raises(DataError, match=r"rgb: '000002': found 000002.jpg and 000002.png, expected one image of each"):
        BopDataset(bop_root)


def test_real_lmo(real_data: Path) -> None:
    dataset = BopDataset(real_data / "lmo")
    assert len(dataset) == 100
    assert sum(len(frame.instances) for frame in dataset.frames) == 756
    assert len(dataset.targets()) == 717
    assert dataset.objects().obj_ids == (1, 5, 6, 8, 9, 10, 11, 12)
    assert [len(symmetries) for symmetries in dataset.objects([6, 10]).symmetries] == [1, 2]
    assert dataset.models_dir.name == "models" and dataset.eval_models_dir.name == "models_eval"
    detections, _ = read_detections(real_data / "lmo" / "detections" / "cosypose_maskrcnn_pbr.json")
    ids = {(frame.scene_id, frame.im_id) for frame in dataset.frames}
    assert len(detections) == 2199 and any((found.scene_id, found.im_id) in ids for found in detections)


def test_real_lm(real_data: Path) -> None:
    root = real_data / "lm"
    train = BopDataset(root, frames=root / "cat_train.txt", obj_ids=[6])
    test = BopDataset(root, frames=root / "cat_test.txt", scenes=[6])
    assert (len(train), len(test)) == (177, 63)
    assert not {frame.im_id for frame in train.frames} & {frame.im_id for frame in test.frames}
    assert train.models_dir == train.eval_models_dir == root / "models_eval"
    assert test.targets() == [Target(6, frame.im_id, 6, 1) for frame in test.frames]
    driller = BopDataset(root, scenes=[8])
    assert driller.frames[0].instances[0].mask is None
    depth = read_depth(driller.frames[0])
    assert 300.0 < np.median(depth[depth > 0]) < 3000.0
