"""The task of cameras: photographs of one known scene, and where the camera stood that took each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.data.formats.scene import CameraDataset
from posedistill.data.images import read_image
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.loading.scene_frames import PUBLISHED_SIZE
from posedistill.decode import Decoder, Request
from posedistill.decode.base import IMAGENET_MEAN, IMAGENET_STD
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.deploy.evaluate_scene import (
    UNKNOWN_UNIT,
    kept_estimates,
    merged,
    places_of,
    rounded,
    written,
)
from posedistill.deploy.export import check_parity, export_onnx, torch_predictor
from posedistill.estimators.base import Estimator
from posedistill.estimators.posenet import MeanSubtracted, PoseNet, PoseNetNetwork
from posedistill.geometry.cameras import Camera
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.log import console, progress_bar
from posedistill.metrics.relocalisation import (
    constant_pose,
    nearest_position,
    nearest_training_pose,
    score_cameras,
)
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, fingerprint
from posedistill.runtime.predictor import Predictor
from posedistill.tasks.base import Record, Task
from posedistill.tasks.scene_sources import (
    SceneData,
    photographs,
    prepare_scene,
    scene_loader,
    scene_view,
)
from posedistill.tasks.scene_validation import CameraValidation
from posedistill.training.loop import Validate
from posedistill.training.networks import load_network, variant_folder, weights_of
from posedistill.training.teacher_build import load_members

PARITY_FRAMES = 8
"""Test photographs on which an exported file must agree with its network."""


class CameraTask(Task[SceneData, CameraDataset]):
    """Where does the camera stand, and how is it turned?"""

    def __init__(self) -> None:
        self._scenes: dict[str, SceneData] = {}

    def prepare(self, recipe: Recipe) -> SceneData:
        """Decoded, scaled, and split in unbroken blocks; what the reader mended or found odd is told."""
        prepared = self._scene(recipe)
        for note in prepared.notes:
            console.print(f"[yellow]{recipe.scene_data.scene}: {note}", highlight=False)
        return prepared

    def loader(
        self, recipe: Recipe, prepared: SceneData, indices: NDArray[np.int64], **options: Unpack[LoaderOptions]
    ) -> Loader:
        """Views of some of the photographs."""
        return scene_loader(recipe, prepared, indices, **options)

    def begin(self, estimator: Estimator, prepared: SceneData) -> None:
        """Middle and spread of the training poses."""
        if isinstance(estimator, PoseNet):
            poses = prepared.poses(prepared.train)
            estimator.fit_targets(poses.R, poses.t)

    def validation(self, recipe: Recipe, prepared: SceneData, device: torch.device, count: int) -> Validate:
        """Errors of the held-out photographs, evenly thinned to ``count``."""
        rows = prepared.validation[:: -(-len(prepared.validation) // count)]
        return CameraValidation(self._middle(recipe, prepared, rows, device), prepared.spread)

    def inputs(self, recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, ...]:
        """A picture."""
        prepared = self._scene(recipe)
        shape = self._middle(recipe, prepared, prepared.train[:1], device).shape
        return (torch.zeros(1, 3, *shape, device=device),)

    def split(self, recipe: Recipe) -> CameraDataset:
        """The test photographs."""
        return photographs(recipe, "test")

    def measure(self, recipe: Recipe, variant: str, seed: int, split: CameraDataset) -> Record:
        """Medians, recalls, and where each camera was thought to stand; of an ensemble its members' mean."""
        csv = variant_folder(recipe, variant, seed) / "results.csv"
        single = variant != "teacher" or recipe.teacher.is_network
        weights = [weights_of(recipe, variant, seed)] if single else recipe.teacher.files
        found = kept_estimates(csv, split, recipe.folder / "recipe.yaml", *weights)
        if found is None:
            members = [load_network(recipe, variant, seed)[0]] if single else load_members(recipe, NO_OBJECTS)
            title, queries = f"evaluate {variant} seed {seed}", queries_of(split)
            found = merged([estimate(self.predictor(recipe, member), queries, title) for member in members])
            found = written(found, csv)
        return self._record(recipe, found, split)

    def measure_file(self, recipe: Recipe, path: Path, csv: Path, split: CameraDataset) -> Record:
        """The same of a file."""
        found = kept_estimates(csv, split, recipe.folder / "recipe.yaml", path)
        if found is None:
            found = estimate(Predictor.from_onnx(path), queries_of(split), "evaluate exported")
            found = written(found, csv)
        return self._record(recipe, found, split)

    def references(self, recipe: Recipe, split: CameraDataset) -> Sequence[Record]:
        """A constant pose, the training image that looks most alike to the teacher, and the one that stands nearest."""
        prepared = self._scene(recipe)
        train, truth = prepared.poses(prepared.train), Poses.of_cameras(split.R, split.t)
        answers = {"constant pose": constant_pose(train, len(split))}
        if recipe.teacher.is_network and weights_of(recipe, "teacher", recipe.seed).exists():
            estimator, _ = load_network(recipe, "teacher", recipe.seed)
            theirs, ours = self._embeddings(recipe, prepared, estimator, split)
            answers["nearest image"] = nearest_training_pose(ours, theirs, train)
        answers["nearest position"] = nearest_position(truth, train)
        return [
            self._scores(poses, split) | {"variant": name, "seed": 0, "places": places_of(poses, split)}
            for name, poses in answers.items()
        ]

    def export(
        self,
        recipe: Recipe,
        estimator: Estimator,
        path: Path,
        training: str,
        split: CameraDataset,
        *,
        shapes: bool = True,
    ) -> Record:
        """Positions and rotations are compared. There are no shapes to put into the file."""
        network, decoder = self.deployed(recipe, estimator)
        export_onnx(network, path, decoder, training)
        requests = [query.request() for query in queries_of(split)[:PARITY_FRAMES]]
        parity = check_parity(network, path, requests)
        console.print(f"exported {path}: {parity}")
        return parity.to_dict()

    def draw(self, recipe: Recipe, folder: Path, split: CameraDataset) -> None:
        """The report draws the trajectory from the records."""

    def predictor(self, recipe: Recipe, estimator: Estimator) -> Predictor:
        """What turns photographs of the scene into poses by a network that is still in PyTorch."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch_predictor(*self.deployed(recipe, estimator), device)

    def deployed(self, recipe: Recipe, estimator: Estimator) -> tuple[nn.Module, Decoder]:
        """The network as it is exported, which subtracts the mean image itself, and its decoder."""
        data, prepared = recipe.scene_data, self._scene(recipe)
        view = scene_view(recipe, prepared, prepared.train[:1])
        mean = view.mean_crop()
        decoder = estimator.build_decoder(
            shape=view.shape,
            short_side=None if data.squeeze else data.short_side,
            frame_size=PUBLISHED_SIZE if data.squeeze else None,
            mean=IMAGENET_MEAN if mean is None else (0.0, 0.0, 0.0),
            std=IMAGENET_STD if mean is None else (1 / 255, 1 / 255, 1 / 255),
            camera=Camera(prepared.frame.K, prepared.frame.width, prepared.frame.height),
            distortion=prepared.frame.distortion,
            metric=prepared.metric,
        )
        return estimator.network if mean is None else MeanSubtracted(estimator.network, mean), decoder

    def _scene(self, recipe: Recipe) -> SceneData:
        """The training photographs, whose poses are read once for as long as the task lives."""
        key = fingerprint(recipe.data.model_dump(mode="json"), recipe.seed, recipe.cache_folder)
        if key not in self._scenes:
            self._scenes[key] = prepare_scene(recipe)
        return self._scenes[key]

    def _middle(
        self, recipe: Recipe, prepared: SceneData, rows: NDArray[np.int64], device: torch.device | str
    ) -> Loader:
        """A loader of pictures that are not varied."""
        batch_size = min(32, len(rows))
        return self.loader(
            recipe, prepared, rows, seed=recipe.seed, device=device, batch_size=batch_size, augment=False
        )

    @torch.no_grad()
    def _embeddings(
        self, recipe: Recipe, prepared: SceneData, estimator: Estimator, split: CameraDataset
    ) -> tuple[np.ndarray, np.ndarray]:
        """``[M, D], [N, D]`` what a network makes of training and test photographs."""
        network, device = estimator.network, next(estimator.parameters()).device
        assert isinstance(network, PoseNetNetwork)  # the one family there is
        _, decoder = self.deployed(recipe, estimator)
        loader = self._middle(recipe, prepared, prepared.train, device)
        mean = scene_view(recipe, prepared, prepared.train[:1]).mean_crop()
        subtracted = 0.0 if mean is None else mean.transpose(2, 0, 1)
        theirs = [network.outputs(loader.batch(step).images).embedding for step in range(loader.steps)]
        ours = []
        with progress_bar() as bar:
            task = bar.add_task("retrieve", total=len(split), note="")
            for frame in split:
                pictures = decoder.prepare(Request(read_image(frame.image))).inputs["images"] - subtracted
                ours.append(network.outputs(torch.from_numpy(pictures).to(device)).embedding)
                bar.advance(task)
        return torch.cat(theirs).float().cpu().numpy(), torch.cat(ours).float().cpu().numpy()

    def _record(self, recipe: Recipe, found: Poses, split: CameraDataset) -> Record:
        train = self._scene(recipe)
        places = places_of(found, split) | {"train": rounded(train.poses(train.train).centers)}
        return self._scores(found, split) | {"seconds_per_image": float(found.seconds.mean()), "places": places}

    def _scores(self, poses: Poses, split: CameraDataset) -> Record:
        name = f"{split.root.name}/{split.split}"
        about = {"boxes": "", "dataset": name if split.metric else f"{name}, {UNKNOWN_UNIT}"}
        return score_cameras(poses, Poses.of_cameras(split.R, split.t)).to_dict() | about
