"""The notebooks of the documentation, cell by cell, without Jupyter."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
QUICK = (
    "teacher.pretrained=null teacher.settings.backbone=darknet_tiny_q student.settings.backbone=darknet_tiny_q "
    "teacher.train.validate_every=2 train.validate_every=2 train.validation_crops=4 teacher.train.validation_crops=4 "
    "train.batch_size=4 teacher.train.batch_size=4"
)


def execute(name: str) -> dict[str, object]:
    known: dict[str, object] = {}
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs before committing"
            exec("".join(cell["source"]), known)
    return known


def test_poses_and_scores(monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOKS)
    execute("poses_and_scores")
    lines = [line for line in capsys.readouterr().out.splitlines() if "degrees" in line]
    assert len(lines) == 3 and "'AR': 1.0" in lines[0] and "'AR': 1.0" not in lines[2]


@pytest.mark.timeout(0)
def test_from_a_mesh_to_a_model(monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setenv("POSEDISTILL_STEPS", "2")
    monkeypatch.setenv("POSEDISTILL_IMAGES", "8")
    monkeypatch.setenv("POSEDISTILL_OVERRIDES", QUICK)
    known = execute("mesh_to_model")
    assert (known["folder"] / "report.html").exists() and known["image"].shape == (240, 320, 3)
