"""Recipes out of the files of single-shot pose's repositories: a .data file, and the .cfg of a network."""

from pathlib import Path
from typing import Any

from posedistill.backbones.cfg.description import read_cfg
from posedistill.backbones.cfg.sections import Section, split_sections
from posedistill.backbones.cfg.weights import is_darknet, read_weights
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.formats.labels.files import read_data_file, resolved
from posedistill.data.loading.picture_view import PictureSettings
from posedistill.errors import CheckpointError, DataError, RecipeError, describe
from posedistill.geometry.objects import BOX_POINTS

UNCLIPPED = 1e9
"""A norm that no gradient has: published trainings clip none."""
EPOCHS, PRETRAIN_EPOCHS = 500, 15
"""Of the published trainer, where the .cfg and the command line say nothing; half of a training shorter than 30."""
_NET = {"width", "height", "channels", "batch", "max_epochs", "learning_rate"}
_PUBLISHED_NET = {"momentum", "decay", "steps", "scales"}
_REGION = {"anchors", "num", "classes", "coords"}
_SCALES = {"object_scale", "noobject_scale", "class_scale", "coord_scale"}
"""Keys that a recipe follows, and those that it follows only where it is faithful."""
BACKGROUNDS = "VOCdevkit/VOC2012/JPEGImages"
"""Where that repository looks for photographs."""


