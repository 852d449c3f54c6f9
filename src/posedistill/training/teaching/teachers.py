"""Whatever can teach: it turns the batch of a step into a Prediction, and says which views that carries."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from posedistill.data.loading.batch import Batch
from posedistill.distill.match import counterparts
from posedistill.distill.trust import weighted_mean
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.views import Prediction, Votes

Autocast = Callable[[], AbstractContextManager[Any]]

NO_AGREEMENT = 1.0
"""The spread of an image on which fewer than two members of an ensemble vote: a whole object diameter."""


class Teacher(Protocol):
    """What the loop asks of a teacher."""

    @property
    def offers(self) -> frozenset[str]:
        """The views its predictions carry."""
        ...

    def predict(self, batch: Batch, step: int) -> Prediction:
        """Predict on the batch of a training step (the same pixels as the student sees), without gradients."""
        ...


class NetworkTeacher:
    """A frozen network in eval mode."""

    def __init__(self, estimator: Estimator, device: torch.device, autocast: Autocast = nullcontext) -> None:
        self.estimator = estimator.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
        self._autocast = autocast

    @property
    def offers(self) -> frozenset[str]:
        """Those of its family."""
        return self.estimator.offers

    @torch.no_grad()
    def predict(self, batch: Batch, step: int) -> Prediction:
        """One pass of the network."""
        with self._autocast():
            return self.estimator(batch)  # type: ignore[no-any-return]


class LabelTeacher:
    """The poses that label the pictures, of whatever made them: one vote for each keypoint, weighed by their score."""

    offers = frozenset({"votes"})

    def predict(self, batch: Batch, step: int) -> Prediction:
        """``votes`` ``[B, 1, K, 2]``: the keypoints under the labelled pose, in crop sides.

        Raises:
            RecipeError: the batches have no keypoints.
        """
        values = batch.target("keypoints", "teacher.csv")[:, None] / batch.images.shape[-1]
        weights = batch.score[:, None].float()
        return Prediction({}, votes=Votes(values, weights, torch.ones_like(weights, dtype=torch.bool)))


class EnsembleTeacher:
    """Several teachers of the same views: all their votes together, the mean of the rest, and how far they disagree.

    ``features`` are not offered: channels of networks that were trained apart have nothing to do with each other.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.members = list(members)

    @property
    def offers(self) -> frozenset[str]:
        """What every member offers, but for ``features``."""
        return frozenset.intersection(*(member.offers for member in self.members)) - {"features"}

    def predict(self, batch: Batch, step: int) -> Prediction:
        """The members' predictions as one.

        Raises:
            RecipeError: the members' views have different shapes.
        """
        return joined([member.predict(batch, step) for member in self.members], batch)


def networks_of(teacher: Teacher) -> list[Estimator]:
    """The networks that a teacher consists of; none of a csv or of stored outputs."""
    if isinstance(teacher, EnsembleTeacher):
        return [network for member in teacher.members for network in networks_of(member)]
    return [teacher.estimator] if isinstance(teacher, NetworkTeacher) else []


def joined(predictions: Sequence[Prediction], batch: Batch) -> Prediction:
    """One prediction of several networks on the same batch.

    ``votes`` are set side by side with their weights; ``cells`` are averaged, cell by cell, where all members have the
    cell; ``embedding``, ``regression`` and ``logits`` are averaged. ``spread`` ``[B]`` is the root mean square distance
    of the members' mean keypoints from their common mean, in object diameters; without votes that of the regressed
    numbers. Of surface codes none is known.

    Raises:
        RecipeError: views of different shapes.
    """
    first = predictions[0]
    votes = [each.votes for each in predictions if each.votes is not None]
    grids = [each.cells for each in predictions if each.cells is not None]
    regressions = [each.regression for each in predictions if each.regression is not None]
    whole = Prediction({}, regression_truth=first.regression_truth)
    if len(regressions) == len(predictions):
        whole.regression = _mean("regression", regressions)
        whole.spread = torch.stack(regressions).float().std(0, correction=0).mean(1)
    if len(votes) == len(predictions):
        _require_alike("votes", [each.values[0, 0] for each in votes])
        whole.votes = _side_by_side(votes)
        # Codes are no points: their bits, of cells that differ from member to member, have no place to disagree on.
        if "diameters" in batch.targets and votes[0].values.shape[-1] == 2:
            whole.spread = _disagreement(votes, batch.sizes("teacher.ensemble"))
    if len(grids) == len(predictions):
        whole.cells = _mean_cells(grids)
    embeddings = [each.embedding for each in predictions if each.embedding is not None]
    if len(embeddings) == len(predictions):
        whole.embedding = _mean("embedding", embeddings)
    shared = set.intersection(*(set(each.logits) for each in predictions))
    whole.logits = {name: _mean(name, [p.logits[name] for p in predictions]) for name in first.logits if name in shared}
    return whole


