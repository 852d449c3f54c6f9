"""A teacher's stored outputs: replayed to the last bit, resumable, refused where they are another's."""

import json
import re
from pathlib import Path

import pytest
import torch
from tests.training.helpers import train

from posedistill.distill import DistillSpec, build_distiller
from posedistill.errors import CheckpointError
from posedistill.estimators.views import Prediction, Votes
from posedistill.files import in_bytes
from posedistill.training.checkpoints import load_tensors
from posedistill.training.teaching import cache as teacher_cache
from posedistill.training.teaching import records
from posedistill.training.teaching.cache import CachedTeacher, cache_folder, stored_bytes, views_of
from posedistill.training.teaching.records import read_record
from posedistill.training.teaching.teachers import NetworkTeacher

ABOUT = {"teacher": "wdrnet abc, weights 123", "seed": 0}
VIEWS = frozenset({"votes", "cells", "features", "embedding"})


class Counting:
    """A teacher that notes the steps it was asked for."""

    offers = VIEWS

    def __init__(self, predict):
        self.asked = []
        self._predict = predict

    def predict(self, batch, step):
        self.asked.append(step)
        return self._predict(batch)


def everything(batch, dtype=torch.float32) -> Prediction:
    """All views there are, from the pixels of the batch; maps are channels-last, ids a repeated row."""
    count = len(batch)
    pixels = batch.images.mean((1, 2, 3))
    values = (torch.arange(5 * 8 * 2.0).view(1, 5, 8, 2) + pixels[:, None, None, None]).to(dtype)
    votes = Votes(values, values[:, :, 0, 0].sigmoid(), values[:, :, 0, 1] > 3, torch.arange(5).expand(count, -1))
    maps = torch.nn.functional.avg_pool2d(batch.images, 8).contiguous(memory_format=torch.channels_last).to(dtype)
    return Prediction(
        {"logits": pixels},
        votes=votes,
        cells=Votes(values, votes.weights, votes.mask),
        features={"p3": maps, "p4": maps[:, :, ::2, ::2]},
        embedding=pixels[:, None].to(dtype),
        regression=pixels[:, None].expand(-1, 7).contiguous(),
        logits={"azimuth": values.flatten(1)},
        spread=pixels,
    )


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_same(ours[name], theirs[name])
    elif isinstance(theirs, Votes):
        assert_same(vars(ours), vars(theirs))
    else:
        assert ours is None and theirs is None


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """``cached(teacher, views, steps, about)``: the teacher behind the cache in ``tmp_path``."""
    printed = []
    monkeypatch.setattr(records.console, "print", lambda text: printed.append(text))

    def make(teacher, views=VIEWS, steps=100, about=ABOUT, limit=1.0):
        made = CachedTeacher(teacher, tmp_path / "cache", about, views, steps, limit)
        made.printed = printed
        return made

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_replayed_to_the_last_bit(cached, batch, dtype):
    """Every view, with its dtype and memory format, of several steps."""
    views = VIEWS | {"regression", "logits"}
    first = cached(Counting(lambda crops: everything(crops, dtype)), views)
    batches = {step: batch(seed=step) for step in (0, 1, 67)}
    fresh = {step: first.predict(crops, step) for step, crops in batches.items()}
    teacher = Counting(lambda crops: everything(crops, dtype))
    second = cached(teacher, views)
    for step, crops in batches.items():
        replayed, made = second.predict(crops, step), everything(crops, dtype)
        for view in [*views, "spread"]:
            assert_same(getattr(replayed, view), getattr(made, view))
            assert_same(getattr(fresh[step], view), getattr(made, view))
        assert replayed.features["p3"].is_contiguous(memory_format=torch.channels_last)
        assert replayed.votes.cells.stride(0) == 0 and replayed.heads == {} == fresh[step].heads
    assert teacher.asked == [0]  # to compare one step with what is stored


def test_a_network_replayed(cached, batch, network):
    """Under bfloat16 too."""
    teacher = NetworkTeacher(network(), torch.device("cpu"), lambda: torch.autocast("cpu", torch.bfloat16))
    first, second = cached(teacher).predict(batch(), 7), cached(teacher).predict(batch(), 7)
    whole = teacher.predict(batch(), 7)
    assert whole.features["p3"].dtype == torch.bfloat16
    for view in VIEWS:
        assert_same(getattr(second, view), getattr(whole, view))
        assert_same(getattr(first, view), getattr(whole, view))


