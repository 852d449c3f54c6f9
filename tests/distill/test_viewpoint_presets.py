"""The three presets of the published viewpoint method: they fit their networks, and cost what the formulas say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.distill import build_distiller
from posedistill.distill.base import Example
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.viewpoint import viewpoint_rotation
from posedistill.recipe.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {"backbone": "test_resnet", "features": 32, "width": 16}
COUNT = 6


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    R = viewpoint_rotation(rng.uniform([0, -30, -20], [360, 50, 20], (COUNT, 3)))
    images = torch.as_tensor(rng.normal(size=(COUNT, 3, 64, 64)), dtype=torch.float32)
    clouds = torch.as_tensor(rng.normal(size=(COUNT, 20, 3)), dtype=torch.float32)
    places = torch.eye(3).repeat(COUNT, 1, 1)
    R = torch.as_tensor(R, dtype=torch.float32)
    return Batch.single(images, places, R, torch.zeros(COUNT, 3), torch.arange(COUNT), clouds=clouds)


@pytest.fixture
def preset(monkeypatch, batch):
    """``preset(name)``: the recipe's losses, and both predictions of small networks with its settings."""
    monkeypatch.setenv("POSEDISTILL_DATA", "/data")

    def make(name):
        recipe = load_recipe(RECIPES / f"{name}.yaml")
        networks = []
        for seed, section in enumerate((recipe.student, recipe.teacher)):
            torch.manual_seed(seed)
            settings = section.settings | SMALL | ({"shape_features": 32} if seed else {})
            networks.append(build_estimator("viewpoint", NO_OBJECTS, settings, 64).eval())
        student, teacher = (network(batch) for network in networks)
        with torch.no_grad():  # networks that begin from nothing say next to nothing
            for side, seed in ((student, 3), (teacher, 4)):
                rng = torch.Generator().manual_seed(seed)
                side.logits = {key: torch.randn(value.shape, generator=rng) for key, value in side.logits.items()}
                side.embedding = torch.randn(side.embedding.shape, generator=rng)
        distillers = [build_distiller(spec, networks[0].offers, networks[1].offers) for spec in recipe.distill]
        pictures = lambda: iter([(teacher, batch)])  # noqa: E731
        for distiller in distillers:
            distiller.prepare(Example(student, teacher, batch, pictures, COUNT))
        return distillers, student, teacher

    return make


def divergences(student, teacher):
    """Sum over classes, mean over the batch of ``KL(softmax(teacher) || softmax(student))``, a number a head."""
    found = {}
    for name in student.logits:
        p, q = teacher.logits[name].double().softmax(1), student.logits[name].double().softmax(1)
        found[name] = float((p * (p / q).log()).sum(1).mean())
    return found


def total(distillers, student, teacher, batch):
    with torch.no_grad():
        return float(sum(each.weight * each(student, teacher, batch) for each in distillers))


def test_released_costs_what_the_public_code_computes(preset, batch):
    """0.75 of the divergences of six outputs and of the embedding, where the supervised loss has 0.25."""
    distillers, student, teacher = preset("cars_released_cpu")
    found = divergences(student, teacher)
    assert len(found) == 7 and "embedding" in found and "inplane_offset" in found
    assert 0.25 * total(distillers, student, teacher, batch) == pytest.approx(0.75 * sum(found.values()), rel=1e-5)


def test_paper_contrasts_embeddings_instead(preset, batch):
    distillers, student, teacher = preset("cars_paper_cpu")
    found = divergences(student, teacher)
    contrast = distillers[1]
    with torch.no_grad():  # no projection: the published comparison
        contrast.student.weight.copy_(torch.eye(16))
        contrast.student.bias.zero_()
        contrast.center.zero_()
    ours, theirs = (functional.normalize(side.embedding.double(), dim=1) for side in (student, teacher))
    scores = ours @ theirs.T / 0.5
    doubled = ((scores.exp().sum(1) + scores.diagonal().exp()).log() - scores.diagonal()).mean()
    expected = 0.75 * sum(value for name, value in found.items() if name != "embedding") + 0.9 * float(doubled)
    assert 0.25 * total(distillers, student, teacher, batch) == pytest.approx(expected, rel=1e-4)


def test_plus_distrusts_wrong_teachers_and_knows_only_three_heads(preset, batch):
    distillers, student, teacher = preset("cars_cpu")
    teacher.regression = teacher.regression_truth.clone()
    found = divergences_at(student, teacher, 2.0)
    with torch.no_grad():
        right = [float(each(student, teacher, batch)) for each in distillers]
        teacher.regression = -teacher.regression_truth
        wrong = [float(each(student, teacher, batch)) for each in distillers]
    assert right[0] == pytest.approx(found, rel=1e-4) and right[1] > 0
    assert wrong[:2] == [0, 0] and wrong[2] == right[2] > 0


def divergences_at(student, teacher, temperature):
    values = []
    for name in ("azimuth", "elevation", "inplane"):
        p, q = ((side.logits[name].double() / temperature).softmax(1) for side in (teacher, student))
        values.append(temperature**2 * float((p * (p / q).log()).sum(1).mean()))
    return sum(values)


@pytest.mark.parametrize("name", ["cars_cpu", "cars_released_cpu", "cars_paper_cpu"])
def test_gradients_reach_the_student_alone(preset, batch, name):
    distillers, student, teacher = preset(name)
    teacher.regression = teacher.regression_truth.clone()  # trusted
    student.embedding = student.embedding.clone().requires_grad_()
    teacher.embedding = teacher.embedding.clone().requires_grad_()
    student.logits = {key: value.clone().requires_grad_() for key, value in student.logits.items()}
    teacher.logits = {key: value.clone().requires_grad_() for key, value in teacher.logits.items()}
    sum(each.weight * each(student, teacher, batch) for each in distillers).backward()
    embedded = student.logits["embedding"] if name == "cars_released_cpu" else student.embedding
    assert student.logits["azimuth"].grad.any() and embedded.grad.any()
    assert teacher.embedding.grad is None and all(value.grad is None for value in teacher.logits.values())
