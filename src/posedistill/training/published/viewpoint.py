"""The test of 3DAug-Pose's repository: finished weights measured on a data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.formats.viewpoint.categories import OBJECTNET_NOVEL, CategoryDataset
from posedistill.data.formats.viewpoint.kinds import Kind, Shapes
from posedistill.data.formats.viewpoint.renderings import read_renderings, view_angles
from posedistill.deploy.estimate import estimate
from posedistill.deploy.evaluate import report
from posedistill.deploy.evaluators.categories import category_queries, naive_scores
from posedistill.deploy.export import torch_predictor
from posedistill.errors import RecipeError, describe
from posedistill.estimators.registry import build_estimator
from posedistill.files import write_file
from posedistill.geometry.objects import NO_OBJECTS
from posedistill.geometry.viewpoint import label_angles, rotation_viewpoint
from posedistill.log import console
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.viewpoint import MEDIAN, score_viewpoints, viewpoint_errors
from posedistill.recipe.published_viewpoint import TOUR, VIEWS, shape_folder, shape_settings
from posedistill.runtime.predictor import Predictor
from posedistill.training.checkpoints import load_strictly, load_tensors

POINTS, SIDE = 2500, 224
"""Of a cloud and of a crop, as published."""
TESTED = ("ObjectNet3D", "Pascal3D", "Pix3D")


def measure_published(
    dataset: str,
    model: Path,
    output_dir: Path,
    *,
    root: Path,
    shape: str = "None",
    shape_dir: str | None = None,
    shape_features: int | None = None,
    view_num: int | None = None,
    tour: int | None = None,
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
    batch: int = 16,
    swapped: bool = False,
) -> Evaluation:
    """Measure weights on the clean objects of the split ``val``; of ObjectNet3D on its 20 test categories.

    ``output_dir`` gets ``predictions_CATEGORY.npy`` ``[N, 3]`` of label angles, and ``test.txt`` of scores.

    Args:
        settings: of the network, beside those of the published one. overrides: ``key=value`` of further settings.
        swapped: show a teacher another shape of the same category.

    Raises:
        RecipeError: an unknown data set. DataError: a fault in it. CheckpointError: weights of another network.
    """
    if dataset not in TESTED:
        raise RecipeError(describe("--dataset", "option", dataset, " or ".join(TESTED)))
    opened = open_categories(root / dataset)
    views = opened.of_split("val", clean=True)
    if dataset == "ObjectNet3D":
        views = views.of_categories(OBJECTNET_NOVEL & set(views.categories) or OBJECTNET_NOVEL)
    folder = shape_folder(shape, shape_dir, root / dataset)
    clouds = Shapes(folder, swapped=swapped) if folder is not None and shape == "PointCloud" else None
    kinds = [Kind(view.category, view.shape) if clouds is None else clouds.kind(view) for view in views]
    known, seen = sorted(set(kinds)), shape_settings(shape, shape_features, view_num)
    shown: dict[str, Any] = {} if clouds is None else {"clouds": clouds.clouds(known)[:, :POINTS]}
    if folder is not None and shape == "MultiView":
        shown["views"] = read_renderings(folder, known, view_angles(view_num or VIEWS, tour or TOUR), SIDE)
    predictor = _predictor(model, known, shown, seen | dict(settings), overrides)
    predictor.batch = batch
    found = estimate(predictor, category_queries(views, [known.index(kind) for kind in kinds]), "test")
    scores = score_viewpoints(found, views.R, views.category, dataset=f"{dataset}/val")
    _write_predictions(output_dir, views, found.R, viewpoint_errors(found, views.R))
    return report(scores, None, naive_scores(opened, views))


def _predictor(
    model: Path, kinds: Sequence[Kind], shown: dict[str, Any], settings: dict[str, Any], overrides: Sequence[str]
) -> Predictor:
    """The network with its weights, and the shapes that it is shown."""
    settings = {"backbone": "resnet50" if shown else "resnet18", "features": 1024 if shown else 2048} | settings
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(describe("settings", override, "no '='", "a setting as key=value"))
        settings[key] = yaml.safe_load(value)
    side = int(settings.pop("crop_size", SIDE))
    estimator = build_estimator("viewpoint", NO_OBJECTS, settings, side)
    load_strictly(estimator, load_tensors(model)[0], model)
    decoder = estimator.build_decoder(crop_size=side, names=tuple(kind.name for kind in kinds), **shown)
    return torch_predictor(estimator.network, decoder, "cuda" if torch.cuda.is_available() else "cpu")


def _write_predictions(folder: Path, views: CategoryDataset, R: np.ndarray, errors: np.ndarray) -> None:
    """A file of label angles for each category, and a line of scores for each."""
    folder.mkdir(parents=True, exist_ok=True)
    labels, category, lines = label_angles(rotation_viewpoint(R)), np.array(views.category), []
    for name in views.categories:
        own = category == name
        np.save(folder / f"predictions_{name}.npy", labels[own])
        within = 100 * float((errors[own] <= 30 + 1e-9).mean())
        lines.append(f"{name}: {own.sum()} objects, Acc30 {within:.2f} %, {MEDIAN.label} {np.median(errors[own]):.2f}")
    write_file(folder / "test.txt", "\n".join(lines) + "\n")
    console.print(f"predictions: {folder}/predictions_CATEGORY.npy, label angles; {folder}/test.txt", highlight=False)
