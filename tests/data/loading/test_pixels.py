import math

import pytest
import torch
from torch import Tensor

from posedistill.data.loading import pixels
from posedistill.data.loading.pixels import Group

SIZE = 48


def picture(count=3) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def group(rows, **values):
    return Group(torch.tensor(rows), {key: torch.as_tensor(value) for key, value in values.items()})


def occluder():
    """One circle of radius 0.2 in the middle, flat white."""
    return {
        "centre": torch.full((1, 2, 2), 0.5),
        "half": torch.tensor([[[0.2, 0.2], [0.0, 0.0]]]),
        "angle": torch.zeros(1, 2),
        "round": torch.ones(1, 2, dtype=torch.bool),
        "period": torch.tensor([0.25]),
        "duty": torch.tensor([0.5]),
        "tint": torch.ones(1, 3),
        "contrast": torch.zeros(1),
        "texture": torch.zeros(1),
    }


def test_background_goes_behind_the_foreground_alone():
    x, new = picture(), torch.full((2, SIZE, SIZE, 3), 51, dtype=torch.uint8)
    ids = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    ids[:, 10:20, 10:30], ids[:, 30:, 30:] = 1, 255
    before = x.clone()
    pixels.replace_background(x, ids, torch.tensor([0, 2]), new)
    foreground = (ids > 0)[:, None].expand_as(x)
    assert torch.equal(x[foreground], before[foreground])
    assert torch.equal(x[1], before[1])
    assert torch.allclose(x[[0, 2]][~foreground[[0, 2]]], torch.tensor(0.2))


def test_occlusion_hides_and_tells_the_mask():
    x, masks = picture(), torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    before = x.clone()
    left = pixels.occlude(x, masks, group([1], **occluder()), pixels.blobs, 0.3)
    hidden = masks[1] & ~left[1]
    assert hidden.float().mean().item() == pytest.approx(math.pi * 0.2**2, rel=0.05)
    assert (x[1][:, hidden] == 1).all()
    assert torch.equal(x[1][:, ~hidden], before[1][:, ~hidden])
    assert left[[0, 2]].all() and torch.equal(x[[0, 2]], before[[0, 2]])
    assert masks.all(), "the given masks stay as they were"


def test_occlusion_that_hides_too_much_is_dropped():
    x, masks = picture(), torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    masks[:, 20:28, 20:28] = True
    before = x.clone()
    assert torch.equal(pixels.occlude(x, masks, group([1], **occluder()), pixels.blobs, 0.3), masks)
    assert torch.equal(x, before)


def test_a_grid_hides_its_share():
    masks = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    left = pixels.occlude(picture(1), masks, group([0], **occluder()), pixels.grid, 0.0)
    assert (~left).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_occluders_may_be_photographs():
    x, photo = picture(), torch.full((1, SIZE, SIZE, 4), 102, dtype=torch.uint8)
    twice = {key: torch.cat([value, value]) for key, value in occluder().items()}
    masks = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    left = pixels.occlude(x, masks, group([0, 2], **twice), pixels.blobs, 0.0, (torch.tensor([2]), photo))
    assert torch.allclose(x[2][:, ~left[2]], torch.tensor(0.4))
    assert (x[0][:, ~left[0]] == 1).all()


def test_colour_maps():
    one, none = torch.ones(1), torch.zeros(1)
    matrix, offset = pixels.colour_map(one, one, one, none, torch.ones(1, 3))
    assert torch.allclose(matrix[0], torch.eye(3), atol=1e-5) and (offset == 0).all()
    grey, _ = pixels.colour_map(one, one, none, none, torch.ones(1, 3))
    assert torch.allclose(grey[0], torch.tensor([0.299, 0.587, 0.114]).expand(3, 3), atol=1e-3)
    turned, _ = pixels.colour_map(one, one, one, torch.full((1,), 1.0), torch.ones(1, 3))
    assert torch.allclose(turned[0] @ torch.full((3,), 0.6), torch.full((3,), 0.6), atol=1e-3), "grey has no hue"
    flat, offset = pixels.colour_map(one, none, one, none, torch.ones(1, 3))
    assert torch.allclose(flat, torch.zeros(1)) and torch.allclose(offset, torch.tensor(pixels.MID_GREY))


@pytest.mark.parametrize(
    "kernels",
    [
        pixels.gaussian_kernels(torch.tensor([0.3, 1.0, 2.5]), 6),
        pixels.box_kernels(torch.tensor([0.5, 2.0, 4.0]), 6),
        pixels.motion_kernels(torch.tensor([1.0, 5.0, 11.0]), torch.tensor([0.0, 1.0, 2.0]), 6),
        pixels.unsharp_kernels(torch.tensor([0.3, 1.0, 1.5]), 1.0, 6),
    ],
    ids=["gaussian", "box", "motion", "unsharp"],
)
def test_kernels_keep_the_mean_and_place(kernels):
    taps = torch.arange(-6, 7, dtype=torch.float32)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(3), atol=1e-5)
    for axis in (taps, taps[:, None]):
        assert torch.allclose((kernels * axis).sum((1, 2)), torch.zeros(3), atol=1e-4)


def test_motion_kernel_runs_along_its_angle():
    kernel = pixels.motion_kernels(torch.tensor([9.0]), torch.tensor([math.pi / 2]), 6)[0]
    assert kernel[:, 6].sum() > 0.99 and kernel[6].sum() < 0.2


def test_each_crop_gets_its_own_kernel():
    x = picture()
    before = x.clone()
    kernels = torch.zeros(2, 5, 5)
    kernels[0, 2, 2] = 1
    kernels[1, 2, 3] = 1
    pixels.convolve(x, group([0, 2], kernel=kernels))
    assert torch.allclose(x[:2], before[:2], atol=1e-6)
    assert torch.allclose(x[2, :, :, :-1], before[2, :, :, 1:], atol=1e-6)
    assert torch.allclose(x[2, :, :, -1], before[2, :, :, -1], atol=1e-6), "edges are repeated"


def test_noise_has_its_deviation():
    x = torch.full((2, 3, 128, 128), 0.25)
    pixels.add_noise(x, group([1], sigma=[[0.03, 0.08]], offset=[0.4]))
    assert (x[0] == 0.25).all()
    assert x[1].std().item() == pytest.approx(math.sqrt(0.03**2 + 0.08**2 * 0.25), rel=0.03)
    assert x[1].mean().item() == pytest.approx(0.25, abs=2e-3)


def test_shade_is_a_plane_and_a_shadow():
    x = torch.ones(1, 3, SIZE, SIZE)
    values = {"gradient": [[0.4, 0.0]], "edge": [[0.0, 50.0]], "distance": [0.0], "shadow": [0.5]}
    pixels.shade(x, group([0], **values))
    assert x[0, 0, 0, -1] - x[0, 0, 0, 0] == pytest.approx(0.8, rel=0.05)
    assert x[0, 0, 0, 0] - x[0, 0, -1, 0] == pytest.approx(0.5, rel=0.05)


def test_gamma_and_resolution_touch_their_rows():
    x = picture()
    before = x.clone()
    pixels.curve(x, group([0], exponent=[2.0]))
    pixels.lose_resolution(x, group([2]), 3.0)
    assert torch.allclose(x[0], before[0] ** 2) and torch.equal(x[1], before[1])
    assert x[2].std() < 0.6 * before[2].std()
    assert x[2].mean().item() == pytest.approx(before[2].mean().item(), abs=0.01)


def test_normalise_is_imagenets():
    white = pixels.normalise(torch.full((1, 3, 2, 2), 7.0))
    assert torch.allclose(
        white[0, :, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )
