"""``posedistill data convert``: a BOP folder to labels and back, on the command line."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.formats.bop import BopDataset


def run(*words: str) -> str:
    result = CliRunner().invoke(cli.app, ["data", "convert", *words])
    assert result.exit_code == 0, result.exception
    return result.output


def test_there_and_back(bop: Path, tmp_path: Path) -> None:
    told = run(str(bop), str(tmp_path / "boxes"), "--split", "train")
    assert "16 labels in 8 frames, 0 frames of nothing" in told and "boxes.data" in told
    run(str(bop), str(tmp_path / "boxes"), "--split", "test")
    run(str(tmp_path / "boxes/boxes.data"), str(tmp_path / "back"), "--split", "train")
    run(str(tmp_path / "boxes/boxes.data"), str(tmp_path / "back"), "--split", "valid", "--to", "test", "--obj", "2")
    found, truth = BopDataset(tmp_path / "back", "train"), BopDataset(bop, "train")
    for ours, theirs in zip(found.frames, truth.frames, strict=True):
        for a, b in zip(ours.instances, theirs.instances, strict=True):
            np.testing.assert_allclose(a.t, b.t, atol=1e-6)
    tested = BopDataset(tmp_path / "back", "test")
    assert len(tested) == 3 and {i.obj_id for frame in tested.frames for i in frame.instances} == {2}


def test_frames_of_a_data_file_are_named_by_its_lists(bop: Path, tmp_path: Path) -> None:
    run(str(bop), str(tmp_path / "boxes"), "--split", "train")
    result = CliRunner().invoke(cli.app, ["data", "convert", str(tmp_path / "boxes/boxes.data"), "x", "--scene", "1"])
    assert "a .data file names its frames by its lists" in str(result.exception)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(bop: Path, tmp_path: Path) -> None:
    boxes, back = tmp_path / "boxes", tmp_path / "back"
    words = ["data", "convert", str(bop), str(boxes), "--split", "train"]
    refused = CliRunner().invoke(cli.app, [*words, "--to", "test"])
    assert f"{boxes}: 'split': found 'test', expected train or valid" in str(refused.exception) and not boxes.exists()
    run(str(bop), str(boxes), "--split", "train", "--obj", "2")
    refused = CliRunner().invoke(cli.app, ["data", "convert", str(boxes / "boxes.data"), str(back), "--obj", "77"])
    assert "'77': found no such object, expected one of [2]" in str(refused.exception) and not back.exists()
    (boxes / "train/000001/labels/000000.txt").write_text("")
    (boxes / "train.txt").write_text("train/000001/JPEGImages/000000.png\n")
    refused = CliRunner().invoke(cli.app, ["data", "convert", str(boxes / "boxes.data"), str(back), "--obj", "1"])
    assert "'train': found no frame, expected frames with labels of [1]" in str(refused.exception)
