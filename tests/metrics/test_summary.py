import json

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
from posedistill.metrics import LEGACY_DIAMETERS, load_scoring_models, score_estimates
from posedistill.poses import Poses

from .conftest import INFOS, estimates_of, write_dataset


@pytest.fixture
def dataset(tmp_path, frames):
    return BopDataset(write_dataset(tmp_path, frames))


def shifted(frames, millimetres):
    return estimates_of(
        (im_id, o, 0.9, R, t + np.array([millimetres, 0, 0])) for im_id, poses in frames.items() for o, R, t in poses
    )


def test_perfect_estimates(dataset, perfect):
    scores = score_estimates(perfect, dataset)
    assert list(scores.total.values()) == pytest.approx([1.0] * len(scores.total))
    assert list(scores.objects) == [1, 2]
    assert scores.targets == scores.estimates == 6
    assert scores.seconds_per_image == pytest.approx(10.0)  # images 3, 7 and 20 took as many seconds
    assert scores.notes == []
    assert scores.curve[0] == 0.0 and scores.curve[1:] == [1.0] * 40


def test_missed_detections_are_failures(dataset, perfect):
    scores = score_estimates(perfect.select(perfect.im_id != 7), dataset)
    for name in ("AR", "AR_MSSD", "AR_MSPD", "add_0.1d", "add_auc", "proj_5px", "cmdeg_5_5"):
        assert scores.total[name] == pytest.approx(2 / 3)
    missed = [case for case in scores.cases if case.row < 0]
    assert [(case.im_id, case.obj_id) for case in missed] == [(7, 1), (7, 2)]
    assert all(np.isinf([case.add, case.add_fraction, case.mssd, case.rotation]).all() for case in missed)


def test_no_estimates_score_0(dataset):
    scores = score_estimates(Poses.empty(), dataset, vsd=True)
    assert set(scores.total.values()) == {0.0}
    assert scores.seconds_per_image is None


def test_a_known_shift_golden(dataset, frames):
    scores = score_estimates(shifted(frames, 6.0), dataset)
    for case in scores.cases:
        assert case.translation == pytest.approx(6.0)
        assert case.rotation == pytest.approx(0.0, abs=1e-5)
        assert case.mssd == pytest.approx(6.0)
        assert case.row >= 0
        assert case.add == pytest.approx(6.0)  # the bar's vertices lie so far apart that ADD-S is 6 mm, too
        assert case.add_fraction == pytest.approx(6.0 / INFOS[case.obj_id]["diameter"])
        assert 300 * 6 / 640 < case.reprojection < 300 * 6 / 440
    block = scores.objects[1]
    fraction = 6.0 / INFOS[1]["diameter"]
    assert 0.05 < fraction < 0.1
    assert (block["add_0.02d"], block["add_0.05d"], block["add_0.1d"]) == (0.0, 0.0, 1.0)
    assert block["add_auc"] == pytest.approx(1 - fraction / 0.1)
    assert scores.total["cmdeg_5_5"] == scores.total["proj_5px"] == 1.0
    assert score_estimates(shifted(frames, 51.0), dataset).total["cmdeg_5_5"] == 0.0


def test_legacy_diameters(dataset, frames):
    """Between 0.02 and 0.1 of which diameter decides."""
    scores = score_estimates(shifted(frames, 9.0), dataset)
    legacy = score_estimates(shifted(frames, 9.0), dataset, legacy_diameters=True)
    assert scores.objects[1]["add_0.1d"] == 0.0 and legacy.objects[1]["add_0.1d"] == 1.0
    block = next(case for case in legacy.cases if case.obj_id == 1)
    assert block.add_fraction == pytest.approx(9.0 / 104.26)
    assert legacy.total["AR"] == scores.total["AR"]  # BOP's scores know no other diameters
    assert len(LEGACY_DIAMETERS) == 15 and LEGACY_DIAMETERS[15] == 213.25


def test_legacy_diameters_of_other_objects_are_refused(dataset, perfect):
    models = load_scoring_models(dataset)
    with pytest.raises(DataError, match=r"'legacy_diameters': found objects \[30\]"):
        score_estimates(perfect, dataset, models={**models, 30: models[1]}, legacy_diameters=True)


def test_json_has_no_infinities(dataset, perfect):
    scores = score_estimates(perfect.select(slice(0, 3)), dataset)
    content = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert content["scores"]["AR"] == pytest.approx(0.5)
    assert list(content["per_object"]) == ["1", "2"]
    assert content["outcomes"]["add_0.1d"] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert content["cases"][-1]["add"] is None
    assert len(content["curves"]["add"]["x"]) == len(content["curves"]["add"]["y"]) == 41


def test_every_score_is_the_mean_of_its_outcomes(dataset, frames):
    rows = shifted(frames, 6.0)
    rows = Poses.concatenate([rows.select(slice(0, 2)), shifted(frames, 25.0).select(slice(2, 5))])
    content = score_estimates(rows, dataset, vsd=True).to_dict()
    assert content["outcomes"].keys() == content["scores"].keys() >= {"AR", "AR_VSD", "add_auc", "cmdeg_5_5"}
    for name, values in content["outcomes"].items():
        assert len(values) == 6 and values[5] == 0.0 and 0.0 <= min(values) <= max(values) <= 1.0  # the last is missed
        assert np.mean(values) == pytest.approx(content["scores"][name], abs=1e-6)
    first = content["cases"][0]
    under = np.linspace(0.05, 0.5, 10) * INFOS[first["obj_id"]]["diameter"] > first["mssd"]
    assert content["outcomes"]["AR_MSSD"][0] == pytest.approx(under.mean())
    assert content["outcomes"]["add_auc"][0] == pytest.approx(1 - first["add_fraction"] / 0.1, abs=1e-6)


def test_foreign_rows_are_noted_and_left_out(dataset, perfect):
    foreign = estimates_of([(3, 99, 1.0, np.eye(3), [0, 0, 500.0]), (999, 1, 1.0, np.eye(3), [0, 0, 500.0])])
    scores = score_estimates(Poses.concatenate([perfect, foreign]), dataset, source="mine.csv")
    assert list(scores.total.values()) == pytest.approx([1.0] * len(scores.total))
    assert ["lines 8" in note or "lines 9" in note for note in scores.notes] == [True, True]


def test_the_nearest_instance_without_a_threshold(tmp_path, frames):
    (_, R, t), _ = frames[3]
    near = t + np.array([200.0, 0, 0])
    dataset = BopDataset(write_dataset(tmp_path, {3: [(1, R, t), (1, R, near)]}))
    scores = score_estimates(estimates_of([(3, 1, 0.4, R, t + 1.0), (3, 1, 0.9, R, near + 2.0)]), dataset)
    assert [case.row for case in scores.cases] == [0, 1]
    assert [case.translation for case in scores.cases] == pytest.approx([np.sqrt(3), 2 * np.sqrt(3)])


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
    assert list(scores.total.values()) == pytest.approx([1.0] * len(scores.total))
    assert scores.seconds_per_image is None
