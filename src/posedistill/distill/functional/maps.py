"""Losses between feature maps, as pure functions: at which size they meet, and how far apart they are.

Throughout ``student`` and ``teacher`` are maps ``[B, C, H, W]`` of one size, float32, the student's adapted to the
teacher's channels where a loss compares channel by channel. ``weights`` are ``[B, 1, H, W]`` with mean 1 over the
positions of an image (see :func:`position_weights`). Every loss returns ``[B]``: for each image a mean over its own
count, so that a weight holds for any resolution and any number of channels.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from posedistill.data.loading.batch import Batch
from posedistill.errors import RecipeError, describe

Distance = Literal["smooth_l1", "cosine", "mse", "channel_kl"]
_RELATED = 16
"""Side of the maps whose positions :func:`relations` compares, at most: its cost grows with the fourth power."""


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32 at the smaller height and width of the two, the larger averaged; the teacher's detached.

    Averaging makes up no detail the coarser network could not know, and costs least.

    Raises:
        RecipeError: they are not maps of the same images.
    """
    if student.dim() != 4 or teacher.dim() != 4 or len(student) != len(teacher):
        found = f"student map {list(student.shape)}, teacher map {list(teacher.shape)}"
        raise RecipeError(describe("recipe", "distill.feature", found, "maps [B, C, H, W] of the same images"))
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return pooled(student.float(), size), pooled(teacher.detach().float(), size)


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, C, *size]``: averaged to a size no larger than the maps' own."""
    return maps if maps.shape[2:] == size else functional.adaptive_avg_pool2d(maps, size)


def position_weights(batch: Batch, size: tuple[int, int], region: Literal["all", "object"]) -> Tensor:
    """``[P, 1, *size]`` weights with mean 1 over the positions of a picture: all alike, or by its objects' share.

    A picture in which no object is visible has weights of 0.

    Raises:
        RecipeError: ``object`` for batches without masks.
    """
    if region == "all":
        return torch.ones(len(batch.images), 1, *size, device=batch.images.device)
    masks = batch.target("masks", "distill.feature.region: object")
    seen = masks.new_zeros((len(batch.images), *masks.shape[1:]), dtype=torch.float32)
    seen = seen.index_add_(0, batch.picture, masks.float()).clamp(max=1)
    cover = functional.adaptive_avg_pool2d(seen[:, None], size)
    return cover / cover.mean((2, 3), keepdim=True).clamp(min=1e-12)


def hint(student: Tensor, teacher: Tensor, weights: Tensor, distance: Distance = "mse") -> Tensor:
    """Distance position by position, a mean over positions (and channels, but for ``cosine`` and ``channel_kl``).

    ``mse``: FitNets, Romero et al., ICLR 2015, eq. 3. ``smooth_l1``: Huber's with its corner at 1. ``cosine``: one
    minus the cosine over the channels. ``channel_kl``: KL(teacher | student) of the softmax over the channels, which
    have unit length.
    """
    if distance == "mse":
        errors = (student - teacher).square().mean(1, keepdim=True)
    elif distance == "smooth_l1":
        errors = functional.smooth_l1_loss(student, teacher, reduction="none").mean(1, keepdim=True)
    elif distance == "cosine":
        errors = 1 - (unit(student) * unit(teacher)).sum(1, keepdim=True)
    else:
        ours, theirs = (unit(maps).log_softmax(1) for maps in (student, teacher))
        errors = (theirs.exp() * (theirs - ours)).sum(1, keepdim=True)
    return (errors * weights).mean((1, 2, 3))


