import json

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
from posedistill.metrics import Evaluation, find_cases, score_estimates
from posedistill.metrics.object_scores import LEGACY_DIAMETERS, METRICS
from posedistill.poses import Poses

from .conftest import INFOS, estimates_of, write_dataset


@pytest.fixture
def dataset(tmp_path, frames):
    return BopDataset(write_dataset(tmp_path, frames))


def shifted(frames, millimetres):
    return estimates_of(
        (im_id, o, 0.9, R, t + np.array([millimetres, 0, 0])) for im_id, poses in frames.items() for o, R, t in poses
    )


def of_object(scores: Evaluation, obj_id: int) -> dict[str, float]:
    return {metric.name: scores.by_label(metric)[str(obj_id)] for metric in scores.metrics}


def test_perfect_estimates(dataset, perfect):
    scores = score_estimates(perfect, dataset)
    assert list(scores.scores.values()) == pytest.approx([1.0] * len(scores.scores))
    assert list(scores.by_label(scores.metrics[0])) == ["1", "2"]
    assert (scores.targets, scores.missed) == (6, 0)
    assert scores.notes == ()
    curve = scores.curves["add_0.1d"]
    assert curve.y == [0.0] + [1.0] * 40 and curve.x[-1] == 20.0


def test_with_a_detector_s_boxes_the_average_recall_leads(dataset, perfect):
    given, found = (score_estimates(perfect, dataset, boxes=boxes) for boxes in ("gt", "detector"))
    leads = [[metric.name for metric in item.metrics if metric.level == "headline"] for item in (given, found)]
    assert leads == [["add_0.1d"], ["AR"]] and found.metrics[0].name == "AR"
    assert (found.boxes, found.dataset) == ("detector", f"{dataset.root.name}/test")
    assert found.scores == given.scores


def test_missed_detections_are_failures(dataset, perfect):
    scores = score_estimates(perfect.select(perfect.im_id != 7), dataset)
    for name in ("AR", "AR_MSSD", "AR_MSPD", "add_0.1d", "add_auc", "proj_5px", "cmdeg_5_5"):
        assert scores.scores[name] == pytest.approx(2 / 3)
    assert scores.missed == 2
    missed = [case for case in find_cases(perfect.select(perfect.im_id != 7), dataset) if case.row < 0]
    assert [(case.im_id, case.obj_id) for case in missed] == [(7, 1), (7, 2)]
    assert all(np.isinf([case.add, case.add_fraction, case.mssd, case.rotation]).all() for case in missed)
    assert missed[0].to_dict()["add"] is None


def test_no_estimates_score_0(dataset):
    scores = score_estimates(Poses.empty(), dataset, vsd=True)
    assert set(scores.scores.values()) == {0.0}


def test_a_known_shift_golden(dataset, frames):
    scores = score_estimates(shifted(frames, 6.0), dataset)
    for case in find_cases(shifted(frames, 6.0), dataset):
        assert case.translation == pytest.approx(6.0)
        assert case.rotation == pytest.approx(0.0, abs=1e-5)
        assert case.mssd == pytest.approx(6.0)
        assert case.row >= 0
        assert case.add == pytest.approx(6.0)  # the bar's vertices lie so far apart that ADD-S is 6 mm, too
        assert case.add_fraction == pytest.approx(6.0 / INFOS[case.obj_id]["diameter"])
        assert 300 * 6 / 640 < case.reprojection < 300 * 6 / 440
    block = of_object(scores, 1)
    fraction = 6.0 / INFOS[1]["diameter"]
    assert 0.05 < fraction < 0.1
    assert (block["add_0.02d"], block["add_0.05d"], block["add_0.1d"]) == (0.0, 0.0, 1.0)
    assert block["add_auc"] == pytest.approx(1 - fraction / 0.1)
    assert scores.scores["add_auc_10cm"] == pytest.approx(0.94)
    assert scores.scores["cmdeg_5_5"] == scores.scores["cmdeg_2_2"] == scores.scores["proj_5px"] == 1.0
    farther = of_object(score_estimates(shifted(frames, 21.0), dataset), 1)
    assert (farther["cmdeg_2_2"], farther["cmdeg_5_5"], farther["add_auc_10cm"]) == (0.0, 1.0, pytest.approx(0.79))
    assert score_estimates(shifted(frames, 51.0), dataset).scores["cmdeg_5_5"] == 0.0


