import errno
import multiprocessing
import os
import signal
import time
import warnings

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import read_image
from posedistill.data.packs import build as pack_build
from posedistill.data.packs import object_frames
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import OTHER, ObjectFrames
from posedistill.data.packs.pack import Pack
from posedistill.errors import DataError
from posedistill.geometry.warp import BORDER


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "pack"


def snapshot(pack):
    return np.array(pack.frames), {name: value.tolist() for name, value in vars(pack.instances).items()}


def test_frames_ids_and_annotations(bop_root, folder):
    dataset = BopDataset(bop_root)
    seen = []
    pack = build_pack(ObjectFrames(dataset, [2, 7]), folder, progress=lambda *state: seen.append(state))
    assert pack.frames.shape == (5, 120, 160, 4) and pack.frames.dtype == np.uint8
    assert isinstance(pack.frames, np.memmap)
    assert seen == [(count, 5) for count in range(1, 6)]
    assert len(pack) == sum(i.visib_fract >= 0.1 for frame in dataset.frames for i in frame.instances)
    for index, frame in enumerate(dataset.frames):
        assert np.array_equal(pack.frames[index, ..., :3], read_image(frame.rgb))
    table = pack.instances
    for row in range(len(pack)):
        frame = dataset.frames[table.frame[row]]
        number = table.frame[row]
        assert (str(frame.scene_id), str(frame.rgb)) == (pack.sequences[number], pack.images[number])
        assert pack.sizes[number].tolist() == [120, 160]
        instance = frame.instances[table.slot[row] - 1]
        mask = cv2.imread(str(instance.mask_visib), cv2.IMREAD_UNCHANGED) > 0
        assert np.array_equal(pack.frames[table.frame[row], ..., 3] == table.slot[row], mask)
        np.testing.assert_array_equal(table.R[row], instance.R)
        np.testing.assert_array_equal(table.t[row], instance.t)
        np.testing.assert_array_equal(pack.K[number], frame.K)
        np.testing.assert_array_equal(table.bbox_visib[row], instance.bbox_visib)
        assert table.obj_id[row] == instance.obj_id


def test_other_objects_are_foreground_and_no_instance(bop_root, folder):
    pack = build_pack(ObjectFrames(BopDataset(bop_root), [7]), folder)
    assert set(pack.instances.obj_id) == {7} and len(pack.frames) == 5
    assert set(np.unique(pack.frames[..., 3])) == {0, 2, OTHER}


def test_hidden_and_tiny_instances_stay_out(bop_root, folder, edit_json):
    def hide(content):
        content["0"][0]["visib_fract"] = 0.05

    edit_json(bop_root / "test" / "000001" / "scene_gt_info.json", hide)
    mask = bop_root / "test" / "000001" / "mask_visib" / "000000_000001.png"
    tiny = np.zeros((120, 160), np.uint8)
    tiny[3, 3:12] = 255
    cv2.imwrite(str(mask), tiny)
    table = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).instances
    assert table.slot[table.frame == 0].tolist() == [3]
    assert table.slot[table.frame == 1].tolist() == [1, 2, 3]
    every = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7], min_visible=0.0), folder).instances
    assert every.slot[every.frame == 0].tolist() == [1, 3]


def test_boxes_come_from_the_pixels_where_the_annotation_has_none(bop_root, folder):
    expected = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).instances
    for info in bop_root.glob("test/*/scene_gt_info.json"):
        info.unlink()
    table = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).instances
    np.testing.assert_allclose(table.bbox_visib, expected.bbox_visib, atol=1.01)
    np.testing.assert_allclose(table.bbox_obj, expected.bbox_obj, atol=1.5)
    assert (table.visib_fract == 1).all()


def test_silhouettes_stand_in_for_missing_masks(bop_root, folder):
    with_masks = np.array(build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).frames)
    for mask in bop_root.glob("test/000004/mask_visib/*"):
        mask.unlink()
    with pytest.warns(UserWarning, match="2 frames lack visible masks"):
        pack = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    assert (pack.frames[3:, ..., 3] == with_masks[3:, ..., 3]).mean() > 0.99
    assert np.array_equal(pack.frames[:3], with_masks[:3])


def test_a_model_that_stands_in_for_masks_or_boxes_is_part_of_what_a_pack_is_made_from(bop_root, folder):
    def build():
        calls = []
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder, progress=lambda *state: calls.append(state))
        os.utime(bop_root / "models_eval" / "obj_000002.ply", (len(calls), time.time()))
        return len(calls)

    assert (build(), build()) == (5, 0)
    (bop_root / "test" / "000004" / "scene_gt_info.json").unlink()
    assert (build(), build()) == (5, 5)


def test_frames_of_other_sizes_are_padded(bop_root, folder):
    scene = bop_root / "test" / "000001"
    small = [scene / "rgb" / "000001.jpg", *scene.glob("mask_visib/000001_*.png")]
    for path in small:
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:100, :150])
    pack = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    assert pack.frames.shape == (5, 120, 160, 4)
    assert (pack.frames[1, 100:] == (*BORDER, 0)).all() and (pack.frames[1, :, 150:] == (*BORDER, 0)).all()
    assert not (pack.frames[0, 100:] == (*BORDER, 0)).all()


