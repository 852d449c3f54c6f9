import json

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
from posedistill.metrics import load_scoring_models, score_estimates
from posedistill.metrics.matching import find_candidates
from posedistill.metrics.object_scores import METRICS, MSSD_THRESHOLDS
from posedistill.metrics.pair_errors import image_widths, pair_diameters, pair_errors, vsd_errors
from posedistill.poses import Poses

from .conftest import INFOS, WIDTH, estimates_of, render_depth, write_dataset

LMO_MSSD = [0.1046, 0.2734, 0.3919, 0.4812, 0.5397, 0.5830, 0.5969, 0.6123, 0.6276, 0.6318]


@pytest.fixture
def dataset(tmp_path, frames):
    return BopDataset(write_dataset(tmp_path, frames))


def moved(estimates, shift):
    return Poses(
        estimates.scene_id,
        estimates.im_id,
        estimates.obj_id,
        estimates.score,
        estimates.R,
        estimates.t + shift,
        estimates.seconds,
    )


def test_mssd_hits_golden(dataset, perfect):
    """A shift by 0.22 d of the block is found from the threshold 0.25 d on."""
    scores = score_estimates(moved(perfect, [0.0, 0.22 * INFOS[1]["diameter"], 0.0]), dataset)
    assert scores.by_label(METRICS["AR_MSSD"])["1"] == pytest.approx(6 / 10)
    assert score_estimates(perfect, dataset).scores["AR_MSSD"] == 1.0


def test_mspd_thresholds_grow_with_the_image(dataset, perfect):
    """Thresholds hold for an image 640 wide, this one has 320: 7 pixels here are 14 there."""
    depth = perfect.t[:, 2:] - 60.0  # no vertex is nearer
    estimates = moved(perfect, depth / 300.0 * [7.0, 0.0, 0.0])
    assert image_widths(dataset, np.array([4, 4])).tolist() == [WIDTH, WIDTH]
    scores = score_estimates(estimates, dataset)
    assert set(scores.outcomes["AR_MSPD"].round(6)) == {0.8}  # found from 15 pixels of 640 on
    (dataset.root / "camera.json").write_text(json.dumps({"width": 640}))
    assert (score_estimates(estimates, dataset).outcomes["AR_MSPD"] >= 0.9).all()


def test_a_symmetric_pose_counts(dataset, perfect):
    bars = perfect.obj_id == 2
    R = perfect.R.copy()
    R[bars] = R[bars] @ np.diag([-1.0, -1.0, 1.0])
    turned = Poses(perfect.scene_id, perfect.im_id, perfect.obj_id, perfect.score, R, perfect.t, perfect.seconds)
    scores = score_estimates(turned, dataset, vsd=True)
    assert scores.scores["AR"] == pytest.approx(1.0, abs=0.01)
    for name in ("AR_MSSD", "AR_MSPD", "add_0.02d", "cmdeg_5_5", "proj_5px"):
        assert scores.by_label(METRICS[name])["2"] == 1.0


def test_vsd_of_the_truth_is_0_and_grows(dataset, perfect):
    models = load_scoring_models(dataset)
    candidates = find_candidates(perfect, dataset)
    means = [
        vsd_errors(moved(perfect, [shift, 0.0, 0.0]), candidates, models).mean() for shift in (0.0, 5.0, 20.0, 60.0)
    ]
    assert means[0] < 1e-3
    assert (np.diff(means) > 0.02).all()
    assert vsd_errors(perfect, candidates, models).shape == (6, 10)
    assert score_estimates(perfect, dataset, vsd=True).scores["AR_VSD"] == 1.0


def test_vsd_does_not_depend_on_what_is_measured_beside_it(dataset, perfect):
    models = load_scoring_models(dataset)
    estimates = moved(perfect, [8.0, 3.0, 5.0])
    one = estimates.select(estimates.im_id == 7)
    together, alone = (vsd_errors(some, find_candidates(some, dataset), models) for some in (estimates, one))
    np.testing.assert_array_equal(together[estimates.im_id == 7], alone)


