"""The commands ``posedistill card`` and ``posedistill hub ...``: what model files say, and where they are kept."""

from pathlib import Path
from typing import Annotated

import typer

from posedistill.cli_options import Model
from posedistill.files import shipped

hub_app = typer.Typer(no_args_is_help=True, help="Push models to the Hugging Face hub and pull them (extra: hub).")


def card(
    model: Model, out: Annotated[Path | None, typer.Option(help="Where to write it; default: print it.")] = None
) -> None:
    """Make a model card (markdown) out of what an exported file says of itself."""
    from posedistill.deploy.share.card import model_card
    from posedistill.files import write_file

    text = model_card(shipped(model, "models", ".onnx"))
    if out is None:
        print(text, end="")
        return
    write_file(out, text)
    print(f"card: {out}")


@hub_app.command()
def push(
    model: Model,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME; made where absent.")],
    private: Annotated[bool, typer.Option(help="Make it a private one.")] = False,
) -> None:
    """Upload an exported model with its card."""
    from posedistill.deploy.share.hub import push as push_model

    print(push_model(shipped(model, "models", ".onnx"), repo, private))


@hub_app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Where to put the file.")] = Path("model.onnx"),
) -> None:
    """Download the model of a repository."""
    from posedistill.deploy.share.hub import pull as pull_model

    print(f"{pull_model(repo, out)}: try it with posedistill predict {out} photo.jpg")
