"""6D detection: the vectorised scores against a reference written as the definition reads, estimate by estimate."""

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
from posedistill.geometry.rotations import axis_angle, random_rotations
from posedistill.metrics import load_scoring_models
from posedistill.metrics.detection import average_precision, score_detections
from posedistill.metrics.pose_errors import bounded_mspd, bounded_mssd, mspd, mssd
from posedistill.poses import Poses

from .conftest import INFOS, WIDTH, K, estimates_of, write_dataset

HIDDEN = 0.1


def error_of(models, name, obj_id, estimate, truth):
    model = models[obj_id]
    poses = [np.asarray(value)[None] for value in (*estimate, *truth)]
    if name == "MSSD":
        return float(mssd(*poses, model.mesh.vertices, model.symmetries)[0]) / INFOS[obj_id]["diameter"]
    return float(mspd(*poses, model.mesh.vertices, model.symmetries, K[None])[0]) * 640 / WIDTH


def reference(rows, frames, visib, models, everywhere=False):
    """Rows (im_id, obj_id, score, R, t), frames im_id -> (obj_id, R, t), visible shares by (im_id, place)."""
    kept = []
    for im_id in frames:
        kept += sorted((row for row in rows if row[0] == im_id), key=lambda row: -row[2])[:100]
    thresholds = {"MSSD": [0.05 * i for i in range(1, 11)], "MSPD": [5.0 * i for i in range(1, 11)]}
    precisions = {name: [] for name in thresholds}
    visible = {(im_id, place) for im_id, truths in frames.items() for place in range(len(truths))
               if visib.get((im_id, place), 1.0) >= HIDDEN}  # fmt: skip
    objects = {frames[im_id][place][0] for im_id, place in visible}
    for name, limits in thresholds.items():
        for obj_id in sorted(objects):
            for limit in limits:
                precisions[name].append(_precision(kept, frames, visible, models, everywhere, name, obj_id, limit))
    return {name: float(np.mean(values)) for name, values in precisions.items()}


def _precision(kept, frames, visible, models, everywhere, name, obj_id, limit):
    own = sorted((row for row in kept if row[1] == obj_id), key=lambda row: -row[2])
    sought = sum(frames[im_id][place][0] == obj_id for im_id, place in visible)
    taken, true, false, points = set(), 0, 0, []
    for im_id, _, _, R, t in own:
        truths = [(place, truth) for place, truth in enumerate(frames[im_id]) if truth[0] == obj_id]
        if not truths and not everywhere:
            continue
        best, smallest = None, limit
        for place, (_, R_true, t_true) in truths:
            error = error_of(models, name, obj_id, (R, t), (R_true, t_true))
            if (im_id, place) not in taken and error < smallest:
                best, smallest = (im_id, place), error
        if best is None:
            false += 1
        else:
            taken.add(best)
            if best not in visible:
                continue
            true += 1
        points.append((true / sought, true / (true + false)))
    read = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(read))