def attention_transfer(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Squared distance, 0 .. 2, of the two attention maps (:func:`attention`). Channels may differ in number.

    Zagoruyko and Komodakis, ICLR 2017, eq. 2. Divided by ``H * W`` it is the mean that public code takes.
    """
    return (attention(student, weights) - attention(teacher, weights)).square().sum(1)


def attention(maps: Tensor, weights: Tensor) -> Tensor:
    """``[B, H * W]``: mean over the channels of the squares, as a vector of unit length; zeros where the map is 0."""
    return functional.normalize((maps.square().mean(1, keepdim=True) * weights).flatten(1), dim=1)


def factor_transfer(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute difference of the factors' attention maps, scaled to a mean square of 1. Channels may differ.

    Kim et al., "Paraphrasing Complex Network", NeurIPS 2018, eq. 4 with p = 1, on maps averaged over the channels as
    public code does. Divided by ``sqrt(H * W)`` it is the mean over maps of unit length.
    """
    difference = (attention(student, weights) - attention(teacher, weights)).abs().sum(1)
    return difference / (weights > 0).sum((1, 2, 3)).clamp(min=1).sqrt()


def variational(predicted: tuple[Tensor, Tensor], teacher: Tensor, weights: Tensor) -> Tensor:
    """Mean negative log likelihood of the teacher's map under a Gaussian, less ``ln(2 pi) / 2``.

    VID, Ahn et al., CVPR 2019, eq. 5. ``predicted``: mean ``[B, C, H, W]`` and variance ``[C]``. Where the mean is the
    teacher's map it is the mean of ``ln(variance) / 2``.
    """
    student, variance = predicted
    scale = variance[:, None, None]
    errors = ((student - teacher).square() / scale + scale.log()).mean(1, keepdim=True) / 2
    return (errors * weights).mean((1, 2, 3))


def activation_boundary(student: Tensor, teacher: Tensor, weights: Tensor, margin: float = 1.0) -> Tensor:
    """Mean square of what the student lacks to be on the teacher's side of 0, by the margin.

    AB, Heo et al., AAAI 2019, eq. 5. 0 where all signs agree and every student value is ``margin`` or more from 0.
    """
    sides = torch.where(teacher > 0, 1.0, -1.0)
    errors = (margin - sides * student).clamp(min=0).square().mean(1, keepdim=True)
    return (errors * weights).mean((1, 2, 3))


def flow(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """``[B, C, D]``: the flow of a solution from maps ``[B, C, H, W]`` to maps ``[B, D, h, w]`` of the same network.

    The mean over positions of the outer products, the larger map averaged to the other's size, that of ``weights``.
    FSP, Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, eq. 1.
    """
    size = (weights.shape[2], weights.shape[3])
    first, second = pooled(first, size) * weights, pooled(second, size)
    return torch.einsum("bchw,bdhw->bcd", first, second) / (size[0] * size[1])


def flow_distance(student: Tensor, teacher: Tensor, relative: bool = False) -> Tensor:
    """Mean squared difference of two flows ``[B, C, D]``; ``relative`` to the teacher's mean square."""
    errors = (student - teacher).square().mean((1, 2))
    return errors / teacher.square().mean((1, 2)).clamp(min=1e-12) if relative else errors


def neuron_selectivity(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, 0 .. 2, of the channels' maps, with the kernel ``(a . b)^2``.

    NST, Huang and Wang 2017, eq. 6. Each channel is a sample: its map with unit length. The numbers of channels may
    differ. With this kernel a mean over all pairs of channels is the inner product of two second moments, so either
    these are compared, or the pairs are summed, whichever is smaller.
    """
    ours, theirs = (functional.normalize((maps * weights.sqrt()).flatten(2), dim=2) for maps in (student, teacher))
    if ours.shape[2] <= max(ours.shape[1], theirs.shape[1]):
        moments = [maps.transpose(1, 2) @ maps / maps.shape[1] for maps in (ours, theirs)]
        return (moments[0] - moments[1]).square().sum((1, 2))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).square().mean((1, 2))

    return kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)


def attention_masks(maps: Tensor, weights: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Where and in which channels a map is large: ``[B, 1, H, W]`` and ``[B, C, 1, 1]``, both with mean 1.

    Softmax of the mean magnitudes, divided by ``temperature``, over the places that have weight. Zhang and Ma, "Improve
    Object Detection with Feature-based Knowledge Distillation", ICLR 2021, eqs. 1 to 4.
    """
    magnitude = maps.abs()
    places = magnitude.mean(1, keepdim=True) / temperature + log(weights)
    channels = (magnitude * weights).mean((2, 3), keepdim=True) / temperature
    return places.flatten(1).softmax(1).view_as(weights) * weights[0].numel(), channels.softmax(1) * maps.shape[1]


def attention_guided(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Mean squared difference, weighted by both masks of :func:`attention_masks`, each the mean of the two networks'.

    Zhang and Ma, ICLR 2021, eq. 6, squared. The masks are weights: no gradient passes through them, or the student
    could lower the loss by looking elsewhere.
    """
    with torch.no_grad():
        masks = [attention_masks(maps, weights, temperature) for maps in (student, teacher)]
        places, channels = ((ours + theirs) / 2 for ours, theirs in zip(*masks, strict=True))
    return ((student - teacher).square() * places * channels).mean((1, 2, 3))


def relations(maps: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """``[B, C, h, w]``: at each position the mean of all positions, weighted by how alike they are.

    The non-local relation of Zhang and Ma, ICLR 2021, eq. 8, with the cosine in the place of learned embeddings. Maps
    above 16 x 16 are averaged to that.
    """
    size = (min(maps.shape[2], _RELATED), min(maps.shape[3], _RELATED))
    maps, weights = pooled(maps, size), pooled(weights, size)
    directions = unit(maps).flatten(2)
    alike = directions.transpose(1, 2) @ directions / temperature
    shares = (alike + log(weights).flatten(2)).softmax(2)
    return (maps.flatten(2) @ shares.transpose(1, 2)).view_as(maps)


def unit(maps: Tensor) -> Tensor:
    """Each position's channels with unit length; near 0 shorter, so that gradients stay bounded."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-6).rsqrt()


def log(weights: Tensor) -> Tensor:
    """Logarithm of weights, for a softmax over them; finite where they are 0."""
    return weights.clamp(min=1e-12).log()
