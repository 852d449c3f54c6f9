"""score_estimates: every score of a table of poses against a data set, in total and for each object."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between
from posedistill.metrics import bop_scores
from posedistill.metrics.matching import Candidates, find_candidates, unused_rows
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.pose_errors import (
    add,
    add_s,
    mssd,
    nearest_equivalent,
    recall,
    recall_areas,
    reprojection,
    translation_error,
)
from posedistill.poses import Poses

ADD_FRACTIONS = (0.02, 0.05, 0.1)
AUC_FRACTION = 0.1
CURVE_FRACTIONS: Array = np.linspace(0.0, 0.2, 41)
LEGACY_DIAMETERS = {
    **{1: 104.26, 2: 250.85, 3: 167.49, 4: 177.43, 5: 204.83, 6: 154.63, 7: 129.85, 8: 264.12},
    **{9: 110.83, 10: 164.65, 11: 178.35, 12: 145.61, 13: 279.04, 14: 287.24, 15: 213.25},
}
"""mm, LINEMOD objects 1-15 as many papers since Tekin et al. (CVPR 2018) state them: 0 to 4.5 % too large, so that
``0.1 d`` is a little lenient. Only for comparison with such papers."""


@dataclass(frozen=True)
class Case:
    """One true instance and the estimate that stands for it.

    Attributes:
        row: of the estimates; -1 where the instance was missed, and then all errors are inf.
        add: ADD, of symmetric objects ADD-S, mm. add_fraction: the same as a fraction of the diameter.
        mssd: mm. reprojection: pixels. translation: mm. rotation: degrees. Symmetric objects are compared with the
            nearest equivalent true pose.
    """

    scene_id: int
    im_id: int
    obj_id: int
    row: int
    add: float
    add_fraction: float
    mssd: float
    reprojection: float
    translation: float
    rotation: float


@dataclass(frozen=True)
class Scores:
    """What ``score_estimates`` found; every score is a share in 0..1, and a missed instance counts as a failure.

    Attributes:
        total: over all instances: ``AR`` (mean of the average recalls that were measured), ``AR_MSSD``, ``AR_MSPD``,
            ``AR_VSD`` (on request), ``add_0.02d``, ``add_0.05d``, ``add_0.1d``, ``add_auc`` (all ADD, of symmetric
            objects ADD-S), ``proj_5px``, ``cmdeg_5_5``.
        objects: the same for each object.
        recalls: for ``mssd``, ``mspd`` and ``vsd`` the recall at each threshold.
        curve: recall of ADD(-S) over ``CURVE_FRACTIONS`` of the diameter.
        outcomes: for each score of ``total`` the value of every true instance, ``[M]`` in 0..1; their mean is the
            score. Two networks can so be compared instance by instance.
        cases: one for each true instance, in the order of the targets.
        estimates, targets: number of rows given and of instances to be found.
        seconds_per_image: mean of the estimates' times; None where none states one.
        notes: rows that could not count, and why.
    """

    total: dict[str, float]
    objects: dict[int, dict[str, float]]
    recalls: dict[str, list[float]]
    curve: list[float]
    outcomes: dict[str, Array]
    cases: list[Case]
    estimates: int
    targets: int
    seconds_per_image: float | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for json: inf and nan become None, object ids strings."""
        return _plain(
            {
                "scores": self.total,
                "per_object": {str(obj_id): scores for obj_id, scores in self.objects.items()},
                "recalls": self.recalls,
                "curves": {"add": {"x": CURVE_FRACTIONS.tolist(), "y": self.curve}},
                "outcomes": {name: values.round(6).tolist() for name, values in self.outcomes.items()},
                "cases": [asdict(case) for case in self.cases],
                "estimates": self.estimates,
                "targets": self.targets,
                "seconds_per_image": self.seconds_per_image,
                "notes": self.notes,
            }
        )


def score_estimates(
    estimates: Poses,
    dataset: BopDataset,
    *,
    models: Mapping[int, ScoringModel] | None = None,
    vsd: bool = False,
    legacy_diameters: bool = False,
    source: str | Path = "estimates",
) -> Scores:
    """Score poses against the targets of a data set (BOP-19's, or all instances visible to a tenth or more).

    Args:
        models: from ``load_scoring_models``; loaded where None.
        vsd: also measure VSD, for which every target image needs depth.
        legacy_diameters: judge ADD(-S) by the ``LEGACY_DIAMETERS`` of LINEMOD.
        source: the file the rows came from, named in the notes on rows that cannot count.

    Raises:
        DataError: no targets, a target's image without annotations or (for VSD) depth, an object without a model,
            or, for the legacy diameters, one that LINEMOD does not have.
    """
    candidates = find_candidates(estimates, dataset)
    models = load_scoring_models(dataset) if models is None else models
    truths = candidates.truths
    hits = {
        "mssd": bop_scores.mssd_hits(estimates, candidates, models),
        "mspd": bop_scores.mspd_hits(estimates, candidates, models, bop_scores.image_widths(dataset)),
    }
    if vsd:
        hits["vsd"] = bop_scores.vsd_hits(estimates, candidates, models)
    diameters = {obj_id: model.diameter for obj_id, model in models.items()}
    if legacy_diameters:
        diameters = _legacy(diameters, dataset)
    errors = assigned_errors(estimates, candidates, models, diameters)
    outcomes = _outcomes(hits, errors)
    objects = {obj_id: truths.obj_id == obj_id for obj_id in np.unique(truths.obj_id).tolist()}
    return Scores(
        total=_means(outcomes),
        objects={
            obj_id: _means({name: values[mask] for name, values in outcomes.items()})
            for obj_id, mask in objects.items()
        },
        recalls={name: hit.mean(axis=0).tolist() for name, hit in hits.items()},
        curve=recall(errors["add_fraction"], CURVE_FRACTIONS).tolist(),
        outcomes=outcomes,
        cases=_cases(candidates, errors),
        estimates=len(estimates),
        targets=len(truths),
        seconds_per_image=_seconds_per_image(estimates),
        notes=unused_rows(estimates, dataset, source),
    )


