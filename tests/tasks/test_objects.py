"""Objects from recipe to batches: packs, splits, crops."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from tests.conftest import HALVES, K, box_mesh, draw

from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.formats.labels.writer import write_labels
from posedistill.data.loading.loader import Loader
from posedistill.errors import DataError, RecipeError
from posedistill.recipe.networks import NetworkSettings
from posedistill.recipe.stages import Stage
from posedistill.runtime.threshold import Threshold
from posedistill.tasks import objects as objects_task
from posedistill.tasks.registry import open_task
from posedistill.training.networks import build_network


def test_validation_frames_are_never_trained_on(recipe):
    prepared = open_task(recipe()).training_set
    frames = prepared.packs[0].instances.frame
    train, held = set(frames[prepared.train]), set(frames[prepared.validation])
    assert len(train) == 6 and len(held) == 2 and not train & held
    assert sorted([*prepared.train, *prepared.validation]) == list(range(16))
    again, other = open_task(recipe()).training_set, open_task(recipe("seed=1")).training_set
    assert (again.validation == prepared.validation).all()
    assert (
        set(other.validation) != set(prepared.validation)
        or set(open_task(recipe("seed=2")).training_set.validation) != held
    )


def test_the_pack_is_made_once(recipe):
    first, second = open_task(recipe()).training_set, open_task(recipe("train.steps=9")).training_set
    assert first.packs[0].folder == second.packs[0].folder
    assert first.packs[0].folder != open_task(recipe("data.min_visible=0.5")).training_set.packs[0].folder


def test_objects_come_in_the_order_of_the_recipe(recipe):
    assert open_task(recipe("data.objects=[2, 1]")).objects.obj_ids == (2, 1)
    turned, straight = open_task(recipe("data.objects=[2, 1]")).objects, open_task(recipe()).objects
    np.testing.assert_array_equal(turned.keypoints, straight.keypoints[::-1])
    with pytest.raises(DataError, match="7"):
        open_task(recipe("data.objects=[1, 7]")).check()


def test_batches_are_a_function_of_seed_and_step(recipe):
    task = open_task(recipe())

    def make(seed: int, **options) -> Loader:
        return task.loader(task.training_set.train, seed=seed, device="cpu", batch_size=4, **options)

    first, again, other, half = make(0), make(0), make(1), make(0, rank=1, world_size=2)
    images = first.batch(3).images
    assert torch.equal(images, again.batch(3).images)
    assert not torch.equal(images, first.batch(4).images) and not torch.equal(images, other.batch(3).images)
    assert len(half.batch(3)) == 2
    with pytest.raises(RecipeError, match="'batch_size': found 4, expected a multiple of 3 processes"):
        make(0, rank=0, world_size=3)


def test_shares_of_the_sources(recipe, raw_recipe):
    """Three quarters from the second source, though both are equally large."""
    two = "data.train=[{bop: '%s', split: train}, {bop: '%s', split: test}]" % (
        (raw_recipe["data"]["train"][0]["bop"],) * 2
    )
    loaded = recipe(two, "data.shares=[0.25, 0.75]")
    task = open_task(loaded)
    first = len(task.training_set.packs[0])
    made = task.loader(task.training_set.train, seed=0, device="cpu", batch_size=8)
    for step in range(3):
        assert int((made.batch(step).ids >= first).sum()) == 6


def test_the_true_surface_is_that_of_the_thing_that_is_sought(recipe, tmp_path):
    """Of two of a kind in a frame the one in whose box it is looked for is drawn."""
    writer = BopWriter(tmp_path, "test", jpeg_quality=None)
    poses = [(1, np.eye(3), np.array([x, 0.0, 680.0])) for x in (-90.0, 90.0)]
    image = np.zeros((120, 160, 3), np.uint8)
    masks = [draw(*pose, image, K) for pose in poses]
    writer.add_frame(1, 0, image, K, poses, None, masks, masks)
    writer.finish_scene(1)
    write_models(tmp_path, {1: box_mesh(HALVES[1])})
    write_camera(tmp_path, K, 160, 120)
    bop = f"{{bop: '{tmp_path}', split: test}}"
    task = open_task(recipe("data.objects=[1]", f"data.train=[{bop}]", f"data.test.source={bop}"))
    codes = {"family": "zebrapose", "settings": {"backbone": "darknet_tiny_q", "width": 16}}
    network = NetworkSettings.model_validate(codes)
    decoder = task.deployed(build_network(task.recipe, network, task.objects))[1]
    (query,) = task.queries
    assert list(query.labels) == [1, 1]
    for boxes in (query.boxes, query.boxes[::-1]):
        prepared = decoder.prepare(dataclasses.replace(query, boxes=boxes).request())
        surface = task._true_surface(query, prepared, 64, 4)
        hit = np.isfinite(surface[..., 0])
        assert hit.mean() > 0.2 and hit[7:9, 7:9].all()


def test_one_frame_cannot_be_split(recipe, bop, tmp_path):
    frames = tmp_path / "one.txt"
    frames.write_text("000000\n")
    prepared = open_task(recipe(f"data.train.0.frames={frames}")).training_set
    assert len(prepared.train) == 2 and len(prepared.validation) == 0


def test_backgrounds_that_are_not_there(recipe, tmp_path):
    loaded = recipe(f"data.backgrounds={tmp_path / 'nowhere'}")
    task = open_task(loaded)
    with pytest.raises(DataError, match="nowhere"):
        task.loader(task.training_set.train, seed=0, device="cpu", batch_size=4)


def test_prepared_data_does_not_change(recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        open_task(recipe()).training_set.train = np.arange(3)


def test_label_folders_train_as_bop_folders_do(recipe, bop, tmp_path, capsys):
    """The same frames, split and poses; what no file states is told."""
    data = write_labels(BopDataset(bop, "train"), tmp_path / "boxes").data
    text = data.read_text()
    data.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("diam1 ")))
    labelled = open_task(recipe(f"data.train=[{{labels: {data}}}]", f"data.test={{source: {{labels: {data}}}}}"))
    plain = open_task(recipe())
    assert (labelled.training_set.validation == plain.training_set.validation).all()
    np.testing.assert_allclose(labelled.training_set.poses.t, plain.training_set.poses.t, atol=1e-5)
    assert "no diameter of obj_000001.ply is stated" in capsys.readouterr().err.replace("\n", " ")
    assert labelled.training_frames["boxes.data/train"].shape == (8, 2)
    assert (
        len(labelled.queries) == 8
        and labelled.score(labelled.training_set.poses.select(slice(0, 0))).dataset == "boxes.data/train"
    )


@pytest.fixture
def asked(monkeypatch):
    """What a threshold is chosen on, in place of searching."""
    calls = []

    def choose(predictor, shown, photographs, source):
        calls.append((list(shown), photographs, source))
        return Threshold(0.4, 1.0, 0.0, 4, 1, source)

    monkeypatch.setattr(objects_task, "threshold_of", choose)
    return calls


def photograph(folder):
    folder.mkdir()
    cv2.imwrite(str(folder / "street.png"), np.zeros((20, 30, 3), np.uint8))
    return folder


def test_a_threshold_is_chosen_on_frames_held_back_and_photographs(recipe, tmp_path, asked):
    task = open_task(recipe(f"data.negatives={photograph(tmp_path / 'streets')}"))
    assert task.threshold(None).score == 0.4
    ((shown, photographs, source),) = asked
    assert [path.name for path in photographs] == ["street.png"] and source == "validation frames, streets"
    pack = task.training_set.packs[0]
    held = set(pack.instances.frame[task.training_set.validation].tolist())
    assert len(shown) == len(task.training_set.validation) == 4
    for item in shown:
        frame = next(f for f in held if (pack.frames[f, ..., :3] == item.image).all())
        rows = (pack.instances.frame == frame) & (pack.instances.obj_id == item.obj_id)
        np.testing.assert_array_equal(item.R, pack.instances.R[rows])
        np.testing.assert_array_equal(item.K, pack.K[frame])


def test_the_photographs_of_the_backgrounds_stand_in_for_negatives(recipe, tmp_path, asked):
    folder = photograph(tmp_path / "photos")
    assert open_task(recipe(f"data.backgrounds={folder}")).threshold(None) is not None
    assert asked[0][2] == "validation frames, photos"


def test_without_photographs_there_is_no_threshold(recipe, asked, capsys):
    assert open_task(recipe()).threshold(None) is None and not asked
    assert "no score threshold: data.negatives names no folder" in " ".join(capsys.readouterr().err.split())


def test_negatives_leave_what_is_trained_as_it_is(recipe):
    """Other photographs change no stage's signature, and the key is not written where it is not set."""
    plain, other = recipe(), recipe("data.negatives=/streets")
    assert Stage(plain, "student", 0).signature == Stage(other, "student", 0).signature
    assert "negatives" not in plain.data.model_dump() and other.data.model_dump(mode="json")["negatives"] == "/streets"
