from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.data.anchors import dataset_boxes, fit_anchors
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.writer import write_labels
from posedistill.errors import DataError
from posedistill.geometry.cameras import project


def test_clusters_are_found_and_sorted() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[5.0, 6.0], [1.0, 2.0], [2.0, 1.0], [9.0, 3.0]])
    boxes = np.concatenate([centre * rng.uniform(0.95, 1.05, (200, 2)) for centre in centres])
    found = fit_anchors(boxes, 4)
    np.testing.assert_allclose(found.sizes[:2][np.argsort(found.sizes[:2, 0])], [[1, 2], [2, 1]], rtol=0.02)
    np.testing.assert_allclose(found.sizes[2:], [[9, 3], [5, 6]], rtol=0.02)
    assert 0.93 < found.iou < 1


def test_the_distance_is_that_of_overlaps() -> None:
    """Large boxes do not draw the anchors to them, as they do under the distance of sizes."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0.2, 0.5, (500, 2)), rng.uniform(6, 10, (500, 2))])
    sizes = fit_anchors(boxes, 4).sizes
    assert (sizes[:2] < 0.6).all() and (sizes[2:] > 5).all()


def test_no_pair_of_boxes_is_better() -> None:
    boxes = np.random.default_rng(1).uniform(0.5, 6, (40, 2))

    def mean(pair: np.ndarray) -> float:
        shared = np.minimum(boxes[:, None], pair).prod(2)
        return (shared / (boxes.prod(1)[:, None] + pair.prod(1) - shared)).max(1).mean()

    found = fit_anchors(boxes, 2)
    assert found.iou == pytest.approx(mean(found.sizes))
    assert found.iou > 0.97 * max(mean(boxes[list(pair)]) for pair in product(range(40), repeat=2))
    assert fit_anchors(boxes, 5).iou > found.iou


def test_a_seed_makes_the_anchors() -> None:
    boxes = np.random.default_rng(1).uniform(0.5, 6, (40, 2))
    assert np.array_equal(fit_anchors(boxes, 3, seed=4).sizes, fit_anchors(boxes, 3, seed=4).sizes)


@pytest.mark.parametrize("count", [0, 3])
def test_more_anchors_than_boxes(count: int) -> None:
    with pytest.raises(DataError, match=f"found {count} for 2 different boxes"):
        fit_anchors(np.array([[1.0, 2.0], [2.0, 2.0], [1.0, 2.0]]), count)


def test_boxes_of_a_data_set(bop: Path) -> None:
    dataset = BopDataset(bop, "train")
    boxes = dataset_boxes(dataset, 10, 5)
    assert boxes.shape == (16, 2)
    frame, objects = dataset.frames[0], dataset.objects()
    entry = frame.instances[0]
    pixels = project(objects.keypoints[objects.index(entry.obj_id)], entry.R, entry.t, frame.K)
    np.testing.assert_allclose(boxes[0], np.ptp(pixels, axis=0) / (160, 120) * (10, 5))


def test_the_command(bop: Path) -> None:
    words = ["data", "anchors", str(bop), "--count", "2", "--obj", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and result.output.startswith("anchors: [[")
    assert "of 8 boxes with the most similar of 2: 0." in result.output


def test_a_data_set_of_nothing(bop: Path) -> None:
    dataset = BopDataset(bop, "train", obj_ids=[1])
    dataset.frames.clear()
    with pytest.raises(DataError, match=r"'instances': found none, expected visible instances"):
        dataset_boxes(dataset, 13, 13)


def test_the_command_reads_label_folders_too(bop: Path, tmp_path: Path) -> None:
    written = write_labels(BopDataset(bop, "train"), tmp_path / "boxes")
    words = ["data", "anchors", "--count", "2"]
    told = [CliRunner().invoke(app, [*words, str(source)]).output for source in (bop, written.data)]
    assert told[0].startswith("anchors: [[") and told[0] == told[1]


@pytest.mark.parametrize("side", [0.0, -1.0, np.nan, np.inf])
def test_boxes_without_a_size_are_refused(side: float) -> None:
    boxes = np.random.default_rng(1).uniform(0.5, 6, (40, 2))
    boxes[3, 1] = boxes[7, 0] = side
    with pytest.raises(DataError, match="'sides': found 2 of 40 boxes with a side that is 0, negative or not finite"):
        fit_anchors(boxes, 2)
