"""How two networks relate the images of a batch to each other, compared: the pure functions behind ``relate``.

Each takes the ``[B, D]`` features of both networks, whose widths may differ, and returns ``[B]`` losses, one an image;
their mean is the loss as published. Features are compared as they are given: centring them is the caller's choice where
a function does not name it. A batch too small to hold a relation costs 0. The teacher gets no gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.distill.functional.kernels import (
    ROUNDING,
    centered_cosines,
    centered_gram,
    cosines,
    gram,
    off_diagonal,
    precise,
    rotation_distances,
    squared_distances,
    unit_rows,
)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """SP: ``mean_j (G_S - G_T)_ij^2``, where the rows of the inner products ``G`` have length 1.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019 (arXiv 1907.09682).

    >>> similarity_preserving(torch.eye(2), torch.ones(2, 3)).round(decimals=4).tolist()
    [0.2928999960422516, 0.2928999960422516]
    """
    return (unit_rows(gram(student)) - unit_rows(gram(teacher.detach()))).square().mean(1)


def self_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_j (A_S - A_T)_ij^2`` of the cosines ``A`` of all pairs, the diagonal counted as 0 (SCKD's baseline)."""
    return (_self_similarities(student) - _self_similarities(teacher.detach())).square().mean(1)


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4) -> Tensor:
    """CC: mean over the other images of ``(k_S - k_T)_ij^2``, Gaussian kernels of the directions of the features.

    ``k_ij = exp(-gamma |u_i - u_j|^2)`` with unit vectors ``u``, which the paper expands to second order. Peng et al.,
    "Correlation Congruence for Knowledge Distillation", ICCV 2019 (arXiv 1904.01802), its Gaussian kernel.
    """
    ours, theirs = (torch.exp(-2 * gamma * (1 - cosines(side))) for side in (student, teacher.detach()))
    return _row_means((ours - theirs).square(), off_diagonal(len(student), student.device))


def consecutive_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """CC as it is commonly run: ``sum_k D_ik D_(i+1)k`` with ``D = |S - T|``, of consecutive images only.

    It depends on the order of the batch, and is 0 as soon as every second image agrees. The last image has no
    successor, hence no loss.

    Args:
        student, teacher: ``[B, D]`` of one width, as embedded. Both get gradients, as their embeddings learn.
    """
    differences = (precise(student) - precise(teacher)).abs()
    products = (differences[:-1] * differences[1:]).sum(1)
    return functional.pad(products, (0, 1)) * (len(products) + 1) / max(len(products), 1)


def rotation_rkd(student: Tensor, rotations: Tensor, pairs: Tensor) -> Tensor:
    """RKD-D against what is known: the geodesic distances of the batch's rotations ``[B, 3, 3]`` teach, no network.

    Args:
        pairs: ``[B, B]`` bool, which images are compared.
    """
    return _distance_losses(_distances(centered_gram(student)), rotation_distances(rotations), pairs)


def rkd(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0, limit: int = 64
) -> Tensor:
    """RKD, both losses from the same inner products: smooth L1 between the distances of all pairs, each side's in units
    of its mean distance, and between the cosines of the angles at image ``i`` of all triplets.

    Angles cost ``B^3``: only the first ``limit`` images are related by them, and those beyond have no such loss. Park
    et al., "Relational Knowledge Distillation", CVPR 2019 (arXiv 1904.05068).
    """
    ours, theirs = (centered_gram(side) for side in (student, teacher.detach()))
    losses = 0 * ours.diagonal()
    if distance_weight:
        everyone = torch.ones_like(ours, dtype=torch.bool)
        losses = losses + distance_weight * _distance_losses(_distances(ours), _distances(theirs), everyone)
    if angle_weight:
        losses = losses + angle_weight * _angle_losses(ours, theirs, limit)
    return losses


def pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """PKT: ``mean_j t_ij ln((t_ij + eps) / (s_ij + eps))``, rows of ``(cosine + 1) / 2`` that sum to 1.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018 (arXiv
    1803.10837), with its cosine kernel.
    """
    ours, theirs = ((cosines(side) + 1) / 2 for side in (student, teacher.detach()))
    ours, theirs = (side / side.sum(1, keepdim=True) for side in (ours, theirs))
    # The eps makes the plain divergence dip below 0 by less than itself; that is the published form.
    return (theirs * ((theirs + eps) / (ours + eps)).log()).mean(1)


