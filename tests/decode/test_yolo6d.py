"""Region maps of whole pictures to poses."""

import numpy as np
import pytest

from posedistill.decode.base import Prepared, RecordFault, Request
from posedistill.decode.yolo6d import YOLO6DDecoder, YOLO6DDecoding, find_objects, read_votes, solve
from posedistill.errors import DataError
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import BOX_POINTS, ObjectTable, box_corners
from posedistill.geometry.pnp import solve_pnp
from posedistill.geometry.rotations import angle_between, random_rotations

K = np.array([[572.4114, 0.0, 325.2611], [0.0, 573.5704, 242.0489], [0.0, 0.0, 1.0]])
HALVES = np.array([[40.0, 30.0, 50.0], [25.0, 45.0, 35.0], [60.0, 20.0, 20.0]])


def make_objects(count: int = 3) -> ObjectTable:
    corners = np.stack([box_corners(-half, half) for half in HALVES[:count]])
    diameters = 2 * np.linalg.norm(HALVES[:count], axis=1)
    return ObjectTable((5, 2, 9)[:count], corners, diameters, (np.eye(4)[None],) * count)


def make_decoder(count: int = 3, size: tuple[int, int] = (416, 544), **settings: object) -> YOLO6DDecoder:
    return YOLO6DDecoder(objects=make_objects(count), size=size, **settings)


def write_vote(
    region: np.ndarray, row: int, column: int, points: np.ndarray, score: float, index: int = 0, anchor: int = 0
) -> None:
    """Let a predictor of a map ``[A, 19 + C, rows, columns]`` vote for points ``[9, 2]`` in cells."""
    offsets = points - [column, row]
    share = np.clip(offsets[0], 1e-4, 1 - 1e-4)
    offsets[0] = np.log(share / (1 - share))
    region[anchor, : 2 * BOX_POINTS, row, column] = offsets.ravel()
    region[anchor, 2 * BOX_POINTS, row, column] = np.log(score / (1 - score))
    region[anchor, 2 * BOX_POINTS + 1 :, row, column] = 0
    region[anchor, 2 * BOX_POINTS + 1 + index, row, column] = 30.0


