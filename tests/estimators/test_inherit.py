"""A student begins with the layers that it shares with its teacher."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from posedistill.errors import RecipeError
from posedistill.estimators.base import Estimator
from posedistill.estimators.inherit import inherit
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import NO_OBJECTS

MakeNetwork = Callable[..., Estimator]


def tensors(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if key.startswith(prefix)}


def posenet(seed: int, **settings: Any) -> Estimator:
    torch.manual_seed(seed)
    return build_estimator("posenet", NO_OBJECTS, {"hidden": 16, **settings}, 64)


def test_all_of_a_trunk_that_is_cut_earlier(network: MakeNetwork) -> None:
    teacher = network(seed=1, backbone="tf_efficientnet_lite0", width=64, strides=[16, 32, 64])
    student = network(seed=2, backbone="tf_efficientnet_lite0@16", strides=[16, 32, 64])
    head = tensors(student.network, "head")
    taken = inherit(student, teacher)
    theirs = tensors(teacher.network)
    for name, value in tensors(student.network, "backbone").items():
        assert torch.equal(value, theirs[name]), name
    assert all(
        torch.equal(value, head[name])
        for name, value in tensors(student.network, "head").items()
        if "scales" not in name
    )
    trunk = sum(weight.numel() for weight in student.network.backbone.parameters())
    assert taken.parameters == trunk + 5  # and the head's scales, of which each network has five
    assert str(taken).startswith("backbone 66 of 66 layers, head 1 of 15 layers, pyramid 0 of 4 layers; 700,773")
    assert f"{trunk + 5:,} of {sum(weight.numel() for weight in student.network.parameters()):,} parameters" in str(
        taken
    )


def test_a_head_and_a_pyramid_of_the_same_shapes(network: MakeNetwork) -> None:
    """Levels are told apart by their strides, whatever number they have."""
    teacher, student = network(seed=1, strides=[8, 16, 32]), network(seed=2, strides=[16, 32])
    taken = inherit(student, teacher)
    ours, theirs = tensors(student.network.pyramid), tensors(teacher.network.pyramid)
    assert torch.equal(ours["pyramid.inner_blocks.0.0.weight"], theirs["pyramid.inner_blocks.1.0.weight"])
    assert torch.equal(ours["extra.0.weight"], theirs["extra.0.weight"])
    assert taken.left == () and taken.parameters == taken.total
    assert "pyramid.inner_blocks@16.0" in taken.layers
    head = tensors(teacher.network.head)
    assert all(torch.equal(value, head[name]) for name, value in tensors(student.network.head).items())


def test_cameras() -> None:
    teacher, student = posenet(1, backbone="resnet10t"), posenet(2, backbone="resnet10t@16")
    taken = inherit(student, teacher)
    theirs = tensors(teacher.network)
    ours = tensors(student.network)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if name.startswith("trunk"))
    assert taken.left == ("head.hidden",)  # of the pooled features, which are narrower
    assert torch.equal(ours["head.rotation.weight"], theirs["head.rotation.weight"])


def test_the_largest_channels_of_a_wider_network_fit_together(network: MakeNetwork) -> None:
    """Where all else of the teacher is zero, the narrow network computes what it does."""
    teacher = network(seed=1, backbone="darknet_tiny_h").eval()
    student = network(seed=2, backbone="darknet_tiny_q").eval()
    kept = {8: [1, 2, 4, 7], 16: [0, 3, 4, 5, 9, 11, 12, 15]}
    kept |= {width: list(range(1, width, 2)) for width in (32, 64, 128, 256)}
    with torch.no_grad():
        for block in teacher.network.backbone.modules():
            if isinstance(block, nn.Conv2d | nn.BatchNorm2d):
                lost = [index for index in range(len(block.weight)) if index not in kept[len(block.weight)]]
                for value in block.parameters(recurse=False):
                    value[lost] = 0.0
    images = torch.randn(2, 3, 64, 64)
    taken = inherit(student, teacher, narrow=True)
    assert not [name for name in taken.left if name.startswith("backbone")] and taken.narrowed
    with torch.inference_mode():
        ours, theirs = student.network.backbone(images), teacher.network.backbone(images)
    for stride, level in ours.items():
        torch.testing.assert_close(level, theirs[stride][:, kept[theirs[stride].shape[1]]])


def test_wider_layers_are_left_unless_asked_for(network: MakeNetwork) -> None:
    teacher, student = network(seed=1, backbone="darknet_tiny_h"), network(seed=2, backbone="darknet_tiny_q")
    taken = inherit(student, teacher)
    assert not taken.narrowed and all(name.startswith("backbone") for name in taken.left if "unit" in name)
    assert {name.partition(".")[0] for name in taken.layers} == {"pyramid", "head"}


def test_a_pair_that_shares_nothing_is_refused(network: MakeNetwork) -> None:
    teacher = network(backbone="mobilenetv3_small_050", width=64)
    with pytest.raises(RecipeError, match=r"'student.inherit': found a student that shares no layer with its teacher"):
        inherit(network(), teacher)
