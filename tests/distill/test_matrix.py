"""Every form of every distillation loss meets every pose family: it trains, or is refused with both lists of views.

Losses and families are found by their settings, so that a new one is tested here as soon as it is registered.
"""

import copy
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, DistillSpec, build_distiller
from posedistill.distill.base import DISTILLERS
from posedistill.errors import RecipeError
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import SETTINGS, build_estimator
from posedistill.estimators.views import VIEWS
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.training.step import Untouched, losses
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching

CROP, COUNT = 64, 8
HALF = np.array([40.0, 30.0, 50.0])
SMALLEST: dict[str, list[Any]] = {
    "backbone": ["darknet_tiny_q", "test_resnet"],
    "head": ["slim"],
    "width": [32],
    "hidden": [32],
    "strides": [[8, 16]],
    "score_threshold": [0.0],
}
"""Settings that make a family's network small, and its teacher speak up; a family takes the first that it can."""


CODES: dict[tuple[str, str | None], dict[str, Any]] = {
    ("align", None): {"unit": "code", "bit_decay": 0.7, "place_weight": 4.0, "reach": 0.5},
    ("match", "same_cell"): {"norm": "bce"},
    ("match", "cluster_mean"): {"norm": "bce"},
    ("match", "response"): {"norm": "bce"},
    ("match", "bits"): {"heads": ["code"], "mask": "mask"},
}
"""What losses must be told of votes and logits that are codes."""
POINTS: dict[tuple[str, str | None], dict[str, Any]] = {
    ("align", None): {"unit": "crop"},
    ("match", "same_cell"): {"unit": "crop"},
    ("match", "cluster_mean"): {"unit": "crop"},
    ("match", "response"): {"unit": "crop"},
}
"""Options of losses on points of a scene, which have no object to be measured in."""


def forms_of(verb: str) -> list[str | None]:
    """The values of the setting ``form``; None where a loss has one form alone."""
    field = pkgutil.resolve_name(DISTILLERS[verb]).Settings.model_fields.get("form")
    return [None] if field is None else list(get_args(field.annotation))


LOSSES = [(verb, form) for verb in sorted(DISTILLERS) for form in forms_of(verb)]


@cache
def smallest(family: str) -> dict[str, Any]:
    """The small settings that a family has and that its network can be built of, added one by one."""
    settings, chosen = SETTINGS[family], {}
    for name, values in SMALLEST.items():
        for value in values if name in settings.model_fields else ():
            try:
                settings.model_validate(chosen | {name: value})
                build_estimator(family, objects(), chosen | {name: value}, CROP)
            except (ValidationError, RecipeError):
                continue
            chosen[name] = value
            break
    return chosen


@cache
def objects() -> ObjectTable:
    corners = box_corners(-HALF, HALF)
    return ObjectTable((1, 2), np.stack([corners] * 2), np.full(2, 2 * np.linalg.norm(HALF)), (np.eye(4)[None],) * 2)


def make_batch(seed: int, *, scene: bool) -> Batch:
    """Noise, behind a disc where there are objects; poses and keypoints agree."""
    rng = np.random.default_rng(seed)
    K = np.array([[300.0, 0, CROP / 2], [0, 300.0, CROP / 2], [0, 0, 1]])
    R, t = random_rotations(COUNT, rng), np.array([0, 0, 700.0]) + rng.uniform(-20, 20, (COUNT, 3))
    corners = objects().keypoints[0]
    y, x = np.mgrid[:CROP, :CROP] - CROP / 2
    disc = np.repeat((x**2 + y**2 < (CROP / 3) ** 2)[None], COUNT, axis=0)
    images = rng.normal(size=(COUNT, 3, CROP, CROP)) + 2 * disc[:, None]

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    pictures: dict[str, Tensor] = {
        "images": tensor(images),
        "K": tensor(K).repeat(COUNT, 1, 1),
        "R": tensor(R),
        "t": tensor(t / 100 if scene else t),
        "ids": torch.arange(COUNT) + COUNT * seed,
    }
    if scene:
        return Batch.single(**pictures)
    return Batch.single(
        **pictures,
        masks=torch.as_tensor(disc),
        label=torch.arange(COUNT) % 2,
        keypoints3d=tensor(corners).repeat(COUNT, 1, 1),
        keypoints=tensor([project(corners, R[i], t[i], K) for i in range(COUNT)]),
        diameters=tensor(objects().diameters[:1]).repeat(COUNT),
        **{
            "surface/4": tensor(
                np.where(disc[:, ::4, ::4, None], rng.uniform(-HALF, HALF, (*disc[:, ::4, ::4].shape, 3)), np.nan)
            )
        },
    )


