"""Measurement of models of categories, on any data set of viewpoints."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.formats.viewpoint.categories import CategoryDataset
from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.images import image_size
from posedistill.decode import ViewpointDecoder
from posedistill.deploy.estimate import FrameQuery, estimate
from posedistill.deploy.evaluate import report
from posedistill.deploy.evaluators.base import OF_OBJECTS, Asked, warn_of_training
from posedistill.errors import DataError, describe
from posedistill.metrics import Evaluation
from posedistill.metrics.viewpoint import most_frequent_viewpoint, random_viewpoints, score_viewpoints
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor


def evaluate_categories(predictor: Predictor, asked: Asked) -> Evaluation:
    """Accuracies and medians over the clean objects of a split (``test`` stands for ``val``).

    Up to the symmetries that the model was trained with.
    """
    decoder = cast(ViewpointDecoder, predictor.decoder)
    asked.refuse([*OF_OBJECTS, "--metres-per-unit"], "none: only objects and scenes have it; see --split")
    opened = open_categories(asked.dataset)
    views = opened.of_split("val" if asked.split == "test" else asked.split, clean=True)
    queries = category_queries(views, labels_of(decoder, views, asked))
    warn_of_training(predictor, asked, views.root.resolve().name, views.names)
    found = estimate(predictor, queries)
    if asked.csv is not None:
        found.to_csv(asked.csv)
    orders = decoder.orders_of(views.category)
    scores = score_viewpoints(found, views.R, views.category, orders)
    return report(scores, asked.json, naive_scores(opened, views, orders))


def category_queries(views: CategoryDataset, labels: Sequence[int]) -> list[FrameQuery]:
    """Each object in its box, under its label."""
    queries = []
    for view, name, label in zip(views, views.names, labels, strict=True):
        left, upper, right, lower = view.edges(image_size(view.image))
        box = np.array([[left, upper, right - left, lower - upper]])
        queries.append(FrameQuery(view.image, name=name, boxes=box, labels=[label], scores=np.ones(1)))
    return queries


def labels_of(decoder: ViewpointDecoder, views: CategoryDataset, asked: Asked) -> list[int]:
    """The label of each object's shape in a model that looks at shapes; -1 in one that sees pictures alone.

    Raises:
        DataError: a shape that the model does not hold.
    """
    if not decoder.looks_at_shapes:
        return [-1] * len(views)
    names = [Kind(view.category, view.shape).name for view in views]
    if missing := sorted(set(names) - set(decoder.names)):
        expected = f"the {len(decoder.names)} shapes in {asked.model}, a teacher's; its student needs none"
        raise DataError(describe(asked.dataset, "shapes", f"{len(missing)} others, the first {missing[0]}", expected))
    return [decoder.names.index(name) for name in names]


def naive_scores(
    opened: CategoryDataset, views: CategoryDataset, orders: NDArray[np.int64] | None = None
) -> dict[str, Evaluation]:
    """Those that ask no network: a uniform guess, and where there is a split ``train`` its most frequent viewpoint."""
    answers = {"uniform": random_viewpoints(len(views))}
    if any(view.split == "train" for view in opened):
        frequent = most_frequent_viewpoint(opened.of_split("train").R)
        answers = {"most frequent": Poses.of_cameras(np.tile(frequent, (len(views), 1, 1)))} | answers
    return {name: score_viewpoints(poses, views.R, views.category, orders) for name, poses in answers.items()}
