import sys
import types
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from posedistill import cli
from posedistill.deploy.share.card import model_card
from posedistill.deploy.share.hub import pull, push
from posedistill.errors import CheckpointError, PoseDistillError

MODEL = Path(__file__).parents[2] / "models" / "linemod_cat.onnx"


def test_a_card_says_what_the_file_says_of_itself():
    text = model_card(MODEL)
    assert yaml.safe_load(text.split("---")[1])["tags"] == ["6d-pose", "wdrnet", "objects", "onnx"]
    for part in (
        "| family | wdrnet |",
        "871,094",
        "3.34 MiB",
        "object 6 (155 mm)",
        "score threshold | 0.70: keeps",
        "focal length 572 px",
    ):
        assert part in text, part
    assert "posedistill predict linemod_cat.onnx photo.jpg" in text


def test_a_card_of_cameras(camera_file):
    text = model_card(camera_file)
    assert "where a camera stands" in text and "objects (diameter)" not in text


def test_the_command_writes_or_prints_a_card_and_knows_what_comes_along(tmp_path):
    written = CliRunner().invoke(cli.app, ["card", "linemod_cat", "--out", str(tmp_path / "README.md")])
    assert written.exit_code == 0 and (tmp_path / "README.md").read_text() == model_card(MODEL)
    assert CliRunner().invoke(cli.app, ["card", str(MODEL)]).output == model_card(MODEL)


class Hub:
    """Repositories in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, repo, private, exist_ok):
        assert exist_ok
        (self.root / repo).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{repo}"

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        (self.root / repo_id / path_in_repo).write_bytes(Path(path_or_fileobj).read_bytes())

    def download(self, repo_id, filename):
        if not (found := self.root / repo_id / filename).exists():
            raise OSError("404")
        return str(found)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    fake = Hub(tmp_path / "hub")
    module = types.SimpleNamespace(HfApi=lambda: fake, hf_hub_download=fake.download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return fake.root


def test_a_model_goes_to_the_hub_with_its_card_and_comes_back(hub, tmp_path):
    assert push(MODEL, "me/cat") == "https://hub/me/cat"
    assert (hub / "me/cat/README.md").read_text() == model_card(MODEL)
    assert pull("me/cat", tmp_path / "back.onnx").read_bytes() == MODEL.read_bytes()


def test_what_is_no_model_of_ours_is_neither_pushed_nor_left(hub, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError):
        push(tmp_path / "other.onnx", "me/other")
    assert not (hub / "me").exists()
    (hub / "me/bad").mkdir(parents=True)
    (hub / "me/bad/model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError):
        pull("me/bad", tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()
    with pytest.raises(PoseDistillError, match="me/none: 'hub': found 404, expected a repository with a model"):
        pull("me/none", tmp_path / "none.onnx")
