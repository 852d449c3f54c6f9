"""What a teacher says of every training step, stored once and replayed bit by bit.

A batch is a pure function of (seed, step), augmentation included, so the teacher's views of a step are the same for
every student and every loss that trains on the same data with the same seed and batch size. Each view of each step is
a file of its own: a loss that needs one more view adds that view alone. A feature map is a view of its own where the
losses name the maps they look at.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posedistill import __version__
from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller
from posedistill.errors import CheckpointError, TrainingError, describe
from posedistill.estimators.views import Prediction, Votes
from posedistill.files import read_json, write_file
from posedistill.recipe.recipe import fingerprint
from posedistill.training.checkpoints import differing
from posedistill.training.teaching.records import RecordStore, read_record
from posedistill.training.teaching.teachers import Teacher

FORMAT = 2
"""Raised whenever the layout of a cache changes."""
COMPARED_EVERY = 64
"""Steps between two comparisons of the stored pictures with those of the training."""
_WITNESS, _SPREAD = "batch", "spread"


class CachedTeacher:
    """Another teacher's predictions on training steps, from the cache where they are there, else made and stored.

    Predictions carry the wanted views alone, fresh ones and replayed ones alike. A step outside training (-1) is passed
    on whole. What would not fit the disk or the limit is not stored, and the training goes on.

    Args:
        about: what the predictions depend on, in words and hashes a reader can compare.
        views: of ``estimators.views.VIEWS``, or single maps as ``features.NAME``.
        steps: after which the batches come again, or of the whole schedule; their size is told at the first prediction.
        limit: gigabytes that the folder may hold.

    Raises:
        CheckpointError: the folder's predictions are of another teacher, recipe or version of the code.
    """

    def __init__(
        self, teacher: Teacher, folder: Path, about: dict[str, Any], views: frozenset[str], steps: int, limit: float
    ) -> None:
        self.teacher, self.folder, self.steps = teacher, folder, steps
        about = about | {"code": f"posedistill {__version__}, cache format {FORMAT}"}
        _claim(folder, about)
        self._views = [_WITNESS, _SPREAD, *sorted(views)]
        otherwise = "training goes on, and what is stored is still replayed"
        self._store = RecordStore("teacher cache", folder, "teacher.cache_limit", limit, otherwise)
        self._probed = False
        self._sound: set[int] = set()

    @property
    def offers(self) -> frozenset[str]:
        """Those of the teacher behind it."""
        return self.teacher.offers

    def predict(self, batch: Batch, step: int) -> Prediction:
        """The views of a step."""
        if step < 0:
            prediction = self.teacher.predict(batch, step)
            self._tell_size(prediction, batch)
            return prediction
        step %= self.steps
        stored = {view: read_record(self._file(view, step)) for view in self._views}
        missing = [view for view, tensors in stored.items() if tensors is None]
        device = batch.images.device
        if missing:
            fresh = self.teacher.predict(batch, step)
            self._tell_size(fresh, batch)
            made = {view: _tensors_of(view, fresh, batch) for view in self._views}
            added = {view: made[view] for view in missing}
            if _may_be_stored(added):
                self._store.write({self._file(view, step): tensors for view, tensors in added.items()})
            return _prediction(made, device)
        replayed = {view: tensors for view, tensors in stored.items() if tensors is not None}
        if not self._probed or step % COMPARED_EVERY == 0:
            shown = _tensors_of(_WITNESS, Prediction({}), batch)
            self._compare(step, {name: replayed[_WITNESS][name] for name in shown}, shown, "pictures")
        if not self._probed and batch.pictured:
            self._probe(batch, step, replayed)
        return _prediction(replayed, device)

    def stored(self, step: int) -> bool:
        """Whether a step can be replayed, so that the teacher needs no pictures."""
        step %= self.steps
        if step not in self._sound and all(read_record(self._file(view, step)) is not None for view in self._views):
            self._sound.add(step)
        return step in self._sound

    def _file(self, view: str, step: int) -> Path:
        return self.folder / view / f"{step:06d}.safetensors"

    def _tell_size(self, prediction: Prediction, batch: Batch) -> None:
        """Where not all is there."""
        if not all(self._file(view, self.steps - 1).exists() for view in self._views):
            self._store.tell_size(stored_bytes(prediction, batch, self._views), self.steps)

    def _probe(self, batch: Batch, step: int, replayed: dict[str, dict[str, Tensor]]) -> None:
        """Let the teacher say one stored step again: weights and settings may be the same and the code another."""
        self._probed = True
        fresh = self.teacher.predict(batch, step)
        for view, tensors in replayed.items():
            if view != _WITNESS:
                self._compare(step, tensors, _tensors_of(view, fresh, batch), f"the teacher's {view}")

    def _compare(self, step: int, stored: dict[str, Tensor], fresh: dict[str, Tensor], what: str) -> None:
        if stored.keys() != fresh.keys() or not all(_alike(stored[name], fresh[name]) for name in stored):
            raise CheckpointError(
                describe(self.folder, f"step {step}", f"{what} that differ", f"{what} as stored, made by the same code")
                + ". Remove the folder."
            )


def views_of(distillers: Sequence[Distiller], teacher: Teacher) -> frozenset[str]:
    """The teacher's views that any of the losses, or its trust, looks at.

    ``features.NAME`` stands for one map, where all of them name theirs.
    """
    views: frozenset[str] = frozenset()
    for distiller in distillers:
        views |= _needed(distiller)
    lookers = [distiller for distiller in distillers if "features" in _needed(distiller)]
    named = [distiller.maps for distiller in lookers if distiller.maps is not None]
    if lookers and len(named) == len(lookers):
        views = views - {"features"} | {f"features.{name}" for maps in named for name in maps}
    trusted = {"score": "logits", "error": "regression"}  # where the teacher has no votes
    for by in {distiller.trust.by for distiller in distillers} & trusted.keys():
        views |= {"votes" if "votes" in teacher.offers else trusted[by]}
    return views


def stored_bytes(prediction: Prediction, batch: Batch, views: Iterable[str]) -> int:
    """Bytes that these views of a step take on the disk, headers and rounding to blocks left out."""
    tensors = [
        tensor for view in {_WITNESS, _SPREAD, *views} for tensor in _tensors_of(view, prediction, batch).values()
    ]
    lengths = [[n for n, stride in zip(x.shape, x.stride(), strict=True) if stride] for x in tensors]
    return sum(math.prod(length) * x.element_size() for length, x in zip(lengths, tensors, strict=True))


def _needed(distiller: Distiller) -> frozenset[str]:
    return distiller.needs if distiller.needs_teacher is None else distiller.needs_teacher


def cache_folder(root: Path, about: dict[str, Any]) -> Path:
    """The folder of predictions that depend on ``about``."""
    return root / f"teacher-{fingerprint(about)}"


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note what the folder's predictions depend on, or compare it with what is noted."""
    path = folder / "fingerprint.json"
    if not path.exists():
        text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()) + "\n}"
        write_file(path, text, TrainingError)
        return
    found = read_json(path, error=CheckpointError)
    if keys := differing(found, about):
        was, wanted = ("; ".join(f"{key} {side.get(key)}" for key in keys) for side in (found, about))
        raise CheckpointError(describe(path, ", ".join(keys), was, wanted) + ". Remove the folder, or name another.")