def random_case(seed, per_image=12, ties=False):
    """Several instances of both objects in some images, some hidden; estimates near, twice, far, of what is absent."""
    rng = np.random.default_rng(seed)
    frames, visib, rows = {}, {}, []
    for im_id in (1, 2, 3, 5, 8):
        present = [1, 2] if im_id % 2 else [1 + im_id // 2 % 2]
        frames[im_id] = [
            (obj_id, random_rotations(1, rng)[0], rng.uniform([-80, -60, 450], [80, 60, 700]))
            for obj_id in present
            for _ in range(rng.integers(1, 4))
        ]
        visib |= {(im_id, place): rng.choice([0.02, 0.6, 1.0]) for place in range(len(frames[im_id]))}
        for _ in range(per_image):
            obj_id, R, t = frames[im_id][rng.integers(len(frames[im_id]))]
            R = R @ axis_angle(random_rotations(1, rng)[0, 0], rng.exponential(0.15))
            t = t + rng.normal(size=3) * rng.choice([1.0, 6.0, 25.0, 200.0])
            score = rng.integers(1, 5) / 5 if ties else rng.uniform()
            rows.append((im_id, int(rng.choice([obj_id, 1, 2], p=[0.8, 0.1, 0.1])), float(score), R, t))
    return frames, visib, rows


@pytest.mark.parametrize(
    ("seed", "per_image", "ties"), [(0, 12, False), (1, 30, False), (2, 25, True), (3, 130, False)]
)
def test_random_cases_agree_with_the_definition(tmp_path, seed, per_image, ties):
    frames, visib, rows = random_case(seed, per_image, ties)
    dataset = BopDataset(write_dataset(tmp_path, frames, visib=visib, targets=False, depth=False))
    models = load_scoring_models(dataset, [1, 2])
    found = score_detections(estimates_of(rows), dataset)
    expected = reference(rows, frames, visib, models)
    assert 0.02 < expected["MSSD"] < 0.98
    for name in ("MSSD", "MSPD"):
        assert found.scores[f"AP_{name}"] == pytest.approx(expected[name], abs=1e-9)
    assert found.scores["AP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    strict = reference(rows, frames, visib, models, everywhere=True)
    assert found.scores["AP_everywhere"] == pytest.approx(np.mean(list(strict.values())), abs=1e-9)
    assert found.estimates == sum(min(per_image, 100) for _ in frames)
    assert found.left_out == len(rows) - found.estimates


def perfect(frames, score=0.9):
    return [(im_id, o, score, R, t) for im_id, poses in frames.items() for o, R, t in poses]


def scores_of(folder, rows, frames, **about):
    return score_detections(estimates_of(rows), BopDataset(write_dataset(folder, frames, depth=False, **about))).scores


def test_true_poses_score_one(tmp_path, frames):
    assert set(scores_of(tmp_path, perfect(frames), frames).values()) == {1.0}


def test_sure_estimates_of_what_is_not_there_lower_the_score(tmp_path, frames):
    """Where the object is in the image somewhere both scores fall, where it is absent the strict one alone."""
    frames[7] = frames[7][:1]  # no bar
    away = np.array([0.0, 0.0, 900.0])
    beside = scores_of(tmp_path / "a", [*perfect(frames), (3, 2, 1.0, np.eye(3), away)], frames)
    absent = scores_of(tmp_path / "b", [*perfect(frames), (7, 2, 1.0, np.eye(3), away)], frames)
    # One false estimate before two true ones: precision 2/3 at every recall, for one of two objects.
    assert beside["AP"] == beside["AP_everywhere"] == pytest.approx((1 + 2 / 3) / 2)
    assert absent["AP"] == 1.0 and absent["AP_everywhere"] == pytest.approx((1 + 2 / 3) / 2)


def test_hidden_instances_are_neither_sought_nor_held_against_whoever_finds_them(tmp_path, frames):
    visib = {(3, 0): 0.05, (7, 1): 0.05}
    seen = [row for place, row in enumerate(perfect(frames)) if place not in (0, 3)]
    for name, rows in (("all", perfect(frames)), ("visible", seen)):
        assert scores_of(tmp_path / name, rows, frames, visib=visib)["AP"] == 1.0


def test_a_second_estimate_of_one_instance_is_false(tmp_path, frames):
    rows = [*perfect(frames), *[(3, 1, 0.95, R, t) for o, R, t in frames[3] if o == 1]]
    found = scores_of(tmp_path, rows, frames)
    assert found["AP"] == pytest.approx((1 + np.mean([1.0] * 34 + [0.75] * 67)) / 2)


def test_only_the_hundred_surest_of_an_image_count(tmp_path, frames):
    wrong = [(3, 1, 0.95, np.eye(3), np.array([0.0, 0.0, 2000.0 + i])) for i in range(120)]
    assert scores_of(tmp_path / "a", [*perfect(frames, 0.9), *wrong], frames)["AP"] < 0.8
    unsure = [(im_id, o, 0.1, R, t) for im_id, o, _, R, t in wrong]
    assert scores_of(tmp_path / "b", [*perfect(frames, 0.9), *unsure], frames)["AP"] == 1.0


def test_images_of_a_target_file_and_empty_tables(tmp_path, frames):
    dataset = BopDataset(write_dataset(tmp_path, frames, depth=False))
    assert dataset.target_images() == [(4, 3), (4, 7), (4, 20)]
    (tmp_path / "test_targets_bop19.json").write_text('[{"scene_id": 4, "im_id": 7, "obj_id": 1, "inst_count": 1}]')
    one = BopDataset(tmp_path)
    assert one.target_images() == [(4, 7)]
    found = score_detections(estimates_of(perfect(frames)), one)
    assert (found.images, found.instances, found.estimates, found.left_out) == (1, 2, 2, 4)
    assert set(score_detections(Poses.empty(), one).scores.values()) == {0.0}


def test_nothing_visible_is_refused(tmp_path, frames):
    visib = {(im_id, place): 0.01 for im_id in frames for place in range(2)}
    dataset = BopDataset(write_dataset(tmp_path, frames, visib=visib, targets=False, depth=False))
    with pytest.raises(DataError, match=r"'instances': found none visible to a tenth, expected at least one"):
        score_detections(estimates_of(perfect(frames)), dataset)


def test_intervals_hold_the_score(tmp_path):
    frames, visib, rows = random_case(5, 20)
    found = score_detections(estimates_of(rows), BopDataset(write_dataset(tmp_path, frames, visib=visib, depth=False)))
    for name, ends in found.intervals().items():
        assert ends.value == found.scores[name] and ends.low < ends.value < ends.high


def test_precision_is_the_best_at_that_recall_or_a_higher_one():
    """True, false, true, true of four sought: 1 up to a quarter, 3/4 up to three quarters, 0 beyond."""
    assert average_precision(np.array([1, 2, 3]), np.array([1, 3, 4]), 4) == pytest.approx((26 + 50 * 0.75) / 101)
    assert average_precision(np.zeros(0, int), np.zeros(0, int), 4) == 0.0


def test_bounded_errors_are_the_errors_wherever_they_are_under_the_limit(tmp_path, frames):
    rng = np.random.default_rng(0)
    model = load_scoring_models(BopDataset(write_dataset(tmp_path, frames, depth=False)), [2])[2]
    truth, R = random_rotations(300, rng), random_rotations(300, rng)
    t = rng.normal([0, 0, 600], 30, (300, 3))
    poses = (np.where(rng.random((300, 1, 1)) < 0.5, truth, R), t + rng.normal(size=(300, 3)) * 20, truth, t)
    cameras, limit = np.tile(K, (300, 1, 1)), 0.5 * model.diameter
    exact = mssd(*poses, model.hull, model.symmetries)
    bounded = bounded_mssd(*poses, model.hull, model.symmetries, limit)
    np.testing.assert_array_equal(bounded[exact < limit], exact[exact < limit])
    assert (bounded[exact >= limit] >= limit).all() and np.isinf(bounded).any() and (exact < limit).any()
    pixels = mspd(*poses, model.mesh.vertices, model.symmetries, cameras)
    found = bounded_mspd(*poses, model.mesh.vertices, model.symmetries, cameras, np.full(300, 25.0))
    np.testing.assert_array_equal(found[pixels < 25], pixels[pixels < 25])
    assert (found[pixels >= 25] >= 25).all() and np.isinf(found).any() and (pixels < 25).any()
