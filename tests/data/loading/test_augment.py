import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from posedistill.data.loading.augment import AugmentSettings, draw, hide, vary
from posedistill.data.loading.pixels import MEAN, STD, normalise, to_planes

SIZE = 40
CHANCES = ("background", "occlusion", "light", "colour", "gamma", "blur", "motion", "resolution", "noise")


def crops(count=8):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, SIZE, SIZE, 4), dtype=torch.uint8, generator=generator)
    ids = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
    ids[:, 10:30, 8:32], ids[:, :5, :5] = 2, 255
    return images, ids, ids == 2


def run(chosen, seed=0, count=8, photos=True):
    images, ids, masks = crops(count)
    draws = draw(chosen, count, SIZE, torch.Generator().manual_seed(seed))
    photo = torch.full((count, SIZE, SIZE, 3), 77, dtype=torch.uint8)
    behind, before = (
        photo[: len(draws.groups[name].rows)] if photos else None for name in ("background", "photo_occlusion")
    )
    x = to_planes(images)
    masks = hide(x, ids, masks, draws, behind, before)
    vary(x, draws)
    return normalise(x), masks


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    chances=st.fixed_dictionaries({name: st.sampled_from([0.0, 0.4]) for name in CHANCES}),
    photos=st.booleans(),
)
def test_pixels_stay_finite_and_normalised(seed, chances, photos):
    images, masks = run(AugmentSettings(**chances), seed, photos=photos)
    assert images.dtype == torch.float32 and images.shape == (8, 3, SIZE, SIZE)
    low, high = (torch.tensor([(end - m) / s for m, s in zip(MEAN, STD, strict=True)]) for end in (0.0, 1.0))
    assert torch.isfinite(images).all()
    assert (images >= low[:, None, None] - 1e-5).all() and (images <= high[:, None, None] + 1e-5).all()
    whole = crops()[2]
    assert not (masks & ~whole).any(), "a mask can only lose pixels"
    assert (masks.sum((1, 2)) >= 0.3 * whole.sum((1, 2)) - 1e-6).all()


@pytest.mark.parametrize("chosen", [AugmentSettings.none(), AugmentSettings.faithful()], ids=["none", "faithful"])
def test_presets_leave_pixels_alone(chosen):
    images, masks = run(chosen)
    given_images, _, given_masks = crops()
    plain = given_images[..., :3].permute(0, 3, 1, 2) / 255
    expected = (plain - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(images, expected, atol=1e-5)
    assert torch.equal(masks, given_masks)
    assert chosen.box == "amodal"


def test_none_varies_nothing_and_faithful_the_camera():
    assert (AugmentSettings.none().shift, AugmentSettings.none().scale, AugmentSettings.none().turn) == (0, 0, 0)
    assert (AugmentSettings.faithful().shift, AugmentSettings.faithful().turn) == (0.25, 10.0)


def test_the_seed_is_all():
    first, again, other = (run(AugmentSettings(), seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_strength_leaves_the_other_draws_alone():
    a, b = (
        draw(chosen, 50, SIZE, torch.Generator().manual_seed(0))
        for chosen in (AugmentSettings(), AugmentSettings(light=1.0, brightness=0.9))
    )
    for name in ("background", "occlusion", "gamma", "filter", "noise"):
        assert torch.equal(a.groups[name].rows, b.groups[name].rows)
        for key, value in a.groups[name].values.items():
            assert torch.equal(value, b.groups[name].values[key])
    assert len(b.groups["light"].rows) == 50


def test_probabilities_are_those_asked_for():
    draws = draw(AugmentSettings(), 4000, SIZE, torch.Generator().manual_seed(0))
    expected = {
        "background": 0.5,
        "occlusion": 0.4,
        "grid": 0.05,
        "light": 0.4,
        "gamma": 0.3,
        "filter": 0.5,
        "resolution": 0.2,
        "noise": 0.4,
    }
    for name, probability in expected.items():
        assert len(draws.groups[name].rows) / 4000 == pytest.approx(probability, abs=0.03)


def test_a_part_is_the_draws_of_its_samples():
    draws = draw(AugmentSettings(), 12, SIZE, torch.Generator().manual_seed(4))
    halves = draws.part(0, 5), draws.part(5, 12)
    for name, group in draws.groups.items():
        assert all((half.groups[name].rows < size).all() for half, size in zip(halves, (5, 7), strict=True))
        rows = torch.cat([halves[0].groups[name].rows, halves[1].groups[name].rows + 5])
        assert torch.equal(rows, group.rows)
        for key, value in group.values.items():
            assert torch.equal(torch.cat([half.groups[name].values[key] for half in halves]), value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1.2}, "colour"),
        ({"shift": -0.1}, "shift"),
        ({"box": "tight"}, "box"),
        ({"flip": 0.5}, "flip"),
        ({"blur": 0.6, "motion": 0.6}, "exclude each other"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        AugmentSettings(**values)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        AugmentSettings().blur = 0.0
