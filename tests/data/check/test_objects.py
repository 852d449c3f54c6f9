import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from posedistill.data.check.dataset import check_dataset
from posedistill.data.check.frame import box_iou
from posedistill.data.check.report import SHOWN
from posedistill.data.faults import FaultKind
from posedistill.data.formats.bop_writer import BopWriter
from posedistill.data.images import read_image, read_mask
from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh, save_ply

Edit = Callable[[Path, Callable[[Any], Any]], None]
SCENE, MODELS = "test/000001", "models_eval"


def test_a_sound_data_set_has_no_faults(bop_root: Path) -> None:
    report = check_dataset(bop_root)
    assert report.ok, str(report)
    split = report.splits["test"]
    assert (split.head, split.frames, split.checked) == ("2 scenes", 5, 5)
    assert split.sizes == {"160x120": 5}
    assert split.lines[0] == "15 instances, per object  2: 10, 7: 5"
    tenths = [int(count) for count in split.lines[1].removeprefix("visible share, tenths  ").split()]
    assert sum(tenths) == 15 and tenths[-1] >= 10
    assert str(report).endswith("no faults found")


def _scale_model(root: Path) -> None:
    path = root / MODELS / "obj_000002.ply"
    header, body = path.read_bytes().split(b"end_header\n")
    vertices = np.frombuffer(body[: 8 * 27], dtype=np.uint8).reshape(8, 27).copy()
    places = vertices[:, :12].copy().view("<f4") / 1000
    vertices[:, :12] = places.astype("<f4").view(np.uint8)
    path.write_bytes(header + b"end_header\n" + vertices.tobytes() + body[8 * 27 :])


def _change(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / file).read_text())
        change(content)
        (root / file).write_text(json.dumps(content))

    return apply


