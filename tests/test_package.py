"""What is shipped: the wheel, and the recipes and models that come along by name."""

import tomllib
import zipfile
from pathlib import Path

import pytest

from posedistill import files
from posedistill.files import shipped

ROOT = Path(__file__).parents[1]


def test_recipes_and_models_come_along_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("quickstart", "quickstart.yaml", "recipes/quickstart.yaml"):
        assert shipped(Path(word), "recipes", ".yaml") == ROOT / "recipes" / "quickstart.yaml"
    assert shipped(Path("linemod_cat"), "models", ".onnx") == ROOT / "models" / "linemod_cat.onnx"
    Path("quickstart").touch()  # a file of one's own comes first
    assert shipped(Path("quickstart"), "recipes", ".yaml") == Path("quickstart")
    assert shipped(Path("README.md"), "models", ".onnx") == Path("README.md")


def test_they_are_found_in_a_wheel_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "posedistill/shipped/recipes").mkdir(parents=True)
    (tmp_path / "posedistill/shipped/recipes/mine.yaml").touch()
    monkeypatch.setattr(files, "__file__", str(tmp_path / "posedistill/files.py"))
    assert shipped(Path("mine"), "recipes", ".yaml") == tmp_path / "posedistill/shipped/recipes/mine.yaml"


def test_the_wheel_names_what_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {Path(target).parts[:2] for target in included.values()} == {("posedistill", "shipped")}
    assert all((ROOT / source).exists() for source in included)
    assert {"models", "recipes"} == set(included)


def test_a_wheel_holds_code_templates_recipes_and_models(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(built).namelist())
    wanted = ("py.typed", "shipped/recipes/quickstart.yaml", "shipped/models/linemod_cat.onnx", "cli.py")
    assert {f"posedistill/{name}" for name in (*wanted, "report/templates/report.html")} <= names
    assert not [name for name in names if name.startswith(("tests", "docs"))]