def training_recipe(
    datacfg: Path,
    modelcfg: Path,
    init: Path | None = None,
    pretrain_epochs: int | None = None,
    backgrounds: Path | None = None,
    runs: Path = Path("runs"),
    faithful: bool = False,
    taught: bool = False,
) -> dict[str, Any]:
    """The sections of the recipe that trains a network of a .cfg file as a student.

    Sizes, rate, epochs and anchors are the .cfg's (faithful, also the optimiser's keys and the scales of losses), lists
    and objects those of the .data file. The model is selected on frames held back from the training list, and the lists
    ``valid`` are for measuring alone.

    Args:
        init: weights to start from, Darknet's or a state dict. pretrain_epochs: in which points are learned alone.
        backgrounds: folder of photographs; that of the original, where it is there, by default.
        faithful: the published losses, augmentation and resolutions in the place of the corrected ones.
        taught: a teacher will be put in. Faithful, the student then learns from it alone, at one resolution and without
            a pretraining (Felix et al., 2020).

    Raises:
        RecipeError, DataError, CheckpointError: a fault in one of the files.
    """
    net, dataset = _net(modelcfg), LabelDataset(datacfg, "train")
    batch, epochs = net.integer("batch", 8), net.integer("max_epochs", EPOCHS)
    epoch = -(-len(dataset) // batch)
    published = _published_schedule(net, epochs * epoch, _unit(modelcfg, net, epoch)) if faithful else {}
    size = [net.integer(side, 416) for side in ("height", "width")]
    alone, resolutions = faithful and taught, None if taught else "published"
    picture = PictureSettings.faithful(size=size, resolutions=resolutions) if faithful else PictureSettings(size=size)
    network = network_section(modelcfg, faithful)
    network["settings"]["pretrain"] = 0.0 if alone else _pretrain_share(pretrain_epochs, epochs, modelcfg)
    if alone and pretrain_epochs:
        expected = "none under a teacher alone, as --faithful has it"
        raise RecipeError(describe(modelcfg, "--pretrain_num_epochs", pretrain_epochs, expected))
    if init is not None:
        network["pretrained"] = str(init)
    if init is not None and not init.is_file():
        raise CheckpointError(describe(init, "--initweightfile", "no such file", "weights to start from"))
    if backgrounds is not None and not backgrounds.is_dir():
        raise DataError(describe(backgrounds, "--backgrounds", "no such folder", "a folder of photographs"))
    photographs = backgrounds or resolved(BACKGROUNDS, datacfg)
    return {
        "name": datacfg.stem,
        "data": {
            "objects": list(dataset.objects().obj_ids),
            "train": [{"labels": str(datacfg), "split": "train"}],
            "test": {"source": {"labels": str(datacfg), "split": valid_lists(datacfg)[0]}},
            "backgrounds": str(photographs) if photographs.is_dir() else None,
            "picture": picture.model_dump(mode="json"),
        },
        "teacher": network | ({"supervise": False} if alone else {}),
        "student": network,
        "distill": [{"name": "match", "options": {"form": "response"} | ({"faithful": True} if alone else {})}],
        "train": {
            "steps": epochs * epoch,
            "batch_size": batch,
            "lr": net.number("learning_rate", 1e-3),
            "validate_every": 10 * epoch,
            "checkpoint_every": 10 * epoch,
            **published,
        },
        "runs": str(runs),
    }


def valid_lists(datacfg: Path) -> list[str]:
    """The lists of a .data file to measure on: ``valid``, or of several objects ``valid1``, ``valid4``, ..., in order.

    Raises:
        DataError: there is none, or a fault in the file.
    """
    data = read_data_file(datacfg)
    lists = [name for name in data.lists if name.startswith("valid")]
    if not lists:
        data.list_of("valid")
    return sorted(lists, key=lambda name: int(name.removeprefix("valid") or 0))


def validation_recipe(
    datacfg: Path, modelcfg: Path, checkpoint: Path, runs: Path = Path("runs"), split: str = "valid"
) -> dict[str, Any]:
    """The sections of the recipe that measures finished weights on a list of ``valid_lists``; nothing is trained.

    Raises:
        RecipeError, DataError: a fault in one of the files.
    """
    net, source = _net(modelcfg), {"labels": str(datacfg), "split": split}
    network = network_section(modelcfg)
    return {
        "name": f"{datacfg.stem}-{split}",
        "data": {
            "objects": list(LabelDataset(datacfg, split).objects().obj_ids),
            "train": [source],
            "test": {"source": source},
            "picture": {"size": [net.integer(side, 416) for side in ("height", "width")]},
        },
        "teacher": network | {"checkpoint": str(checkpoint)},
        "student": network,
        "runs": str(runs),
    }


def network_section(modelcfg: Path, faithful: bool = False) -> dict[str, Any]:
    """The section of a network: the .cfg, with the anchors of its head where it has several.

    Faithful, with the scales of its losses too.
    """
    region = read_cfg(modelcfg).region
    anchors = [list(pair) for pair in region.anchors] if region.num > 1 else []
    names = ("object_scale", "noobject_scale", "class_scale") if faithful else ()
    scales = {name: getattr(region, name) for name in names} | ({"point_scale": region.coord_scale} if faithful else {})
    settings = {"backbone": f"cfg:{modelcfg}", "anchors": anchors, "faithful": faithful}
    return {"family": "yolo6d", "settings": settings | scales}


def unused_keys(modelcfg: Path, faithful: bool = False) -> str:
    """What a .cfg says of training that :func:`training_recipe` leaves aside: ``[net] burn_in=1000, ...``."""
    sections = split_sections(read_cfg(modelcfg).text, str(modelcfg))
    places = [(sections[0], _NET, _PUBLISHED_NET), (sections[-1], _REGION, _SCALES)]
    unused = {
        section.name: [
            f"{key}={value}"
            for key, value in section.values.items()
            if key not in used and not (faithful and key in published)
        ]
        for section, used, published in places
    }
    return "; ".join(f"[{name}] {', '.join(pairs)}" for name, pairs in unused.items() if pairs)


def require_whole(weights: Path, modelcfg: Path, objects: int) -> None:
    """Refuse Darknet weights that are not all of the network of so many objects.

    Raises:
        RecipeError: a head of another kind, whose weights would be left out.
        CheckpointError: too short, too long, of another network, or not named as Darknet's are.
    """
    if not is_darknet(weights):
        raise CheckpointError(describe(weights, "weights", "another kind of file", "a .weights or .safetensors file"))
    cfg = read_cfg(modelcfg)
    found, expected = (cfg.region.coords, cfg.region.classes), (2 * BOX_POINTS, objects)
    if found != expected:
        described = ["coords={}, classes={}".format(*pair) for pair in (found, expected)]
        raise RecipeError(describe(modelcfg, "[region]", described[0], f"{described[1]}: the head of these labels"))
    read_weights(weights, cfg)


def _unit(modelcfg: Path, net: Section, epoch: int) -> int:
    """Batches that ``steps`` counts as one: those of an epoch where a .cfg of one object says how many it trains."""
    return epoch if "max_epochs" in net.values and read_cfg(modelcfg).region.num == 1 else 1


def _published_schedule(net: Section, steps: int, unit: int) -> dict[str, Any]:
    """The optimiser of a .cfg, whose rate is multiplied by each of ``scales`` at each of ``steps`` (-1: at once)."""
    places, factors = net.numbers("steps"), net.numbers("scales")
    if len(places) != len(factors) or places != sorted(places) or any(factor <= 0 for factor in factors):
        raise net.error("steps", f"{places} and scales {factors}", "rising steps, and a positive scale for each")
    pairs = zip(places, factors, strict=True)
    return {
        "optimizer": "sgd",
        "momentum": net.number("momentum", 0.9),
        "weight_decay": net.number("decay", 5e-4),
        "schedule": "step",
        "drops": [[max(place, 0) * unit / steps, factor] for place, factor in pairs if place * unit < steps],
        "clip": UNCLIPPED,
        "ema": 0.0,
    }


def _pretrain_share(asked: int | None, epochs: int, modelcfg: Path) -> float:
    """The share of the training in which points are learned alone."""
    if asked is None:
        return min(PRETRAIN_EPOCHS / epochs, 0.5)
    if asked >= epochs:
        expected = f"fewer than the {epochs} epochs of the training (max_epochs)"
        raise RecipeError(describe(modelcfg, "--pretrain_num_epochs", asked, expected))
    return asked / epochs


def _net(modelcfg: Path) -> Section:
    """The section ``[net]``, which holds the schedule."""
    return split_sections(read_cfg(modelcfg).text, str(modelcfg))[0]