def _cut(file: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: len(data) // 2])

    return apply


def _draw(file: str, draw: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        cv2.imwrite(str(root / file), draw(cv2.imread(str(root / file), cv2.IMREAD_UNCHANGED)))

    return apply


def _translate(factor: float) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        content["0"][1]["cam_t_m2c"] = [value * factor for value in content["0"][1]["cam_t_m2c"]]

    return change


FAULTS: dict[FaultKind, tuple[Callable[[Path], Any], str]] = {
    FaultKind.JSON: (lambda root: (root / SCENE / "scene_gt_info.json").write_text("{"), "scene_gt_info.json: 'json'"),
    FaultKind.MISSING_KEY: (_change(f"{SCENE}/scene_gt.json", lambda c: c["0"][0].pop("obj_id")), "'0[0].obj_id'"),
    FaultKind.WRONG_COUNT: (
        _change(f"{SCENE}/scene_camera.json", lambda c: c["0"].update(cam_K=[1.0])),
        "'0.cam_K': found 1 numbers",
    ),
    FaultKind.ROTATION: (
        _change(f"{SCENE}/scene_gt.json", lambda c: c["0"][0].update(cam_R_m2c=[0.0] * 9)),
        "'0[0].cam_R_m2c'",
    ),
    FaultKind.CAMERA: (
        _change(f"{SCENE}/scene_camera.json", lambda c: c["0"].update(cam_K=[0.0] * 9)),
        "expected focal lengths",
    ),
    FaultKind.INFO_LENGTH: (_change(f"{SCENE}/scene_gt_info.json", lambda c: c.pop("1")), "'1': found no list"),
    FaultKind.UNKNOWN_OBJECT: (
        _change(f"{MODELS}/models_info.json", lambda c: c.pop("2")),
        "'obj_id': found 2, 6 times, expected one of [7]",
    ),
    FaultKind.MISSING_FOLDER: (lambda root: shutil.rmtree(root / SCENE / "rgb"), "'rgb': found no such folder"),
    FaultKind.MISSING_IMAGE: (lambda root: (root / SCENE / "rgb/000001.jpg").unlink(), "000001.png: 'image'"),
    FaultKind.DAMAGED_IMAGE: (_cut(f"{SCENE}/rgb/000001.jpg"), "000001.jpg: 'image': found a file cut off"),
    FaultKind.IMAGE_SIZE: (
        _draw(f"{SCENE}/mask/000002_000000.png", lambda mask: mask[:100]),
        "000002_000000.png: 'size': found 160x100, expected 160x120",
    ),
    FaultKind.DUPLICATE_FRAME: (
        lambda root: shutil.copy(root / "test/000004/rgb/000010.jpg", root / SCENE / "rgb/000002.jpg"),
        "000010.jpg: 'image': found the pixels of",
    ),
    FaultKind.SAME_ID: (
        lambda root: shutil.copy(root / SCENE / "rgb/000001.jpg", root / SCENE / "rgb/1.JPG"),
        "'1': found 000001.jpg and 1.JPG, expected one image of each id",
    ),
    FaultKind.NO_CAMERA: (_change(f"{SCENE}/scene_camera.json", lambda c: c.pop("2")), "'2': found no camera of"),
    FaultKind.NO_ANNOTATION: (_change(f"{SCENE}/scene_gt.json", lambda c: c.pop("2")), "'2': found no entry"),
    FaultKind.UNITS: (_change(f"{SCENE}/scene_gt.json", _translate(0.001)), "'0.object 7.cam_t_m2c'"),
    FaultKind.BEHIND_CAMERA: (_change(f"{SCENE}/scene_gt.json", _translate(-1.0)), "'0.object 7.cam_t_m2c'"),
    FaultKind.BOX: (
        _change(f"{SCENE}/scene_gt_info.json", lambda c: c["1"][2].update(bbox_obj=[5, 5, 30, 20])),
        "'1.object 2.bbox_obj': found [5, 5, 30, 20], IoU 0.00",
    ),
    FaultKind.VISIBLE_BOX: (
        _change(f"{SCENE}/scene_gt_info.json", lambda c: c["1"][2].update(bbox_visib=[5, 5, 30, 20])),
        "'1.object 2.bbox_visib'",
    ),
    FaultKind.MISSING_MASK: (lambda root: (root / SCENE / "mask/000001_000001.png").unlink(), "000001_000001.png"),
    FaultKind.EMPTY_MASK: (_draw(f"{SCENE}/mask_visib/000001_000001.png", lambda m: m * 0), "found no pixel set"),
    FaultKind.MASK: (_draw(f"{SCENE}/mask/000001_000001.png", lambda m: np.roll(m, 30, axis=0)), "the projected model"),
    FaultKind.DEPTH: (
        _change(f"{SCENE}/scene_camera.json", lambda c: c["1"].update(depth_scale=1.0)),
        "(depth_scale 1)",
    ),
    FaultKind.MODEL_FILE: (_cut(f"{MODELS}/obj_000007.ply"), "obj_000007.ply"),
    FaultKind.MODEL_UNITS: (_scale_model, "'diameter': found 0.0781, expected 2 to 20000 (millimetres)"),
    FaultKind.MODEL_INFO: (
        _change(f"{MODELS}/models_info.json", lambda c: c["7"].update(diameter=900.0)),
        "'7.diameter': found 900, expected 91.1 as the mesh obj_000007.ply has",
    ),
    FaultKind.TARGET: (
        lambda root: (root / "test_targets_bop19.json").write_text(
            '[{"scene_id": 1, "im_id": 77, "obj_id": 2, "inst_count": 1}]'
        ),
        "'scene 1, image 77': found no such image",
    ),
}


def test_pixels_that_may_mean_something_else_are_told(bop_root: Path) -> None:
    """12 bits in 16-bit files, a photograph that viewers turn; and 14 bits, which come out dark."""
    folder = bop_root / "test" / "000004" / "rgb"
    image = read_image(folder / "000010.jpg")
    (folder / "000010.jpg").unlink()
    cv2.imwrite(str(folder / "000010.png"), image.astype(np.uint16) * 16)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(image[::-1]).save(folder / "000011.jpg", exif=exif)
    report = check_dataset(bop_root)
    turned, wide = report.warnings
    assert report.ok and turned.endswith(
        "'EXIF orientation': found 1 images that viewers turn (first: 000011.jpg), expected none, for pixels are read "
        "as they are stored"
    )
    assert "'16-bit images': found 1 that hold 12 bits (first: 000010.png), expected" in wide
    cv2.imwrite(str(folder / "000010.png"), image.astype(np.uint16) * 64)
    assert (
        "found 1 that hold 16 bits (first: 000010.png), of which none passes 1" in check_dataset(bop_root).warnings[1]
    )


def test_each_kind_of_fault_has_a_case() -> None:
    of_scenes = {FaultKind.POSE, FaultKind.SPLIT, FaultKind.CAMERA_MODEL, FaultKind.NO_POSE, FaultKind.SCENE_FILE}
    of_labels = {FaultKind.LABEL, FaultKind.DATA_FILE}
    assert set(FAULTS) == set(FaultKind) - of_scenes - of_labels


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.name)
def test_each_fault_is_found_and_named(bop_root: Path, kind: FaultKind) -> None:
    damage, message = FAULTS[kind]
    damage(bop_root)
    report = check_dataset(bop_root)
    assert not report.ok
    assert kind in report.counts, str(report)
    assert any(message in found for found in report.messages[kind]), report.messages[kind]
    assert kind.value in str(report)


def test_all_faults_are_counted_not_only_the_first(bop_root: Path, edit_json: Edit) -> None:
    (bop_root / SCENE / "rgb" / "000000.jpg").unlink()
    _cut("test/000004/rgb/000010.jpg")(bop_root)
    _cut("test/000004/rgb/000011.jpg")(bop_root)

    def shift(content: Any) -> None:
        for infos in content.values():
            for info in infos:
                info["bbox_obj"][0] += 60

    edit_json(bop_root / SCENE / "scene_gt_info.json", shift)
    edit_json(bop_root / "test" / "000004" / "scene_gt.json", lambda c: c["10"][2].update(cam_R_m2c=[2.0] * 9))
    report = check_dataset(bop_root)
    assert report.counts[FaultKind.MISSING_IMAGE] == 1
    assert report.counts[FaultKind.DAMAGED_IMAGE] == 2
    assert report.counts[FaultKind.ROTATION] == 1
    assert report.counts[FaultKind.BOX] == 9 and len(report.messages[FaultKind.BOX]) == SHOWN
    assert "... and 4 more" in str(report)


def test_one_fault_makes_one_report(bop_root: Path) -> None:
    kinds = "DAMAGED_IMAGE MISSING_IMAGE ROTATION CAMERA NO_CAMERA NO_ANNOTATION EMPTY_MASK TARGET MODEL_UNITS UNITS"
    for kind in (FaultKind[name] for name in kinds.split()):
        copy = Path(shutil.copytree(bop_root, bop_root.with_name(kind.name)))
        FAULTS[kind][0](copy)
        assert check_dataset(copy).counts == {kind: 1}


def test_a_texture_that_is_missing_is_a_fault(bop_root: Path, edit_json: Edit) -> None:
    """And the model's shape is there to check poses by."""
    path = bop_root / "models_eval" / "obj_000007.ply"
    mesh, picture = load_mesh(path), np.zeros((2, 2, 3), np.uint8)
    save_ply(dataclasses.replace(mesh, colors=None, uv=mesh.vertices[:, :2], texture=picture), path)
    assert check_dataset(bop_root).ok
    path.with_suffix(".png").unlink()
    edit_json(bop_root / "test" / "000001" / "scene_gt.json", lambda gt: gt["0"][1].update(cam_t_m2c=[0, 0, 0.6]))
    report = check_dataset(bop_root)
    assert report.counts == {FaultKind.MODEL_FILE: 1, FaultKind.UNITS: 1}
    assert "'TextureFile': found obj_000007.png, which does not exist" in report.messages[FaultKind.MODEL_FILE][0]


def test_objects_cut_by_the_border_are_no_fault(tmp_path: Path, bop_root: Path) -> None:
    from posedistill.geometry.cameras import project

    mesh, K = load_mesh(bop_root / MODELS / "obj_000002.ply"), np.array([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]])
    writer = BopWriter(bop_root, "edge")
    for im_id, t in enumerate(
        np.array([[-160.0, 0, 600], [0, 120, 600], [150, -110, 600], [0, 0, 130], [900, 0, 600]])
    ):
        R = cv2.Rodrigues(np.array([0.5, 0.7, 0.3]) * (im_id + 1))[0]
        hull = cv2.convexHull(project(mesh.vertices, R, t, K).astype(np.float32))
        mask = cv2.fillConvexPoly(np.zeros((120, 160), np.uint8), np.rint(hull).astype(np.int32), 1).astype(bool)
        image = np.full((120, 160, 3), 50 * im_id, dtype=np.uint8)
        writer.add_frame(0, im_id, image, K, [(2, R, t)], None, [mask], [mask])
    writer.finish_scene(0)
    report = check_dataset(bop_root, split="edge")
    assert report.ok, str(report)


