import json

import numpy as np
import pytest
import trimesh
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.cad import add_model
from posedistill.data.formats.bop_models import load_models_info, mesh_ids
from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh


@pytest.fixture
def part(tmp_path):
    """A block of 60 x 40 x 20 with its corner at the origin, as CAD programs write it."""
    mesh = trimesh.creation.box((60.0, 40.0, 20.0))
    mesh.apply_translation((30.0, 20.0, 10.0))
    mesh.export(tmp_path / "My Bracket (v2).stl")
    return tmp_path / "My Bracket (v2).stl"


def test_a_cad_file_of_any_name_becomes_an_object(part, tmp_path):
    info = add_model(part, tmp_path / "parts")
    assert info["diameter"] == pytest.approx(np.hypot(np.hypot(60, 40), 20), abs=1e-3)
    mesh = load_mesh(tmp_path / "parts" / "obj_000001.ply")
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [30, 20, 10], atol=1e-4)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-30, -20, -10], atol=1e-4)
    assert load_models_info(tmp_path / "parts" / "models_info.json")[1]["size_x"] == pytest.approx(60)
    add_model(part, tmp_path / "parts", 2, turns="z")
    assert mesh_ids(tmp_path / "parts") == {1, 2}
    known = json.loads((tmp_path / "parts" / "models_info.json").read_text())
    assert known["2"]["symmetries_continuous"] == [{"axis": [0, 0, 1], "offset": [0, 0, 0]}] and "1" in known


@pytest.mark.parametrize(("unit", "factor"), [("in", 25.4), ("cm", 10.0), ("m", 1000.0)])
def test_other_units(part, tmp_path, unit, factor):
    mesh = trimesh.load(part)
    mesh.apply_scale(1 / factor)
    mesh.export(tmp_path / "small.stl")
    assert add_model(tmp_path / "small.stl", tmp_path / "parts", unit=unit)["size_x"] == pytest.approx(60, rel=1e-4)


def test_a_size_that_no_camera_would_look_at_names_the_unit_that_fits(part, tmp_path):
    mesh = trimesh.load(part)
    mesh.apply_scale(1e-3)
    mesh.export(tmp_path / "metres.stl")
    with pytest.raises(DataError, match=r"found 0\.0748 mm in mm, expected 5 to 5000 mm: --unit m"):
        add_model(tmp_path / "metres.stl", tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("part.step", {}, r"'ending': found '.step', expected .*STEP"),
        ("part.stl", {"unit": "ft"}, "--unit: 'unit': found 'ft', expected one of mm, cm, m, in"),
        ("part.stl", {"turns": "w"}, "--turns: 'axis': found 'w', expected one of x, y, z"),
        ("part.stl", {}, r"part\.stl"),
        ("folder.stl", {}, r"folder\.stl: 'file': found a folder, expected a mesh"),
    ],
)
def test_what_is_no_part(tmp_path, name, options, message):
    if name == "folder.stl":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("solid nothing\nendsolid nothing\n")
    with pytest.raises(DataError, match=message):
        add_model(tmp_path / name, tmp_path / "parts", **options)


def test_edges_of_a_block_stay_sharp(part):
    mesh = load_mesh(part)
    assert len(mesh.faces) == 12
    assert np.allclose(np.abs(mesh.normals).max(axis=1), 1.0), "a normal of each face, not of each corner"


def test_the_command(part, tmp_path):
    done = CliRunner().invoke(cli.app, ["data", "model", str(part), str(tmp_path / "parts"), "--id", "3"])
    assert done.exit_code == 0, done.output
    assert "60 x 40 x 20 mm" in done.output and (tmp_path / "parts" / "obj_000003.ply").exists()


@pytest.mark.parametrize("ending", [".stl", ".ply", ".obj", ".glb"])
def test_a_file_that_is_not_there_is_said_so(tmp_path, ending):
    with pytest.raises(DataError, match=rf"gone\{ending}: 'file': found no such file, expected a mesh"):
        add_model(tmp_path / f"gone{ending}", tmp_path / "parts")
