"""The task of objects: BOP folders and renders, crops of what is sought, poses scored as BOP does."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, Frame, read_image
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.deploy.estimate import FrameQuery, estimate
from posedistill.deploy.evaluate import boxes_for
from posedistill.deploy.export import check_parity, export_onnx, torch_predictor
from posedistill.deploy.shapes import coarse_shape
from posedistill.estimators.base import Estimator
from posedistill.files import fresh
from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.meshes import load_mesh
from posedistill.log import console
from posedistill.metrics import Evaluation, find_cases, score_estimates
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, RenderSource
from posedistill.report.cases import Case, save_cases
from posedistill.runtime.predictor import Predictor
from posedistill.tasks import object_sources as sources
from posedistill.tasks.base import Record, Task
from posedistill.tasks.object_validation import Validation
from posedistill.training.loop import Validate
from posedistill.training.networks import load_network, variant_folder, weights_of
from posedistill.training.teacher_build import load_members
from posedistill.training.teacher_poses import csv_poses, ensemble_poses

PARITY_FRAMES = 8
"""Test frames on which an exported file must agree with its network."""

TestFrames = tuple[BopDataset, list[FrameQuery]]
"""The frames, and the boxes that objects are sought in."""


class ObjectTask(Task[sources.TrainingData, TestFrames]):
    """Where are the objects, and how do they lie?"""

    def prepare(self, recipe: Recipe) -> sources.TrainingData:
        """Rendered, decoded and split."""
        return sources.prepare(recipe)

    def loader(
        self,
        recipe: Recipe,
        prepared: sources.TrainingData,
        indices: NDArray[np.int64],
        **options: Unpack[LoaderOptions],
    ) -> Loader:
        """Crops of some of the instances."""
        return sources.loader(recipe, prepared, indices, **options)

    def begin(self, estimator: Estimator, prepared: sources.TrainingData) -> None:
        """Crops need nothing: all is in the objects."""

    def validation(self, recipe: Recipe, prepared: sources.TrainingData, device: torch.device, count: int) -> Validate:
        """Keypoint errors of decoded poses."""
        return Validation(recipe, prepared, device, count)

    def inputs(self, recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, ...]:
        """A crop and its class."""
        size = recipe.objects_data.crop_size
        return torch.zeros(1, 3, size, size, device=device), torch.zeros(1, dtype=torch.int64, device=device)

    def split(self, recipe: Recipe) -> TestFrames:
        """The recipe's test frames with their boxes."""
        data = recipe.objects_data
        dataset = sources.open_source(data.test.source, data.objects, recipe.cache_folder, data.objects)
        return dataset, boxes_for(dataset, sources.objects_of(recipe), data.test.boxes, data.test.detections)

    def measure(self, recipe: Recipe, variant: str, seed: int, split: TestFrames) -> Record:
        """BOP scores; of an ensemble its best poses, of a csv none where it is about other images."""
        dataset = split[0]
        csv = variant_folder(recipe, variant, seed) / "results.csv"
        made_from = [recipe.folder / "recipe.yaml", *recipe.teacher.files]
        if variant != "teacher" or recipe.teacher.is_network:
            made_from = [recipe.folder / "recipe.yaml", weights_of(recipe, variant, seed)]
        if not fresh(csv, *made_from):
            found = self._poses(recipe, variant, seed, split)
            if found is None:
                console.print(f"{recipe.teacher.csv} says nothing of the test frames: the teacher is not scored")
                return Evaluation().to_dict() | _about(recipe, dataset)
            csv.parent.mkdir(parents=True, exist_ok=True)
            found.to_bop_csv(csv)
        return _record(Poses.from_bop_csv(csv), dataset, _about(recipe, dataset))

    def measure_file(self, recipe: Recipe, path: Path, csv: Path, split: TestFrames) -> Record:
        """The same of a file."""
        dataset, wanted = split
        if not fresh(csv, path, recipe.folder / "recipe.yaml"):
            estimate(Predictor.from_onnx(path), wanted, "evaluate exported").to_bop_csv(csv)
        return _record(Poses.from_bop_csv(csv), dataset, _about(recipe, dataset))

    def references(self, recipe: Recipe, split: TestFrames) -> Sequence[Record]:
        """None: a mean pose of objects finds nothing."""
        return ()

    def export(
        self, recipe: Recipe, estimator: Estimator, path: Path, training: str, split: TestFrames, *, shapes: bool = True
    ) -> Record:
        """Votes and poses are compared.

        ``shapes`` puts a coarse surface of each object into the file, for the contour in overlays; leave it out of a
        file whose models must not be passed on.
        """
        dataset, wanted = split
        frame = dataset.frames[0]
        height, width = read_image(frame.rgb).shape[:2]
        meshes = [load_mesh(dataset.mesh_path(obj_id), looks=False) for obj_id in estimator.objects.obj_ids if shapes]
        surfaces = tuple(coarse_shape(mesh.vertices, mesh.faces) for mesh in meshes)
        camera = Camera(frame.K, width, height)
        export_onnx(estimator.network, path, estimator.build_decoder(camera=camera, shapes=surfaces), training)
        requests = [entry.request() for entry in [entry for entry in wanted if len(entry.boxes)][:PARITY_FRAMES]]
        parity = check_parity(estimator.network, path, requests)
        console.print(f"exported {path}: {parity}")
        return parity.to_dict()

    def draw(self, recipe: Recipe, folder: Path, split: TestFrames) -> None:
        """Contours over photographs."""
        dataset, _ = split
        teacher = variant_folder(recipe, "teacher", recipe.seed) / "results.csv"
        for variant, csv in {"teacher": teacher, "exported": folder / "results.csv"}.items():
            if csv.exists():  # a csv may say nothing of the test frames
                save_cases(folder / "cases", variant, list(_cases(Poses.from_bop_csv(csv), dataset, recipe)))

    def _poses(self, recipe: Recipe, variant: str, seed: int, split: TestFrames) -> Poses | None:
        """What a network, an ensemble or a csv says of the test frames."""
        dataset, wanted = split
        if variant == "teacher" and not recipe.teacher.is_network:
            objects = sources.objects_of(recipe)
            members = load_members(recipe, objects)
            return ensemble_poses(members, wanted, objects) if members else csv_poses(recipe, dataset)
        estimator, _ = load_network(recipe, variant, seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        predictor = torch_predictor(estimator.network, estimator.build_decoder(), device)
        return estimate(predictor, wanted, f"evaluate {variant} seed {seed}")


def _cases(estimates: Poses, dataset: BopDataset, recipe: Recipe) -> Iterator[Case]:
    """One case for each target instance; a missed one has no predicted pose."""
    objects = sources.objects_of(recipe)
    for case in find_cases(estimates, dataset):
        frame = dataset.frame(case.scene_id, case.im_id)
        index = objects.index(case.obj_id)
        R, t = (estimates.R[case.row], estimates.t[case.row]) if case.row >= 0 else (None, None)
        R_gt, t_gt = _nearest_truth(frame, case.obj_id, R, t, objects.symmetries[index])
        about = (case.add, "mm", case.obj_id, case.scene_id, case.im_id)
        yield Case(frame.rgb, frame.K, objects.keypoints[index], R_gt, t_gt, R, t, *about)


def _nearest_truth(
    frame: Frame, obj_id: int, R: Array | None, t: Array | None, symmetries: Array
) -> tuple[Array, Array]:
    """The true pose, of all instances and equivalent poses, that lies nearest to the predicted one."""
    truths = [
        (instance.R @ S[:3, :3], instance.R @ S[:3, 3] + instance.t)
        for instance in frame.instances
        if instance.obj_id == obj_id
        for S in symmetries
    ]
    if R is None or t is None:
        return truths[0]
    return min(truths, key=lambda truth: float(np.linalg.norm(truth[1] - t) + 100 * np.linalg.norm(truth[0] - R)))


def _record(estimates: Poses, dataset: BopDataset, about: dict[str, Any]) -> Record:
    scores = score_estimates(estimates, dataset)
    # With a detector's boxes the score is a whole benchmark's and not one threshold's.
    return (scores.led_by("AR") if about["boxes"] == "detector" else scores).to_dict() | about


def _about(recipe: Recipe, dataset: BopDataset) -> dict[str, Any]:
    test = recipe.objects_data.test
    rendered = isinstance(test.source, RenderSource)
    name = "rendered test frames" if rendered else f"{dataset.root.name}/{dataset.split}"
    return {"boxes": test.boxes, "dataset": name}