def test_rendered_and_test_images_are_compared(bop_root: Path) -> None:
    shutil.copytree(bop_root / "test", bop_root / "train")
    report = check_dataset(bop_root)
    assert set(report.splits) == {"test", "train"}
    assert report.counts == {FaultKind.DUPLICATE_FRAME: 5}, "training frames that are test frames"
    (bop_root / "test_targets_bop19.json").write_text('[{"scene_id": 1, "im_id": 77, "obj_id": 2, "inst_count": 1}]')
    assert check_dataset(bop_root, split="train").ok, "targets are those of the test split"


def test_targets_of_what_is_not_there(bop_root: Path) -> None:
    sound = {"scene_id": 1, "im_id": 0, "obj_id": 2, "inst_count": 2}
    rows = [sound, {**sound, "im_id": 5}, {**sound, "inst_count": 3}, {**sound, "obj_id": 9}, {"scene_id": 1}]
    (bop_root / "test_targets_bop19.json").write_text(json.dumps(rows))
    report = check_dataset(bop_root)
    assert report.counts == {FaultKind.MISSING_KEY: 3, FaultKind.TARGET: 3}
    assert any("found 3 of object 2, expected 2 as annotated" in text for text in report.messages[FaultKind.TARGET])


def test_a_limit_that_looks_at_nothing(bop_root: Path) -> None:
    with pytest.raises(DataError, match="boxes: 'limit': found 0, expected at least 1 frame"):
        check_dataset(bop_root, limit=0)