@cache
def network(family: str, seed: int) -> Estimator:
    torch.manual_seed(seed)
    return build_estimator(family, objects(), smallest(family), CROP)


@cache
def batches(family: str) -> list[Batch]:
    """Three batches with the targets that the family needs."""
    given = [make_batch(seed, scene=not network(family, 0).targets) for seed in range(3)]
    network(family, 0).check_targets(frozenset(given[0].targets))
    return given


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(student: Estimator, teaching: Teaching, given: list[Batch]) -> None:
    """Two steps, the second after what the distillers learned has been saved and loaded."""
    teaching.prepare(student.train(), given[0])
    learned = teaching.parameters()
    optimizer = torch.optim.AdamW([*student.parameters(), *learned], lr=1e-3)
    (distiller,) = teaching.distillers
    for step, batch in enumerate(given[:2]):
        terms = losses(Untouched(student), student, batch, torch.Generator().manual_seed(step), teaching, step)
        assert all(bool(term.isfinite()) for term in terms.values()), terms
        optimizer.zero_grad(set_to_none=True)
        terms[distiller.name].backward(retain_graph=True)
        gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0, "the loss teaches the student nothing"
        torch.stack(list(terms.values())).sum().backward()
        # The gradients of several processes are averaged one by one: each must be there.
        assert all(weight.grad is not None for weight in learned)
        assert all(bool(w.grad.isfinite().all()) for w in [*student.parameters(), *learned] if w.grad is not None)
        optimizer.step()
        teaching.restore({name: value.clone() for name, value in teaching.state().items()}, Path("last.safetensors"))


@pytest.mark.parametrize("family", sorted(SETTINGS))
@pytest.mark.parametrize(("verb", "form"), LOSSES)
def test_a_loss_trains_or_is_refused(verb: str, form: str | None, family: str) -> None:
    student, teacher = (copy.deepcopy(network(family, seed)) for seed in (0, 1))
    own = {"zebrapose": CODES, "scene_coordinates": POINTS}.get(family, {}).get((verb, form), {})
    spec = DistillSpec(name=verb, options=own | ({} if form is None else {"form": form}))
    distiller: Distiller | None = None
    try:
        distiller = build_distiller(spec, student.offers, teacher.offers)
    except RecipeError as refusal:
        told = re.search(
            r"'distill.(\w+)': found a student that offers (.*), expected views (.*) \((.*) missing\)", str(refusal)
        )
        assert told is not None, refusal
        offers, needs, missing = (set(part.split(", ")) for part in told.groups()[1:])
        assert told[1] == verb and offers == student.offers and missing == needs - offers and needs <= set(VIEWS)
        return
    given = batches(family)
    before = copy.deepcopy(teacher.state_dict())
    teaching = Teaching(
        NetworkTeacher(teacher, torch.device("cpu")), [distiller], lambda: iter(given), COUNT * len(given)
    )
    if (family, form) == ("zebrapose", "logits"):
        with pytest.raises(RecipeError, match="form: bits"):  # bits are no classes that exclude each other
            train(student, teaching, given)
        return
    train(student, teaching, given)
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())


def test_each_verb_trains_somewhere() -> None:
    offers = [network(family, 0).offers for family in SETTINGS]
    for verb in DISTILLERS:
        specs = [DistillSpec(name=v, options={"form": f} if f else {}) for v, f in LOSSES if v == verb]
        builds = [build_distiller(spec, frozenset(VIEWS), frozenset(VIEWS)) for spec in specs]
        assert builds and any(distiller.needs <= offered for distiller in builds for offered in offers)
