"""Views that come again: frozen layers see each picture once, and training goes on as if they saw it in every step."""

import numpy as np
import pytest
import torch
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.loading.loader import Loader
from posedistill.data.loading.scene_view import SceneView, ViewSettings
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.scene_frames import SceneFrames
from posedistill.estimators.base import FROZEN_MAPS
from posedistill.estimators.registry import build_estimator
from posedistill.estimators.scene_coordinates import SceneCoordinatesNetwork
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.training.teaching import records
from posedistill.training.teaching.repeated import FrozenMaps, RepeatedViews

PERIOD = 3


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    root = tmp_path_factory.mktemp("repeated")
    write_made_scene(root / "room", sequences=2, frames=8, size=(96, 72))
    pack = build_pack(SceneFrames(open_scene(root / "room"), 72), root / "pack")
    return Loader(SceneView(pack, ViewSettings(roll=20, zoom=(0.6, 1.3)), None), 4, 0, "cpu", threads=1)


@pytest.fixture
def estimator():
    torch.manual_seed(0)
    settings = {"backbone": "test_efficientnet@16", "width": 32, "frozen": True, "cells": 64}
    return build_estimator("scene_coordinates", NO_OBJECTS, settings, 64).train()


@pytest.fixture
def looks(monkeypatch):
    """Pictures that a trunk has looked at, a number for each pass."""
    passes, features = [], SceneCoordinatesNetwork.features

    def counted(network, images):
        passes.append(len(images))
        return features(network, images)

    monkeypatch.setattr(SceneCoordinatesNetwork, "features", counted)
    return passes


def stored(loader, estimator, folder, limit=1.0):
    maps = FrozenMaps(estimator.frozen_part(), folder, PERIOD, limit)
    return RepeatedViews(loader, PERIOD, torch.device("cpu"), maps)


def losses(estimator, batch, seed):
    terms = estimator.loss(estimator(batch, torch.Generator().manual_seed(seed)), batch)
    return torch.stack(list(terms.values())).sum()


def test_frozen_layers_look_at_each_view_once(loader, estimator, looks, tmp_path):
    batches = stored(loader, estimator, tmp_path)
    seen = list(batches.prefetch(0, 3 * PERIOD))
    assert looks == [4] * PERIOD and [batch.pictured for batch in seen] == [True] * PERIOD + [False] * 2 * PERIOD
    for step in range(PERIOD):
        first, again = seen[step], seen[step + PERIOD]
        assert first.images.shape == again.images.shape
        for name in ("ids", "R", "t", "K"):
            torch.testing.assert_close(getattr(first, name), getattr(again, name), rtol=0, atol=0)
        for name in (FROZEN_MAPS, "places"):
            torch.testing.assert_close(first.targets[name], again.targets[name], rtol=0, atol=0)
        torch.testing.assert_close(losses(estimator, first, step), losses(estimator, again, step), rtol=0, atol=0)
    assert len(looks) == PERIOD  # training steps looked at no picture either
    prediction = estimator(seen[-1], torch.Generator().manual_seed(0))
    assert prediction.features == {} and prediction.embedding is None  # views of the frozen layers themselves


def test_losses_are_those_of_the_pictures(loader, estimator, tmp_path):
    batches = stored(loader, estimator, tmp_path)
    *_, last = batches.prefetch(0, PERIOD + 2)
    ours, theirs = losses(estimator, last, 1), losses(estimator, loader.batch(1), 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    ours.backward()
    assert all(value.grad is not None for value in estimator.network.head.parameters())


def test_cells_are_drawn_anew_in_each_step(loader, estimator, tmp_path):
    batch = list(stored(loader, estimator, tmp_path).prefetch(0, PERIOD + 1))[-1]
    first, other = (estimator(batch, torch.Generator().manual_seed(seed)).votes.cells for seed in (0, 1))
    assert not torch.equal(first, other)


def test_a_later_training_reads_what_is_stored_but_for_its_first_step(loader, estimator, looks, tmp_path):
    list(stored(loader, estimator, tmp_path).prefetch(0, PERIOD))
    looks.clear()
    resumed = list(stored(loader, estimator, tmp_path).prefetch(7, 10))
    assert not looks and [batch.pictured for batch in resumed] == [True, False, False]


@pytest.mark.parametrize("fault", ["damaged", "cut", "of other views"])
def test_a_file_that_is_not_right_is_made_anew(loader, estimator, looks, tmp_path, fault):
    *_, right = stored(loader, estimator, tmp_path).prefetch(0, PERIOD + 1)
    path, expected = tmp_path / "000000.safetensors", right.targets[FROZEN_MAPS].clone()
    content = bytearray(path.read_bytes())
    if fault == "damaged":
        content[-5] ^= 0xFF
    other = (tmp_path / "000001.safetensors").read_bytes()
    path.write_bytes({"damaged": content, "cut": content[:-100], "of other views": other}[fault])
    looks.clear()
    found = stored(loader, estimator, tmp_path).batch(0).targets[FROZEN_MAPS]
    assert looks == [4]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert stored(loader, estimator, tmp_path).batch(0).pictured and looks == [4]  # and stored


def test_what_has_no_room_is_made_in_every_step(loader, estimator, looks, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(records.console, "print", told.append)
    kept = list(stored(loader, estimator, tmp_path / "kept").prefetch(0, 2 * PERIOD))
    looks.clear()
    made = list(stored(loader, estimator, tmp_path / "none", limit=1e-6).prefetch(0, 2 * PERIOD))
    assert len(looks) == 2 * PERIOD and not list((tmp_path / "none").iterdir())
    assert "for 3 steps" in told[0] and "train.maps_limit is 1e-06 GB" in told[-1]
    for ours, theirs in zip(made, kept, strict=True):
        torch.testing.assert_close(ours.targets[FROZEN_MAPS], theirs.targets[FROZEN_MAPS], rtol=0, atol=0)


def test_a_teacher_that_is_not_stored_is_shown_pictures(loader, estimator, tmp_path):
    maps = FrozenMaps(estimator.frozen_part(), tmp_path, PERIOD, 1.0)
    batches = RepeatedViews(loader, PERIOD, torch.device("cpu"), maps, taught=lambda step: step % PERIOD == 1)
    shown = [batch.pictured for batch in batches.prefetch(0, 2 * PERIOD)]
    assert shown == [True] * PERIOD + [True, False, True]


def test_batches_of_what_is_not_frozen_come_again_with_pictures(loader):
    batches = RepeatedViews(loader, PERIOD, torch.device("cpu"))
    seen = list(batches.prefetch(0, 2 * PERIOD))
    np.testing.assert_array_equal(seen[1].images.numpy(), seen[1 + PERIOD].images.numpy())
    assert not torch.equal(seen[0].images, seen[1].images) and FROZEN_MAPS not in seen[1].targets


def test_what_a_training_does_meanwhile_changes_no_maps(loader, estimator):
    part, batch = estimator.frozen_part(), loader.batch(0)
    with torch.no_grad():
        expected = part.maps(batch.images).clone()
        for module in estimator.modules():
            module.training = True  # as a step sets it, for a moment of the frozen layers too
        for value in estimator.parameters():
            value.zero_()
        torch.testing.assert_close(part.maps(batch.images), expected, rtol=0, atol=0)
