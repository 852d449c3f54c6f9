import pytest
from pydantic import ValidationError

from posedistill.data.render.settings import RenderSettings
from posedistill.errors import RecipeError


@pytest.mark.parametrize(
    ("change", "key", "found"),
    [
        ({"distance": (900, 400)}, "distance", "900"),
        ({"elevation": (-100, 10)}, "elevation", "-100"),
        ({"inplane": (10, -10)}, "inplane", "10"),
        ({"objects_per_image": (0, 3)}, "objects_per_image", "0"),
        ({"distractors": (3, 1)}, "distractors", "3"),
        ({"elevation": (-60, -20)}, "elevation", "tabletop"),
        ({"K": ((500, 0, 9000), (0, 500, 240), (0, 0, 1))}, "K", "9000"),
        ({"K": ((-500, 0, 320), (0, 500, 240), (0, 0, 1))}, "K", "-500"),
        ({"K": ((500, 0, 320), (3, 500, 240), (0, 0, 1))}, "K", "3.0"),
    ],
)
def test_an_impossible_view_is_refused_by_name(change: dict, key: str, found: str) -> None:
    with pytest.raises(RecipeError, match=f"'{key}'.*expected") as error:
        RenderSettings(**change)
    assert found in str(error.value)


def test_unknown_and_out_of_range_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="distanse"):
        RenderSettings(distanse=(1, 2))
    with pytest.raises(ValidationError, match="jpeg_quality"):
        RenderSettings(jpeg_quality=0)


def test_below_the_table_is_fine_without_a_table() -> None:
    assert RenderSettings(elevation=(-60, -20), tabletop=0).elevation == (-60, -20)


@pytest.mark.parametrize(
    ("diameter", "expected"),
    [(800.0, "at least 600 mm"), (0.1, "is the mesh in mm")],
)
def test_distances_that_do_not_fit_the_object_are_refused(diameter: float, expected: str) -> None:
    RenderSettings().check_objects({7: 150.0})
    with pytest.raises(RecipeError, match=expected) as error:
        RenderSettings().check_objects({7: diameter})
    assert "object 7" in str(error.value)
