"""6D detection as BOP-24 scores it: average precision of poses over MSSD and MSPD, no targets given.

Nguyen et al., BOP Challenge 2024: which objects an image shows, and how often, is not told beforehand, so estimates of
what is not there lower the score. ``docs/scores.md`` says what exactly is computed.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import TARGET_VISIBILITY, BopDataset, Target
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.metrics.matching import Candidates, pair_up
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.object_scores import MSPD_THRESHOLDS, MSSD_THRESHOLDS, REFERENCE_WIDTH
from posedistill.metrics.pair_errors import image_widths
from posedistill.metrics.pose_errors import bounded_mspd, bounded_mssd
from posedistill.metrics.statistics import Interval
from posedistill.poses import Poses

ESTIMATES_PER_IMAGE = 100
"""The surest estimates of an image that count, of all objects together."""
RECALLS: Array = np.linspace(0.0, 1.0, 101)
"""At which precision is read off (as COCO does)."""
_FALSE, _TRUE, _IGNORED = 0, 1, 2
_RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class ObjectDetections:
    """The estimates of one object, ``N`` of them, surest first.

    Attributes:
        image: ``[N]`` index of each one's image. absent: ``[N]`` whether the image shows no instance of the object.
        state: by error, ``[N, 10]`` at each threshold: 0 false, 1 true, 2 ignored, for it took an instance that is
            hardly visible.
        instances: ``[I]`` how many visible instances each image shows.
    """

    image: NDArray[np.int64]
    absent: NDArray[np.bool_]
    state: Mapping[str, NDArray[np.int8]]
    instances: NDArray[np.int64]

    def precision(self, error: str, everywhere: bool, counts: NDArray[np.int64] | None = None) -> float:
        """Average precision, the mean over thresholds; NaN where nothing is to be found.

        Args:
            error: ``MSSD`` or ``MSPD``. everywhere: also count estimates in images that do not show the object.
            counts: ``[I]`` how often each image was drawn; once by default.
        """
        counts = np.ones(len(self.instances), dtype=np.int64) if counts is None else counts
        sought = int(counts @ self.instances)
        if not sought:
            return np.nan
        rows = slice(None) if everywhere else ~self.absent
        state, weights = self.state[error][rows], counts[self.image[rows]]
        counted = np.cumsum(np.where(state == _IGNORED, 0, weights[:, None]), axis=0)
        precisions = []
        for column in range(state.shape[1]):
            true = np.flatnonzero(state[:, column] == _TRUE)
            precisions.append(average_precision(np.cumsum(weights[true]), counted[true, column], sought))
        return float(np.mean(precisions))


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """What was found, by object id, and of how many ``images``, visible ``instances`` and ``estimates`` that counted.

    ``left_out``: estimates beyond the 100 surest of their image, in other images, or of unknown objects.
    """

    objects: Mapping[int, ObjectDetections]
    images: int
    instances: int
    estimates: int
    left_out: int

    @property
    def scores(self) -> dict[str, float]:
        """``AP`` and its two halves as BOP-24 has them, and ``AP_everywhere``; means over objects."""
        return self._scores(None)

    def by_object(self) -> dict[int, dict[str, float]]:
        """The same of each object."""
        return {obj_id: _scores_of(found, None) for obj_id, found in self.objects.items()}

    def intervals(self) -> dict[str, Interval]:
        """Of each score, 95 %: a bootstrap over images."""
        drawn = np.random.default_rng(0).multinomial(self.images, np.full(self.images, 1 / self.images), _RESAMPLES)
        resampled = [self._scores(counts) for counts in drawn]
        ends = {name: np.nanpercentile([item[name] for item in resampled], [2.5, 97.5]) for name in self.scores}
        return {name: Interval(value, *map(float, ends[name])) for name, value in self.scores.items()}

    def _scores(self, counts: NDArray[np.int64] | None) -> dict[str, float]:
        found = [_scores_of(item, counts) for item in self.objects.values()]
        return {name: float(np.nanmean([item[name] for item in found])) for name in found[0]}


def score_detections(estimates: Poses, dataset: BopDataset) -> DetectionScores:
    """Average precision of poses in every image that anything is sought in.

    For each threshold by itself the surest estimate of an object in an image takes, of the free annotated instances,
    the one of the smallest error under the threshold; instances that are visible to less than a tenth can be taken too,
    but neither they nor the estimates that take them count.

    Raises:
        DataError: no visible instance, or an object without a model.
    """
    images = {image: index for index, image in enumerate(dataset.target_images())}
    surest = estimates.select(_surest(estimates, images))
    annotated = {image: Counter(instance.obj_id for instance in dataset.frame(*image).instances) for image in images}
    targets = [Target(*image, *count) for image, counts in annotated.items() for count in sorted(counts.items())]
    if not targets:
        raise DataError(describe(dataset.root / dataset.split, "instances", "none", "annotated images"))
    models = load_scoring_models(dataset, {target.obj_id for target in targets})
    limit = np.full(len(targets), ESTIMATES_PER_IMAGE)
    candidates = pair_up(surest, dataset, targets, limit)
    scale = REFERENCE_WIDTH / image_widths(dataset, candidates.truths.scene_id[candidates.gt])
    state = _states(surest, candidates, models, scale)
    found = _by_object(surest, images, candidates, state)
    if not found:
        raise DataError(describe(dataset.root / dataset.split, "instances", "none visible to a tenth", "at least one"))
    known = int(np.isin(surest.obj_id, list(dataset.models_info)).sum())
    instances = int(sum(item.instances.sum() for item in found.values()))
    return DetectionScores(found, len(images), instances, known, len(estimates) - known)


def average_precision(true: NDArray[np.int64], counted: NDArray[np.int64], sought: int) -> float:
    """Mean over the ``RECALLS`` of the best precision at that recall or a higher one, 0 beyond the highest.

    Args:
        true, counted: at each true estimate ``[N]``, the surest first, how many up to it are true, and how many count
            at all: precision is highest there. sought: instances.

    >>> round(average_precision(np.array([1, 2]), np.array([1, 3]), 2), 4)
    0.835
    """
    if not len(true):
        return 0.0
    precision = true / np.maximum(counted, 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(true / sought, RECALLS)].mean())


def _surest(estimates: Poses, images: Mapping[tuple[int, int], int]) -> NDArray[np.int64]:
    """Rows of the estimates that count, in the order of ``images``, of each the surest first."""
    keys = zip(estimates.scene_id.tolist(), estimates.im_id.tolist(), strict=True)
    image = np.array([images.get(key, -1) for key in keys], dtype=np.int64)
    image[~estimates.found] = -1
    order = np.lexsort((-estimates.score, image))  # equal scores keep the order of the file
    order = order[image[order] >= 0]
    place = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    return order[place < ESTIMATES_PER_IMAGE]


def _states(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], scale: Array
) -> dict[str, NDArray[np.int8]]:
    """By error, ``[N, 10]`` what became of each estimate at each threshold. ``scale``: ``[P]``, see ``_errors``."""
    states, visible = {}, candidates.truths.visible >= TARGET_VISIBILITY
    errors = _errors(estimates, candidates, models, scale)
    for name, thresholds in (("MSSD", MSSD_THRESHOLDS), ("MSPD", MSPD_THRESHOLDS)):
        matched = candidates.match(errors[name], np.broadcast_to(thresholds, (len(candidates.gt), len(thresholds))))
        state = np.zeros((len(estimates), len(thresholds)), dtype=np.int8)
        for rows, value in ((visible, _TRUE), (~visible, _IGNORED)):
            instance, column = np.nonzero(matched[rows] >= 0)
            state[matched[rows][instance, column], column] = value
        states[name] = state
    return states


def _errors(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], scale: Array
) -> dict[str, Array]:
    """Errors ``[P]`` in units of their thresholds; inf where a bound shows that they pass the largest one.

    ``scale``: ``[P]`` brings pixels to an image ``REFERENCE_WIDTH`` wide.
    """
    errors = {name: np.full(len(candidates.gt), np.inf) for name in ("MSSD", "MSPD")}
    cameras = candidates.truths.K[candidates.gt]

    def measure(obj_id: int, pairs: NDArray[np.intp], poses: tuple[Array, Array, Array, Array], name: str) -> None:
        model = models[obj_id]
        if name == "MSSD":
            limit = MSSD_THRESHOLDS[-1] * model.diameter
            found = bounded_mssd(*poses, model.hull, model.symmetries, limit) / model.diameter
        else:
            limits = MSPD_THRESHOLDS[-1] / scale[pairs]
            found = bounded_mspd(*poses, model.mesh.vertices, model.symmetries, cameras[pairs], limits) * scale[pairs]
        errors[name][pairs] = found

    work = [(*own, name) for own in candidates.by_object(estimates) for name in errors]
    with ThreadPoolExecutor() as pool:
        list(pool.map(measure, *zip(*work, strict=True)))
    return errors


def _by_object(
    estimates: Poses,
    images: Mapping[tuple[int, int], int],
    candidates: Candidates,
    states: Mapping[str, NDArray[np.int8]],
) -> dict[int, ObjectDetections]:
    """Of every object with a visible instance."""
    truths = candidates.truths
    image, shown = (
        np.array([images[key] for key in zip(table.scene_id.tolist(), table.im_id.tolist(), strict=True)], np.int64)
        for table in (estimates, truths)
    )
    paired = np.zeros(len(estimates), dtype=bool)
    paired[candidates.est_rows[candidates.est_rows >= 0]] = True
    found = {}
    for obj_id in np.unique(truths.obj_id[truths.visible >= TARGET_VISIBILITY]).tolist():
        own = np.flatnonzero(estimates.obj_id == obj_id)
        own = own[np.argsort(-estimates.score[own], kind="stable")]
        seen = (truths.obj_id == obj_id) & (truths.visible >= TARGET_VISIBILITY)
        instances = np.bincount(shown[seen], minlength=len(images))
        own_state = {name: state[own] for name, state in states.items()}
        found[obj_id] = ObjectDetections(image[own], ~paired[own], own_state, instances)
    return found


def _scores_of(found: ObjectDetections, counts: NDArray[np.int64] | None) -> dict[str, float]:
    halves = {f"AP_{name}": found.precision(name, False, counts) for name in found.state}
    everywhere = [found.precision(name, True, counts) for name in found.state]
    return {"AP": float(np.mean(list(halves.values()))), **halves, "AP_everywhere": float(np.mean(everywhere))}
