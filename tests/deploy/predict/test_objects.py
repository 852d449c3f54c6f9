import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.data.images import read_image, write_image
from posedistill.decode import Pose
from posedistill.decode.base import Request
from posedistill.deploy.predict.base import Found, predict_images
from posedistill.deploy.predict.objects import Box, ObjectPresenter, parse_boxes, parse_camera
from posedistill.errors import DataError
from posedistill.geometry.photographs import straight_boxes, undistort
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.threshold import Threshold

K = np.array([[570.0, 0.0, 160.0], [0.0, 570.0, 120.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "000006" / "rgb" / "000012.png", tmp_path / "holiday.jpg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    return paths


def found_in(predictor, photos, boxes=None, K=None, obj_ids=None, out=None) -> list[tuple[int, int, int]]:
    """(scene_id, im_id, obj_id) of every pose."""
    found = predict_images(ObjectPresenter(predictor, boxes, K, obj_ids), photos, out)
    return [(*entry.image_id, pose.label) for entry in found for pose in entry.poses]


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor.from_onnx(exported, threads=1)


def test_writes_overlays_and_csv(predictor, photos, tmp_path):
    boxes = [Box(6, (100.0, 80.0, 60.0, 50.0)), Box(9, (10.0, 20.0, 80.0, 90.0))]
    found = predict_images(ObjectPresenter(predictor, boxes, K), photos, tmp_path / "out")
    ids = [(*entry.image_id, pose.label) for entry in found for pose in entry.poses]
    assert set(ids) <= {(6, 12, 6), (6, 12, 9), (0, 1, 6), (0, 1, 9)} and len(set(ids)) == len(ids) > 0
    table = Poses.from_bop_csv(tmp_path / "out" / "results.csv")
    np.testing.assert_allclose(table.t, [pose.t for entry in found for pose in entry.poses])
    assert list(zip(table.scene_id, table.im_id, table.obj_id, strict=True)) == ids and (table.seconds > 0).all()
    for name in ("000012.png", "holiday.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape == (240, 320, 3)


def test_names_of_pictures_are_written_beside_their_ids(predictor, photos, tmp_path):
    predict_images(ObjectPresenter(predictor, [], K), photos, tmp_path / "out")
    lines = (tmp_path / "out" / "images.csv").read_text().splitlines()
    assert lines == ["scene_id,im_id,image", f"6,12,{photos[0]}", f"0,1,{photos[1]}"]


def test_words_name_the_picture_and_say_where_the_model_is_unsure(predictor, photos):
    record = replace(predictor.record, threshold=Threshold(0.5, 0.9, 0.1, 10, 10))
    presenter = ObjectPresenter(Predictor(predictor.run, predictor.decoder, record=record), [], K)
    poses = [Pose(np.eye(3), np.array([1.0, 2.0, 900.0]), 6, score) for score in (0.9, 0.2)]
    name = photos[1].as_posix()
    sure, unsure = presenter.in_words(Found(photos[1], (0, 1), poses))
    assert sure == f"{name}: cat, score 0.90, at (1, 2, 900) mm"
    assert unsure == f"{name}: cat, score 0.20 (unsure), at (1, 2, 900) mm"
    assert presenter.in_words(Found(photos[1], (0, 1), [])) == [f"{name}: no object found"]
    line = json.loads(json.dumps(presenter.as_json(Found(photos[1], (0, 1), poses))))
    assert line["image"] == name and [entry["unsure"] for entry in line["poses"]] == [False, True]
    assert line["poses"][0]["t"] == [1.0, 2.0, 900.0] and line["poses"][0]["name"] == "cat"


def test_a_video_is_followed_and_drawn_into_a_video(predictor, tmp_path, monkeypatch):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (320, 240))
    for _ in range(3):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    pose = Pose(np.eye(3), np.array([0.0, 0.0, 800.0]), 6, 0.9)
    monkeypatch.setattr("posedistill.runtime.track.search", lambda *_: pose)
    monkeypatch.setattr(predictor, "predict", lambda *_: [pose])
    told = []
    presenter = ObjectPresenter(predictor, None, K, [6], threshold=0.5)
    found = predict_images(presenter, [path], tmp_path / "out", tell=told.append)
    assert told == found and [entry.path for entry in found] == [path / f"{number:06d}" for number in range(3)]
    assert presenter.tracker is not None and [len(entry.poses) for entry in found] == [1, 1, 1]
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0) and drawn.read()[1].max() > 50
    assert len(Poses.from_bop_csv(tmp_path / "out" / "results.csv")) == 3
    photo = tmp_path / "still.png"
    cv2.imwrite(str(photo), np.zeros((240, 320, 3), np.uint8))
    predict_images(presenter, [photo], track=False)
    assert presenter.tracker is None


def test_boxes_by_image(predictor, photos):
    found = found_in(predictor, photos, {(6, 12): [Box(9, (10.0, 20.0, 80.0, 90.0))]}, K)
    assert found == [(6, 12, 9)]


def test_no_camera_takes_the_models_and_says_so_once_for_each_size(predictor, photos, capsys):
    boxes, large = [Box(6, (100.0, 80.0, 60.0, 50.0))], photos[1].with_name("large.png")
    cv2.imwrite(str(large), cv2.resize(cv2.imread(str(photos[1])), (640, 480)))
    assumed = predict_images(ObjectPresenter(predictor, boxes), [*photos, large])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "images of 320x240: no camera given, assuming K = [[286.2" in told[0]
    assert "images of 640x480: no camera given, assuming K = [[572.4" in told[1]
    given = predict_images(ObjectPresenter(predictor, boxes, predictor.decoder.default_K(320, 240)), photos)
    for ours, theirs in zip(assumed, given, strict=False):
        np.testing.assert_allclose(ours.poses[0].t, theirs.poses[0].t)


def test_no_camera_anywhere(predictor, photos):
    bare = Predictor(predictor.run, replace(predictor.decoder, camera=None))
    with pytest.raises(DataError, match=r"000012\.png: .*'K': found no camera"):
        found_in(bare, photos, [])


def test_no_boxes_searches_the_image(predictor, photos, monkeypatch):
    searched = []
    search = "posedistill.deploy.predict.objects.search"
    monkeypatch.setattr(search, lambda predictor, image, K, obj_id, **_: searched.append(obj_id))
    assert found_in(predictor, photos[:1], None, K) == [] and searched == [6, 9]
    searched.clear()
    found_in(predictor, photos[:1], None, K, obj_ids=[9])
    assert searched == [9]


def test_overlay_shows_name_and_every_pose(predictor):
    image = np.zeros((240, 320, 3), np.uint8)
    poses = [Pose(np.eye(3), np.array([x, 0.0, 900.0]), obj_id, 0.9) for obj_id, x in ((6, -100.0), (9, 100.0))]
    drawn = ObjectPresenter(predictor, K=K).picture(image, poses)
    assert drawn[:, :160].any() and drawn[:, 160:].any() and not image.any()


def test_a_missing_image_is_named(predictor, tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: 'image': found no such file"):
        found_in(predictor, [tmp_path / "gone.png"], [], K)


def test_a_damaged_image_loses_no_pose_found_before(predictor, photos, tmp_path):
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:200])
    boxes = [Box(6, (100.0, 80.0, 60.0, 50.0))]
    with pytest.raises(DataError, match=r"cut\.png: 'image': found a file cut off"):
        found_in(predictor, [*photos, tmp_path / "cut.png"], boxes, K, out=tmp_path / "out")
    kept = Poses.from_bop_csv(tmp_path / "out" / "results.csv")
    assert len(kept) == len(found_in(predictor, photos, boxes, K)) > 0


def test_detections_keep_what_comes_near_the_best(tmp_path):
    rows = [(6, 12, 6, 0.8), (6, 12, 6, 0.5), (6, 12, 6, 0.3), (6, 12, 9, 0.2), (6, 13, 6, 0.1)]
    content = [
        {"scene_id": scene, "image_id": im, "category_id": obj, "score": score, "bbox": [1, 2, 3 + score, 4]}
        for scene, im, obj, score in rows
    ]
    content.append({**content[0], "bbox": [1, 2, 0, 4], "score": 9.0})
    (tmp_path / "det.json").write_text(json.dumps(content))
    boxes = parse_boxes(None, tmp_path / "det.json")
    assert [(box.obj_id, round(box.xywh[2] - 3, 1)) for box in boxes[6, 12]] == [(6, 0.8), (6, 0.5), (9, 0.2)]
    assert [box.obj_id for box in boxes[6, 13]] == [6]
    with pytest.raises(DataError, match="found both"):
        parse_boxes(["6:1,2,3,4"], tmp_path / "det.json")


def test_detections_of_other_images_or_objects(predictor, photos):
    with pytest.raises(DataError, match="none of these images"):
        found_in(predictor, photos, {(3, 3): [Box(6, (1.0, 2.0, 3.0, 4.0))]}, K)
    assert found_in(predictor, photos, {(6, 12): [Box(77, (1.0, 2.0, 3.0, 4.0))]}, K) == []


@pytest.mark.parametrize("text", ["6", "6:1,2,3", "6:1,2,3,x", "cat:1,2,3,4", "1,2,3,4"])
def test_bad_box_text(text):
    with pytest.raises(DataError, match="expected obj_id:x,y,w,h"):
        parse_boxes([text], None)


def test_camera_text():
    assert parse_camera("")[0] is None and parse_boxes(None, None) is None and parse_boxes([], None) is None
    np.testing.assert_array_equal(parse_camera("1,2,3,4")[0], [[1, 0, 3], [0, 2, 4], [0, 0, 1]])
    assert parse_camera("1,2,3,4,-0.1,0.2,0,0")[1] == (-0.1, 0.2, 0, 0)


@pytest.mark.parametrize("text", ["500,500", "1,2,3,x", "1,2,3,4,5,6,7,8,9,10", "0,500,3,4", "nan,1,2,3"])
def test_what_is_no_camera(text):
    with pytest.raises(DataError, match="expected fx,fy,cx,cy in pixels, and the lens behind them"):
        parse_camera(text)


def test_a_lens_is_taken_out_of_photographs_and_boxes(predictor, photos, tmp_path):
    """What is found with a lens is what is found in the photograph that a pinhole camera would have taken."""
    lens, box = (-0.2, 0.05, 0.0, 0.0), (100.0, 80.0, 60.0, 50.0)
    K = np.array([[280.0, 0.0, 160.0], [0.0, 280.0, 120.0], [0.0, 0.0, 1.0]])
    image, new_K = undistort(read_image(photos[0]), K, lens)
    write_image(tmp_path / "straight.png", image)
    (bent,) = predict_images(ObjectPresenter(predictor, [Box(6, box)], K, lens=lens), photos[:1], tmp_path / "out")
    moved = straight_boxes(np.array([box]), K, lens, new_K)[0]
    assert np.abs(moved - box).max() > 1
    (straight,) = predict_images(ObjectPresenter(predictor, [Box(6, moved)], new_K), [tmp_path / "straight.png"])
    np.testing.assert_allclose(bent.poses[0].t, straight.poses[0].t, rtol=1e-9)
    np.testing.assert_allclose(bent.poses[0].R, straight.poses[0].R, atol=1e-9)


def test_a_request_with_a_lens_is_refused(predictor, photos):
    request = Request(read_image(photos[0]), K, np.array([[100.0, 80, 60, 50]]), [6], distortion=(-0.2,))
    with pytest.raises(DataError, match=r"'distortion': found \[-0.2\], expected none: geometry.photographs.undistort"):
        next(iter(predictor.predict_many([request])))


def test_a_camera_of_other_pictures_is_told(predictor, photos):
    large = np.array([[3000.0, 0.0, 2015.0], [0.0, 3000.0, 1511.0], [0.0, 0.0, 1.0]])
    with pytest.raises(DataError, match=r"found a camera whose middle is at \(2015, 1511\) for 320x240 pixels"):
        found_in(predictor, photos[:1], [Box(6, (1.0, 2.0, 30.0, 40.0))], large)
