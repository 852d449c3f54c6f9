"""Similarities within a batch: of features, and of the poses that its pictures were taken from.

Everything is computed in single precision at least, whatever the network computed in. Features enter only through their
``[B, B]`` inner products, so that flattened maps of any size cost one matrix product. What is undefined has a value
without gradient: the cosine of a zero row is 0, and rows that are all equal count as zero rows once they are centred.
"""

import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch

ROUNDING = 1e-5
"""What is smaller than this share of its origin is rounding: amplified by a division it would teach noise."""


def precise(values: Tensor) -> Tensor:
    """Single precision, or double where it is double already."""
    return values if values.dtype == torch.float64 else values.float()


def centered(features: Tensor) -> Tensor:
    """``[B, D]`` differences from the mean of the batch; exactly 0 where they are no more than rounding.

    The maps of a network after its ReLU share a large positive mean; cosines of what is left tell images apart.

    >>> centered(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    features = precise(features)
    return _differences(features, features.mean(0))


def gram(features: Tensor) -> Tensor:
    """``[B, D] -> [B, B]`` inner products."""
    features = precise(features)
    return features @ features.T


def centered_gram(features: Tensor) -> Tensor:
    """Inner products about the mean of the batch, for what does not depend on the origin: its gradient is left out."""
    features = precise(features)
    return gram(features - features.detach().mean(0))


def unit_rows(values: Tensor, floor: float = 1e-12) -> Tensor:
    """Rows of length 1; rows no longer than ``floor`` become 0, without gradient.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).round(decimals=4).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    squared = values.square().sum(-1, keepdim=True)
    kept = squared > floor**2
    return values * squared.where(kept, 1).rsqrt() * kept


def cosines(features: Tensor) -> Tensor:
    """``[B, D] -> [B, B]`` cosines of all pairs, the diagonal included."""
    return _normalised(gram(features), 1e-24)


def centered_cosines(features: Tensor, pairs: Tensor) -> Tensor:
    """``[B, D] -> [B, B]`` cosines of what tells each image from the mean of itself and those it is paired with.

    Args:
        pairs: ``[B, B]`` bool, symmetric.
    """
    features = precise(features)
    # Any origin near them would do, so none of the gradient is the mean's. The products are few: double costs nothing.
    products = gram(_differences(features, features.detach().mean(0))).double()
    itself = torch.eye(len(pairs), dtype=torch.float64, device=pairs.device)
    difference = itself - (itself + pairs) / (1 + pairs.sum(1, keepdim=True))
    floor = ROUNDING * products.detach().diagonal()
    return _normalised(difference @ products @ difference.T, floor).to(features.dtype)


def squared_distances(products: Tensor) -> Tensor:
    """``[B, B] -> [B, B]`` squared Euclidean distances, at least 0, from inner products.

    Those of :func:`centered_gram` lose fewer digits than those about an origin far away.

    >>> squared_distances(centered_gram(torch.tensor([[101.0, 102.0], [104.0, 106.0]]))).tolist()
    [[0.0, 25.0], [25.0, 0.0]]
    """
    squared = products.diagonal()
    return (squared[:, None] + squared - 2 * products).clamp(min=0)


def off_diagonal(count: int, device: torch.device | str = "cpu") -> Tensor:
    """``[count, count]`` bool, False on the diagonal."""
    return ~torch.eye(count, dtype=torch.bool, device=device)


def comparable_pairs(batch: Batch) -> Tensor:
    """``[B, B]`` bool: two different pictures whose poses have a frame in common, of the scene or of one object."""
    return off_diagonal(len(batch), batch.R.device) & (batch.label[:, None] == batch.label)


def rotation_distances(rotations: Tensor, others: Tensor | None = None) -> Tensor:
    """``[B, 3, 3], [K, 3, 3] -> [B, K]`` geodesic distances in radians, without ``others`` among themselves.

    From the chord ``|R_i - R_j|``, which is exact near 0: the trace of a product would lose small angles.

    >>> turned = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> rotation_distances(torch.stack([torch.eye(3), turned])).rad2deg().round().tolist()
    [[0.0, 90.0], [90.0, 0.0]]
    """
    ours, theirs = (precise(R).flatten(1) for R in (rotations, rotations if others is None else others))
    chords = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")
    return 2 * (chords / 8**0.5).clamp(max=1).asin()


def pose_kernel(centers: Tensor, rotations: Tensor, pairs: Tensor) -> Tensor:
    """How alike two poses are, ``[B, B]`` in 0..1: ``exp(-(d_x / b_x)^2 / 2 - (d_R / b_R)^2 / 2)``.

    ``d_x`` is the distance of the cameras, ``d_R`` the angle between their rotations, and each bandwidth the median
    over the batch's pairs, so that neither unit nor scale matters. A rigid change of the world's frame changes nothing.

    Args:
        centers: ``[B, 3]`` where the cameras stand. rotations: ``[B, 3, 3]``, world to camera or the reverse.
        pairs: ``[B, B]`` bool, whose distances count for the bandwidths.
    """
    centers = precise(centers)
    distances = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
    exponent = _in_bandwidths(distances, pairs).square() + _in_bandwidths(rotation_distances(rotations), pairs).square()
    return torch.exp(-exponent / 2)


def quaternions(rotations: Tensor) -> Tensor:
    """``[B, 3, 3] -> [B, 4]`` unit quaternions (w, x, y, z) with w >= 0, accurate for every rotation.

    >>> quaternions(torch.diag(torch.tensor([-1.0, 1.0, -1.0]))[None]).abs().tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """
    R = precise(rotations)
    m = [[R[:, row, column] for column in range(3)] for row in range(3)]
    x, y, z = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    trace = m[0][0] + m[1][1] + m[2][2]
    # 4 q q^T: each row is a multiple of q; the one with the largest diagonal entry loses no digits.
    outer = [1 + trace, x, y, z, x, 1 + 2 * m[0][0] - trace, xy, xz]
    outer += [y, xy, 1 + 2 * m[1][1] - trace, yz, z, xz, yz, 1 + 2 * m[2][2] - trace]
    products = torch.stack(outer, -1).view(-1, 4, 4)
    largest = products.diagonal(dim1=1, dim2=2).argmax(1)
    q = unit_rows(products[torch.arange(len(R), device=R.device), largest])
    return q * torch.where(q[:, :1] < 0, -1, 1)


def pose_labels(batch: Batch) -> Tensor:
    """``[B, 7]`` labels [x, y, z, w, p, q, r]: where the camera stands, and its camera-to-world quaternion."""
    return torch.cat([batch.camera_centers().float(), quaternions(batch.R.transpose(1, 2))], 1)


def _differences(features: Tensor, mean: Tensor) -> Tensor:
    differences = features - mean
    noise = ROUNDING * features.detach().norm(dim=1, keepdim=True)
    return differences.mul_(differences.detach().norm(dim=1, keepdim=True) > noise)  # maps are large: no second copy


def _normalised(products: Tensor, floor: Tensor | float) -> Tensor:
    """Cosines from inner products; 0 for those whose square is no more than ``floor``."""
    squared = products.diagonal()
    kept = squared > floor
    scale = squared.where(kept, 1).rsqrt() * kept
    return products * scale[:, None] * scale


def _in_bandwidths(distances: Tensor, pairs: Tensor) -> Tensor:
    median = distances.where(pairs, torch.nan).nanmedian().nan_to_num(0)
    return distances / median.clamp(min=1e-12)
