"""PoseNet meets the losses of ``distill``: the profiles of SCKD and its rivals, none special to the family."""

import copy

import numpy as np
import pytest
import torch

from posedistill.data.loading.batch import Batch
from posedistill.distill import DistillSpec, Example
from posedistill.distill.base import build_distiller
from posedistill.errors import RecipeError
from posedistill.estimators.posenet import PoseNet
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.rotations import axis_angle, random_rotations


def make(backbone: str, seed: int, **settings: object) -> PoseNet:
    torch.manual_seed(seed)
    values = {"backbone": backbone, "hidden": 32, **settings}
    estimator = build_estimator("posenet", NO_OBJECTS, values, 64)
    assert isinstance(estimator, PoseNet)
    return estimator


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    R = torch.as_tensor(random_rotations(6, rng), dtype=torch.float32)
    K = torch.tensor([[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]]).repeat(6, 1, 1)
    return Batch.single(torch.randn(6, 3, 64, 64), K, R, torch.randn(6, 3), torch.arange(6))


PROFILES = {
    "vanilla": [("match", {"form": "regression", "norm": "l2"}, "none")],
    "attentive": [("match", {"form": "regression", "norm": "l2", "gate": "upper_bound"}, "none")],
    "self-similarity": [("relate", {"form": "self_similarity", "layers": ["layer2", "layer3"]}, "none")],
    "sckd-pub": [
        ("feature", {"profile": "sckd-pub", "layers": {"layer4": "layer4"}}, "none"),
        ("relate", {"form": "self_cross", "layers": ["layer2", "layer3"], "profile": "sckd-pub"}, "none"),
    ],
    "sckd-head": [
        ("feature", {"profile": "sckd-head", "layers": {"layer4": "layer4"}}, "none"),
        ("relate", {"form": "self_cross", "layers": ["layer2", "layer3"], "profile": "sckd-head"}, "none"),
    ],
    "sckd-plus": [
        ("feature", {"layers": {"layer4": "layer4"}}, "none"),
        ("relate", {"form": "self_cross", "layers": ["layer2", "layer3"]}, "none"),
        ("relate", {"form": "pose_rows"}, "none"),
    ],
}


@pytest.mark.parametrize("profile", list(PROFILES))
def test_every_profile_trains_a_student(profile: str, batch: Batch) -> None:
    student, teacher = make("test_resnet", 0), make("test_resnet", 1).eval()
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        taught = teacher(batch)
        example = Example(student.eval()(batch), taught, batch, lambda: iter(()))
    prediction = student.train()(batch, torch.Generator().manual_seed(0))
    total = torch.zeros(())
    for name, options, trust in PROFILES[profile]:
        distiller = build_distiller(
            DistillSpec(name=name, options=options, trust=trust), student.offers, teacher.offers
        )
        distiller.prepare(example)
        total = total + distiller(prediction, taught, batch)
    total.backward()
    assert torch.isfinite(total)
    gradients = [p.grad.norm() for p in student.network.trunk.parameters() if p.grad is not None]
    assert gradients
    assert torch.stack(gradients).isfinite().all()
    assert torch.stack(gradients).max() > 0
    head = [p.grad for p in student.network.head.parameters() if p.grad is not None]
    assert bool(head) == (profile in ("vanilla", "attentive"))  # what compares maps leaves the head alone
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_networks_of_other_rotations_share_the_regression_view(batch: Batch) -> None:
    student = make("test_resnet", 0, rotation="log_quaternion")
    teacher = make("test_resnet", 0, rotation="6d").eval()
    distiller = build_distiller(
        DistillSpec(name="match", options={"form": "regression"}), student.offers, teacher.offers
    )
    assert torch.isfinite(distiller(student(batch), teacher(batch), batch))
    quaternions = make("test_resnet", 0, rotation="quaternion").eval()
    with pytest.raises(RecipeError, match=r"12.*7|7.*12"):
        distiller(student(batch), quaternions(batch), batch)


def test_trust_by_error_prefers_what_the_teacher_knows(batch: Batch) -> None:
    """Attentive imitation: a picture whose pose the teacher gets right counts more."""
    from posedistill.distill.trust import TrustSettings, image_trust

    teacher = make("test_resnet", 0).eval()
    with torch.no_grad():
        prediction = teacher(batch)
        prediction.regression = prediction.regression_truth.clone()
        prediction.regression[3] += 0.05
        prediction.regression[4] += 5
        weights = image_trust(TrustSettings(by="error", limit=1.0), prediction, batch)
    assert weights[0] == pytest.approx(1.0)
    assert weights[0] > weights[3] > weights[4]
    assert weights[4] == 0


def test_the_sides_turn_with_the_world(batch: Batch) -> None:
    """Another world frame changes no relation between poses that a loss looks at."""
    student, teacher = make("test_resnet", 0).eval(), make("test_resnet", 1).eval()
    turn = torch.as_tensor(axis_angle(np.array([1.0, 2.0, 3.0]), 1.0), dtype=torch.float32)
    moved = Batch.single(
        batch.images, batch.K, batch.R @ turn, batch.t + (batch.R @ torch.tensor([5.0, -2, 3])), batch.ids
    )
    distiller = build_distiller(
        DistillSpec(name="relate", options={"layers": ["layer3"]}), student.offers, teacher.offers
    )
    distiller.prepare(Example(student(batch), teacher(batch), batch, lambda: iter(())))
    losses = [distiller(student(view), teacher(view), view) for view in (batch, moved)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-6)
