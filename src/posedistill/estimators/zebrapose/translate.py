"""Keypoints as codes and codes as keypoints, for teachers of the other kind: poses in between carry one to the other.

A teacher that is unsure is unsure afterwards: several poses are drawn from its votes, and where they disagree the bits
of the surface fall to one half, or the projected keypoints spread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.decode.zebrapose import ZebraPoseDecoder
from posedistill.errors import RecipeError, describe
from posedistill.estimators.views import Votes
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import ObjectTable
from posedistill.geometry.pnp import solve_pnp
from posedistill.geometry.surfaces import Surfaces

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

    @classmethod
    def of(cls, poses: Sequence[tuple[Array, Array, float]]) -> "Hypotheses":
        """Of (R, t, score), as many as there are."""
        R, t, scores = zip(*poses, strict=True) if poses else ((), (), ())
        return cls(np.reshape(R, (-1, 3, 3)), np.reshape(t, (-1, 3)), np.array(scores, dtype=np.float64))


def pose_logits(
    votes: Votes | None,
    batch: Batch,
    objects: ObjectTable,
    surfaces: Surfaces,
    encode: Callable[[Tensor, int], Tensor],
    bits: int,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Logits of mask ``[B, 1, G, G]`` and bits ``[B, d, G, G]``: those of several poses, averaged by their support.

    Args:
        votes: a teacher's, for the corners of the box, in crop sides.
        encode: points ``[H, G, G, 3]`` mm of the object of a class to bits ``[H, d, G, G]``. stride: pixels of a cell.

    Raises:
        RecipeError: there are no votes for the corners of the box, or the batches have no keypoints.
    """
    found, device, side = hypotheses_of(votes, batch), batch.images.device, batch.images.shape[-1]
    grid = side // stride
    mask = torch.full((len(batch), 1, grid, grid), _NOWHERE, device=device)
    code = torch.zeros(len(batch), bits, grid, grid, device=device)
    label, K = batch.label.cpu().numpy(), batch.cameras().double().cpu().numpy()
    for row, poses in enumerate(found):
        count = len(poses.scores)
        if not count:
            continue
        own, cameras = np.repeat(label[row], count), np.repeat(K[row][None], count, axis=0)
        R, t = objects.canonical(own, poses.R, poses.t)
        points = torch.from_numpy(surfaces.seen(own, cameras, R, t, side, stride)).to(device)
        support = torch.as_tensor(poses.scores / poses.scores.sum(), dtype=torch.float32, device=device)
        share = points[..., 0].isfinite() * support[:, None, None]
        seen = share.sum(0)
        mean = (encode(points, int(label[row])) * share[:, None]).sum(0) / seen.clamp(min=1e-6)
        code[row] = torch.where(seen > 0, _logit(mean), 0.0)
        mask[row, 0] = _logit(seen * float(poses.scores.max()))
    return mask, code


def keypoints_of_codes(logits: Mapping[str, Tensor], batch: Batch, decoder: ZebraPoseDecoder, step: int) -> Votes:
    """``[B, QUADRUPLES, K, 2]`` votes for the corners in crop sides, weighted by the support of their poses.

    Args:
        logits: ``mask`` and ``code``. step: of the training; what is drawn depends on it and on the pictures alone.
    """
    mask, code = (logits[name].float().cpu().numpy() for name in ("mask", "code"))
    keypoints = batch.target("keypoints3d", "teacher: codes").cpu().numpy()
    K = batch.cameras().double().cpu().numpy()
    values = np.full((len(batch), QUADRUPLES, *keypoints.shape[1:2], 2), 0.5, np.float32)
    weights = np.zeros((len(batch), QUADRUPLES), np.float32)
    for row, index in enumerate(batch.label.tolist()):
        rng = np.random.default_rng([step + 1, int(batch.ids[row])])
        found = decoder.matches({"mask": mask[row], "code": code[row]}, index)
        poses = quadruple_poses(found.pixels, found.points, found.weights, K[row], found.threshold, rng)
        for place in range(len(poses.scores)):
            pixels = project(keypoints[row], poses.R[place], poses.t[place], K[row])
            values[row, place], weights[row, place] = pixels / batch.images.shape[-1], poses.scores[place]
    device = batch.images.device
    held = torch.from_numpy(weights).to(device)
    return Votes(torch.from_numpy(values).to(device), held, held > 0)


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
    return Hypotheses.of(poses)


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
    return Hypotheses.of(poses)


def _of_four(pixels: Array, points: Array, K: Array) -> tuple[Array, Array] | None:
    """A pose by P3P with a fourth match, object before the camera; None where there is none."""
    try:
        found, turn, shift = cv2.solvePnP(points, pixels, K, None, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # matches on one line, or all of one cell
        return None
    if not found or not np.isfinite(shift).all() or float((cv2.Rodrigues(turn)[0] @ points.T + shift)[2].min()) <= 0:
        return None
    return np.asarray(cv2.Rodrigues(turn)[0]), np.asarray(shift[:, 0])


def _logit(share: Tensor) -> Tensor:
    return share.logit(eps=1 / (1 + float(np.exp(_SURE))))
