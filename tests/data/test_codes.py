"""Codes of folders of models: the command, its files, and trees that are kept."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from posedistill.cli import app
from posedistill.data.codes import kept_codes
from posedistill.data.formats.bop_writer import write_models
from posedistill.data.render.shapes import code_objects
from posedistill.errors import DataError
from posedistill.geometry.codes import load_tree
from posedistill.geometry.codes.published import read_table
from posedistill.geometry.meshes import Mesh, model_info, save_ply
from posedistill.geometry.symmetries import symmetry_transforms


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("codes")
    first = dict(sorted(code_objects().items())[:2])
    write_models(root, first)
    return root / "models"


def run(*words):
    return CliRunner().invoke(app, ["data", "codes", *map(str, words)], catch_exceptions=True)


def test_every_model_gets_its_codes_and_a_table_of_their_sizes(models, tmp_path):
    found = run(models, "--out", tmp_path, "--bits", 10)
    assert found.exit_code == 0, found.output
    ids = sorted(int(path.stem[4:]) for path in models.glob("obj_*.ply"))
    assert [load_tree(tmp_path / f"obj_{obj_id:06d}.npz").bits for obj_id in ids] == [10] * len(ids)
    assert found.output.count("bits   cells") == len(ids) and "1024" in found.output
    assert len(re.findall(r"mm; \d+\.\d s; ", found.output)) == len(ids)


def test_published_codes_are_written_on_request(models, tmp_path):
    found = run(models, "--out", tmp_path, "--bits", 5, "--faithful", "--obj", 1)
    assert found.exit_code == 0, found.output
    assert read_table(tmp_path / "Class_CorresPoint000001.txt").shape == (32, 3)
    assert (tmp_path / "obj_000001.ply").exists()


def test_half_turns_are_folded_on_request(models, tmp_path):
    mesh = code_objects()[1]
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    info = {"1": model_info(mesh) | {"symmetries_discrete": [turn.ravel().tolist()]}}
    save_ply(mesh, tmp_path / "obj_000001.ply")
    (tmp_path / "models_info.json").write_text(json.dumps(info))
    found = run(tmp_path, "--out", tmp_path / "out", "--fold", "--bits", 6)
    assert "folded about its half turn" in found.output
    tree = load_tree(tmp_path / "out" / "obj_000001.npz")
    points = np.random.default_rng(0).normal(size=(500, 3)) * 30
    assert (tree.encode(points) ^ tree.encode(points @ turn[:3, :3]) == 32).mean() > 0.99


def turns(count):
    angles = 2 * np.pi * np.arange(1, count) / count
    sines, cosines = np.sin(angles), np.cos(angles)
    transforms = np.tile(np.eye(4), (count - 1, 1, 1))
    transforms[:, 0, 0], transforms[:, 1, 1], transforms[:, 0, 1], transforms[:, 1, 0] = cosines, cosines, -sines, sines
    return {"symmetries_discrete": transforms.reshape(-1, 16).tolist()}


ROUND = {"symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}


@pytest.mark.parametrize(("stated", "told"), [(turns(3), "states 2"), (turns(4), "states 3"), (ROUND, ""), (None, "0")])
def test_it_is_told_where_there_is_nothing_to_fold(tmp_path, stated, told):
    mesh = code_objects()[1]
    save_ply(mesh, tmp_path / "obj_000001.ply")
    if stated is not None:
        (tmp_path / "models_info.json").write_text(json.dumps({"1": model_info(mesh) | stated}))
    found = run(tmp_path, "--out", tmp_path / "out", "--fold", "--bits", 4)
    assert found.exit_code == 0 and "folded about" not in found.output
    assert "warning: not folded: that takes a half turn" in found.output and told in found.output


def test_published_codes_are_not_folded(models, tmp_path):
    found = run(models, "--out", tmp_path, "--bits", 4, "--faithful", "--fold")
    assert found.exit_code == 1 and "--fold with --faithful" in str(found.exception) + found.output


@pytest.mark.parametrize("damage", ["empty", "area", "nan"])
def test_models_that_cannot_be_divided_are_named(tmp_path, damage):
    if damage != "empty":
        vertices = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]) * (np.nan if damage == "nan" else 1)
        mesh = Mesh(vertices, np.array([[0, 1, 2]]), None, None, None, np.zeros((3, 3)))
        save_ply(mesh, tmp_path / "obj_000003.ply")
    found = run(tmp_path, "--out", tmp_path / "out")
    assert found.exit_code == 1
    said = str(found.exception) + found.output
    assert ("obj_000003.ply" if damage != "empty" else "obj_XXXXXX.ply") in said


def test_kept_trees_are_built_once_and_anew_for_another_mesh(tmp_path, monkeypatch):
    mesh = code_objects()[1]
    built = []
    from posedistill.data import codes

    monkeypatch.setattr(codes, "build_tree", lambda *a, **k: built.append(1) or codes_build(*a, bits=3, **k))
    none = symmetry_transforms({})
    first = kept_codes(mesh, none, tmp_path)
    again = kept_codes(mesh, none, tmp_path)
    np.testing.assert_array_equal(first.planes, again.planes)
    assert len(built) == 1
    kept_codes(code_objects()[2], none, tmp_path)
    assert len(built) == 2


def codes_build(*args, **options):
    from posedistill.geometry.codes import build_tree

    return build_tree(*args, **options)


def test_an_unknown_object_is_refused(models, tmp_path):
    from posedistill.data.codes import write_codes

    with pytest.raises(DataError, match="obj_000077"):
        write_codes(models, tmp_path, [77], told=print)
