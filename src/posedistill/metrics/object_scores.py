"""score_estimates: every score of a table of poses against a BOP data set."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from posedistill.data.formats.bop import BopDataset
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.metrics.error_analysis import ErrorAnalysis
from posedistill.metrics.evaluation import Curve, Evaluation, Metric
from posedistill.metrics.matching import Candidates, find_candidates, unused_rows
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.pair_errors import image_widths, pair_diameters, pair_errors, vsd_errors
from posedistill.metrics.vsd import DELTA, ITODD_DELTA, TAUS
from posedistill.poses import Poses

METRICS = {
    metric.name: metric
    for metric in (
        Metric("add_0.1d", "ADD(-S) 0.1 d", level="headline"),
        Metric("AR", "AR"),
        Metric("proj_5px", "2D proj. 5 px"),
        Metric("cmdeg_5_5", "5 cm 5°"),
        Metric("AR_MSSD", "AR MSSD", level="detail"),
        Metric("AR_MSPD", "AR MSPD", level="detail"),
        Metric("AR_VSD", "AR VSD", level="detail"),
        Metric("add_0.02d", "ADD(-S) 0.02 d", level="detail"),
        Metric("add_0.05d", "ADD(-S) 0.05 d", level="detail"),
        Metric("add_auc", "ADD(-S) AUC", level="detail"),
        Metric("add_auc_10cm", "ADD(-S) AUC 10 cm", level="detail"),
        Metric("cmdeg_2_2", "2 cm 2°", level="detail"),
    )
}
"""``AR`` is the mean of the average recalls that were measured. ADD is ADD-S for symmetric objects."""
MSSD_THRESHOLDS: Array = np.linspace(0.05, 0.5, 10)
"""Fractions of the diameter."""
MSPD_THRESHOLDS: Array = np.linspace(5.0, 50.0, 10)
"""Pixels of an image ``REFERENCE_WIDTH`` wide."""
VSD_THRESHOLDS: Array = np.linspace(0.05, 0.5, 10)
"""Shares of the visible pixels (theta); each is crossed with the tolerances ``TAUS``."""
REFERENCE_WIDTH = 640
ADD_FRACTIONS = (0.02, 0.05, 0.1)
AUC_FRACTION = 0.1
AUC_LENGTH = 100.0
"""mm, as Xiang et al. (PoseCNN, RSS 2018) have it."""
CURVE_FRACTIONS: Array = np.linspace(0.0, 0.2, 41)
LEGACY_DIAMETERS = {
    **{1: 104.26, 2: 250.85, 3: 167.49, 4: 177.43, 5: 204.83, 6: 154.63, 7: 129.85, 8: 264.12},
    **{9: 110.83, 10: 164.65, 11: 178.35, 12: 145.61, 13: 279.04, 14: 287.24, 15: 213.25},
}
"""mm, LINEMOD objects 1-15 as many papers since Tekin et al. (CVPR 2018) state them: 0 to 4.5 % too large, so that
``0.1 d`` is a little lenient. Only for comparison with such papers."""


@dataclass(frozen=True)
class Case:
    """One true instance and the estimate nearest to it.

    Attributes:
        row: of the estimates; -1 where the instance was missed, and then all errors are inf.
        add: ADD, of symmetric objects ADD-S, mm. add_fraction: the same as a fraction of the diameter.
        mssd, translation: mm. mspd, reprojection: pixels. rotation: degrees. Symmetric objects are compared with
            the nearest equivalent true pose.
        depth, depth_mm, lateral: of ``translation`` the parts along and across the ray, see ``sight_errors``.
    """

    scene_id: int
    im_id: int
    obj_id: int
    row: int
    add: float
    add_fraction: float
    mssd: float
    mspd: float
    reprojection: float
    translation: float
    rotation: float
    depth: float
    depth_mm: float
    lateral: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain values for json, which knows no inf: None."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


def score_estimates(
    estimates: Poses,
    dataset: BopDataset,
    *,
    models: Mapping[int, ScoringModel] | None = None,
    vsd: bool = False,
    legacy_diameters: bool = False,
    boxes: str = "",
    source: str | Path = "estimates",
) -> Evaluation:
    """Score poses against the targets of a data set (BOP-19's, or all instances visible to a tenth or more).

    Every threshold of every score is matched by itself, as in the BOP toolkit. A missed instance is a failure.

    Args:
        models: from ``load_scoring_models``; loaded where None.
        vsd: also measure VSD, for which every target image needs depth.
        legacy_diameters: judge ADD(-S) by the ``LEGACY_DIAMETERS`` of LINEMOD.
        boxes: where crops came from; with ``detector`` a whole benchmark's score leads and not one threshold's.
        source: the file the rows came from, named in the notes on rows that cannot count.

    Raises:
        DataError: no targets, a target's image without annotations or (for VSD) depth, an object without a model,
            or, for the legacy diameters, one that LINEMOD does not have.
    """
    candidates = find_candidates(estimates, dataset)
    models = load_scoring_models(dataset) if models is None else models
    errors, diameters = pair_errors(estimates, candidates, models), pair_diameters(candidates, models)
    scale = REFERENCE_WIDTH / image_widths(dataset, candidates.truths.scene_id[candidates.gt])
    hits = {
        "AR_MSSD": candidates.hits(errors["mssd"] / diameters, MSSD_THRESHOLDS),
        "AR_MSPD": candidates.hits(errors["mspd"] * scale, MSPD_THRESHOLDS),
    }
    if vsd:
        delta = ITODD_DELTA if "itodd" in dataset.root.resolve().name.lower() else DELTA
        visible = np.repeat(vsd_errors(estimates, candidates, models, delta), len(VSD_THRESHOLDS), axis=1)
        hits["AR_VSD"] = candidates.hits(visible, np.tile(VSD_THRESHOLDS, len(TAUS)))
    recalls = {name: hit.mean(axis=1) for name, hit in hits.items()}
    added = errors["add"] / (_legacy(candidates, dataset) if legacy_diameters else diameters)
    fractions = candidates.hits(added, np.concatenate([ADD_FRACTIONS, CURVE_FRACTIONS]))
    close = np.maximum(errors["translation"] / 10, errors["rotation"])  # under 5: within 5 cm and 5 degrees
    within = candidates.hits(close, np.array([2.0, 5.0])).astype(float)
    outcomes = {
        "AR": np.mean(list(recalls.values()), axis=0),
        **recalls,
        **{f"add_{fraction}d": fractions[:, column].astype(float) for column, fraction in enumerate(ADD_FRACTIONS)},
        "add_auc": candidates.recall_areas(added, AUC_FRACTION),
        "proj_5px": candidates.hits(errors["reprojection"], np.array([5.0]))[:, 0].astype(float),
        "add_auc_10cm": candidates.recall_areas(errors["add"], AUC_LENGTH),
        "cmdeg_2_2": within[:, 0],
        "cmdeg_5_5": within[:, 1],
    }
    curve = Curve(
        "tolerated ADD(-S) error, % of the diameter",
        (100 * CURVE_FRACTIONS).round(6).tolist(),
        fractions[:, len(ADD_FRACTIONS) :].mean(axis=0).tolist(),
    )
    nearest = candidates.nearest(errors["add"])
    scores = Evaluation.of(
        {metric: outcomes[name] for name, metric in METRICS.items() if name in outcomes},
        candidates.truths.obj_id.tolist(),
        curves={"add_0.1d": curve},
        missed=int((nearest < 0).sum()),
        errors=ErrorAnalysis.of_pairs(errors, nearest, candidates.truths.visible),
        notes=tuple(unused_rows(estimates, dataset, source)),
        dataset=f"{dataset.root.name}/{dataset.split}",
        boxes=boxes,
    )
    return scores.led_by("AR") if boxes == "detector" else scores


def find_cases(estimates: Poses, dataset: BopDataset, models: Mapping[int, ScoringModel] | None = None) -> list[Case]:
    """Every true instance with the estimate nearest to it, in the order of the targets."""
    candidates = find_candidates(estimates, dataset)
    models = load_scoring_models(dataset) if models is None else models
    errors = pair_errors(estimates, candidates, models)
    errors["add_fraction"] = errors["add"] / pair_diameters(candidates, models)
    pairs, truths = candidates.nearest(errors["add"]), candidates.truths
    found = pairs >= 0
    columns = {name: getattr(truths, name) for name in ("scene_id", "im_id", "obj_id")}
    for name, values in {"row": candidates.est, **errors}.items():
        columns[name] = np.full(len(truths), -1 if name == "row" else np.inf, dtype=values.dtype)
        columns[name][found] = values[pairs[found]]
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [Case(**dict(zip(columns, row, strict=True))) for row in rows]


def _legacy(candidates: Candidates, dataset: BopDataset) -> Array:
    """``[P]`` diameter of the object of each pair, mm, as older papers on LINEMOD state it."""
    foreign = sorted(set(candidates.truths.obj_id.tolist()) - set(LEGACY_DIAMETERS))
    if foreign:
        raise DataError(describe(dataset.root, "legacy_diameters", f"objects {foreign}", "LINEMOD's objects 1 to 15"))
    return np.array([LEGACY_DIAMETERS[obj_id] for obj_id in candidates.truths.obj_id[candidates.gt].tolist()])