def self_cross(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_labels: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """SCKD: the cosine of each image's row of feature cosines with its row of label cosines, on both sides.

    Args:
        labels: ``[B, 7]`` raw poses, position and quaternion. The cosine of such a vector depends on the world's origin
            and units: this is the published definition.
        student_labels: what the student's features are crossed with, where not ``labels``; gets gradients.
        temperature: None compares the ``B`` scores by their squared differences; a number by the divergence of their
            softmax over the batch.
    """
    reference = _self_similarities(labels)
    own = reference if student_labels is None else _self_similarities(student_labels)
    ours = cross_scores(_self_similarities(student), own)
    theirs = cross_scores(_self_similarities(teacher.detach()), reference)
    if temperature is None:
        return (ours - theirs).square()
    s, t = ((scores / temperature).log_softmax(0) for scores in (ours, theirs))
    # s - t sums to 0 over the batch: with it every image's part is >= 0, and can be weighted.
    return len(s) * (t.exp() * (t - s) - t.exp() + s.exp())


def pearson_self_cross(
    student: Tensor,
    teacher: Tensor,
    kernel: Tensor,
    pairs: Tensor,
    full: bool = False,
    rows_weight: float = 0.0,
    temperature: float = 0.1,
) -> Tensor:
    """Self-cross similarity that can tell images apart: correlations of centred cosines with a kernel of poses.

    Args:
        kernel: ``[B, B]``, see :func:`posedistill.distill.functional.kernels.pose_kernel`.
        pairs: ``[B, B]`` bool, which entries of a row count; never its own.
        full: compare each row of cosines with the kernel's rows of all images, not of its own alone.
        rows_weight: adds as much of the KL divergence of the rows of the student's centred cosines from the
            teacher's, softmax over ``pairs`` at ``temperature``.
    """
    ours, theirs = (centered_cosines(side, pairs) for side in (student, teacher.detach()))
    poses = _standard_rows(kernel.to(ours.dtype), pairs)
    difference = _standard_rows(ours, pairs) - _standard_rows(theirs, pairs)
    losses = (difference @ poses.T).square().mean(1) if full else (difference * poses).sum(1).square()
    if rows_weight:
        losses = losses + rows_weight * _divergence(ours, _softmax_rows(theirs, pairs, temperature), pairs, temperature)
    return losses


def pose_rows(student: Tensor, kernel: Tensor, pairs: Tensor, temperature: float = 0.1) -> Tensor:
    """KL divergence of the same rows from those of the pose kernel, scaled to sum 1: it needs no teacher."""
    target = kernel.where(pairs, 0)
    target = target / target.sum(1, keepdim=True).clamp(min=1e-12)
    return _divergence(centered_cosines(student, pairs), target, pairs, temperature)


def cross_scores(similarities: Tensor, reference: Tensor) -> Tensor:
    """``[B]`` cosines between the rows of two ``[B, B]`` matrices.

    >>> cross_scores(torch.eye(2), torch.ones(2, 2)).round(decimals=2).tolist()
    [0.7099999785423279, 0.7099999785423279]
    """
    return (unit_rows(similarities) * unit_rows(reference)).sum(1)


def _self_similarities(features: Tensor) -> Tensor:
    return cosines(features).where(off_diagonal(len(features), features.device), 0)


def _standard_rows(values: Tensor, pairs: Tensor) -> Tensor:
    """Rows of mean 0 and length 1 over their ``pairs``, 0 elsewhere; the entries are of the size of 1."""
    means = values.where(pairs, 0).sum(1, keepdim=True) / pairs.sum(1, keepdim=True).clamp(min=1)
    return unit_rows((values - means).where(pairs, 0), ROUNDING)


def _row_means(values: Tensor, pairs: Tensor) -> Tensor:
    return values.where(pairs, 0).sum(1) / pairs.sum(1).clamp(min=1)


def _softmax_rows(similarities: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return (similarities / temperature).masked_fill(~pairs, -1e9).softmax(1) * pairs


def _divergence(similarities: Tensor, target: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    logs = (similarities / temperature).masked_fill(~pairs, -1e9).log_softmax(1).where(pairs, 0)
    return (torch.xlogy(target, target) - target * logs).sum(1)


def _distances(products: Tensor) -> Tensor:
    # The root of the clamped square has no gradient at 0, where it would be infinite.
    squared = squared_distances(products).clamp(min=1e-12)
    return squared.sqrt().where(off_diagonal(len(products), products.device), 0)


def _distance_losses(student: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
    ours, theirs = (_in_means(distances, pairs) for distances in (student, target))
    return _row_means(functional.smooth_l1_loss(ours, theirs, reduction="none"), pairs)


def _in_means(distances: Tensor, pairs: Tensor) -> Tensor:
    """In units of the mean of those that are positive."""
    positive = pairs & (distances > 0)
    mean = distances.where(positive, 0).sum() / positive.sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def _angle_losses(student: Tensor, teacher: Tensor, limit: int) -> Tensor:
    count = min(len(student), limit)
    ours, theirs = (_triplet_cosines(products[:count, :count]) for products in (student, teacher))
    losses = functional.smooth_l1_loss(ours, theirs, reduction="none").sum((1, 2)) / max(count, 1) ** 2
    return functional.pad(losses, (0, len(student) - count)) * (len(student) / max(count, 1))


def _triplet_cosines(products: Tensor) -> Tensor:
    """``[B, B, B]``: at image ``i``, the cosine of the angle between the directions to ``j`` and to ``k``.

    From the inner products alone: the ``[B, B, D]`` differences would not fit into memory for maps. Images too near to
    each other to have a direction count as zero vectors.
    """
    own = products.diagonal()
    squared = squared_distances(products)
    kept = squared > ROUNDING * own.detach().mean()
    scale = squared.where(kept, 1).rsqrt() * kept
    arms = products[None] - products[:, :, None] - products[:, None] + own[:, None, None]
    return arms * scale[:, :, None] * scale[:, None]