def test_only_the_wanted_views_are_stored_and_a_later_run_adds_more(cached, batch, tmp_path):
    cached(Counting(everything), frozenset({"votes"})).predict(batch(), 0)
    stored = {path.parent.name for path in (tmp_path / "cache").glob("*/000000.safetensors")}
    assert stored == {"votes", "spread", "batch"}
    more = Counting(everything)
    prediction = cached(more, frozenset({"votes", "features"})).predict(batch(), 0)
    assert more.asked == [0] and prediction.features and prediction.embedding is None
    fewer = Counting(everything)
    assert cached(fewer, frozenset({"features"})).predict(batch(), 0).votes is None


def test_a_map_that_is_named_is_a_view_of_its_own(cached, batch, tmp_path):
    whole = everything(batch())
    first = cached(Counting(everything), frozenset({"features.p4"})).predict(batch(), 0)
    assert [path.name for path in (tmp_path / "cache").glob("features*")] == ["features.p4"]
    again = Counting(everything)
    second = cached(again, frozenset({"features.p3", "features.p4"})).predict(batch(), 0)
    third = cached(again, frozenset({"features.p3", "features.p4"})).predict(batch(), 0)
    assert again.asked == [0, 0]  # p3 was missing; then one probe of what is stored
    assert_same(first.features, {"p4": whole.features["p4"]})
    for features in (second.features, third.features):
        assert_same(features, whole.features)


def test_steps_outside_training_are_passed_on(cached, batch, tmp_path):
    teacher = Counting(everything)
    prediction = cached(teacher).predict(batch(), -1)
    assert "logits" in prediction.heads and not list((tmp_path / "cache").glob("*/*"))


def test_a_view_that_a_teacher_does_not_give_stays_absent(cached, batch):
    votes_alone = Counting(lambda crops: Prediction({}, votes=everything(crops).votes))
    for _ in range(2):
        prediction = cached(votes_alone).predict(batch(), 0)
        assert prediction.embedding is None and prediction.features == {} and prediction.spread is None


def test_a_damaged_step_is_made_again(cached, batch, tmp_path):
    """As after a crash that left half of it on the disk; a file that was cut short likewise."""
    expected = cached(Counting(everything)).predict(batch(), 3).votes.values
    path = tmp_path / "cache" / "votes" / "000003.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-8] + bytes(8), whole[:1000], b""):
        path.write_bytes(damaged)
        assert read_record(path) is None
        teacher = Counting(everything)
        assert torch.equal(cached(teacher).predict(batch(), 3).votes.values, expected)
        assert teacher.asked == [3] and read_record(path) is not None


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({"teacher": "zebrapose", "seed": 1}, "'seed, teacher': found seed 0; teacher wdrnet abc"),
        ({"data": "0f3a"}, "'data': found data None, expected data 0f3a"),
    ],
)
def test_the_cache_of_another_teacher_or_recipe_is_refused(cached, batch, about, found):
    cached(Counting(everything)).predict(batch(), 0)
    with pytest.raises(CheckpointError, match=rf"fingerprint\.json: {found}.*Remove the folder"):
        cached(Counting(everything), about=ABOUT | about)


def test_the_cache_of_another_version_is_refused(cached, monkeypatch, tmp_path):
    cached(Counting(everything))
    noted = json.loads((tmp_path / "cache" / "fingerprint.json").read_text())
    assert noted == ABOUT | {"code": f"posedistill {teacher_cache.__version__}, cache format 2"}
    monkeypatch.setattr(teacher_cache, "__version__", "9.9")
    with pytest.raises(CheckpointError, match=r"'code': found code posedistill .*expected code posedistill 9\.9"):
        cached(Counting(everything))


