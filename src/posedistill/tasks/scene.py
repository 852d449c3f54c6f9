"""The task of a scene: photographs of one known place, and where the camera stood that took each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.data.faults import Fault, FaultKind
from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset
from posedistill.data.formats.scene_parse import Split, unposed_notes
from posedistill.data.images import write_image
from posedistill.data.loading.scene_view import SceneView
from posedistill.data.packs.novel_views import NovelViews, NovelViewSettings, novel_sheet
from posedistill.data.packs.pack import Pack, mean_image
from posedistill.data.packs.scene_frames import PUBLISHED_SIZE, SceneFrames
from posedistill.data.packs.splits import hold_out_blocks
from posedistill.decode import Decoder, SceneCoordinatesDecoder
from posedistill.decode.base import IMAGENET_MEAN, IMAGENET_STD
from posedistill.deploy.estimate import FrameQuery, queries_of
from posedistill.deploy.evaluators.scene import UNKNOWN_UNIT, scene_baselines
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator, MeanSubtracted
from posedistill.estimators.registry import FAMILIES
from posedistill.geometry.cameras import Calibration, Camera
from posedistill.log import console
from posedistill.metrics.evaluation import Evaluation, Places
from posedistill.metrics.relocalisation import nearest_training_pose, score_cameras
from posedistill.poses import Poses
from posedistill.recipe.data import SceneSettings
from posedistill.recipe.recipe import fingerprint
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Frames
from posedistill.tasks.base import Rows, TrainingSet, Validate
from posedistill.tasks.calibration.score_curve import CALIBRATED, fit_score_curve
from posedistill.tasks.photographs import PhotographsTask
from posedistill.tasks.scene_cloud import save_cloud
from posedistill.tasks.scene_depths import SceneDepths
from posedistill.tasks.validation import Validation, camera_scores, poses_of

PLACES = 400
"""Training cameras at most that a model file keeps the places of."""


class SceneTask(PhotographsTask[CameraDataset]):
    """Where does the camera stand, and how is it turned?"""

    baseline_notes: ClassVar[Mapping[str, str]] = {
        "constant pose": "mean of the training poses",
        "nearest image": "retrieval by the teacher's features",
        "nearest position": "looks at the truth: a mark, no method",
    }

    @property
    def data(self) -> SceneSettings:
        """The recipe's data section."""
        return cast(SceneSettings, self.recipe.data)  # as the registry of tasks sees to

    @property
    def cameras(self) -> Calibration:
        """Which of the two cameras of 7-Scenes poses are of: whatever projects points needs that of the photographs."""
        projects = self._projects or self.data.novel_views is not None
        return self.data.calibration or ("colour" if projects else "depth")

    @property
    def _projects(self) -> bool:
        """Whether a network of the recipe tells points of the scene, which are projected."""
        return any(FAMILIES[network.family].projects for network in (self.recipe.teacher, self.recipe.student))

    @cached_property
    def photographs(self) -> CameraDataset:
        """The training photographs as they lie on disk; what the reader mended or found odd is told."""
        found, data = self._open("train"), self.data
        if data.poses is not None:
            held = {frame.image.resolve() for frame in self.test_set}
            found = found.posed_by(Poses.read(data.poses), data.poses, data.min_score, held)
        lenses = {frame.distortion for frame in found}
        notes = list(found.notes)
        if len(lenses) > 1:
            told = f"photographs by {len(lenses)} lenses: each is taken out; a file falls back on the first"
            notes.append(told)
        for note in notes:
            console.print(f"[yellow]{self.data.scene}: {note}", highlight=False)
        return found

    @cached_property
    def training_set(self) -> TrainingSet:
        """Decoded, scaled, and split in unbroken blocks, or found in the cache.

        Raises:
            DataError: any fault of the scene. RecipeError: nothing is left to train or to validate on.
        """
        data = self.data
        size = PUBLISHED_SIZE if data.squeeze else data.short_side
        about = [str(data.scene.resolve()), size, *([data.metres_per_unit] if data.metres_per_unit else [])]
        about += [self.cameras] if self.cameras != "depth" else []
        about += [str(data.poses.resolve())] if data.poses else []
        pack = self.decoded(SceneFrames(self.photographs, size), f"cameras-{fingerprint(*about)}")
        packs = [pack]
        if data.novel_views is not None:
            packs.append(self._novel(data.novel_views, pack, size, about))
        held = hold_out_blocks(pack.sequences, data.validation, self.recipe.seed, gap=data.gap)
        if not len(held.validation):
            expected = "at least one frame: a larger share, or more frames"
            raise RecipeError(
                describe("recipe", "data.validation", f"{data.validation} of {len(pack)} frames", expected)
            )
        return TrainingSet(packs, *held)

    def _novel(
        self, settings: NovelViewSettings, pack: Pack, size: int | tuple[int, int], about: Sequence[Any]
    ) -> Pack:
        """Views from beside the photographs of a pack; those in the cache where the file that tells depths is gone."""
        if self._projects:
            expected = "families that tell a pose at once: cells that show nothing would count as photographed"
            raise RecipeError(describe("recipe", "data.novel_views", "networks of points of the scene", expected))
        name = f"novel-{fingerprint(*about, str(settings.points.resolve()), settings.drawn)}"
        folder = self.recipe.cache_folder / name
        if folder.exists() and not settings.points.exists():
            console.print(f"[yellow]{settings.points} is gone: novel views are those in {folder}", highlight=False)
            return Pack.open(folder)
        views = NovelViews(self.photographs, size, settings, SceneDepths(settings.points, self.cameras))
        if not folder.exists():
            views.check()
        novel = self.decoded(views, name)
        if not (sheet := folder / "views.jpg").exists():
            write_image(sheet, novel_sheet(pack, novel))
            console.print(f"{len(novel)} novel views of {len(pack)} photographs, some in {sheet}")
        return novel

    @cached_property
    def mean(self) -> NDArray[np.float32] | None:
        """``[H, W, 3]`` the mean of the photographs that train, where the recipe subtracts it."""
        made = self.training_set
        return mean_image(made.packs[0], made.train) if self.data.mean_image else None

    @property
    def training_frames(self) -> Frames:
        """The photographs, by their names in the scene's folder."""
        return {self.photographs.root.resolve().name: np.array(self.photographs.names)}

    @property
    def places(self) -> NDArray[np.float64]:
        """Of at most some hundred photographs, evenly thinned."""
        centers = self.photographs.centers
        return centers[:: -(-len(centers) // PLACES)]

    @cached_property
    def test_set(self) -> CameraDataset:
        """The test photographs."""
        return self._open("test")

    @cached_property
    def queries(self) -> Sequence[FrameQuery]:
        """The camera of each test photograph."""
        return queries_of(self.test_set)

    def view(self, rows: Rows) -> SceneView:
        """The recipe's views of some of the photographs."""
        data, packs = self.data, self.training_set.packs
        view = partial(SceneView, packs[0], data.views, data.crop, rows, self.mean)
        return view() if data.novel_views is None else view(novel=packs[1], share=data.novel_views.share)

    def validation(self, device: torch.device, count: int) -> Validate:
        """Errors of the held-out photographs, evenly thinned to ``count``."""
        loader = self.held_back(device, count)
        return Validation(self, loader, lambda found, batches: camera_scores(found, batches, self.spread))

    @property
    def spread(self) -> float:
        """Root mean square distance of the training cameras from their middle."""
        centers = self.training_set.poses.centers
        return float(np.sqrt(((centers - centers.mean(axis=0)) ** 2).sum(axis=1).mean()))

    def calibration(self, estimator: Estimator) -> tuple[dict[str, Any], str]:
        """The curve from the share of inliers to the probability of a right pose, by the held-back photographs."""
        loader = self.held_back(next(estimator.parameters()).device, CALIBRATED)
        batches = [loader.batch(step) for step in range(loader.steps)]
        curve = fit_score_curve(poses_of(self, estimator, batches), batches, self.spread)
        return {"score_curve": curve.numbers}, f"{curve} {'m' if self.photographs.metric else 'units'}"

    def draw_votes(self, predictor: Predictor, name: str, folder: Path) -> None:
        """The points that a network believes the scene to consist of, where it tells any: drawn, and as a .ply."""
        if isinstance(predictor.decoder, SceneCoordinatesDecoder):
            save_cloud(predictor, self.queries, name, folder)

    def score(self, poses: Poses | None) -> Evaluation:
        """Medians, recalls, and where each camera was thought to stand."""
        test = self.test_set
        name = f"{test.root.name}/{test.split}"
        dataset = name if test.metric else f"{name}, {UNKNOWN_UNIT}"
        if poses is None:
            return Evaluation(dataset=dataset)
        up = -test.R[:, 1].mean(axis=0)
        places = Places(test.centers, poses.centers, self.training_set.poses.centers, up)
        return score_cameras(poses, Poses.of_cameras(test.R, test.t), test.unit, dataset=dataset, places=places)

    def baselines(self, teacher: Estimator | None) -> Mapping[str, Poses]:
        """A constant pose, the training image that looks most alike to the teacher, and the one that stands nearest."""
        train, test = self.training_set.poses, self.test_set
        answers = scene_baselines(self.photographs, test)
        found = {"constant pose": answers["constant pose"]}
        if teacher is not None:
            mean = self.view(self.training_set.train[:1]).mean_crop()
            theirs, ours = self.embeddings(teacher, 0.0 if mean is None else mean.transpose(2, 0, 1))
            found["nearest image"] = nearest_training_pose(ours, theirs, train)
        return found | answers

    def deployed(self, estimator: Estimator, *, shapes: bool = False) -> tuple[nn.Module, Decoder]:
        """The network, which subtracts a mean image itself; there are no shapes."""
        data, frame = self.data, self.photographs.frames[0]
        view = self.view(self.training_set.train[:1])
        mean = view.mean_crop()
        decoder = estimator.build_decoder(
            shape=view.shape,
            short_side=None if data.squeeze else data.short_side,
            frame_size=PUBLISHED_SIZE if data.squeeze else None,
            mean=IMAGENET_MEAN if mean is None else (0.0, 0.0, 0.0),
            std=IMAGENET_STD if mean is None else (1 / 255, 1 / 255, 1 / 255),
            camera=Camera(frame.K, frame.width, frame.height),
            distortion=frame.distortion,
            metric=self.photographs.metric,
            calibration=self.cameras,
        )
        return estimator.network if mean is None else MeanSubtracted(estimator.network, mean), decoder

    def _open(self, split: Split) -> CameraDataset:
        """A split of the recipe's scene, in metres where the recipe says how; ``DataError`` for any fault of it."""
        data, unposed = self.data, list[Path]()

        def on_fault(found: Fault) -> None:
            if split == "test" or data.poses is None or found.kind is not FaultKind.NO_POSE:
                raise found
            unposed.append(found.file)  # the recipe's table may have its pose

        if split == "test" and data.test is not None:
            dataset = open_scene(data.test, data.test_split, calibration=self.cameras)
        else:
            dataset = open_scene(data.scene, split, on_fault, self.cameras)
            dataset = replace(dataset, notes=(*dataset.notes, *unposed_notes(unposed, ())))
        return dataset.in_metres(data.metres_per_unit) if data.metres_per_unit else dataset