def assigned_errors(
    estimates: Poses,
    candidates: Candidates,
    models: Mapping[int, ScoringModel],
    diameters: Mapping[int, float],
) -> dict[str, Array]:
    """The errors of a ``Case`` and its row, each ``[M]``, after a greedy assignment by ADD(-S) without a threshold."""
    truths = candidates.truths
    pair_errors = np.full(len(candidates.gt), np.inf)
    for obj_id, pairs in bop_scores.pairs_by_object(candidates).items():
        e, g = candidates.est[pairs], candidates.gt[pairs]
        distance = add_s if models[obj_id].symmetric else add
        vertices = models[obj_id].mesh.vertices
        pair_errors[pairs] = distance(estimates.R[e], estimates.t[e], truths.R[g], truths.t[g], vertices)
    rows = candidates.match(pair_errors, np.full((len(pair_errors), 1), np.inf))[:, 0]
    names = ("add", "add_fraction", "mssd", "reprojection", "translation", "rotation")
    errors = {name: np.full(len(truths), np.inf) for name in names}
    chosen = rows[candidates.gt] == candidates.est
    errors["add"][candidates.gt[chosen]] = pair_errors[chosen]
    found = np.flatnonzero(rows >= 0)
    for obj_id in np.unique(truths.obj_id[found]).tolist():
        g = found[truths.obj_id[found] == obj_id]
        model, R_est, t_est = models[obj_id], estimates.R[rows[g]], estimates.t[rows[g]]
        errors["add_fraction"][g] = errors["add"][g] / diameters[obj_id]
        R, t = nearest_equivalent(R_est, t_est, truths.R[g], truths.t[g], model.hull, model.symmetries)
        errors["mssd"][g] = mssd(R_est, t_est, R, t, model.hull, model.symmetries[:1])
        errors["reprojection"][g] = reprojection(R_est, t_est, R, t, model.mesh.vertices, truths.K[g])
        errors["translation"][g] = translation_error(t_est, t)
        errors["rotation"][g] = np.degrees(angle_between(R_est, R))
    return {"row": rows, **errors}


def _outcomes(hits: Mapping[str, NDArray[np.bool_]], errors: Mapping[str, Array]) -> dict[str, Array]:
    """Each score's value of every true instance, ``[M]`` in 0..1; of an average recall, the share of its thresholds."""
    recalls = {f"AR_{name.upper()}": hit.mean(axis=1) for name, hit in hits.items()}
    fractions = errors["add_fraction"]
    close = (errors["translation"] < 50.0) & (errors["rotation"] < 5.0)
    return {
        "AR": np.mean(list(recalls.values()), axis=0),
        **recalls,
        **{f"add_{fraction}d": (fractions < fraction).astype(np.float64) for fraction in ADD_FRACTIONS},
        "add_auc": recall_areas(fractions, AUC_FRACTION),
        "proj_5px": (errors["reprojection"] < 5.0).astype(np.float64),
        "cmdeg_5_5": close.astype(np.float64),
    }


def _means(outcomes: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in outcomes.items()}


def _cases(candidates: Candidates, errors: Mapping[str, Array]) -> list[Case]:
    truths = candidates.truths
    ids = np.stack([truths.scene_id, truths.im_id, truths.obj_id, errors["row"]], axis=1).tolist()
    names = ("add", "add_fraction", "mssd", "reprojection", "translation", "rotation")
    values = np.stack([errors[name] for name in names], axis=1).tolist()
    return [Case(*id_row, *value_row) for id_row, value_row in zip(ids, values, strict=True)]


def _legacy(diameters: Mapping[int, float], dataset: BopDataset) -> dict[int, float]:
    """The LINEMOD diameters of older papers for these objects."""
    foreign = sorted(set(diameters) - set(LEGACY_DIAMETERS))
    if foreign:
        raise DataError(describe(dataset.root, "legacy_diameters", f"objects {foreign}", "LINEMOD's objects 1 to 15"))
    return {obj_id: LEGACY_DIAMETERS[obj_id] for obj_id in diameters}


def _seconds_per_image(estimates: Poses) -> float | None:
    """Mean over images of the time that BOP states for each, which all its rows repeat."""
    timed = estimates.select(estimates.seconds >= 0)
    if not len(timed):
        return None
    _, first = np.unique(np.stack([timed.scene_id, timed.im_id]), axis=1, return_index=True)
    return float(timed.seconds[first].mean())


def _plain(value: Any) -> Any:
    """The same with None in place of inf and nan, which json does not know."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
