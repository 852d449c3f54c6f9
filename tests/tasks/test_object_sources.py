import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.data.render import dataset as rendering
from posedistill.data.render.dataset import RenderReport
from posedistill.data.render.shapes import code_objects
from posedistill.errors import DataError, RecipeError
from posedistill.geometry.meshes import Mesh, model_info, save_ply
from posedistill.recipe.data import BopSource, RenderSource
from posedistill.tasks import object_sources as sources
from posedistill.tasks.object_sources import open_source, render_folder

SMALL = [
    "width=96",
    "height=72",
    "distance=[400, 900]",
    "objects_per_image=[1,1]",
    "distractors=[0,0]",
    "ambient_occlusion=false",
    "depth=false",
]
"""One image in one process: the cheapest call of the renderer."""


@pytest.fixture
def renders(bop, monkeypatch) -> list[Path]:
    """The folders that were rendered, by a renderer that copies the drawn frames."""
    calls = []

    def fake(meshes, infos, out, *_, **__):
        calls.append(out)
        if not out.exists():
            shutil.copytree(bop / "train", out / "train_render")
            shutil.copytree(bop / "models", out / "models")
        return RenderReport(8, 1.0, 1)

    monkeypatch.setattr(sources, "render_dataset", fake)
    return calls


def test_a_bop_folder_is_opened(bop, tmp_path):
    source = BopSource(bop=bop, split="train", scenes=[1])
    assert len(open_source(source, [1, 2], tmp_path).frames) == 8
    assert [len(frame.instances) for frame in open_source(source, [1, 2], tmp_path, [2]).frames] == [1] * 8
    with pytest.raises(DataError, match="none"):
        open_source(BopSource(bop=bop, split="none"), [1], tmp_path)


def test_a_source_is_rendered_once(renders, tmp_path):
    source = RenderSource(models=Path("code"), count=8)
    for _ in range(3):
        assert len(open_source(source, [1, 2], tmp_path).frames) == 8
    assert len(renders) == 1 and renders[0].parent == tmp_path


def test_a_broken_off_rendering_goes_on_in_its_folder(renders, tmp_path):
    source = RenderSource(models=Path("code"), count=8)
    open_source(source, [1, 2], tmp_path)
    (renders[0] / "complete").unlink()
    open_source(source, [1, 2], tmp_path)
    assert len(renders) == 2 and renders[0] == renders[1]


def made_otherwise(models: Path) -> list[tuple[Mesh, dict]]:
    """Another mesh, another colour, a texture, the texture changed, and a symmetry stated; one after the other."""
    mesh = code_objects()[2]
    red = dataclasses.replace(mesh, colors=np.full_like(mesh.colors, (200, 0, 0)))
    uv = np.zeros((len(mesh.vertices), 2))
    skin, other = (
        dataclasses.replace(mesh, colors=None, uv=uv, texture=np.full((2, 2, 3), color, np.uint8)) for color in (50, 60)
    )
    info, turn = model_info(mesh), np.diag([-1.0, -1.0, 1.0, 1.0]).ravel().tolist()
    return [(mesh, info), (red, info), (skin, info), (other, info), (other, info | {"symmetries_discrete": [turn]})]


def test_what_is_rendered_decides_the_folder(renders, tmp_path, monkeypatch):
    """Another count, seed, setting, object, mesh or renderer: other frames."""
    monkeypatch.setattr(sources, "BopDataset", lambda *_, **__: None)
    models = tmp_path / "models"
    models.mkdir()
    save_ply(code_objects()[1], models / "obj_000001.ply")
    base = {"models": Path("code"), "count": 8}
    changes = [{}, {"count": 9}, {"seed": 1}, {"settings": {"width": 320}}, {"objects": [1, 2]}, {"models": models}]
    for change in changes:
        open_source(RenderSource.model_validate(base | change), [1], tmp_path)
    for mesh, info in made_otherwise(models):
        save_ply(mesh, models / "obj_000001.ply")
        (models / "models_info.json").write_text(json.dumps({"1": info}))
        open_source(RenderSource.model_validate(base | {"models": models}), [1], tmp_path)
    monkeypatch.setattr(rendering, "RENDERER", rendering.RENDERER + 1)
    open_source(RenderSource.model_validate(base), [1], tmp_path)
    assert len(set(renders)) == len(renders) == len(changes) + 6


def test_meshes_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"code: 'objects': found \[9\], expected some of \[1, 2, 3\]"):
        open_source(RenderSource(models=Path("code"), count=1), [1, 9], tmp_path)
    with pytest.raises(DataError, match=r"obj_000004\.ply: 'object 4': found no such file, expected a mesh"):
        open_source(RenderSource(models=tmp_path, count=1), [4], tmp_path)


def test_render_folder(tmp_path):
    """What ``data render`` does, on meshes of a folder that also holds a texture and a note."""
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    for obj_id in (2, 5):
        save_ply(code_objects()[1], models / f"obj_{obj_id:06d}.ply")
    (models / "obj_000002.png").write_bytes(b"")
    (models / "obj_readme.ply").write_text("")
    report = render_folder(models, out, 1, 0, None, SMALL, 1)
    assert report.images == 1
    dataset = BopDataset(out, split="train_render")
    assert len(dataset.frames) == 1 and sorted(dataset.models_info) == [2, 5]
    assert (out / "train_render_preview.jpg").exists()
    assert render_folder(models, out, 1, 0, None, SMALL, 1).images == 0


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("distance", "--set: 'distance': found no such setting, expected key=value"),
        ("distance=[400", "--set: 'distance=[400': found no such setting, expected key=value"),
        ("distanec=[400, 900]", "--set: 'distanec': found [400, 900], expected one of K, ambient_occlusion"),
        ("width=wide", "--set: 'width': found wide, expected a whole number"),
        ("distance=[900, 400]", "render: 'distance': found (900.0, 400.0), expected (lowest, highest)"),
    ],
)
def test_render_settings_are_refused(tmp_path, setting: str, expected: str):
    with pytest.raises(RecipeError) as caught:
        render_folder(Path("code"), tmp_path / "out", 1, 0, [1], [setting], 1)
    assert str(caught.value).startswith(expected) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_without_meshes_is_refused(tmp_path, name: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"{name}: 'meshes': found none, expected obj_XXXXXX\.ply"):
        render_folder(tmp_path / name, tmp_path / "out", 1, 0, None, [], 1)