def test_other_pictures_or_another_teacher_are_noticed_where_the_fingerprint_is_equal(cached, batch):
    """Whoever works on the code changes what a batch or a network is, and no version tells."""
    cached(Counting(everything)).predict(batch(), 0)
    with pytest.raises(CheckpointError, match="'step 0': found pictures that differ"):
        cached(Counting(everything)).predict(batch(seed=1), 0)

    def doubled(crops):
        prediction = everything(crops)
        prediction.cells.values *= 2
        return prediction

    with pytest.raises(CheckpointError, match="'step 0': found the teacher's cells that differ"):
        cached(Counting(doubled)).predict(batch(), 0)


def test_nothing_that_is_not_finite_is_stored(cached, batch):
    def broken(crops):
        prediction = everything(crops)
        prediction.embedding[0] = torch.nan
        return prediction

    cached(Counting(broken)).predict(batch(), 0)
    teacher = Counting(everything)
    assert torch.isfinite(cached(teacher).predict(batch(), 0).embedding).all() and teacher.asked == [0]


def test_errors_of_points_that_cannot_be_are_infinite_and_stored(cached, batch):
    """Of scene coordinates, whose points may lie behind the camera."""

    def with_errors(crops):
        prediction = everything(crops)
        prediction.cells.errors = prediction.cells.weights.clone()
        prediction.cells.errors[:, 1] = torch.inf
        return prediction

    first, teacher = cached(Counting(with_errors)), Counting(with_errors)
    expected = first.predict(batch(), 0)
    second = cached(teacher)
    for _ in range(2):
        torch.testing.assert_close(second.predict(batch(), 0).cells.errors, expected.cells.errors, rtol=0, atol=0)
    assert teacher.asked == [0] and second.stored(0) and not second.stored(1)  # asked to compare what is stored

    def unknown(crops):
        prediction = with_errors(crops)
        prediction.cells.errors[0, 0] = torch.nan
        return prediction

    third = cached(Counting(unknown))
    third.predict(batch(seed=5), 5)
    assert not third.stored(5)

    def other_infinities(crops):
        prediction = with_errors(crops)
        prediction.cells.errors[:, 2:] = torch.inf
        return prediction

    with pytest.raises(CheckpointError, match="the teacher's cells that differ"):
        cached(Counting(other_infinities)).predict(batch(), 0)


def test_the_size_is_told_before_and_a_full_disk_ends_the_storing_alone(cached, batch, full_disk, monkeypatch):
    teacher = cached(Counting(everything))
    teacher.predict(batch(), -1)
    size = in_bytes(100 * stored_bytes(everything(batch()), batch(), VIEWS))
    assert len(teacher.printed) == 1 and teacher.printed[0].startswith(f"teacher cache: {size} for 100 steps in ")
    assert re.fullmatch(r"\d+\.\d [kM]B", size) and not size.startswith("0.0")
    with full_disk(limit=500):
        expected = [teacher.predict(batch(seed=step), step).votes.values for step in range(3)]
    assert "no room (" in teacher.printed[1] and len(teacher.printed) == 2
    assert [torch.equal(everything(batch(seed=step)).votes.values, expected[step]) for step in range(3)]
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    again = Counting(everything)
    too_large = cached(again)
    too_large.predict(batch(), 0)
    too_large.predict(batch(), 0)
    assert "no room (0.0 kB are free)" in teacher.printed[-1] and again.asked == [0, 0]


def test_more_than_the_limit_is_not_stored(cached, batch, tmp_path):
    """The size that is told is that of the files, headers left out."""
    crops, views = batch(), VIEWS
    told = stored_bytes(everything(crops), crops, views)
    cached(Counting(everything)).predict(crops, 0)
    files = list((tmp_path / "cache").glob("*/*.safetensors"))
    written = sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in files)
    assert told == written
    limited = cached(Counting(everything), limit=100 * told / 1e9 / 2)
    limited.predict(crops, 5)
    assert "no room (teacher.cache_limit is" in limited.printed[-1]
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == len(files)


