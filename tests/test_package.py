"""What is shipped: the wheel, and the recipes and models that come along by name."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.dev import dev_package
from typer.testing import CliRunner

from posedistill import cli, files
from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError
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


def test_comparisons_and_lists_of_frames_come_along_too(bop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("posedistill.compare.compare.compare", lambda paths, *_, **__: asked.extend(paths))
    for words in (["recipes/compare/quickstart.yaml"], ["quickstart"], ["recipes/quickstart.yaml", "own.yaml"]):
        CliRunner().invoke(cli.app, ["compare", *words])
    compared, recipe = ROOT / "recipes" / "compare" / "quickstart.yaml", ROOT / "recipes" / "quickstart.yaml"
    assert asked == [compared, compared, recipe, Path("own.yaml")]
    with pytest.raises(DataError, match=r"recipes/frames/lmo_labelled\.txt: 'line 1': found '3', no frame"):
        BopDataset(bop, "test", frames="recipes/frames/lmo_labelled.txt")


def test_a_name_of_nothing_is_told_what_comes_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"quickstar: 'file': found no such file, .*comes along: .*cars_cpu.*quickstart"
    ):
        shipped(Path("quickstar"), "recipes", ".yaml")
    Path("quickstart").mkdir()  # a folder is no recipe
    assert shipped(Path("quickstart"), "recipes", ".yaml") == ROOT / "recipes" / "quickstart.yaml"
    assert shipped(Path("far/quickstar"), "recipes", ".yaml") == Path("far/quickstar")


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without the network."""
    builders = dev_package("hatchling.builders.wheel")
    folder = str(tmp_path_factory.mktemp("wheel"))
    (built,) = builders.WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    return Path(built)


def test_a_wheel_holds_code_templates_recipes_and_models(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [f"shipped/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")]
    shipped += [f"shipped/models/{path.name}" for path in (ROOT / "models").glob("*.onnx")]
    modules = [str(path.relative_to(ROOT / "src" / "posedistill")) for path in (ROOT / "src").rglob("*.py")]
    wanted = (*shipped, *modules, "py.typed", "report/templates/report.html", "report/templates/page.css")
    assert {f"posedistill/{name}" for name in wanted} <= names
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    assert sum(entry.file_size for entry in zipfile.ZipFile(wheel).infolist()) < 30e6


def test_an_installed_wheel_predicts_and_reads_its_recipes(wheel, tmp_path):
    """Installed beside the packages of this environment, far from the checkout."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "site"]
    subprocess.run([*install, str(wheel)], check=True, cwd=tmp_path)
    assert (tmp_path / "site" / "bin" / "posedistill").exists()
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((120, 160, 3), np.uint8))
    recipe = (
        "import posedistill\n"
        "from pathlib import Path\n"
        "from posedistill.files import shipped\n"
        "from posedistill.recipe.recipe import load_recipe\n"
        "print(posedistill.__file__, load_recipe(shipped(Path('quickstart'), 'recipes', '.yaml')).name)"
    )

    def said(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("-c", recipe).split() == [str(tmp_path / "site" / "posedistill" / "__init__.py"), "quickstart"]
    assert "photo.jpg: no object found" in said("-m", "posedistill", "predict", "linemod_cat", "photo.jpg")


@pytest.mark.parametrize("path", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_an_image_copies_and_installs_what_is_there(path):
    """Images cannot be built in a test: what they name is looked for instead."""
    text, project = path.read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"/source\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert re.findall(r"docker build -f (\S+)", text) == [f"docker/{path.name}"]
    assert re.search(r'^ENTRYPOINT \["posedistill"\]$', text, re.M) and "posedistill" in project["scripts"]
    assert re.match(r"(#.*\n)*FROM python:3\.(1[1-9])-slim\n", text)
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = {"src", "recipes", "models", "pyproject.toml", "README.md", "LICENSE"}  # what a wheel is made of
    assert not needed & set(ignored) and all((ROOT / name).exists() for name in needed)
