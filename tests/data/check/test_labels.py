"""Checks of label folders: sound ones have no faults, damage is named and counted."""

from pathlib import Path

import numpy as np
import pytest

from posedistill.data.check.dataset import check_dataset
from posedistill.data.faults import FaultKind
from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.labels.writer import write_labels
from posedistill.data.images import write_image


@pytest.fixture
def data(bop, tmp_path) -> Path:
    write_labels(BopDataset(bop, "test"), tmp_path / "boxes", split="valid", obj_ids=[1])
    return write_labels(BopDataset(bop, "train"), tmp_path / "boxes", obj_ids=[1]).data


def test_sound_folders(data, tmp_path):
    report = check_dataset(data, "train", overlay=tmp_path / "check.jpg")
    assert report.ok and not report.warnings and (tmp_path / "check.jpg").exists()
    assert report.splits["train"].frames == 8 and report.splits["train"].checked == 8


def test_every_fault_is_told(data):
    folder = data.parent / "train/000001"
    (folder / "labels/000004.txt").write_text("0 0.5\n")
    (folder / "labels/000005.txt").unlink()
    gradient = np.tile(np.arange(200, dtype=np.uint8), (160, 1))
    write_image(folder / "mask/0006.png", gradient)
    moved = (folder / "labels/000007.txt").read_text().split()
    (folder / "labels/000007.txt").write_text(" ".join([moved[0], "0.9", *moved[2:]]))
    (data.parent / "train.txt").write_text((data.parent / "train.txt").read_text() + "gone.png\n")
    report = check_dataset(data, "train")
    kinds = (FaultKind.LABEL, FaultKind.NO_ANNOTATION, FaultKind.MISSING_MASK, FaultKind.MISSING_IMAGE)
    assert [report.counts[kind] for kind in kinds] == [2, 1, 1, 1]


def test_what_was_measured_is_told(data):
    data.write_text("".join(line for line in data.read_text().splitlines(True) if not line.startswith("diam")))
    report = check_dataset(data, "train")
    assert report.ok and any("no diameter of obj_000001.ply is stated" in warning for warning in report.warnings)


def test_a_file_that_cannot_be_read_further(data):
    data.write_text("train = train.txt\n")
    report = check_dataset(data)
    assert report.counts[FaultKind.DATA_FILE] and "'mesh': found none" in str(report)


def test_images_that_train_and_test(data):
    listed = (data.parent / "valid.txt").read_text()
    (data.parent / "valid.txt").write_text(listed + (data.parent / "train.txt").read_text().splitlines()[2] + "\n")
    report = check_dataset(data)
    assert report.counts[FaultKind.DUPLICATE_FRAME] == 1
    assert "000002.png: 'split': found valid and train, expected one of them" in str(report)
