from pathlib import Path

import pytest
import yaml

from posedistill.errors import RecipeError
from posedistill.estimators.registry import SETTINGS
from posedistill.recipe.data import BopSource, DataSettings, RenderSource
from posedistill.recipe.recipe import fingerprint, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted([*RECIPES.glob("*.yaml"), *(RECIPES / "categories").glob("*.yaml")])


@pytest.fixture
def refused(raw_recipe, tmp_path):
    """``refused(change, *overrides)``: the message a changed recipe is refused with, after the file's name."""

    def load(change, *overrides: str) -> str:
        change(raw_recipe)
        path = tmp_path / "bad.yaml"
        path.write_text(yaml.safe_dump(raw_recipe))
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        lines = str(caught.value).split("\n")
        assert all(line.startswith(f"{path}: ") for line in lines)
        return "\n".join(line.removeprefix(f"{path}: ") for line in lines)

    return load


ALONE = {"my_part_cpu", "lmo_codes_all_cpu", "lmo_codes_longer_cpu", "lmo_codes_larger_cpu", "lmo_csv_codes_cpu"}
"""Recipes that train a student without losses."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POSEDISTILL_DATA", str(tmp_path))
    recipe = load_recipe(path)
    assert recipe.name == path.stem and recipe.folder == Path("runs") / path.stem
    assert "${" not in recipe.model_dump_json()
    assert bool(recipe.distill) == (path.stem not in ALONE)
    if isinstance(recipe.data, DataSettings):
        assert len(set(recipe.data.objects)) == len(recipe.data.objects)


def test_all_recipes_are_there():
    assert "quickstart" in [path.stem for path in SHIPPED] and len(SHIPPED) >= 5


def test_the_resolved_recipe_is_a_recipe(recipe, tmp_path):
    """What a run writes down can be run again and means the same."""
    loaded = recipe("teacher.train.steps=7")
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert load_recipe(path) == loaded


def test_sources_are_told_apart(recipe, bop):
    loaded = recipe("data.test.source={models: code, count: 2, settings: {width: 160, height: 120}}")
    assert loaded.data.train == [BopSource(bop=bop, split="train")]
    assert isinstance(loaded.data.test.source, RenderSource) and loaded.data.test.source.settings.width == 160


def test_a_network_may_have_its_own_schedule(recipe):
    loaded = recipe("teacher.train.steps=7")
    assert loaded.schedule(loaded.teacher).steps == 7 and loaded.schedule(loaded.student).steps == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r.update(trian={}), "'trian': found an unknown key, expected one of cache, data, distill"),
        (lambda r: r["train"].update(step=3), "'train.step': found an unknown key"),
        (lambda r: r["data"]["train"][0].update(spilt="x"), "'data.train.0.spilt': found an unknown key"),
        (
            lambda r: r["data"]["test"].update(source={"models": "code", "cuont": 3}),
            "'data.test.source.count': found {'cuont': 3, 'models': 'code'}, expected a value\n"
            "'data.test.source.cuont': found an unknown key",
        ),
        (lambda r: r["train"].update(steps="many"), "'train.steps': found 'many', expected a whole number"),
        (lambda r: r["train"].update(steps=0), "'train.steps': found 0, expected more than 0"),
        (lambda r: r["train"].update(drops=[[1.5, 0.1]]), "'train.drops.0.0': found 1.5, expected at most 1"),
        (lambda r: r["data"].update(objects="all"), "'data.objects': found 'all', expected a list"),
        (lambda r: r["data"].update(objects=[1, 1]), "'data': found objects [1, 1], expected each once"),
        (lambda r: r["data"].update(crop_size=100), "'data.crop_size': found 100, expected a multiple of 32"),
        (lambda r: r["data"].update(shares=[1, 1]), "'data': found 2 shares, expected one for each of 1 sources"),
        (lambda r: r.pop("data"), "'data': found {"),
        (lambda r: r.update(name="../mini"), "'name': found '../mini', expected letters, digits and"),
        (lambda r: r.update(distill=None), "'distill': found None, expected a list"),
        (lambda r: r["data"]["test"].update(boxes="both"), "'data.test.boxes': found 'both', expected 'gt' or"),
        (
            lambda r: r["data"]["test"].update(boxes="detector"),
            "'data.test': found boxes: detector without detections, expected detections: FILE",
        ),
        (lambda r: r["student"].update(checkpoint="a"), "'recipe': found student.checkpoint a, expected a student to"),
        (
            lambda r: r["student"].update(family="yolo"),
            f"'student': found family 'yolo', expected one of {sorted(SETTINGS)}",
        ),
        (
            lambda r: r["student"].update(settings={"bakcbone": "darknet53", "width": 31}),
            "'student': settings.width: found 31, expected a multiple of 32; "
            "settings.bakcbone: found 'darknet53', expected one of backbone, ",
        ),
    ],
)  # fmt: skip
def test_refused_with_key_found_and_expected(refused, change, expected: str):
    assert refused(change).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"distance": [900, 400]}, "render: 'distance': found (900.0, 400.0), expected (lowest, highest) in order"),
        ({"elevation": [-90, 0]}, "render: 'elevation': found (-90.0, 0.0) with a tabletop, expected a camera higher"),
        ({"K": [[300, 0, 500], [0, 300, 60], [0, 0, 1]], "width": 160}, "render: 'K': found principal point (500, 60)"),
        ({"distanec": [400, 900]}, "'data.train.0.settings.distanec': found an unknown key"),
    ],
)
def test_an_impossible_view_is_refused(refused, settings: dict, expected: str):
    source = {"models": "code", "count": 10, "settings": settings}
    assert refused(lambda r: r["data"].update(train=[source])).startswith(expected)


def test_every_fault_is_told_at_once(refused):
    message = refused(lambda r: r["train"].update(step=3, steps=-1, ema=2))
    assert [line.partition(":")[0] for line in message.split("\n")] == ["'train.steps'", "'train.ema'", "'train.step'"]


def test_unset_variable(refused, recipe_file, monkeypatch):
    monkeypatch.delenv("POSEDISTILL_NOWHERE", raising=False)
    message = refused(lambda r: r["data"].update(backgrounds="${POSEDISTILL_NOWHERE}/photos"))
    assert message == "'data.backgrounds': found ${POSEDISTILL_NOWHERE}, which is not set, expected the variable set"
    monkeypatch.setenv("POSEDISTILL_NOWHERE", "/somewhere")
    loaded = load_recipe(recipe_file, ["data.backgrounds=${POSEDISTILL_NOWHERE}/photos"])
    assert loaded.data.backgrounds == Path("/somewhere/photos")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a: [1, 2\nb: {", "found not YAML \\(while parsing"),
        (b"\xff\x00\x80", "found 'utf-8' codec"),
        (b"- 1\n- 2\n", "found list, expected a mapping"),
        (b"", "found NoneType, expected a mapping"),
        (b"!!python/object/apply:os.mkdir [sprung]", "found not YAML"),
    ],
)
def test_not_a_recipe(tmp_path: Path, content: bytes, found: str):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"bad\.yaml: '(recipe|text)': {found}"):
        load_recipe(path)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"none\.yaml: 'file': found no such file, expected a YAML recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="'file': found Is a directory"):
        load_recipe(tmp_path)


def test_overrides(recipe):
    loaded = recipe(
        "train.steps=2000", "train.lr=1e-3", "data.train.0.split=other", "student.settings.backbone=darknet53",
        "student.settings.strides=[16, 32]", "data.shares=[0.5]", "distill.0.weight=2", "name=another",
    )  # fmt: skip
    assert loaded.train.steps == 2000 and loaded.train.lr == 1e-3 and loaded.name == "another"
    assert isinstance(loaded.data.train[0], BopSource) and loaded.data.train[0].split == "other"
    assert loaded.student.settings["backbone"] == "darknet53" and loaded.student.settings["strides"] == [16, 32]
    assert loaded.data.shares == [0.5] and loaded.distill[0].weight == 2
    assert loaded.teacher.settings["backbone"] == "darknet_tiny_q"


def test_an_override_changes_one_place_of_an_anchor(recipe_file):
    assert "&id001" in recipe_file.read_text()  # teacher and student share their settings
    loaded = load_recipe(recipe_file, ["student.settings.width=64"])
    assert (loaded.teacher.settings["width"], loaded.student.settings["width"]) == (32, 64)


def test_overrides_make_sections_that_are_missing_or_empty(raw_recipe, tmp_path):
    raw_recipe["student"]["train"] = None
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(raw_recipe))
    loaded = load_recipe(path, ["student.train.steps=3", "teacher.train.steps=5", "data.augment.turn=15"])
    assert (loaded.schedule(loaded.student).steps, loaded.schedule(loaded.teacher).steps) == (3, 5)
    assert loaded.data.augment.turn == 15


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", "'train.steps': found no '=', expected an override as key=value, e.g. train.steps=2000"),
        ("train.steps=", "'train.steps': found None, expected a whole number"),
        ("=3", "'': found an unknown key"),
        ("nowhere.at.all=3", "'nowhere': found an unknown key"),
        ("data.train.5.split=a", "'data.train.5.split': found no such place in the recipe, expected a dotted key"),
        ("data.train.x.split=a", "'data.train.x.split': found no such place"),
        ("name.first=a", "'name.first': found no such place"),
        ("seed=[1", "'seed': found no such place"),
    ],
)
def test_bad_overrides(refused, override: str, expected: str):
    assert refused(lambda _: None, override).startswith(expected)


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        (lambda r: r["train"].update(step=3), "steps"),
        (lambda r: r["data"]["train"][0].update(spilt="x"), "split"),
        (lambda r: r["data"].update(objcts=[1]), "objects"),
        (
            lambda r: r["data"]["test"].update(source={"models": "code", "count": 1, "settings": {"distanec": 3}}),
            "distance",
        ),
        (lambda r: r["student"].update(settings={"bakcbone": "a"}), "backbone"),
    ],
)
def test_a_misspelt_key_is_told_which_was_meant(refused, change, meant: str):
    assert f"did you mean '{meant}'?" in refused(change)


def test_fingerprints_tell_contents_apart():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(*parts) for parts in ((1, 2), (2, 1), (1,), ([1, 2],), ("1", "2"))}) == 5


@pytest.mark.parametrize("side", [0, -1.5, float("nan"), float("inf")])
def test_anchors_without_a_size_are_refused(refused, side):
    network = {"family": "yolo6d", "settings": {"anchors": [[1.0, 2.0], [3.0, side]]}}
    said = refused(lambda r: r.update(teacher=network, student=network))
    assert "settings.anchors.1.1: found" in said and ("more than 0" in said or "a finite number" in said)
