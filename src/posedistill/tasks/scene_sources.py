"""The data of a scene: packed photographs, their split, and loaders of views."""

import hashlib
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.formats.scene_parse import Split
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.loading.pack import Pack, mean_image
from posedistill.data.loading.pack_build import build_pack, read_fingerprint
from posedistill.data.loading.scene_frames import PUBLISHED_SIZE, SceneFrames
from posedistill.data.loading.scene_view import SceneView
from posedistill.data.loading.splits import hold_out_blocks
from posedistill.errors import RecipeError, describe
from posedistill.geometry.objects import NO_OBJECTS, ObjectTable
from posedistill.log import progress_bar
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, fingerprint


@dataclass(frozen=True)
class SceneData:
    """Packed training photographs.

    Attributes:
        train, validation: rows of the pack that train, and that select the model; blocks with gaps between.
        mean: ``[H, W, 3]`` of those that train, where the recipe subtracts it.
        frame: the first photograph, whose camera a model file states. metric: whether positions are metres.
        notes: what a user should know of the photographs before training on them.
    """

    pack: Pack
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    mean: NDArray[np.float32] | None
    frame: CameraFrame
    metric: bool
    notes: tuple[str, ...]

    @property
    def objects(self) -> ObjectTable:
        """A scene has none."""
        return NO_OBJECTS

    @property
    def fingerprint(self) -> str:
        """Of the photographs and the split."""
        rows = hashlib.sha256(self.train.tobytes()).hexdigest()
        return fingerprint(read_fingerprint(self.pack.folder), rows)

    def poses(self, rows: NDArray[np.int64]) -> Poses:
        """Of some of the photographs."""
        return Poses.of_cameras(self.pack.instances.R[rows], self.pack.instances.t[rows])

    @property
    def spread(self) -> float:
        """Root mean square distance of the training cameras from their mean, metres."""
        centers = self.poses(self.train).centers
        return float(np.sqrt(((centers - centers.mean(axis=0)) ** 2).sum(axis=1).mean()))


def photographs(recipe: Recipe, split: Split) -> CameraDataset:
    """A split of the recipe's scene, in metres where the recipe says how.

    Raises:
        DataError: any fault of the scene.
    """
    data = recipe.scene_data
    if split == "test" and data.test is not None:
        dataset = open_scene(data.test, data.test_split)
    else:
        dataset = open_scene(data.scene, split)
    return dataset.in_metres(data.metres_per_unit) if data.metres_per_unit else dataset


def prepare_scene(recipe: Recipe) -> SceneData:
    """Decode, scale and split the training photographs, or find them in the cache.

    Raises:
        DataError: any fault of the scene. RecipeError: nothing is left to train or to validate on.
    """
    data = recipe.scene_data
    dataset = photographs(recipe, "train")
    size = PUBLISHED_SIZE if data.squeeze else data.short_side
    about = [str(data.scene.resolve()), size, *([data.metres_per_unit] if data.metres_per_unit else [])]
    folder = recipe.cache_folder / f"cameras-{fingerprint(*about)}"
    with progress_bar() as bar:
        task = bar.add_task("decode", total=len(dataset), note=str(folder), visible=False)  # until there is something
        source = SceneFrames(dataset, size)
        pack = build_pack(source, folder, lambda done, _: bar.update(task, completed=done, visible=True))
    held = hold_out_blocks(pack.sequences, data.validation, recipe.seed, gap=data.gap)
    if not len(held.validation):
        expected = "at least one frame: a larger share, or more frames"
        raise RecipeError(describe("recipe", "data.validation", f"{data.validation} of {len(pack)} frames", expected))
    mean = mean_image(pack, held.train) if data.mean_image else None
    return SceneData(pack, held.train, held.validation, mean, dataset.frames[0], dataset.metric, _notes(dataset))


def _notes(dataset: CameraDataset) -> tuple[str, ...]:
    lenses = {frame.distortion for frame in dataset}
    if len(lenses) == 1:
        return dataset.notes
    told = f"photographs by {len(lenses)} lenses: each is taken out in training, a model knows the first alone"
    return (*dataset.notes, told)


def scene_view(recipe: Recipe, prepared: SceneData, indices: NDArray[np.int64]) -> SceneView:
    """The recipe's views of some of the photographs."""
    data = recipe.scene_data
    return SceneView(prepared.pack, data.views, data.crop, indices, prepared.mean)


def scene_loader(
    recipe: Recipe, prepared: SceneData, indices: NDArray[np.int64], **options: Unpack[LoaderOptions]
) -> Loader:
    """A loader of views of some of the photographs."""
    return Loader(scene_view(recipe, prepared, indices), **options)
