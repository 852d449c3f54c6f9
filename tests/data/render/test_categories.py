import numpy as np
import pytest
from tests.data.conftest import box_mesh
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.clouds import ShapeFolder, read_cloud
from posedistill.data.images import read_image
from posedistill.data.render.categories import category_settings, draw_viewpoint, load_shapes, render_categories
from posedistill.errors import DataError, RecipeError
from posedistill.geometry.viewpoint import viewpoint_rotation

SIZES = {"brick": (1.0, 2.0, 0.7), "tower": (1.0, 1.0, 3.0)}
SETTINGS = category_settings(64).model_copy(
    update={"distractors": (0, 0), "ambient_occlusion": False, "shadows": False}
)


def box(size):
    """A box with its front cut to a wedge, so that it is seen which way it looks."""
    mesh = box_mesh(size)
    corners = mesh.vertices.copy()
    corners[(corners[:, 1] < 0) & (corners[:, 2] > 0), 2] *= 0.2
    return corners, mesh.faces


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cad")
    for category, size in SIZES.items():
        for number, stretch in enumerate((1.0, 1.3), start=1):
            vertices, faces = box(np.array(size) * [1, stretch, 1])
            np.savez(folder / f"{category}0{number}.npz", vertices=vertices, faces=faces)
    return folder


@pytest.fixture(scope="module")
def poses():
    views = [AnnotatedView(None, "brick", np.array([angle, 20.0, 5.0])) for angle in (40.0, 220.0)]
    return CategoryDataset("annotations", tuple(views))


@pytest.fixture(scope="module")
def rendered(models, poses, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "made"
    steps = []
    total = render_categories(
        load_shapes(models), out, 8, SETTINGS, poses, seed=1, progress=lambda *done: steps.append(done)
    )
    assert total == 16 and steps[-1] == (16, 16)
    return out


def test_the_folder_is_a_data_set(rendered):
    found = open_categories(rendered)
    assert found.categories == ("brick", "tower")
    assert len(found.of_split("train")) == 12 and len(found.of_split("val", clean=True)) == 4
    shapes = ShapeFolder(rendered / "shapes")
    assert {(view.category, view.shape) for view in found} == {(name, f"0{i}") for name in SIZES for i in (1, 2)}
    assert all(shapes.find(view.category, view.shape) is not None for view in found)
    assert read_image(found.views[0].image).shape == (64, 64, 3)


def test_labels_are_drawn_from_the_annotations(rendered, poses):
    found = open_categories(rendered)
    bricks = found.of_categories({"brick"}).viewpoint
    off = np.abs((bricks[:, :1] - [40.0, 220.0] + 180) % 360 - 180).min(axis=1)
    assert off.max() < 5 and np.abs(bricks[:, 1] - 20).max() < 5
    towers = found.of_categories({"tower"}).viewpoint
    assert np.ptp(towers[:, 0]) > 90
    spread = np.stack([draw_viewpoint("tower", None, np.random.default_rng(i)) for i in range(300)])
    assert 10 < spread[:, 1].mean() < 14 and (spread[:, 0] >= 0).all() and (spread[:, 0] < 360).all()


def test_boxes_are_where_shapes_project(rendered):
    """The aspect of the box is that of the shape's cloud under the stated viewpoint."""
    shapes = ShapeFolder(rendered / "shapes")
    for view in open_categories(rendered):
        cloud = read_cloud(shapes.find(view.category, view.shape)) @ viewpoint_rotation(view.viewpoint).T
        left, upper, right, lower = view.box
        assert (right - left) / (lower - upper) == pytest.approx(np.ptp(cloud[:, 0]) / np.ptp(cloud[:, 1]), rel=0.15)


def test_the_same_seed_gives_the_same_pictures(models, poses, rendered, tmp_path):
    render_categories(load_shapes(models, ["brick"]), tmp_path / "again", 2, SETTINGS, poses, seed=1)
    first, again = (folder / "images/brick/00001.jpg" for folder in (rendered, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()


def test_a_folder_is_not_written_over(models, rendered):
    with pytest.raises(RecipeError, match=r"annotations\.csv.*a data set.*a new folder"):
        render_categories(load_shapes(models), rendered, 1, SETTINGS)


def test_clouds_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no CAD model.*any category"):
        load_shapes(tmp_path)
    np.save(tmp_path / "cup01.npy", np.random.default_rng(0).normal(size=(9, 3)))
    with pytest.raises(DataError, match=r"cup01\.npy.*a point cloud.*with faces"):
        load_shapes(tmp_path)


def test_the_command(models, tmp_path):
    words = [
        "data",
        "categories",
        str(models),
        str(tmp_path / "out"),
        "--count",
        "1",
        "--size",
        "64",
        "--category",
        "tower",
    ]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert f"1 pictures of 1 categories, 2 shapes; {tmp_path / 'out'}" in result.output
    assert open_categories(tmp_path / "out").categories == ("tower",)


def test_every_category_that_is_named_has_a_shape(models):
    with pytest.raises(DataError, match=r"no CAD model of bricks, expected categories that it has \(brick, tower\)"):
        load_shapes(models, ["tower", "bricks"])


@pytest.mark.parametrize("option", ["--count", "--size"])
def test_impossible_numbers_end_in_words(models, tmp_path, option):
    refused = CliRunner().invoke(cli.app, ["data", "categories", str(models), str(tmp_path / "made"), option, "0"])
    assert (
        refused.exit_code == 2
        and f"Invalid value for '{option}'" in refused.output
        and not (tmp_path / "made").exists()
    )
