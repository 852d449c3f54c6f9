import pytest

from posedistill.distill.functional.layers import paired_layers, teacher_layers
from posedistill.errors import RecipeError

STUDENT, TEACHER = ["p3", "p4", "p5"], ["p4", "p5", "p6"]


def test_which_maps_meet() -> None:
    assert paired_layers("all", STUDENT, TEACHER, "feature") == {"p4": "p4", "p5": "p5"}
    assert list(paired_layers(("p5", "p4"), STUDENT, TEACHER, "feature").items()) == [("p5", "p5"), ("p4", "p4")]
    assert paired_layers({"p3": "p6"}, STUDENT, TEACHER, "feature") == {"p3": "p6"}


def test_a_map_that_is_not_there_is_told_with_those_that_are() -> None:
    told = (
        r"distill.feature.layers': found student maps p3, p4, p5; teacher maps p4, p5, p6, expected p3: p3 among them"
    )
    with pytest.raises(RecipeError, match=told):
        paired_layers({"p3": "p3", "p4": "p4"}, STUDENT, TEACHER, "feature")
    with pytest.raises(RecipeError, match=r"distill.relate.layers.*expected p3: p3 among them"):
        paired_layers(("p3",), STUDENT, TEACHER, "relate")
    with pytest.raises(RecipeError, match=r"teacher maps layer4, expected a name that both have, or layers: \{"):
        paired_layers("all", STUDENT, ["layer4"], "feature")
    with pytest.raises(RecipeError, match="teacher maps of no name"):
        paired_layers("all", STUDENT, [], "feature")


def test_which_maps_of_the_teacher_are_looked_at() -> None:
    assert teacher_layers("all") is None
    assert teacher_layers(("p4", "p5")) == {"p4", "p5"}
    assert teacher_layers({"p3": "p4", "p4": "p4"}) == {"p4"}
