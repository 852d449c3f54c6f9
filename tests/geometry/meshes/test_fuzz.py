"""Damaged meshes end in ``DataError`` or are read; nothing else comes out."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh

ROUNDS = 60

Damage = Callable[[bytes, random.Random], bytes]


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def lines_changed(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    lines[place : place + 1] = [] if chance.random() < 0.5 else [lines[place]] * 2
    return b"\n".join(lines)


def token_gone(data: bytes, chance: random.Random) -> bytes:
    words = data.split(b" ")
    del words[chance.randrange(len(words))]
    return b" ".join(words)


def number_huge(data: bytes, chance: random.Random) -> bytes:
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    place = chance.choice(places)
    return data[:place] + chance.choice([b"999999999", b"-7", b"1e99", b"nan"]) + data[place:]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    box = trimesh.creation.box((20, 30, 40))
    box.visual.vertex_colors = np.arange(32).reshape(8, 4) * 7
    box.export(folder / "text.ply", encoding="ascii")
    box.export(folder / "binary.ply")
    uv = np.random.default_rng(0).uniform(0, 2, (8, 2))
    material = trimesh.visual.material.SimpleMaterial(image=Image.new("RGB", (8, 8), (9, 99, 199)), name="skin")
    box.visual = trimesh.visual.TextureVisuals(uv, material=material)
    box.export(folder / "skin.obj")
    box.export(folder / "scene.glb")
    return folder


@pytest.mark.parametrize("name", ["text.ply", "binary.ply", "skin.obj", "material.mtl", "scene.glb"])
def test_damaged_meshes_end_in_data_errors(originals: Path, tmp_path: Path, name: str) -> None:
    for path in originals.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole, chance = (originals / name).read_bytes(), random.Random(name)
    mesh = "skin.obj" if name.endswith(".mtl") else name
    load_mesh(tmp_path / mesh)
    found = set()
    for damage in (truncated, flipped, lines_changed, token_gone, number_huge):
        for _ in range(ROUNDS):
            (tmp_path / name).write_bytes(damage(whole, chance))
            try:
                loaded = load_mesh(tmp_path / mesh)
            except DataError as error:
                assert str(tmp_path) in str(error) and ": found " in str(error) and ", expected " in str(error)
                found.add("refused")
            else:
                assert np.isfinite(loaded.vertices).all() and loaded.faces.max() < len(loaded.vertices)
                found.add("read")
    assert "refused" in found
