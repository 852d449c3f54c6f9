"""The commands that README and pages show: known with these options, and run where little is needed."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import typer

import posedistill
from posedistill import cli
from posedistill.data.formats.bop import BopDataset
from posedistill.files import shipped
from posedistill.poses import Poses
from posedistill.recipe.comparison import load_comparison
from posedistill.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_A_RECIPE = ("run", "train", "distill", "compare")


def shown(page: Path) -> list[str]:
    """The commands in the blocks of a page, without comments and the brackets of what may be left out."""
    text = re.sub(r"\\\n *", "", page.read_text())
    found = re.findall(r"^ {4,8}posedistill (.+)$", text, re.M)
    return [re.sub(r"\[(--[^]]+)\]", r"\1", line.partition(" | ")[0]) for line in found]


def parsed(words: list[str]) -> click.Context:
    """What a command makes of its words; ``click.UsageError`` for what it does not know."""
    command: click.Command = typer.main.get_command(cli.app)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    return command.make_context(str(command.name), words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_known_with_their_options_and_keys(page, monkeypatch):
    monkeypatch.setenv("POSEDISTILL_DATA", "/data")
    monkeypatch.chdir(ROOT)
    for line in shown(page):
        words = shlex.split(line, comments=True)
        parsed(words)
        given = [word for word in words[1:] if "=" in word]
        files = [shipped(Path(word), "recipes", ".yaml") for word in words[1:] if word.startswith("recipes/")]
        for file in files if words[0] in OF_A_RECIPE else []:
            _ = load_comparison([file], given) if words[0] == "compare" else load_recipe(file, given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.exists(), link
        assert page.parent == ROOT or ROOT / "docs" in target.parents, f"{link}: the site has no such page"


def test_the_python_of_the_readme_is_there():
    (line,) = re.findall(r"^ +(from posedistill import .+)$", (ROOT / "README.md").read_text(), re.M)
    assert set(re.findall(r"\w+", line)[3:]) <= set(posedistill.__all__)


@pytest.fixture
def inputs(tmp_path, bop, monkeypatch):
    """What the commands of the README name, small: photographs, a clip, models, sets, the poses of an estimator."""
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(ROOT / "models")
    shutil.copy(ROOT / "models" / "linemod_cat.onnx", "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Path("my_photos").mkdir()
    for name in ("photo.jpg", "car.jpg", "my_photos/street.jpg"):
        cv2.imwrite(name, cv2.resize(image, (640, 480)))
    film = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (320, 240))
    for _ in range(2):
        film.write(image)
    film.release()
    shutil.copytree(bop / "models", "my_models")
    for name in ("lmo", "my_frames"):
        shutil.copytree(bop, name)
    found = [(frame, one) for frame in BopDataset(bop, "test").frames for one in frame.instances]
    ids = np.array([(frame.scene_id, frame.im_id, one.obj_id) for frame, one in found]).T
    R, t = (np.stack([getattr(one, name) for _, one in found]) for name in ("R", "t"))
    for name in ("megapose.csv", "megapose_lmo-test.csv"):
        Poses(*ids, np.array(1.0), R, t, np.array(0.1)).to_bop_csv(name)


SHORTER = {"data render": "--count 2 --workers 1 --set distance=[300,400]", "bench": "--repeats 1 --threads 1"}
LIGHT = ("predict models/", "data render", "data check my_set", "data label", "score", "bench")


def test_the_light_commands_of_the_readme_run_as_they_stand_there(inputs, monkeypatch, capsys):
    lines = [line for line in shown(ROOT / "README.md") if line.startswith(LIGHT)]
    assert len(lines) == 13, lines
    for line in lines:
        more = next((words for start, words in SHORTER.items() if line.startswith(start)), "")
        monkeypatch.setattr(sys, "argv", ["posedistill", *shlex.split(line, comments=True), *more.split()])
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code, f"{line}: {capsys.readouterr().err}"
    said = capsys.readouterr().out
    assert "photo.jpg:" in said and "clip.mp4/000001:" in said and "car.jpg: azimuth" in said
