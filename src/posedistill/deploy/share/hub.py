"""Model files on the Hugging Face hub, with their cards: the extra [hub]. Imports no torch."""

import tempfile
from pathlib import Path

from posedistill.deploy.share.card import model_card
from posedistill.errors import PoseDistillError, describe
from posedistill.files import link_file, write_file
from posedistill.runtime.predictor import Predictor


def push(path: Path, repo: str, private: bool = False) -> str:
    """Upload a model file and its card to a repository (``OWNER/NAME``), made where absent; returns its address.

    Raises:
        CheckpointError: no model of ours. PoseDistillError: the hub refuses.
    """
    from huggingface_hub import HfApi

    card = model_card(path)  # also refuses what is no model of ours, before anything is made
    api = HfApi()
    try:
        url = str(api.create_repo(repo, private=private, exist_ok=True))
        with tempfile.TemporaryDirectory() as folder:
            write_file(Path(folder) / "README.md", card)
            for name, source in (("README.md", Path(folder) / "README.md"), ("model.onnx", path)):
                api.upload_file(path_or_fileobj=str(source), path_in_repo=name, repo_id=repo)
    except Exception as error:  # of many kinds: network, rights, names
        raise PoseDistillError(
            describe(repo, "hub", error, "a repository that you may write to (hf auth login)")
        ) from None
    return url


def pull(repo: str, out: Path) -> Path:
    """Download the model file of a repository to ``out``.

    Raises:
        PoseDistillError: no such repository or file. CheckpointError: it is none of ours; nothing is left.
    """
    from huggingface_hub import hf_hub_download

    try:
        found = Path(hf_hub_download(repo_id=repo, filename="model.onnx"))
    except Exception as error:
        raise PoseDistillError(describe(repo, "hub", error, "a repository with a model.onnx")) from None
    Predictor.from_onnx(found, threads=1)
    link_file(found, out)
    return out