def test_legacy_diameters(dataset, frames):
    """Between 0.02 and 0.1 of which diameter decides."""
    scores = score_estimates(shifted(frames, 9.0), dataset)
    legacy = score_estimates(shifted(frames, 9.0), dataset, legacy_diameters=True)
    assert of_object(scores, 1)["add_0.1d"] == 0.0 and of_object(legacy, 1)["add_0.1d"] == 1.0
    assert of_object(legacy, 1)["add_auc"] == pytest.approx(1 - 9.0 / 104.26 / 0.1)
    assert legacy.scores["AR"] == scores.scores["AR"]  # BOP's scores know no other diameters
    assert len(LEGACY_DIAMETERS) == 15 and LEGACY_DIAMETERS[15] == 213.25


def test_legacy_diameters_of_other_objects_are_refused(dataset, perfect, monkeypatch):
    monkeypatch.delitem(LEGACY_DIAMETERS, 2)
    with pytest.raises(DataError, match=r"'legacy_diameters': found objects \[2\]"):
        score_estimates(perfect, dataset, legacy_diameters=True)


def test_json_has_no_infinities(dataset, perfect):
    scores = score_estimates(perfect.select(slice(0, 3)), dataset)
    content = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert content["scores"]["AR"] == pytest.approx(0.5) and content["missed"] == 3
    assert content["labels"] == ["1", "2"] * 3
    assert content["outcomes"]["add_0.1d"] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert len(content["curves"]["add_0.1d"]["x"]) == len(content["curves"]["add_0.1d"]["y"]) == 41


def test_every_score_is_the_mean_of_its_outcomes(dataset, frames):
    rows = shifted(frames, 6.0)
    rows = Poses.concatenate([rows.select(slice(0, 2)), shifted(frames, 25.0).select(slice(2, 5))])
    scores = score_estimates(rows, dataset, vsd=True)
    assert [metric.name for metric in scores.metrics] == list(METRICS) == list(scores.outcomes) == list(scores.scores)
    for name, values in scores.outcomes.items():
        assert len(values) == 6 and values[5] == 0.0 and 0.0 <= min(values) <= max(values) <= 1.0  # the last is missed
        assert np.mean(values) == pytest.approx(scores.scores[name], abs=1e-6)
    first = find_cases(rows, dataset)[0]
    under = np.linspace(0.05, 0.5, 10) * INFOS[first.obj_id]["diameter"] > first.mssd
    assert scores.outcomes["AR_MSSD"][0] == pytest.approx(under.mean())
    assert scores.outcomes["add_auc"][0] == pytest.approx(1 - first.add_fraction / 0.1, abs=1e-6)


def test_a_sure_but_wrong_estimate_occupies_no_instance(tmp_path):
    """Each threshold is matched by itself: 60 mm beside an instance is no hit, and leaves it to the right estimate."""
    left, right, eye = np.array([-100.0, 0, 800]), np.array([100.0, 0, 800]), np.eye(3)
    dataset = BopDataset(write_dataset(tmp_path, {3: [(1, eye, left), (1, eye, right)]}))
    estimates = estimates_of([(3, 1, 0.9, eye, np.array([-40.0, 0, 800])), (3, 1, 0.5, eye, left)])
    scores = score_estimates(estimates, dataset)
    for name in ("add_0.02d", "add_0.05d", "add_0.1d", "add_auc", "proj_5px", "cmdeg_5_5"):
        assert scores.scores[name] == 0.5, name
    assert scores.outcomes["add_0.1d"].tolist() == [1.0, 0.0]
    assert [case.row for case in find_cases(estimates, dataset)] == [1, 0]  # by the smallest error


