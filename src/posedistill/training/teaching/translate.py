"""Teachers of one kind of vote for students of another: poses in between carry keypoints over to codes, and back.

A teacher that is unsure is unsure afterwards: several poses are drawn from its votes, and where they disagree the bits
of the surface fall to one half, or the projected keypoints spread.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from posedistill.data.loading.batch import Batch
from posedistill.decode import ZebraPoseDecoder
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.views import Prediction, Votes
from posedistill.estimators.zebrapose import ZebraPose
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.pnp import solve_pnp
from posedistill.geometry.surfaces import Surfaces
from posedistill.training.teaching.teachers import Teacher, networks_of

POSES = 8
"""Drawn from the keypoints of one picture; the first is of all votes."""
QUADRUPLES = 32
"""Of matches, drawn from the codes of one picture."""
_THRESHOLD = 0.05
"""Reprojection error that makes an outlier, crop sides."""
_SURE = 4.0
"""Logit of a bit or a mask on which all poses agree."""
_NOWHERE = -20.0
"""Logit of the mask where no pose is found."""


class Hypotheses(NamedTuple):
    """Poses of one picture: ``R`` ``[H, 3, 3]``, ``t`` ``[H, 3]`` mm, ``scores`` ``[H]`` in 0..1; there may be none."""

    R: Array
    t: Array
    scores: Array


def translated(teacher: Teacher, student: Estimator, mesh: Callable[[int], Mesh]) -> Teacher:
    """The teacher, or what says the same in the student's kind of votes; ``mesh`` reads an object's by its id."""
    if not isinstance(student, ZebraPose):
        return as_keypoints(teacher)
    if any(isinstance(network, ZebraPose) for network in networks_of(teacher)):
        return teacher
    return PosesAsCodes(teacher, student, Surfaces(student.objects.obj_ids, mesh))


def as_keypoints(teacher: Teacher) -> Teacher:
    """The teacher, or where its votes are codes, what says the same in keypoints."""
    of_codes = [network for network in networks_of(teacher) if isinstance(network, ZebraPose)]
    return CodesAsKeypoints(teacher, of_codes[0]) if of_codes else teacher


class PosesAsCodes:
    """Codes under the poses that a teacher's keypoints give; its feature maps and embedding are passed on.

    Args:
        student: whose codes are made. surfaces: of its objects.
    """

    def __init__(self, teacher: Teacher, student: ZebraPose, surfaces: Surfaces) -> None:
        self.teacher, self.student, self.surfaces = teacher, student, surfaces

    @property
    def offers(self) -> frozenset[str]:
        """Codes in all their views."""
        return frozenset({"votes", "cells", "logits"}) | self.teacher.offers & {"features", "embedding"}

    @torch.no_grad()
    def predict(self, batch: Batch, step: int) -> Prediction:
        """The bits of several poses, averaged by their support in PnP.

        Raises:
            RecipeError: the teacher has no votes for the corners of the box, or the batches have no keypoints.
        """
        taught = self.teacher.predict(batch, step)
        found = hypotheses_of(taught.votes, batch)
        device, side, stride = batch.images.device, batch.images.shape[-1], self.student.stride
        bits, grid = self.student.settings.bits, side // stride
        mask = torch.full((len(batch), 1, grid, grid), _NOWHERE, device=device)
        code = torch.zeros(len(batch), bits, grid, grid, device=device)
        label, K = batch.label.cpu().numpy(), batch.cameras().double().cpu().numpy()
        for row, poses in enumerate(found):
            count = len(poses.scores)
            if not count:
                continue
            own, cameras = np.repeat(label[row], count), np.repeat(K[row][None], count, axis=0)
            R, t = self.student.objects.canonical(own, poses.R, poses.t)
            points = torch.from_numpy(self.surfaces.seen(own, cameras, R, t, side, stride)).to(device)
            hit = points[..., 0].isfinite().float()
            support = torch.as_tensor(poses.scores / poses.scores.sum(), dtype=torch.float32, device=device)
            share = hit * support[:, None, None]
            seen = share.sum(0)
            labels = batch.label[row].expand(count)
            mean = (self.student.encode(points, labels) * share[:, None]).sum(0) / seen.clamp(min=1e-6)
            code[row] = torch.where(seen > 0, _logit(mean), 0.0)
            mask[row, 0] = _logit(seen * float(poses.scores.max()))
        said = self.student.said(mask, code)
        said.features, said.embedding, said.spread = taught.features, taught.embedding, taught.spread
        return said


class CodesAsKeypoints:
    """Votes for the corners of the box out of codes, by poses of few matches each.

    Args:
        network: the teacher's, for its codes.
    """

    def __init__(self, teacher: Teacher, network: ZebraPose) -> None:
        self.teacher, self.decoder = teacher, ZebraPoseDecoder(**network.record())

    @property
    def offers(self) -> frozenset[str]:
        """Votes have no cells."""
        return frozenset({"votes"}) | self.teacher.offers & {"features", "embedding"}

    @torch.no_grad()
    def predict(self, batch: Batch, step: int) -> Prediction:
        """``votes`` ``[B, QUADRUPLES, K, 2]`` in crop sides, weighted by the support of their poses."""
        taught = self.teacher.predict(batch, step)
        mask, code = (taught.logits[name].float().cpu().numpy() for name in ("mask", "code"))
        keypoints = batch.target("keypoints3d", "teacher: codes").cpu().numpy()
        K = batch.cameras().double().cpu().numpy()
        values = np.full((len(batch), QUADRUPLES, *keypoints.shape[1:2], 2), 0.5, np.float32)
        weights = np.zeros((len(batch), QUADRUPLES), np.float32)
        for row, index in enumerate(batch.label.tolist()):
            rng = np.random.default_rng([step + 1, int(batch.ids[row])])
            found = self.decoder.matches({"mask": mask[row], "code": code[row]}, index)
            poses = quadruple_poses(found.pixels, found.points, found.weights, K[row], found.threshold, rng)
            for place in range(len(poses.scores)):
                pixels = project(keypoints[row], poses.R[place], poses.t[place], K[row])
                values[row, place], weights[row, place] = pixels / batch.images.shape[-1], poses.scores[place]
        device = batch.images.device
        held = torch.from_numpy(weights).to(device)
        votes = Votes(torch.from_numpy(values).to(device), held, held > 0)
        return Prediction({}, votes, features=taught.features, embedding=taught.embedding, spread=taught.spread)


def hypotheses_of(votes: Votes | None, batch: Batch) -> list[Hypotheses]:
    """Poses of every picture: of all votes, and of random halves of them where several cells vote."""
    keypoints = batch.target("keypoints3d", "teacher: codes from poses").double().cpu().numpy()
    if votes is None or votes.values.shape[2:] != (keypoints.shape[1], 2):
        given = "no votes" if votes is None else f"votes {list(votes.values.shape)}"
        raise RecipeError(describe("recipe", "teacher", given, "votes for the corners of the box"))
    side = batch.images.shape[-1]
    values, weights, mask = (value.cpu().numpy() for value in (votes.values.double() * side, votes.weights, votes.mask))
    K, ids = batch.cameras().double().cpu().numpy(), batch.ids.tolist()
    found = []
    for row in range(len(batch)):
        cells = np.flatnonzero(mask[row] & (weights[row] > 0))
        rng = np.random.default_rng(ids[row])
        halves = [rng.permutation(cells)[: -(-len(cells) // 2)] for _ in range(POSES - 1)] if len(cells) > 1 else []
        found.append(_solved(values[row], weights[row], [cells, *halves], keypoints[row], K[row], _THRESHOLD * side))
    return found


def _solved(
    values: Array, weights: Array, draws: list[NDArray[np.intp]], keypoints: Array, K: Array, threshold: float
) -> Hypotheses:
    """The poses of some choices of cells, as far as there are any."""
    poses = []
    for cells in draws:
        if len(cells):
            points = np.tile(keypoints, (len(cells), 1))
            matched = np.repeat(weights[cells].astype(np.float64), len(keypoints))
            pose = solve_pnp(values[cells].reshape(-1, 2), points, K, matched, threshold)
            if pose is not None and pose.score > 0:
                poses.append((pose.R, pose.t, float(weights[cells].max()) * pose.score))
    R, t, scores = zip(*poses, strict=True) if poses else ((), (), ())
    return Hypotheses(np.reshape(R, (-1, 3, 3)), np.reshape(t, (-1, 3)), np.array(scores, dtype=np.float64))


def quadruple_poses(
    pixels: Array, points: Array, weights: Array, K: Array, threshold: float, rng: np.random.Generator
) -> Hypotheses:
    """Poses of four matches each, drawn by their weights: three make up to four poses, the fourth tells which.

    Args:
        pixels: ``[N, 2]``. points: ``[N, 3]`` mm. weights: ``[N]``. threshold: pixels, where support ends.
    """
    usable = np.flatnonzero(weights > 0)
    poses = []
    for _ in range(QUADRUPLES if len(usable) >= 4 else 0):
        chosen = rng.choice(usable, 4, replace=False, p=weights[usable] / weights[usable].sum())
        pose = _of_four(pixels[chosen], points[chosen], K)
        if pose is not None:
            errors = np.linalg.norm(project(points, *pose, K) - pixels, axis=1)
            support = np.maximum(1 - (errors / threshold) ** 2, 0) @ weights / weights.sum()
            poses.append((*pose, float(support)))
    R, t, scores = zip(*poses, strict=True) if poses else ((), (), ())
    return Hypotheses(np.reshape(R, (-1, 3, 3)), np.reshape(t, (-1, 3)), np.array(scores, dtype=np.float64))


def _of_four(pixels: Array, points: Array, K: Array) -> tuple[Array, Array] | None:
    """A pose by P3P with a fourth match, object before the camera; None where there is none."""
    try:
        found, turn, shift = cv2.solvePnP(points, pixels, K, None, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # matches on one line, or all of one cell
        return None
    if not found or not np.isfinite(shift).all() or float((cv2.Rodrigues(turn)[0] @ points.T + shift)[2].min()) <= 0:
        return None
    return np.asarray(cv2.Rodrigues(turn)[0]), np.asarray(shift[:, 0])


def _logit(share: torch.Tensor) -> torch.Tensor:
    return share.logit(eps=1 / (1 + float(np.exp(_SURE))))
