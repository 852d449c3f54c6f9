"""Scores on the terminal: intervals, counts, whole words at 80 columns."""

import io
import re

import numpy as np
from rich.console import Console

from posedistill.geometry.rotations import random_rotations
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.object_scores import METRICS
from posedistill.metrics.relocalisation import constant_pose, nearest_position, score_cameras
from posedistill.poses import Poses
from posedistill.report.score_table import score_tables


def printed(evaluation: Evaluation, **baselines: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=80)
    named = {name.replace("_", " "): baseline for name, baseline in baselines.items()}
    console.print(*score_tables(evaluation, named))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return text


def objects(labels: tuple[str, ...]) -> Evaluation:
    rng = np.random.default_rng(0)
    outcomes = {metric: (rng.random(len(labels)) < 0.7).astype(float) for metric in METRICS.values()}
    return Evaluation.of(outcomes, labels, missed=3)


def cameras(lost: int = 0) -> tuple[Evaluation, dict[str, Evaluation]]:
    rng = np.random.default_rng(0)
    truth = Poses.of_cameras(random_rotations(40, rng), rng.normal(size=(40, 3)))
    found = Poses.of_cameras(truth.R.copy(), truth.t + rng.normal(size=(40, 3)) * 0.1)
    found.R[:lost] = np.nan
    baselines = {"constant_pose": constant_pose(truth, 40), "nearest_position": nearest_position(truth, truth)}
    return score_cameras(found, truth), {name: score_cameras(poses, truth) for name, poses in baselines.items()}


def test_every_score_has_its_interval_and_targets_are_counted() -> None:
    evaluation = objects(("1",) * 50)
    text = printed(evaluation)
    for metric in evaluation.metrics:
        line = next(line for line in text.splitlines() if line.strip().startswith(metric.label + " "))
        assert metric.quantity(evaluation.scores[metric.name]) in line and re.search(r"\[\d+\.\d, \d+\.\d\]", line)
    assert "50 targets, 3 of them without a pose" in text
    assert "object" not in text  # there is but one


def test_words_stay_whole_with_many_objects() -> None:
    text = printed(objects(tuple(str(obj_id) for obj_id in range(1, 31) for _ in range(4))))
    for word in ("object", "targets", "ADD(-S)", "0.1 d", "2D proj.", "5 px", "5 cm 5°", "AR MSSD", "interval"):
        assert word in text, text
    assert len([line for line in text.splitlines() if re.match(r"^\s*\d+ +4 ", line)]) == 30


def test_cameras_beside_naive_baselines() -> None:
    evaluation, baselines = cameras()
    text = printed(evaluation, **baselines)
    for words in ("constant pose", "nearest position", "position, m", "orientation, °", "within 0.05 m, 5°", "mean"):
        assert words in re.sub(r"\s+", " ", text) or all(word in text for word in words.split()), words
    errors = np.sort(evaluation.outcomes["position_m"])
    for percent, rank in ((75, 30), (90, 36), (95, 38)):  # of 40 errors the nearest rank
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{percent} %"))
        assert f"{errors[rank - 1]:.3f}" in line


def test_lost_poses_leave_dashes() -> None:
    evaluation, _ = cameras(lost=30)
    text = printed(evaluation)
    assert "40 targets, 30 of them without a pose" in text and "–" in text
