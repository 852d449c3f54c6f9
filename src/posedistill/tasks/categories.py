"""The task of categories: pictures of things of named kinds, and how each thing is turned before the camera."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.formats.viewpoint.categories import ROUND, AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.kinds import Kind, Shapes
from posedistill.data.formats.viewpoint.renderings import (
    Renderings,
    mirrored_order,
    read_renderings,
    view_angles,
)
from posedistill.data.images import image_size
from posedistill.data.loading.category_view import CategoryView
from posedistill.data.packs.category_frames import ROOM, CategoryFrames, checked_box
from posedistill.data.packs.splits import hold_out_pictures
from posedistill.decode import Decoder
from posedistill.decode.base import Arrays
from posedistill.deploy.estimate import FrameQuery
from posedistill.deploy.evaluators.categories import category_queries
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.geometry.viewpoint import ORDERS
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.relocalisation import nearest_training_pose
from posedistill.metrics.viewpoint import (
    most_frequent_viewpoint,
    random_viewpoints,
    score_viewpoints,
    viewpoint_errors,
)
from posedistill.poses import Poses
from posedistill.recipe.data import CategorySettings
from posedistill.recipe.recipe import fingerprint
from posedistill.report.viewpoint.cases import ViewCase, save_view_cases
from posedistill.report.viewpoint.embedding import MOST, principal_components, tsne
from posedistill.runtime.record import Frames
from posedistill.tasks.base import Rows, TrainingSet, Validate
from posedistill.tasks.photographs import PhotographsTask
from posedistill.tasks.validation import Validation, viewpoint_scores


class CategoriesTask(PhotographsTask[CategoryDataset]):
    """How is the thing turned?"""

    baseline_notes: ClassVar[Mapping[str, str]] = {
        "most frequent": "the densest training viewpoint",
        "nearest image": "retrieval by the teacher's embedding",
        "uniform": "any rotation: a mark, no method",
    }

    @property
    def data(self) -> CategorySettings:
        """The recipe's data section."""
        return cast(CategorySettings, self.recipe.data)  # as the registry of tasks sees to

    @cached_property
    def annotated(self) -> CategoryDataset:
        """All that the annotations hold."""
        return open_categories(self.data.annotations)

    @cached_property
    def learned(self) -> CategoryDataset:
        """What trains and validates: the objects of the split ``train``, of learned categories, or the few of a draw.

        A draw is written to ``shots.txt`` in the run's folder.

        Raises:
            DataError: a category without an object, fewer objects than shots.
            RecipeError: every category is held out.
        """
        data, found = self.data, self.annotated.of_split("train", clean=self.data.clean)
        wanted = set(data.categories or found.categories) - data.held_out
        if not wanted:
            raise RecipeError(describe("recipe", "data.novel", "every category", "some to train on"))
        found = found.of_categories(wanted)
        if data.listed is not None:
            return found.listed(data.listed)
        if data.shots is None:
            return found
        drawn = found.few(data.shots, data.shot_seed)
        drawn.write_list(self.recipe.folder / "shots.txt")
        return drawn

    @cached_property
    def test_set(self) -> CategoryDataset:
        """The clean objects of the split ``val``, of the measured categories.

        Raises:
            DataError: none, or a box beyond its picture.
        """
        data, held_out = self.data, self.data.held_out
        found = self.annotated if data.test is None else open_categories(data.test)
        found = found.of_split("val", clean=True)
        if data.measured or held_out:
            found = found.of_categories(data.measured or held_out & set(found.categories) or held_out)
        for view in found:
            if view.box is not None:
                checked_box(view, image_size(view.image))
        return found

    @cached_property
    def kinds(self) -> list[Kind]:
        """What the labels stand for: those of training, then those of the test alone, whose shapes are seen too."""
        learned, measured = ({self.kind(view) for view in views} for views in (self.learned, self.test_set))
        return [*sorted(learned), *sorted(measured - learned)]

    @cached_property
    def shapes(self) -> Shapes | None:
        """Which shape stands beside each object; None where the recipe names no shapes."""
        data = self.data
        if data.shapes is None:
            return None
        return Shapes(data.shapes, stand_ins=data.stand_ins, shapenet_frame=data.shapenet_frame)

    @property
    def categories(self) -> tuple[str, ...]:
        """All of which something is learned."""
        return self.learned.categories

    def kind(self, view: AnnotatedView) -> Kind:
        """The category and the shape of an object: its own, or where the recipe allows it one of its category."""
        if self.shapes is not None:
            return self.shapes.kind(view)
        return Kind(view.category, view.shape if self.data.renderings is not None else "")

    def labels(self, views: CategoryDataset) -> list[int]:
        """Of each object, the place of its kind among ``kinds``."""
        places = {kind: label for label, kind in enumerate(self.kinds)}
        return [places[self.kind(view)] for view in views]

    @cached_property
    def clouds(self) -> Array | None:
        """``[S, N, 3]`` of each label; None where the recipe names no shapes."""
        return None if self.shapes is None else self.shapes.clouds(self.kinds, self.data.points)

    @cached_property
    def view_angles(self) -> list[tuple[int, int]]:
        """Azimuth and elevation of each rendering that a network sees."""
        return view_angles(self.data.view_count, self.data.tour)

    @cached_property
    def renderings(self) -> Renderings | None:
        """``[S, V, side, side, 3]`` of each label; None where the recipe names none."""
        data = self.data
        if data.renderings is None:
            return None
        return read_renderings(data.renderings, self.kinds, self.view_angles, data.view_size)

    @cached_property
    def orders(self) -> NDArray[np.int64]:
        """``[S]`` how many turns of each label look the same; 0 for all.

        Raises:
            RecipeError: a symmetry is stated of no category here.
        """
        stated = self.data.symmetries
        if unknown := sorted(set(stated) - {kind.category for kind in self.kinds}):
            known = ", ".join(sorted({kind.category for kind in self.kinds}))
            raise RecipeError(describe("recipe", "data.symmetries", ", ".join(unknown), f"categories: {known}"))
        return np.array([ORDERS[stated.get(kind.category, "none")] for kind in self.kinds])

    @property
    def test_orders(self) -> NDArray[np.int64]:
        """``[N]`` the same of each test object."""
        stated = self.data.symmetries
        return np.array([ORDERS[stated.get(category, "none")] for category in self.test_set.category])

    @cached_property
    def training_set(self) -> TrainingSet:
        """Windows of the learned objects, decoded or found in the cache; split by whole photographs.

        Raises:
            DataError: any fault of the data. RecipeError: nothing is left to validate on.
        """
        data, learned = self.data, self.learned
        side = round(ROOM * data.crop_size)
        about = fingerprint(str(data.annotations.resolve()), side, data.pad, learned.names)
        pack = self.decoded(CategoryFrames(learned, self.labels(learned), side, data.pad), f"categories-{about}")
        held = hold_out_pictures(pack.images, data.validation, self.recipe.seed)
        if not len(held.validation) or not len(held.train):
            found, expected = f"{data.validation} of {len(pack)} objects", "at least one to train and one to validate"
            raise RecipeError(describe("recipe", "data.validation", found, expected))
        return TrainingSet([pack], *held)

    @property
    def training_frames(self) -> Frames:
        """The objects, by their names in the data set's folder."""
        return {self.learned.root.resolve().name: np.array(self.learned.names)}

    @cached_property
    def queries(self) -> Sequence[FrameQuery]:
        """Each test object in its box."""
        return category_queries(self.test_set, self.labels(self.test_set))

    def view(self, rows: Rows) -> CategoryView:
        """Crops of some of the objects."""
        data = self.data
        return CategoryView(
            self.training_set.packs[0],
            data.augment,
            data.flip,
            data.crop_size,
            data.pad,
            self.orders,
            self.clouds,
            data.points,
            self.renderings,
            mirrored_order(self.view_angles),
            data.turn_frames,
            np.array([kind.category in ROUND for kind in self.kinds]),
            rows,
        )

    def validation(self, device: torch.device, count: int) -> Validate:
        """Angles of the held-out objects, evenly thinned to ``count``."""
        loader = self.held_back(device, count)
        return Validation(self, loader, lambda found, batches: viewpoint_scores(found, batches, self.orders))

    def score(self, poses: Poses | None) -> Evaluation:
        """Accuracies and medians, means over categories; up to the symmetries that the recipe states."""
        test = self.test_set
        name = f"{test.root.resolve().name}/val"
        if poses is None:
            return Evaluation(dataset=name)
        return score_viewpoints(poses, test.R, test.category, self.test_orders, dataset=name)

    def baselines(self, teacher: Estimator | None) -> Mapping[str, Poses]:
        """The most frequent viewpoint, the training picture most alike to the teacher, and a uniform guess."""
        learned, count = self.learned, len(self.test_set)
        sizes = {category: learned.category.count(category) for category in learned.categories}
        weights = np.array([1 / sizes[category] for category in learned.category])
        frequent = most_frequent_viewpoint(learned.R, weights)
        found = {"most frequent": Poses.of_cameras(np.tile(frequent, (count, 1, 1)))}
        if teacher is not None:
            theirs, ours = self.embeddings(teacher)
            found["nearest image"] = nearest_training_pose(ours, theirs, self.training_set.poses)
        return found | {"uniform": random_viewpoints(count, self.recipe.seed)}

    def looked_into(self, evaluation: Evaluation, estimator: Estimator, outputs: Sequence[Arrays] = ()) -> Evaluation:
        """With maps of the embeddings of the test pictures, evenly thinned to what a map holds."""
        if evaluation.turns is None:
            return evaluation
        rows = np.arange(0, len(self.queries), -(-len(self.queries) // MOST))
        found = self.test_embeddings(estimator, [self.queries[row] for row in rows.tolist()])
        maps = {"pca": principal_components(found, 2), "tsne": tsne(found), "rows": rows.astype(np.float64)}
        return replace(evaluation, turns=replace(evaluation.turns, **maps))

    def draw(self, poses: Poses, name: str, folder: Path) -> None:
        """The best and the worst, each beside its shape in the true and in the predicted pose."""
        truth, cases = self.test_set.R, []
        errors = viewpoint_errors(poses, truth, self.test_orders)
        for row, (view, query) in enumerate(zip(self.test_set, self.queries, strict=True)):
            left, upper, width, height = query.boxes[0].tolist()
            shape = None if self.shapes is None else self.shapes.folder.find(*self.kind(view))
            box = (left, upper, left + width, upper + height)
            R_gt, R, error = truth[row], poses.R[row], float(errors[row])
            cases.append(ViewCase(view.image, box, shape, R_gt, R, error, query.name, view.category))
        save_view_cases(folder, name, cases)

    def deployed(self, estimator: Estimator, *, shapes: bool = False) -> tuple[nn.Module, Decoder]:
        """The network as it is; a decoder of one that sees shapes knows those of training and test."""
        data = self.data
        clouds = np.zeros((0, 0, 3)) if self.clouds is None else self.clouds[:, : data.points]
        names = tuple(kind.name for kind in self.kinds)
        orders = self.orders if data.symmetries else self.orders[:0]
        known = {"crop_size": data.crop_size, "pad": data.pad, "names": names, "orders": orders, "clouds": clouds}
        known |= {} if self.renderings is None else {"views": self.renderings}
        return estimator.network, estimator.build_decoder(**known)
