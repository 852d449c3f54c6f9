"""An exported model of categories, measured on any data set of viewpoints."""

import json

import numpy as np
import pytest
from tests.data.category_writer import write_categories
from tests.deploy.viewpoints import sure_predictor

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.errors import DataError
from posedistill.geometry.viewpoint import rotation_viewpoint
from posedistill.metrics.viewpoint import viewpoint_errors
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_categories(tmp_path_factory.mktemp("made") / "set", count=8)


@pytest.fixture
def loaded(monkeypatch):
    """``loaded(frames=..., **fields)``: every file holds a model that is sure of azimuth 330, upright."""

    def make(frames=None, **fields):
        predictor = sure_predictor(frames, **fields)
        monkeypatch.setattr(Predictor, "from_onnx", lambda path, threads=None: predictor)

    return make


def measure(dataset, tmp_path, split="test", **options):
    files = {"csv": tmp_path / "a.csv", "json": tmp_path / "a.json"}
    return evaluate_file(Asked(tmp_path / "m.onnx", dataset, split, **files, **options))


def test_scores_csv_and_baselines(made, loaded, tmp_path, capsys):
    loaded()
    found = measure(made, tmp_path)
    truth = open_categories(made).of_split("val")
    errors = found.outcomes["median_deg"]
    assert found.targets == len(truth) == 4 and len(errors) == 4
    assert json.loads((tmp_path / "a.json").read_text())["scores"] == pytest.approx(found.scores)
    table = Poses.from_csv(tmp_path / "a.csv")
    assert table.name.tolist() == list(truth.names)
    np.testing.assert_allclose(rotation_viewpoint(table.R), np.tile([330.0, 0.0, 0.0], (4, 1)), atol=1e-4)
    told = capsys.readouterr().err
    assert "most frequent" in told and "uniform" in told and "Acc30" in told


def test_other_splits_and_what_was_trained_on(made, loaded, tmp_path, capsys):
    names = open_categories(made).names
    loaded(frames={made.name: np.array(names)})
    assert measure(made, tmp_path, split="train").targets == 12
    assert "trained on 12 of the 12 photographs" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match=r"no clean objects of split all"):
        measure(made, tmp_path, split="all")


@pytest.mark.parametrize("shapes", [{"clouds": np.zeros((2, 4, 3))}, {"views": np.zeros((2, 3, 32, 32, 3), np.uint8)}])
def test_a_teacher_must_hold_the_shapes(made, loaded, tmp_path, shapes):
    loaded(names=("brick/1", "tower/1"), **shapes)
    assert measure(made, tmp_path).targets == 4
    loaded(names=("brick/1", "tower/2"), **shapes)
    with pytest.raises(DataError, match=r"shapes.*1 others, the first tower/1.*its student needs none"):
        measure(made, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"boxes": "detector"}, {"scenes": [1]}, {"legacy_diameters": True}, {"metres_per_unit": 0.0}],
)
def test_options_of_other_tasks_are_refused(made, loaded, tmp_path, options):
    loaded()
    with pytest.raises(DataError, match=r"'option': found .*, expected none: only objects and scenes have it"):
        measure(made, tmp_path, **options)


def test_categories_are_scored_up_to_the_symmetries_that_the_model_knows(made, loaded, tmp_path):
    truth = open_categories(made).of_split("val")
    loaded(names=("brick/", "tower/", "slab/"))
    plain = measure(made, tmp_path).outcomes["median_deg"]
    loaded(names=("brick/", "tower/", "slab/"), orders=np.array([1, 0, 2]))
    found = measure(made, tmp_path)
    expected = viewpoint_errors(Poses.from_csv(tmp_path / "a.csv"), truth.R, orders_of(truth, brick=1, tower=0, slab=2))
    np.testing.assert_allclose(found.outcomes["median_deg"], expected, atol=1e-3)
    assert (found.outcomes["median_deg"] < plain - 1).any() and "acc_30_unforgiven" in found.outcomes


def orders_of(views, **orders):
    return np.array([orders[category] for category in views.category])
