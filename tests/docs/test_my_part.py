"""The tutorial on a part of one's own and a phone: its commands in their order, on a part made here, short."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from tests.data.boards import board_shots

from posedistill import cli
from posedistill.data.formats.bop import BopDataset
from posedistill.data.images import read_image
from posedistill.poses import Poses

PAGE = Path(__file__).parents[2] / "docs" / "my_part.md"
K = np.array([[900.0, 0.0, 322.0], [0.0, 898.0, 238.0], [0.0, 0.0, 1.0]])
SHORT = (
    "data.train.0.count=8 data.test.source.count=3 data.crop_size=64 seeds=1 "
    "train.steps=2 train.batch_size=4 train.validate_every=2 train.validation_crops=4"
)
ADDED = {
    "data model": "--unit in",
    "data render": "--count 3 --workers 1",
    "run my_part_cpu": SHORT,
    "predict": "--threshold 0",
    "data label": "--split train_render",
    "evaluate": "--split train_render",
}
"""What is added to commands of the page: the part is in inches, everything is short, and renders stand for pictures."""


def commands() -> list[str]:
    """All commands of the page, those within sentences too, as they stand there."""
    lines = re.findall(r"^    (posedistill .*)$|`(posedistill [^`]+)`", PAGE.read_text(), re.M)
    return [block or inline for block, inline in lines]


def typed(command: str) -> list[str]:
    """The words of a command as a shell hands them on."""
    words = shlex.split(command)[1:]
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def a_bracket(path: Path) -> None:
    """Two plates and a peg, in inches."""
    plates = [trimesh.creation.box((4.0, 2.4, 0.3)), trimesh.creation.box((0.3, 2.4, 2.4))]
    peg = trimesh.creation.cylinder(0.5, 1.2)
    for mesh, place in zip([*plates, peg], [(0, 0, 0), (-1.85, 0, 1.2), (1, 0.5, 0.6)], strict=True):
        mesh.apply_translation(place)
    trimesh.util.concatenate([*plates, peg]).export(path)


def photographs(preview: Path, folder: Path) -> None:
    """Renders as a phone would write them, with the focal length that its lens would have on film."""
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA405] = 31
    for frame in BopDataset(preview, "train_render").frames:
        Image.open(frame.rgb).save(folder / f"IMG {frame.im_id}.jpg", exif=tags, quality=95)


def truths(preview: Path, csv: Path) -> None:
    """Poses of the renders, as an estimator would write them."""
    found = [(frame, entry) for frame in BopDataset(preview, "train_render").frames for entry in frame.instances]
    ids = np.array([(frame.scene_id, frame.im_id, entry.obj_id) for frame, entry in found]).T
    R, t = (np.stack([getattr(entry, name) for _, entry in found]) for name in ("R", "t"))
    Poses(*ids, np.array(1.0), R, t, np.array(0.1)).to_bop_csv(csv)


@pytest.mark.timeout(900)
def test_the_tutorial_runs_as_it_stands_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    for name in ("shots", "board"):
        Path(name).mkdir()
    a_bracket(Path("bracket.stl"))
    board_shots(Path("board"), (9, 6), K)
    (Path("board") / "0.png").rename("board/0.jpg")  # what a file is, its first bytes say
    for path in Path("board").glob("*.png"):
        path.rename(path.with_suffix(".jpg"))
    said: dict[str, str] = {}

    def do(command: str, *more: str) -> str:
        name = next((key for key in ADDED if command.startswith(f"posedistill {key}")), "")
        sys.argv = ["posedistill", *typed(command), *ADDED.get(name, "").split(), *more]
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code, f"{command}: {capsys.readouterr().err}"
        return "".join(capsys.readouterr())

    for command in sorted(commands(), key=lambda line: " data camera shots" in line):  # photographs come of the preview
        if command.startswith("posedistill predict"):
            said["exif"] = do("posedistill data camera shots/*.jpg")
            (found,) = re.findall(r"--camera (\S+)", said["exif"])
            said[command] = do(command, "--camera", found)
        elif " data camera shots" not in command:
            said[command] = do(command)
        if command.startswith("posedistill data render"):
            photographs(Path("preview"), Path("shots"))
            truths(Path("preview"), Path("poses.csv"))

    told = "\n".join(said.values())
    assert "object 1: 102 x 61 x 65 mm" in told, told
    focal = float(re.findall(r"--camera ([\d.]+)", said["exif"])[0])
    assert focal == pytest.approx(BopDataset(Path("preview"), "train_render").frames[0].K[0, 0], rel=0.03)
    board = next(text for command, text in said.items() if "--board" in command)
    assert float(re.findall(r"--camera ([\d.]+)", board)[0]) == pytest.approx(900, rel=0.01)
    assert "training will take about" in told and Path("runs/bracket/report.html").exists()
    assert told.count("shots/IMG ") == 3 and len(Poses.from_bop_csv("predictions/results.csv")) == 3
    assert read_image(Path("predictions/IMG 0.png")).shape == (480, 640, 3)
