from pathlib import Path

import pytest

from posedistill.errors import RecipeError
from posedistill.recipe.explain import explain, keys_page, sections

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def test_the_page_of_keys_is_that_of_the_settings():
    assert PAGE.read_text() == keys_page(), "make it anew: python -m posedistill.recipe.explain > docs/keys.md"


def test_every_key_says_what_it_means():
    assert [key.name for section in sections() for key in section.keys if not key.about] == []


def test_a_dotted_key_is_explained_with_kind_default_and_meaning():
    assert explain("data.train.0.settings.distance") == (
        "data.train.N.settings.distance: [number, number]; default [500.0, 1400.0]\n    camera to object"
    )
    assert explain("student.train.steps").startswith("train.steps: whole number, above 0; default 10000")
    assert explain("data.objects") == (
        "data.objects: list of whole number, 1 or more; no default\n    BOP object ids; their order is the class order."
    )


def test_the_last_words_of_a_key_are_enough():
    found = explain("crop_size").splitlines()
    assert sum(line.startswith("data.crop_size: whole number") for line in found) == 2  # of objects and of categories


@pytest.mark.parametrize(("key", "near"), [("train.step", "train.steps"), ("objetcs", "objects")])
def test_an_unknown_key_names_what_was_probably_meant(key, near):
    with pytest.raises(RecipeError, match=f"'{key}': found no such key, expected one like .*{near}"):
        explain(key)