def test_limit_decodes_fewer_files_and_checks_all_annotations(bop_root: Path, edit_json: Edit) -> None:
    for path in (bop_root / SCENE / "rgb").iterdir():
        path.write_bytes(b"")
    for info in bop_root.glob("test/*/scene_gt_info.json"):
        edit_json(info, lambda c: [infos[0].update(bbox_obj=[0, 0, 9, 9]) for infos in c.values()])
    seen: list[tuple[int, int]] = []
    report = check_dataset(bop_root, limit=2, progress=lambda done, total: seen.append((done, total)))
    assert report.splits["test"].checked == 2
    assert report.counts[FaultKind.DAMAGED_IMAGE] == 1
    assert report.counts[FaultKind.BOX] == 5
    assert seen == [(done, 5) for done in range(1, 6)]


def test_sets_without_masks_info_models_or_annotations(bop_root: Path) -> None:
    for scene in (bop_root / "test").iterdir():
        for folder in ("mask", "mask_visib", "depth"):
            shutil.rmtree(scene / folder)
        (scene / "scene_gt_info.json").unlink()
    assert check_dataset(bop_root).ok
    for scene in (bop_root / "test").iterdir():
        (scene / "scene_gt.json").unlink()
    shutil.rmtree(bop_root / MODELS)
    report = check_dataset(bop_root)
    assert report.ok and "no annotations" in str(report)


def test_overlay_shows_the_models(bop_root: Path, tmp_path: Path) -> None:
    report = check_dataset(bop_root, overlay=tmp_path / "sheet.png")
    assert report.overlay == tmp_path / "sheet.png"
    sheet = read_image(tmp_path / "sheet.png")
    assert sheet.shape[1] == 3 * 640 and sheet.shape[0] == 2 * (480 + 24)
    photo = cv2.resize(read_image(bop_root / SCENE / "rgb" / "000000.jpg"), (640, 480)).astype(int)
    changed = np.abs(sheet[24:504, :640].astype(int) - photo).max(axis=2) > 60
    mask = cv2.resize(read_mask(bop_root / SCENE / "mask" / "000000_000001.png").astype(np.uint8), (640, 480))
    rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)).astype(bool)
    far = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=60) == 0
    assert changed[rim].mean() > 0.3, "the contour is drawn along the mask's rim"
    assert changed[far & (np.arange(640) > 300) & (np.arange(640) < 330)].mean() < 0.2