def test_scores_of_many_instances_are_the_definition_s_at_each_threshold(tmp_path):
    """Greedy by confidence, estimate after estimate, for each threshold anew; the AUC is the recalls' integral."""
    rng = np.random.default_rng(3)
    diameter, eye = INFOS[1]["diameter"], np.eye(3)
    truths = {im_id: [(1, eye, rng.uniform([-90, -60, 500], [90, 60, 700])) for _ in range(4)] for im_id in (3, 7)}
    rows = [
        (im_id, 1, rng.uniform(), eye, t + rng.normal(size=3) * rng.choice([1.0, 4.0, 30.0]))
        for im_id, poses in truths.items()
        for _, _, t in poses
    ]
    scores = score_estimates(estimates_of(rows), BopDataset(write_dataset(tmp_path, truths)))

    def recall(threshold: float) -> float:
        hits = 0
        for im_id, poses in truths.items():
            free = [t for _, _, t in poses]
            for *_, t in sorted((row for row in rows if row[0] == im_id), key=lambda row: -row[2]):
                errors = [np.linalg.norm(t - other) / diameter for other in free]
                if errors and min(errors) < threshold:
                    free.pop(int(np.argmin(errors)))
                    hits += 1
        return hits / 8

    for fraction in (0.02, 0.05, 0.1):
        assert scores.scores[f"add_{fraction}d"] == recall(fraction)
    grid = (np.arange(4000) + 0.5) / 4000 * 0.1
    assert scores.scores["add_auc"] == pytest.approx(np.mean([recall(x) for x in grid]), abs=1e-3)
    assert 0 < scores.scores["add_auc"] < 1
    curve = scores.curves["add_0.1d"]
    assert curve.y == [recall(x / 100) for x in curve.x]


def test_foreign_rows_are_noted_and_left_out(dataset, perfect):
    foreign = estimates_of([(3, 99, 1.0, np.eye(3), [0, 0, 500.0]), (999, 1, 1.0, np.eye(3), [0, 0, 500.0])])
    scores = score_estimates(Poses.concatenate([perfect, foreign]), dataset, source="mine.csv")
    assert list(scores.scores.values()) == pytest.approx([1.0] * len(scores.scores))
    assert ["lines 8" in note or "lines 9" in note for note in scores.notes] == [True, True]


def test_a_case_is_the_nearest_estimate_without_a_threshold(tmp_path, frames):
    (_, R, t), _ = frames[3]
    near = t + np.array([200.0, 0, 0])
    dataset = BopDataset(write_dataset(tmp_path, {3: [(1, R, t), (1, R, near)]}))
    cases = find_cases(estimates_of([(3, 1, 0.4, R, t + 1.0), (3, 1, 0.9, R, near + 2.0)]), dataset)
    assert [case.row for case in cases] == [0, 1]
    assert [case.translation for case in cases] == pytest.approx([np.sqrt(3), 2 * np.sqrt(3)])


def test_a_lost_pose_is_a_missed_instance(dataset, perfect):
    perfect.t[0] = np.nan
    scores = score_estimates(perfect, dataset)
    assert scores.missed == 1 and scores.scores["add_0.1d"] == pytest.approx(5 / 6)


def test_damaged_models_are_named(dataset, perfect):
    path = dataset.mesh_path(1, eval=True)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=path.name):
        score_estimates(perfect, dataset)


def test_the_cat_s_test_list(real_data):
    frames = real_data / "lm/cat_test.txt"
    dataset = BopDataset(real_data / "lm", scenes=[6], frames=frames)
    truths = [(frame.im_id, i) for frame in dataset.frames for i in frame.instances]
    estimates = Poses(
        np.full(len(truths), 6),
        [im_id for im_id, _ in truths],
        [instance.obj_id for _, instance in truths],
        np.ones(len(truths)),
        np.array([instance.R for _, instance in truths]),
        np.array([instance.t for _, instance in truths]),
        np.full(len(truths), -1.0),
    )
    scores = score_estimates(estimates, dataset)
    assert scores.targets == len(dataset.frames) == 63
    assert list(scores.scores.values()) == pytest.approx([1.0] * len(scores.scores))