def silent(decoder: YOLO6DDecoder) -> np.ndarray:
    channels, rows, columns = decoder.outputs["region"]
    region = np.zeros((decoder.anchors, channels // decoder.anchors, rows, columns))
    region[:, 2 * BOX_POINTS] = -9.0
    return region


def draw(decoder: YOLO6DDecoder, poses: list[tuple[int, np.ndarray, np.ndarray]], camera: np.ndarray) -> np.ndarray:
    """The map ``[1, A * (19 + C), rows, columns]`` of a perfect network for (class, R, t)."""
    region = silent(decoder)
    for index, R, t in poses:
        corners = decoder.objects.keypoints[index]
        points = project(np.concatenate([corners.mean(axis=0)[None], corners]), R, t, camera) / decoder.stride
        column, row = np.floor(points[0]).astype(int)
        write_vote(region, row, column, points, 0.9, index)
    return region.reshape(1, *decoder.outputs["region"])


def test_poses_of_several_objects_in_a_picture_that_is_not_square() -> None:
    decoder, rng = make_decoder(), np.random.default_rng(0)
    image = np.zeros((480, 640, 3), np.uint8)
    prepared = decoder.prepare(Request(image, K))
    assert prepared.inputs["images"].shape == (1, 3, 416, 544) and len(prepared) == 1
    places = [(0, -150.0, -80.0, 800.0), (1, 150.0, 60.0, 900.0), (2, 0.0, 0.0, 700.0), (0, 160.0, -120.0, 850.0)]
    truth = [(index, R, np.array(t)) for (index, *t), R in zip(places, random_rotations(4, rng), strict=True)]
    poses = decoder.decode({"region": draw(decoder, truth, prepared.K[0])}, prepared)
    assert sorted(pose.label for pose in poses) == [2, 5, 5, 9]
    for index, R, t in truth:
        label = decoder.objects.obj_ids[index]
        near = min((p for p in poses if p.label == label), key=lambda pose: float(np.linalg.norm(pose.t - t)))
        assert np.rad2deg(angle_between(near.R, R)) < 1e-3 and np.linalg.norm(near.t - t) < 1e-3
        assert near.score == pytest.approx(0.9, abs=1e-3) and near.row == 0
    only = decoder.decode(
        {"region": draw(decoder, truth, prepared.K[0])}, decoder.prepare(Request(image, K, labels=[5]))
    )
    assert [pose.label for pose in only] == [5, 5]


def test_the_published_round_trip() -> None:
    """Nine points of a 0.1 m box at 1 m give the pose back to 1e-6."""
    corners, R, t = (
        box_corners(np.full(3, -50.0), np.full(3, 50.0)),
        random_rotations(1, np.random.default_rng(1))[0],
        [0, 0, 1000],
    )
    points = project(np.concatenate([np.zeros((1, 3)), corners]), R, np.array(t), K)
    found = solve(points[None], np.ones(1), corners, K, 0.2)
    assert found is not None
    np.testing.assert_allclose(found.R, R, atol=1e-6)
    np.testing.assert_allclose(found.t / 1000, [0, 0, 1], atol=1e-6)


def test_flat_objects_stay_before_the_camera() -> None:
    """The published solver gives a box of 8 x 8 x 2 cm with a pixel of noise negative and huge depths."""
    corners, rng = box_corners(np.array([-40.0, -40.0, -10.0]), np.array([40.0, 40.0, 10.0])), np.random.default_rng(2)
    depths = []
    for R in random_rotations(1000, rng):
        t = np.array([rng.uniform(-150, 150), rng.uniform(-100, 100), 1000.0])
        points = project(np.concatenate([np.zeros((1, 3)), corners]), R, t, K) + rng.normal(size=(9, 2))
        found = solve(points[None], np.ones(1), corners, K, 0.2)
        depths.append(np.nan if found is None else found.t[2])
    assert (np.array(depths) > 0).all(), "a pose behind the camera, or none"
    assert np.median(np.abs(np.array(depths) / 1000 - 1)) < 0.05 and max(depths) < 2000 and min(depths) > 500


def noisy_neighbourhood(decoder: YOLO6DDecoder, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nine cells around the centre vote with noise, the middle one with more than its share of it."""
    region = silent(decoder)
    column, row = np.floor(points[0]).astype(int)
    for y in (row - 1, row, row + 1):
        for x in (column - 1, column, column + 1):
            write_vote(
                region,
                y,
                x,
                points + rng.normal(scale=0.06, size=points.shape),
                0.9 if (y, x) == (row, column) else 0.8,
            )
    return region.reshape(1, *decoder.outputs["region"])


@pytest.mark.parametrize("vote", ["neighbourhood", "all"])
def test_the_cells_around_help(vote: str) -> None:
    rng, corners = np.random.default_rng(3), make_objects(1).keypoints[0]
    alone, together = [], []
    for R in random_rotations(40, rng):
        t = np.array([0.0, 0.0, 700.0])
        points = project(np.concatenate([np.zeros((1, 3)), corners]), R, t, K) / 32
        decoder = make_decoder(1, (480, 640), decoding=YOLO6DDecoding(vote=vote))
        prepared = Prepared.of_pictures({"images": np.zeros((1, 3, 480, 640), np.float32)}, K[None])
        region = noisy_neighbourhood(decoder, points, rng)
        (found,) = decoder.decode({"region": region}, prepared)
        single = region.copy()
        single[:, 18][single[:, 18] < 1.5] = -9.0
        (best,) = decoder.decode({"region": single}, prepared)
        together.append(np.linalg.norm(found.t - t))
        alone.append(np.linalg.norm(best.t - t))
    assert np.mean(together) < 0.7 * np.mean(alone)


def test_instances_side_by_side_are_told_apart_and_votes_for_one_are_not() -> None:
    decoder = make_decoder(1, (416, 416))
    region, box = silent(decoder), project(make_objects(1).keypoints[0], np.eye(3), np.array([0, 0, 700.0]), K) / 32
    points = np.concatenate([box.mean(axis=0)[None], box]) - box.mean(axis=0)
    for column, x, score in ((3, 3.5, 0.9), (4, 4.1, 0.8), (7, 7.5, 0.7)):
        write_vote(region, 6, column, points + np.array([x, 6.5]), score)
    votes = read_votes(region.reshape(decoder.outputs["region"]), 1, np.array([0]), np.empty(0, np.int64), 0.1)
    found = find_objects(votes, YOLO6DDecoding())
    assert votes.scores[found.best].round(6).tolist() == [0.9, 0.7]
    assert (found.weights > 0).sum(axis=1).tolist() == [2, 1]


def test_nothing_is_found_where_nothing_is_confident_unless_it_is_known_to_be_there() -> None:
    decoder, image = make_decoder(2, (416, 416)), np.zeros((480, 640, 3), np.uint8)
    prepared = decoder.prepare(Request(image, K))
    region = draw(decoder, [(1, np.eye(3), np.array([0.0, 0.0, 800.0]))], prepared.K[0])
    weak = region.copy()
    weak[:, 18][weak[:, 18] > 0] = -4.0
    assert decoder.decode({"region": weak}, prepared) == []
    (found,) = decoder.decode({"region": weak}, decoder.prepare(Request(image, K, labels=[2, 2])))
    assert found.label == 2 and found.score < 0.1 and np.linalg.norm(found.t - [0, 0, 800]) < 1e-3
    assert decoder.decode({"region": region}, prepared)[0].score > 0.8


def test_votes_of_several_predictors_a_cell_and_of_classes() -> None:
    decoder = make_decoder(3, (416, 416), anchors=2)
    region, points = silent(decoder), np.random.default_rng(0).uniform(3, 5, (9, 2))
    points[0] = [4.5, 4.25]
    write_vote(region, 4, 4, points.copy(), 0.9, 2, anchor=1)
    write_vote(region, 4, 4, points + 1.5, 0.8, 1, anchor=0)
    flat = region.reshape(decoder.outputs["region"])
    votes = read_votes(flat, 3, np.arange(3), np.empty(0, np.int64), 0.1)
    assert votes.classes.tolist() == [2, 1] and votes.cells.tolist() == [[4, 4], [4, 4]]
    np.testing.assert_allclose(votes.points[0], points, atol=1e-6)
    np.testing.assert_allclose(votes.scores, [0.9, 0.8], atol=1e-6)
    assert read_votes(flat, 3, np.array([1]), np.empty(0, np.int64), 0.1).scores.round(6).tolist() == [0.8]


def sure_everywhere(decoder: YOLO6DDecoder, rng: np.random.Generator) -> np.ndarray:
    """The map ``[A, 19 + C, rows, columns]`` of a barely trained network: all predictors vote, each for another box."""
    region = rng.normal(size=silent(decoder).shape)
    region[:, 2 * BOX_POINTS] = rng.uniform(-1, 0, region[:, 2 * BOX_POINTS].shape)
    return region


@pytest.mark.parametrize("vote", ["neighbourhood", "all"])
@pytest.mark.parametrize("solved", [True, False], ids=["solved", "no pose in any"])
def test_a_network_that_is_sure_of_every_cell_costs_100_pnps_a_picture(
    vote: str, solved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(3, (480, 640), decoding=YOLO6DDecoding(vote=vote))
    calls = []

    def counted(*args: object) -> object:
        calls.append(args)
        return solve_pnp(*args) if solved else None

    monkeypatch.setattr("posedistill.decode.yolo6d.solve_pnp", counted)
    region = sure_everywhere(decoder, np.random.default_rng(0)).reshape(1, *decoder.outputs["region"])
    poses = decoder.decode({"region": region}, decoder.prepare(decoder.example()[0]))
    assert len(calls) == 100 == YOLO6DDecoding().most and len(poses) <= 100 * solved


def test_true_instances_are_found_in_a_grid_that_is_sure_everywhere() -> None:
    decoder, rng = make_decoder(3, (416, 544), decoding=YOLO6DDecoding(most=4)), np.random.default_rng(0)
    prepared = decoder.prepare(Request(np.zeros((480, 640, 3), np.uint8), K))
    places = [(0, -150.0, -80.0, 800.0), (1, 150.0, 60.0, 900.0), (2, 0.0, 0.0, 700.0), (0, 160.0, -120.0, 850.0)]
    truth = [(index, R, np.array(t)) for (index, *t), R in zip(places, random_rotations(4, rng), strict=True)]
    perfect = draw(decoder, truth, prepared.K[0])
    region = sure_everywhere(decoder, rng).reshape(perfect.shape)
    region = np.where(perfect[:, 2 * BOX_POINTS, None] > 0, perfect, region)
    poses = decoder.decode({"region": region}, prepared)
    assert sorted(pose.label for pose in poses) == [2, 5, 5, 9]
    for index, R, t in truth:
        near = min(poses, key=lambda pose: float(np.linalg.norm(pose.t - t)))
        assert near.label == decoder.objects.obj_ids[index] and np.linalg.norm(near.t - t) < 1e-3
        assert np.rad2deg(angle_between(near.R, R)) < 1e-3


def test_a_known_object_is_not_crowded_out_by_surer_votes_for_another() -> None:
    decoder = make_decoder(3, (416, 544), anchors=3, decoding=YOLO6DDecoding(most=2))
    region = sure_everywhere(decoder, np.random.default_rng(0))
    region[:, 2 * BOX_POINTS + 1] = 20.0  # all 663 predictors are for object 5
    prepared = decoder.prepare(Request(np.zeros((480, 640, 3), np.uint8), K, labels=[5, 9]))
    poses = decoder.decode({"region": region.reshape(1, *decoder.outputs["region"])}, prepared)
    assert [pose.label for pose in poses] == [5, 9] and poses[1].score < 1e-6


def test_pictures_of_a_batch_keep_their_rows() -> None:
    decoder = make_decoder(1, (416, 416))
    pictures = Prepared.of_pictures({"images": np.zeros((3, 3, 416, 416), np.float32)}, np.stack([K] * 3))
    region = np.concatenate([draw(decoder, poses, K) for poses in ([], [(0, np.eye(3), np.array([0, 0, 900.0]))], [])])
    assert [pose.row for pose in decoder.decode({"region": region}, pictures)] == [1]


def test_stand_in_shows_every_object() -> None:
    decoder = YOLO6DDecoder(objects=ObjectTable.of_cubes(range(1, 9)), size=(416, 416))
    prepared = decoder.prepare(decoder.example()[0])
    poses = decoder.decode(decoder.stand_in(prepared), prepared)
    assert sorted(pose.label for pose in poses) == list(range(1, 9))
    assert len(decoder.example(3)) == 3


def test_a_record_is_read_back() -> None:
    decoder = make_decoder(2, (416, 320), anchors=5, decoding=YOLO6DDecoding(vote="all", score_threshold=0.3))
    again = YOLO6DDecoder.from_record(*decoder.record())
    assert again.record()[0] == decoder.record()[0] and again.outputs == {"region": (5 * 21, 13, 10)}
    section, tables = decoder.record()
    with pytest.raises(RecordFault, match="'size'"):
        YOLO6DDecoder.from_record(section | {"size": [416, 320, 3]}, tables)


@pytest.mark.parametrize(("key", "changed"), [("size", {"size": (416, 400)}), ("anchors", {"anchors": 0})])
def test_values_that_cannot_be_are_refused(key: str, changed: dict[str, object]) -> None:
    with pytest.raises(RecordFault, match=f"'{key}'"):
        YOLO6DDecoder(objects=make_objects(), **{"size": (416, 416)} | changed)


@pytest.mark.parametrize(
    ("told", "request_"),
    [
        ("no camera", Request(np.zeros((480, 640, 3), np.uint8))),
        ("'K'", Request(np.zeros((480, 640, 3), np.uint8), np.diag([0.0, 1.0, 1.0]))),
        ("'image'", Request(np.zeros((480, 640), np.uint8), K)),
        ("77", Request(np.zeros((480, 640, 3), np.uint8), K, labels=[77])),
    ],
)
def test_requests_that_cannot_be_met_are_refused(told: str, request_: Request) -> None:
    with pytest.raises(DataError, match=told):
        make_decoder().prepare(request_)


def test_a_picture_of_the_votes_shows_sure_cells_and_corners() -> None:
    decoder, image = make_decoder(1, (416, 544)), np.full((480, 640, 3), 90, np.uint8)
    prepared = decoder.prepare(Request(image, K))
    R, t = np.eye(3), np.array([100.0, 0.0, 800.0])
    region = draw(decoder, [(0, R, t)], prepared.K[0])
    drawn = decoder.explain(image, {"region": region}, prepared)
    assert drawn.shape == image.shape and (image == 90).all()
    changed = (drawn != 90).any(axis=2)
    for x, y in project(decoder.objects.keypoints[0], R, t, K).round().astype(int):
        assert changed[y, x], "a corner's vote"
    x, y = project(np.zeros((1, 3)), R, t, K)[0]
    cell = int(y // (480 / 13)), int(x // (640 / 17))
    rows, columns = (
        slice(int(c * size) + 1, int((c + 1) * size)) for c, size in zip(cell, (480 / 13, 640 / 17), strict=True)
    )
    assert changed[rows, columns].mean() > 0.9 and not changed[:100, :100].any()


def test_the_boxes_that_the_network_says_itself_are_pixels_of_the_image() -> None:
    """Of each object as many as are asked for, the surest ones, whatever the picture's shape."""
    decoder, image = make_decoder(), np.zeros((480, 640, 3), np.uint8)
    prepared = decoder.prepare(Request(image, K, labels=[5, 9, 5]))
    places = [(0, -150.0, -80.0, 800.0), (1, 150.0, 60.0, 900.0), (2, 0.0, 0.0, 700.0), (0, 160.0, -120.0, 850.0)]
    truth = [(index, np.eye(3), np.array(t)) for index, *t in places]
    found = decoder.boxes_seen(image, {"region": draw(decoder, truth, prepared.K[0])}, prepared)
    assert sorted(label for label, _ in found) == [5, 5, 9]
    corners = decoder.objects.keypoints
    true = [project(np.concatenate([np.zeros((1, 3)), corners[index]]), R, t, K) for index, R, t in truth]
    for label, box in found:
        near = min(np.abs(box - points).max() for points, (index, *_) in zip(true, places, strict=True) if index != 1)
        assert near < 0.01, label
    (one,) = decoder.boxes_seen(
        image, {"region": draw(decoder, truth, prepared.K[0])}, decoder.prepare(Request(image, K, labels=[5]))
    )
    assert one[0] == 5