def test_overlay_puts_faulty_frames_first(bop_root: Path, tmp_path: Path) -> None:
    (bop_root / "test" / "000004" / "rgb" / "000011.jpg").write_bytes(b"")
    check_dataset(bop_root, overlay=tmp_path / "sheet.jpg")
    title = read_image(tmp_path / "sheet.jpg")[4, 300]
    assert title[0] > 2 * title[1].astype(int), "a red title"
    with pytest.raises(DataError, match=r"an ending '\.xyz', expected a picture as png, jpg"):
        check_dataset(bop_root, overlay=tmp_path / "sheet.xyz")


def test_overlay_survives_absurd_annotations(bop_root: Path, tmp_path: Path) -> None:
    for name, key, value in (
        ("scene_gt.json", "cam_t_m2c", [1e300, 0.0, 2.0]),
        ("scene_gt_info.json", "bbox_obj", [-1e15, 5, 3e15, 1e300]),
    ):
        path = bop_root / SCENE / name
        content = json.loads(path.read_text())
        content["0"][0][key] = value
        path.write_text(json.dumps(content))
    report = check_dataset(bop_root, overlay=tmp_path / "sheet.jpg")
    assert not report.ok and (tmp_path / "sheet.jpg").is_file()


def test_an_overlay_of_no_known_ending_is_refused_before_anything_is_read(bop_root: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(DataError, match="for an ending '', expected a picture"):
        check_dataset(bop_root, overlay=tmp_path / "sheet", progress=lambda done, _: seen.append(done))
    assert not seen


def test_render_prints_the_report(bop_root: Path) -> None:
    (bop_root / SCENE / "rgb" / "000001.jpg").unlink()
    console = Console(record=True, width=60, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    report = check_dataset(bop_root)
    report.render(console)
    assert console.export_text().strip() == str(report).strip()


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no such folder"):
        check_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="no folder with numbered scenes"):
        check_dataset(tmp_path)
    with pytest.raises(DataError, match="'val'"):
        check_dataset(tmp_path, split="val")


def test_box_iou() -> None:
    box = np.array([0.0, 0.0, 10.0, 10.0])
    assert box_iou(box, box) == pytest.approx(1.0)
    assert box_iou(box, box + np.array([5.0, 0.0, 0.0, 0.0])) == pytest.approx(1 / 3)
    assert box_iou(box, box + np.array([20.0, 0.0, 0.0, 0.0])) == 0.0


@pytest.mark.parametrize(("name", "frames", "instances"), [("lmo", 100, 756), ("lm", 250, 250)])
def test_real_data_sets_are_sound(real_data: Path, name: str, frames: int, instances: int) -> None:
    report = check_dataset(real_data / name, limit=40)
    assert report.ok, str(report)
    assert report.splits["test"].frames == frames
    assert report.splits["test"].lines[0].startswith(f"{instances} instances")


def test_a_real_data_set_in_metres(real_data: Path, tmp_path: Path) -> None:
    """LM-O with its translations divided by 1000: nothing else may be blamed."""
    root = Path(shutil.copytree(real_data / "lmo" / "models_eval", tmp_path / "models_eval")).parent
    scene = root / "test" / "000002"
    scene.mkdir(parents=True)
    source = real_data / "lmo" / "test" / "000002"
    (scene / "rgb").symlink_to(source / "rgb")
    shutil.copy(source / "scene_camera.json", scene)
    content = json.loads((source / "scene_gt.json").read_text())
    for instances in content.values():
        for instance in instances:
            instance["cam_t_m2c"] = [value / 1000 for value in instance["cam_t_m2c"]]
    (scene / "scene_gt.json").write_text(json.dumps(content))
    assert check_dataset(root, limit=4).counts == {FaultKind.UNITS: 756}