def _tensors_of(view: str, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """The tensors of a view by name; none where the prediction lacks the view."""
    if view == _WITNESS:
        witness = {"ids": batch.ids, "K": batch.K, "R": batch.R, "t": batch.t}
        side = max(batch.images.shape[-1] // 4, 1)
        pixels = batch.images[:, :, side // 2 :: side, side // 2 :: side].contiguous()
        return witness | ({"pixels": pixels} if batch.pictured else {})
    view, _, single = view.partition(".")
    content = getattr(prediction, view)
    if single:
        return {single: content[single].detach()} if single in content else {}
    if isinstance(content, Votes):
        named = {name: getattr(content, name) for name in ("values", "weights", "mask", "cells", "errors")}
    elif isinstance(content, dict):
        named = dict(content)
    else:
        named = {view: content}
        if view == "regression":
            named["regression_truth"] = prediction.regression_truth
    return {name: tensor.detach() for name, tensor in named.items() if tensor is not None}


def _may_be_stored(views: dict[str, dict[str, Tensor]]) -> bool:
    """Whether all is finite; an error alone may be infinite, of a point that the camera cannot see, but no NaN."""
    named = [item for view in views.values() for item in view.items() if item[1].is_floating_point()]
    return not any(bool((x.isnan() if name == "errors" else ~x.isfinite()).any()) for name, x in named)


def _prediction(views: dict[str, dict[str, Tensor]], device: torch.device) -> Prediction:
    """The Prediction whose views hold these tensors."""
    prediction = Prediction({})
    for view, stored in views.items():
        tensors = {name: tensor.to(device) for name, tensor in stored.items()}
        if view in ("votes", "cells") and tensors:
            setattr(prediction, view, Votes(**tensors))
        elif view.partition(".")[0] in ("features", "logits"):
            getattr(prediction, view.partition(".")[0]).update(tensors)
        elif view != _WITNESS:
            for name, tensor in tensors.items():
                setattr(prediction, name, tensor)
    return prediction


def _alike(stored: Tensor, fresh: Tensor) -> bool:
    """Equal but for rounding, which may also swap a few votes of equal score: the mean difference is below 5 %."""
    if stored.shape != fresh.shape or stored.dtype != fresh.dtype:
        return False
    a, b = stored.float(), fresh.cpu().float()
    both = a.isfinite() & b.isfinite()
    if int(both.sum()) < 0.95 * max(int(a.isfinite().sum()), int(b.isfinite().sum())):
        return False
    a, b = a[both], b[both]
    return not a.numel() or float((a - b).abs().mean()) <= 0.05 * float(a.abs().mean()) + 1e-6