def test_views_that_losses_and_their_trust_look_at():
    offers = Counting.offers
    losses = [{"name": "align"}, {"name": "match", "options": {"form": "same_cell"}}]
    distillers = [build_distiller(DistillSpec(**loss), offers, offers) for loss in losses]
    assert views_of(distillers, Counting(everything)) == {"votes", "cells"}
    assert views_of(distillers[:1], Counting(everything)) == {"votes"}
    regressor = Counting(everything)
    regressor.offers = frozenset({"embedding", "regression", "logits"})
    for trust, needed in (("none", set()), ("spread", set()), ("score", {"logits"}), ("error", {"regression"})):
        loss = DistillSpec(name="contrast", trust=trust)
        assert views_of([build_distiller(loss, offers, offers)], regressor) == {"embedding"} | needed
    assert views_of([build_distiller(loss, offers, offers)], Counting(everything)) == {"embedding", "votes"}
    hint = DistillSpec(name="feature", options={"layers": {"p4": "p5"}})
    related = DistillSpec(name="relate", options={"layers": ["p3"]})
    named = [build_distiller(spec, offers, offers) for spec in (hint, related)]
    assert views_of(named, Counting(everything)) == {"features.p5", "features.p3"}
    whole = build_distiller(DistillSpec(name="feature"), offers, offers)
    assert views_of([*named, whole], Counting(everything)) == {"features"}


def test_a_folder_a_dependence(tmp_path: Path):
    assert cache_folder(tmp_path, ABOUT) == cache_folder(tmp_path, dict(ABOUT))
    assert cache_folder(tmp_path, ABOUT) != cache_folder(tmp_path, ABOUT | {"seed": 1})


def test_a_training_from_the_cache_is_the_same_training(recipe, monkeypatch):
    """A second run, of other losses too, replays; weights are equal to the last bit to those without a cache."""
    train(recipe(), "teacher", 0)
    weights = recipe().folder / "teacher" / "seed0" / "model.safetensors"
    plain = train(recipe(f"teacher.checkpoint={weights}", "name=plain"), "distilled", 0)
    written = train(recipe(f"teacher.checkpoint={weights}", "name=one", "teacher.cache=true"), "distilled", 0)
    folders = list((recipe().runs / "cache").glob("teacher-*"))
    assert len(folders) == 1
    asked = []
    predict = NetworkTeacher.predict
    monkeypatch.setattr(NetworkTeacher, "predict", lambda s, b, step: asked.append(step) or predict(s, b, step))
    replayed = train(recipe(f"teacher.checkpoint={weights}", "name=two", "teacher.cache=true"), "distilled", 0)
    assert asked == [-1, 0]  # the example that losses are prepared with, and the step that is compared
    for name, value in load_tensors(plain)[0].items():
        assert torch.equal(value, load_tensors(written)[0][name]) and torch.equal(
            value, load_tensors(replayed)[0][name]
        )
    asked.clear()
    longer = ("teacher.cache=true", "distill.0.weight=2", "student.train={steps: 6, batch_size: 4, precision: float32}")
    train(recipe(f"teacher.checkpoint={weights}", "name=three", *longer), "distilled", 0)
    assert asked == [-1, 0, 4, 5]
    train(recipe(f"teacher.checkpoint={weights}", "name=four", "teacher.cache=true"), "distilled", 1)
    assert len(list((recipe().runs / "cache").glob("teacher-*"))) == 2


def test_a_named_folder(recipe, tmp_path):
    """Keeps one cache a seed, and says what differs where it is another's."""
    train(recipe(), "teacher", 0)
    weights = recipe().folder / "teacher" / "seed0" / "model.safetensors"
    named = (f"teacher.checkpoint={weights}", f"teacher.cache={tmp_path / 'outputs'}")
    train(recipe(*named, "name=one"), "distilled", 3)
    assert (tmp_path / "outputs" / "seed3" / "fingerprint.json").exists()
    with pytest.raises(CheckpointError, match=r"seed3/fingerprint\.json: 'batch_size': found batch_size 4, expected "):
        train(recipe(*named, "name=two", "train.batch_size=2"), "distilled", 3)


def test_a_cache_does_not_make_another_network_of_it(recipe):
    """What was trained without a cache is taken up with one."""
    train(recipe("train.steps=1"), "teacher", 0)
    path = train(recipe("train.steps=1"), "distilled", 0)
    before = path.stat().st_mtime_ns
    assert train(recipe("train.steps=1", "teacher.cache=true"), "distilled", 0).stat().st_mtime_ns == before