def test_a_pack_is_built_once_and_rebuilt_on_change(bop_root, folder, edit_json):
    def build(obj_ids=(2, 7)):
        calls = []
        build_pack(ObjectFrames(BopDataset(bop_root), obj_ids), folder, progress=lambda *state: calls.append(state))
        return len(calls)

    assert (build(), build()) == (5, 0)
    image = bop_root / "test" / "000001" / "rgb" / "000001.jpg"
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    assert (build(), build()) == (5, 0)
    assert np.array_equal(Pack.open(folder).frames[1, ..., :3], read_image(image))

    def move(content):
        content["10"][0]["cam_t_m2c"][0] += 1.0

    edit_json(bop_root / "test" / "000004" / "scene_gt.json", move)
    assert (build(), build()) == (5, 0)
    os.utime(bop_root / "test" / "000001" / "mask_visib" / "000000_000000.png")
    assert (build(), build((7, 2)), build((7,))) == (5, 0, 5)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".pack.lock", "pack"]


def test_another_code_version_rebuilds(bop_root, folder, monkeypatch):
    build_pack(ObjectFrames(BopDataset(bop_root), [2]), folder)
    monkeypatch.setattr(pack_build, "VERSION", pack_build.VERSION + 1)
    calls = []
    build_pack(ObjectFrames(BopDataset(bop_root), [2]), folder, progress=lambda *state: calls.append(state))
    assert len(calls) == 5


@pytest.mark.parametrize("fault", ["truncated", "missing", "no image"])
def test_a_damaged_frame_is_named(bop_root, folder, fault):
    image = bop_root / "test" / "000004" / "rgb" / "000011.jpg"
    data = image.read_bytes()
    if fault == "missing":
        image.unlink()
    else:
        image.write_bytes(data[: len(data) // 2] if fault == "truncated" else b"no image at all")
    with pytest.raises(DataError, match=r"000011"):
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    assert not folder.exists()
    image.write_bytes(data)
    assert len(build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).frames) == 5


def test_a_damaged_or_empty_mask_is_named(bop_root, folder):
    mask = bop_root / "test" / "000004" / "mask_visib" / "000010_000001.png"
    cv2.imwrite(str(mask), np.zeros((120, 160), np.uint8))
    with pytest.raises(DataError, match=r"000010_000001\.png.*no pixel set"):
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    cv2.imwrite(str(mask), np.full((60, 80), 255, np.uint8))
    with pytest.raises(DataError, match=r"000010_000001\.png.*size"):
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)


def test_nothing_to_learn_from(bop_root, folder):
    with pytest.raises(DataError, match="none among 5"):
        build_pack(ObjectFrames(BopDataset(bop_root), [3]), folder)


def test_a_full_disk_is_an_error(bop_root, folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DataError, match="No space left"):
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    monkeypatch.undo()
    assert len(build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).frames) == 5


def test_a_broken_off_build_goes_on(bop_root, folder, monkeypatch):
    """After an error in the middle, what was decoded is not decoded again."""
    decoded = []

    def read(path):
        decoded.append(path.name)
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(object_frames, "read_image", read)
    with pytest.raises(KeyboardInterrupt):
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder, workers=1)
    assert not folder.exists()
    before = set(decoded) - {decoded[2]}
    first = len(decoded)
    pack = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder, workers=1)
    assert len(before) >= 2 and not before & set(decoded[first:])
    fresh = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder.with_name("fresh"))
    for one, other in zip(snapshot(pack), snapshot(fresh), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def _build_slowly(root, folder):
    original = object_frames.read_image

    def read(path):
        time.sleep(0.3)
        return original(path)

    object_frames.read_image = read
    pack_build._FLUSH = 1
    build_pack(ObjectFrames(BopDataset(root), [2, 7]), folder, workers=1)


def test_a_killed_build_goes_on(bop_root, folder):
    process = multiprocessing.get_context("spawn").Process(target=_build_slowly, args=(bop_root, folder))
    process.start()
    notes = folder.with_name(".pack.partial") / "done.npy"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (notes.exists() and notes.stat().st_size and np.load(notes).any()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not folder.exists()
    pack = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    fresh = build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder.with_name("fresh"))
    assert np.array_equal(pack.frames, fresh.frames)
    assert snapshot(pack)[1] == snapshot(fresh)[1]


def test_an_unfinished_build_of_other_sources_is_dropped(bop_root, folder):
    partial = folder.with_name(".pack.partial")
    partial.mkdir(parents=True)
    (partial / "fingerprint.json").write_text('"of something else"')
    (partial / "frames.npy").write_bytes(b"rubbish")
    assert len(build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder).frames) == 5


@pytest.mark.parametrize("fault", ["missing", "truncated", "no pack"])
def test_a_damaged_pack_is_named(bop_root, folder, fault):
    if fault != "no pack":
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
    if fault == "missing":
        (folder / "columns.npz").unlink()
    elif fault == "truncated":
        os.truncate(folder / "frames.npy", 1000)
    with pytest.raises(DataError, match="pack"):
        Pack.open(folder)


def test_no_warning_without_cause(bop_root, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_pack(ObjectFrames(BopDataset(bop_root), [2, 7]), folder)
