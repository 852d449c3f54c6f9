"""The task of objects: BOP folders and renders, crops of what is sought, poses scored as BOP does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.data.formats.bop import BopDataset, Frame
from posedistill.data.images import read_image
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.packs.pack import Pack
from posedistill.data.packs.splits import hold_out_frames
from posedistill.decode import Decoder, Pose, Prepared
from posedistill.decode.objects import CropDecoder, of_objects
from posedistill.deploy.estimate import FrameQuery
from posedistill.deploy.evaluate import boxes_for
from posedistill.deploy.shapes import coarse_shape
from posedistill.deploy.threshold import SEARCHES, Shown, photographs_in, threshold_of
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array, Camera, project
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.surfaces import Surfaces
from posedistill.log import console
from posedistill.metrics import Evaluation, find_cases, load_scoring_models, score_estimates
from posedistill.metrics.models import ScoringModel
from posedistill.poses import Poses
from posedistill.recipe.data import BopSource, DataSettings, RenderSource
from posedistill.recipe.recipe import fingerprint
from posedistill.report.cases import Case, save_cases, save_votes
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Frames
from posedistill.runtime.threshold import Threshold
from posedistill.tasks.base import Rows, Task, TrainingSet, Validate
from posedistill.tasks.calibration.decodings import choose_decoding
from posedistill.tasks.calibration.distances import ALL, SUREST, calibrate_distances
from posedistill.tasks.object_sources import backdrops, open_source
from posedistill.tasks.object_teachers import best_poses, csv_poses
from posedistill.tasks.validation import Validation, keypoint_scores, one_a_picture

DRAWN = 4
"""Test frames on which votes are drawn."""


@dataclass(frozen=True)
class TestFrames:
    """The frames, and the models that scores are defined on."""

    __test__ = False
    dataset: BopDataset
    models: Mapping[int, ScoringModel]


class ObjectsTask(Task[TestFrames]):
    """Where are the objects, and how do they lie? Each is looked for in a crop of its own."""

    with_others: ClassVar[bool] = False
    """Whether frames are learned from that show none of the objects."""
    validated: ClassVar[int] = 64
    """Crops, or pictures, that a network in validation sees at a time."""

    @property
    def data(self) -> DataSettings:
        """The recipe's data section."""
        return cast(DataSettings, self.recipe.data)  # as the registry of tasks sees to

    @cached_property
    def sources(self) -> list[BopDataset]:
        """The training frames as they lie on disk; what is to be rendered has been."""
        return [open_source(source, self.data.objects, self.recipe.cache_folder) for source in self.data.train]

    @cached_property
    def objects(self) -> ObjectTable:
        """The learned objects, as the first training source describes them."""
        return self.sources[0].objects(self.data.objects)

    @property
    def stand_ins(self) -> ObjectTable:
        """Cubes: the shapes may have to be rendered first."""
        return ObjectTable.of_cubes(self.data.objects)

    @cached_property
    def training_set(self) -> TrainingSet:
        """Rendered, decoded and split."""
        packs = [self._pack(dataset) for dataset in self.sources]
        return TrainingSet(packs, *hold_out_frames(packs, self.data.validation, self.recipe.seed))

    @cached_property
    def training_frames(self) -> Frames:
        """Of BOP and label folders: those that show a learned object."""
        found: dict[str, list[tuple[int, int]]] = {}
        for source, dataset in zip(self.data.train, self.sources, strict=True):
            if not isinstance(source, RenderSource):
                folder = source.bop if isinstance(source, BopSource) else source.labels
                rows = found.setdefault(f"{folder.resolve().name}/{source.split}", [])
                rows += [(frame.scene_id, frame.im_id) for frame in self._learned(dataset).frames]
        return {name: np.unique(rows, axis=0) for name, rows in found.items()}

    @cached_property
    def test_set(self) -> TestFrames:
        """The recipe's test frames."""
        data = self.data
        dataset = open_source(data.test.source, data.objects, self.recipe.cache_folder, data.objects)
        return TestFrames(dataset, load_scoring_models(dataset))

    @cached_property
    def queries(self) -> Sequence[FrameQuery]:
        """The boxes that objects are sought in."""
        test = self.data.test
        return boxes_for(self.test_set.dataset, self.objects, test.boxes, test.detections)

    def loader(self, rows: Rows, **options: Unpack[LoaderOptions]) -> Loader:
        """Crops of some of the instances."""
        data, pictures = self.data, self._backdrops if options.get("augment", True) else None
        packs, surfaces = self.training_set.packs, self._surfaces
        view = CropView(packs, self.objects, data.augment, data.crop_size, rows, pictures, surfaces=surfaces)
        return Loader(view, shares=data.shares, **options)

    def mesh(self, obj_id: int) -> Mesh:
        """As the first training source has it."""
        return self.sources[0].mesh(obj_id, looks=False)

    @cached_property
    def _surfaces(self) -> Surfaces:
        return Surfaces(self.objects.obj_ids, self.mesh)

    def validation(self, device: torch.device, count: int) -> Validate:
        """Keypoint errors of decoded poses; a missed instance counts as one far off."""
        seed = self.recipe.seed
        rows = drawn(self.training_set, count, self.data.shares, np.random.default_rng(seed))
        loader = self.loader(rows, seed=seed, device=device, batch_size=self.validated, augment=False)
        return Validation(
            self, loader, lambda found, batches: keypoint_scores(found, batches, self.objects), self.assign
        )

    def calibration(self, estimator: Estimator) -> tuple[dict[str, Any], str]:
        """How outputs are decoded, then distances, by real frames where any were trained on, else by renders."""
        data, real = self.training_set, self._real
        chosen, told = choose_decoding(self, estimator)
        estimator.calibration = chosen
        if real[data.validation].any():
            learned, held = (rows[real[rows]] for rows in (data.train, data.validation))
            share = ALL
        else:
            learned, held, share = data.train, data.validation, SUREST
        distances, lengths = calibrate_distances(self, estimator, learned, held, share, assign=self.assign)
        return chosen | distances, "; ".join(filter(None, [told, lengths]))

    def assign(self, poses: Sequence[Pose], batch: Batch) -> Sequence[int]:
        """Which instance of a batch each pose is of, -1 for none: the only one of its picture."""
        return one_a_picture(poses, batch)

    @property
    def _real(self) -> NDArray[np.bool_]:
        """``[N]`` whether the frame of each training instance is no render of the recipe's."""
        own = [not isinstance(source, RenderSource) for source in self.data.train]
        return np.repeat(own, [len(pack) for pack in self.training_set.packs])

    def score(self, poses: Poses | None) -> Evaluation:
        """BOP's scores, and ADD(-S)."""
        dataset, test = self.test_set.dataset, self.data.test
        rendered = isinstance(test.source, RenderSource)
        name = "rendered test frames" if rendered else f"{dataset.root.name}/{dataset.split}"
        if poses is None:
            return Evaluation(dataset=name, boxes=test.boxes)
        found = score_estimates(poses, dataset, models=self.test_set.models, boxes=test.boxes)
        return replace(found, dataset=name)

    def baselines(self, teacher: Estimator | None) -> Mapping[str, Poses]:
        """None: a mean pose of objects finds nothing."""
        return {}

    def joined(self, tables: Sequence[Poses]) -> Poses:
        """Of all members' poses the best, as many of an object as are sought in the image."""
        return best_poses(Poses.concatenate(tables), list(self.queries), self.objects)

    def stated_poses(self) -> Poses | None:
        """The rows of the teacher's csv for the test frames."""
        return csv_poses(self.recipe.teacher.csv, self.data, self.test_set.dataset)

    def deployed(self, estimator: Estimator, *, shapes: bool = False) -> tuple[nn.Module, Decoder]:
        """The network as it is; the first test frame's camera stands for images that come without one."""
        dataset = self.test_set.dataset
        meshes = [dataset.mesh(obj_id, looks=False) for obj_id in estimator.objects.obj_ids if shapes]
        surfaces = tuple(coarse_shape(mesh.vertices, mesh.faces) for mesh in meshes)
        return estimator.network, estimator.build_decoder(camera=self._camera, shapes=surfaces)

    def decoder(self, estimator: Estimator) -> Decoder:
        """Without the camera of the test frames."""
        return estimator.build_decoder()

    @cached_property
    def _camera(self) -> Camera:
        frame = self.test_set.dataset.frames[0]
        height, width = read_image(frame.rgb).shape[:2]
        return Camera(frame.K, width, height)

    def threshold(self, predictor: Predictor) -> Threshold | None:
        """Chosen on validation frames (real ones where there are any) and on photographs without the objects."""
        folder = self.data.negatives or self.data.backgrounds or _render_backgrounds(self.data)
        if folder is None:
            console.print("no score threshold: data.negatives names no folder of photographs without the objects")
            return None
        return threshold_of(predictor, self._held_back(), photographs_in(folder), f"validation frames, {folder.name}")

    def _held_back(self) -> Iterator[Shown]:
        """Validation pictures with all poses of one of their objects, of real frames where any are held back."""
        packs, rows = self.training_set.packs, self.training_set.validation
        starts = np.cumsum([0, *(len(pack) for pack in packs)])
        pack_of = np.searchsorted(starts, rows, side="right") - 1
        real = self._real[rows]
        chosen = np.flatnonzero(real) if real.any() else np.arange(len(rows))
        for place in np.random.default_rng(self.recipe.seed).permutation(chosen)[:SEARCHES].tolist():
            pack, row = packs[pack_of[place]], rows[place] - starts[pack_of[place]]
            table, frame, obj_id = pack.instances, pack.instances.frame[row], int(pack.instances.obj_id[row])
            own = (table.frame == frame) & (table.obj_id == obj_id)
            height, width = pack.sizes[frame]
            image = np.ascontiguousarray(pack.frames[frame, :height, :width, :3])
            yield Shown(image, pack.K[frame], obj_id, table.R[own], table.t[own])

    def draw(self, poses: Poses, name: str, folder: Path) -> None:
        """Contours over photographs."""
        save_cases(folder, name, list(self._cases(poses)))

    def draw_votes(self, predictor: Predictor, name: str, folder: Path) -> None:
        """What a network says of the surface in a few crops, beside the true one, for families that say anything."""
        decoder, pictures = of_objects(predictor.decoder), []
        if not isinstance(decoder, CropDecoder) or decoder.surface_stride is None:
            return
        sought = [query for query in self.queries if len(query.boxes)]
        for query in sought[:: -(-len(sought) // DRAWN)]:
            prepared = decoder.prepare(query.request())
            surface = self._true_surface(query, prepared, decoder.crop_size, decoder.surface_stride)
            drawn = decoder.explain_crop(predictor.outputs_of([prepared])[0], prepared, 0, surface)
            if drawn is not None:
                where = f"scene {query.scene_id}, image {query.im_id}"
                pictures.append((drawn, f"{where}: crop, predicted codes with the cells behind the pose, true codes"))
        save_votes(folder, name, pictures)

    def _true_surface(self, query: FrameQuery, prepared: Prepared, side: int, stride: int) -> NDArray[np.float32]:
        """``[G, G, 3]`` of the first thing that is sought in a frame, nothing where its pose is not known.

        Of several of its kind it is the one in the middle of the crop.
        """
        label = int(prepared.labels[0])
        frame = self.test_set.dataset.frame(query.scene_id, query.im_id)
        truths = [instance for instance in frame.instances if instance.obj_id == label]
        if not truths:
            return np.full((side // stride, side // stride, 3), np.nan, np.float32)
        index, turn, K = np.array([self.objects.index(label)]), prepared.rotation[:1], prepared.K[0]
        seen = [project(np.zeros((1, 3)), turn[0] @ truth.R, turn[0] @ truth.t, K)[0] for truth in truths]
        truth = truths[int(np.argmin(np.linalg.norm(np.array(seen) - (side - 1) / 2, axis=1)))]
        R, t = self.objects.canonical(index, turn @ truth.R, turn @ truth.t)
        return self._surfaces.seen(index, prepared.K[:1], R, t, side, stride)[0]

    def _pack(self, dataset: BopDataset) -> Pack:
        data = self.data
        names = [str(frame.rgb.resolve()) for frame in dataset.frames]
        others = ["others"] if self.with_others else []
        name = f"pack-{fingerprint(names, data.objects, data.min_visible, *others)}"
        return self.decoded(self._learned(dataset), name)

    def _learned(self, dataset: BopDataset) -> ObjectFrames:
        return ObjectFrames(dataset, self.data.objects, self.data.min_visible, self.with_others)

    @cached_property
    def _backdrops(self) -> NDArray[np.uint8]:
        return backdrops(self.data.backgrounds)

    def _cases(self, poses: Poses) -> Iterator[Case]:
        """One case for each target instance; a missed one has no predicted pose."""
        for case in find_cases(poses, self.test_set.dataset, self.test_set.models):
            frame = self.test_set.dataset.frame(case.scene_id, case.im_id)
            index = self.objects.index(case.obj_id)
            R, t = (poses.R[case.row], poses.t[case.row]) if case.row >= 0 else (None, None)
            R_gt, t_gt = _nearest_truth(frame, case.obj_id, R, t, self.objects.symmetries[index])
            about = (case.add, "mm", case.obj_id, case.scene_id, case.im_id)
            yield Case(frame.rgb, frame.K, self.objects.keypoints[index], R_gt, t_gt, R, t, *about)


def _render_backgrounds(data: DataSettings) -> Path | None:
    """The photographs behind the first renders that have any."""
    folders = [source.settings.backgrounds for source in data.train if isinstance(source, RenderSource)]
    return next((folder for folder in folders if folder is not None), None)


def drawn(data: TrainingSet, count: int, shares: list[float] | None, rng: np.random.Generator) -> Rows:
    """Validation instances, of each source as large a share as in training (as far as they last)."""
    ends = np.cumsum([len(pack) for pack in data.packs])
    parts = np.split(data.validation, np.searchsorted(data.validation, ends[:-1]))
    weights = np.array([len(part) for part in parts] if shares is None else shares, dtype=np.float64)
    counts = np.ceil(count * weights / max(weights.sum(), 1e-9)).astype(np.int64).tolist()
    return np.concatenate([rng.permutation(part)[:count] for part, count in zip(parts, counts, strict=True)])


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