def test_itodd_has_a_smaller_tolerance_of_visibility(tmp_path, frames):
    """What is measured lies 10 mm before the objects, so that 15 mm see them and 5 mm do not."""
    found = {}
    for name in ("tless", "itodd"):
        root = write_dataset(tmp_path / name, frames)
        for im_id, poses in frames.items():
            depth = render_depth([(o, R, t - [0.0, 0.0, 10.0]) for o, R, t in poses])
            cv2.imwrite(str(root / f"test/000004/depth/{im_id:06d}.png"), np.rint(depth * 10).astype(np.uint16))
        truths = estimates_of((im_id, o, 0.9, R, t) for im_id, poses in frames.items() for o, R, t in poses)
        dataset, estimates = BopDataset(root), moved(truths, [15.0, 0.0, 0.0])
        found[name] = score_estimates(estimates, dataset, vsd=True).scores["AR_VSD"]
        candidates, models = find_candidates(estimates, dataset), load_scoring_models(dataset)
        errors = vsd_errors(estimates, candidates, models, delta={"tless": 15.0, "itodd": 5.0}[name])
        expected = [(errors < theta).mean() for theta in np.linspace(0.05, 0.5, 10)]
        assert found[name] == pytest.approx(np.mean(expected))
    assert abs(found["tless"] - found["itodd"]) > 0.02


def test_vsd_without_depth_is_a_fault(tmp_path, frames, perfect):
    dataset = BopDataset(write_dataset(tmp_path, frames, depth=False))
    with pytest.raises(DataError, match="depth"):
        score_estimates(perfect, dataset, vsd=True)
    assert "AR_VSD" not in score_estimates(perfect, dataset).scores


def test_the_width_comes_from_an_image_where_there_is_no_camera_file(tmp_path, frames):
    root = write_dataset(tmp_path, frames, camera=False)
    cv2.imwrite(str(root / "test/000004/rgb/000003.png"), np.zeros((9, 1280, 3), np.uint8))
    assert image_widths(BopDataset(root), np.array([4, 4])).tolist() == [1280, 1280]
    (root / "camera.json").write_text(json.dumps({"height": 480}))
    with pytest.raises(DataError, match=r"camera\.json: 'width'"):
        image_widths(BopDataset(root), np.array([4]))


def test_several_estimates_of_several_instances(tmp_path, frames):
    """Two blocks in one image, one of them found twice: one hit, one miss."""
    (_, R, t), _ = frames[3]
    dataset = BopDataset(write_dataset(tmp_path, {3: [(1, R, t), (1, R, t + np.array([120.0, 0, 0]))]}))
    scores = score_estimates(estimates_of([(3, 1, 0.9, R, t), (3, 1, 0.8, R, t)]), dataset, vsd=True)
    assert scores.targets == 2
    for name in ("AR_MSSD", "AR_MSPD", "AR_VSD", "AR"):
        assert scores.scores[name] == pytest.approx(0.5, abs=0.01)


def test_megapose_on_lmo_scores_as_the_reference_toolkit_says(real_data):
    dataset = BopDataset(real_data / "lmo")
    estimates = Poses.from_bop_csv(real_data / "lmo/results/megapose-cnos_lmo-test.csv")
    scores = score_estimates(estimates, dataset)
    assert scores.scores["AR_MSSD"] == pytest.approx(0.4842398884, abs=1e-9)
    assert scores.scores["AR_MSPD"] == pytest.approx(0.5870292887, abs=1e-9)
    candidates, models = find_candidates(estimates, dataset), load_scoring_models(dataset)
    distances = pair_errors(estimates, candidates, models)["mssd"] / pair_diameters(candidates, models)
    hits = candidates.hits(distances, MSSD_THRESHOLDS)
    np.testing.assert_allclose(hits.mean(axis=0), LMO_MSSD, atol=6e-5)
    assert scores.notes == () and scores.targets == len(hits) == 717 and len(estimates) == 817


@pytest.mark.parametrize("scene_id", [6, 8])
def test_vsd_on_real_depth(real_data, scene_id):
    dataset = BopDataset(real_data / "lm", scenes=[scene_id])
    images = [frame.im_id for frame in dataset.frames if frame.depth is not None]
    truths = find_candidates(Poses.empty(), dataset).truths
    rows = [i for i in range(len(truths)) if truths.im_id[i] in images]
    models = load_scoring_models(dataset)
    means = []
    for shift in (0.0, 5.0, 20.0, 80.0):
        n = len(rows)
        estimates = Poses(
            *(column[rows] for column in (truths.scene_id, truths.im_id, truths.obj_id)),
            np.ones(n),
            truths.R[rows],
            truths.t[rows] + [0, 0, shift],
            np.ones(n),
        )
        means.append(vsd_errors(estimates, find_candidates(estimates, dataset), models)[:, 3].mean())
    assert len(rows) >= 10
    assert means[0] < 1e-3
    assert means[1] < 0.1 and means[2] < 0.25 and means[3] > 0.8
    assert (np.diff(means) > 0).all()