def all_finite(prediction: Prediction) -> Tensor:
    """Whether no view holds a NaN or an infinity: a scalar that stays on the device.

    >>> bool(all_finite(Prediction({}, embedding=torch.tensor([[0.0, torch.nan]]))))
    False
    """
    sums = [_sum(tensor.detach()) for tensor in _floats(prediction)]
    return torch.isfinite(torch.stack(sums)).all() if sums else torch.ones((), dtype=torch.bool)


def _sum(tensor: Tensor) -> Tensor:
    """Finite where all its terms are (padding too is finite); it reads each number once and stores nothing.

    float16 ends at 65,504, which many small numbers reach together; bfloat16 goes as far as float32, and on a CPU its
    own sum is 20 times faster than one in float32.
    """
    return tensor.sum(dtype=torch.float32 if tensor.dtype == torch.float16 else None).float()


def _floats(prediction: Prediction) -> Iterable[Tensor]:
    votes = [each for each in (prediction.votes, prediction.cells) if each is not None]
    for each in votes:
        yield from (each.values, each.weights)
    yield from prediction.features.values()
    yield from prediction.logits.values()
    single = (prediction.embedding, prediction.regression, prediction.spread)
    yield from (tensor for tensor in single if tensor is not None)


def _side_by_side(votes: Sequence[Votes]) -> Votes:
    values, weights, mask = (torch.cat([getattr(v, name) for v in votes], 1) for name in ("values", "weights", "mask"))
    cells = [each.cells for each in votes if each.cells is not None]
    return Votes(values, weights, mask, torch.cat(cells, 1) if len(cells) == len(votes) else None)


def _mean_cells(grids: Sequence[Votes]) -> Votes:
    """The mean vote and score of each cell of the first member that all members have."""
    _require_alike("cells", [each.values[0, 0] for each in grids])
    same = [grids[0], *(counterparts(grids[0], each) for each in grids[1:])]
    values = torch.stack([each.values.float() for each in same]).mean(0)
    weights = torch.stack([each.weights.float() for each in same]).mean(0)
    return Votes(values, weights, torch.stack([each.mask for each in same]).all(0), grids[0].cells)


def _disagreement(votes: Sequence[Votes], sizes: Tensor) -> Tensor:
    """``[B]`` spread of the members' mean keypoints; members that do not vote for an image are left out of it."""
    weights = [each.weights.float().where(each.mask, 0) for each in votes]
    means = [weighted_mean(each.values.float(), weight) for each, weight in zip(votes, weights, strict=True)]
    voting = torch.stack([weight.sum(1) > 0 for weight in weights])[:, :, None, None]
    points, count = torch.stack(means), voting.sum(0).clamp(min=1)
    center = (points * voting).sum(0) / count
    variance = ((points - center).square() * voting).sum(0).sum(-1) / count[..., 0]
    spread = variance.sqrt().mean(1) / sizes
    return spread.where(voting.sum(0).flatten() > 1, NO_AGREEMENT)


def _mean(view: str, tensors: Sequence[Tensor]) -> Tensor:
    _require_alike(view, [tensor[0] for tensor in tensors])
    return torch.stack([tensor.float() for tensor in tensors]).mean(0)


def _require_alike(view: str, tensors: Sequence[Tensor]) -> None:
    shapes = [list(tensor.shape) for tensor in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise RecipeError(describe("recipe", "teacher.ensemble", f"{view} of shapes {shapes}", "members of one shape"))
