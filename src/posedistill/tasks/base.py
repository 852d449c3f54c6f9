"""Task: what is measured, poses of objects or of cameras. One instance serves a whole run and reads its data once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.loading.picture_view import PictureSize
from posedistill.data.packs.build import FrameSource, build_pack, read_fingerprint
from posedistill.data.packs.pack import Pack
from posedistill.decode import Decoder
from posedistill.decode.base import Arrays
from posedistill.deploy.estimate import FrameQuery
from posedistill.estimators.base import Estimator
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.log import progress_bar
from posedistill.metrics.evaluation import Evaluation
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe, fingerprint
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Frames
from posedistill.runtime.threshold import Threshold

Rows = NDArray[np.int64]
Validate = Callable[[Estimator], dict[str, float]]
"""Scores of a network's present weights on frames carved from the training data."""
SELECT = "val/score"
"""The validation value that chooses the weights to keep; higher is better."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Decoded frames, and the instances in them (of a scene one a frame) that train and that select the weights.

    ``train`` and ``validation`` number the instances through the packs.
    """

    packs: list[Pack]
    train: Rows
    validation: Rows

    @property
    def fingerprint(self) -> str:
        """Of the decoded frames and the split."""
        return fingerprint([read_fingerprint(pack.folder) for pack in self.packs], self.train.tolist())

    @cached_property
    def poses(self) -> Poses:
        """Of the instances that train, as the frames show them."""
        tables = [pack.instances for pack in self.packs]
        R, t, obj_id = (np.concatenate([getattr(table, name) for table in tables]) for name in ("R", "t", "obj_id"))
        none, rows = np.array(-1), self.train
        return Poses(none, none, obj_id[rows], np.array(1.0), R[rows], t[rows], none)


class Batches(Protocol):
    """What a training asks of a loader: the batch of a step is a function of the seed and the step alone."""

    @property
    def targets(self) -> frozenset[str]:
        """What of ``Batch.targets`` its batches hold."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        ...

    def prefetch(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps ``start`` to ``stop - 1``."""
        ...


Test = TypeVar("Test")


class Task(ABC, Generic[Test]):
    """The data of a recipe, and how poses are scored on it. Everything is read when it is first asked for, and kept."""

    baseline_notes: ClassVar[Mapping[str, str]] = {}
    """What each of the ``baselines`` does, in a few words."""
    reads_outputs: ClassVar[bool] = False
    """Whether :meth:`looked_into` reads what a network says of the test frames: one call of it a frame."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    @abstractmethod
    def objects(self) -> ObjectTable:
        """What is learned; none in a scene."""

    @property
    def stand_ins(self) -> ObjectTable:
        """As many as the ``objects``, by their ids, before anything is read: enough to build and check networks."""
        return self.objects

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories that networks learn, which their checkpoints note; none where there are objects."""
        return ()

    @property
    @abstractmethod
    def training_set(self) -> TrainingSet:
        """The training frames, decoded or found in the cache."""

    @property
    @abstractmethod
    def training_frames(self) -> Frames:
        """The real frames among them, which model files name."""

    @property
    def places(self) -> np.ndarray | None:
        """``[M, 3]`` where cameras of the training photographs stood, which model files of a scene keep for maps."""
        return None

    @property
    @abstractmethod
    def test_set(self) -> Test:
        """The test frames with their truth."""

    @property
    @abstractmethod
    def queries(self) -> Sequence[FrameQuery]:
        """What is sought in each of the test frames."""

    @property
    def sizes(self) -> Sequence[PictureSize]:
        """Other sizes of whole pictures at which a recipe asks for scores; none where no picture is looked at whole."""
        return ()

    @cached_property
    def test_fingerprint(self) -> str:
        """Of what is sought in which frames."""
        return fingerprint([query.facts() for query in self.queries])

    def mesh(self, obj_id: int) -> Mesh:
        """The surface of one of the ``objects``, mm; a scene has none."""
        raise NotImplementedError

    def check(self) -> None:
        """Read, render and decode what is trained on, so that its faults are found before anything trains."""
        _ = self.objects, self.training_set

    def decoded(self, source: FrameSource, name: str) -> Pack:
        """The frames of a source, made once for all recipes and kept in the cache under that name."""
        folder = self.recipe.cache_folder / name
        with progress_bar() as bar:  # of which nothing is seen until there is something to decode
            task = bar.add_task("decode", total=len(source.images), note=str(folder), visible=False)
            return build_pack(source, folder, lambda done, _: bar.update(task, completed=done, visible=True))

    @abstractmethod
    def loader(self, rows: Rows, **options: Unpack[LoaderOptions]) -> Loader:
        """Batches of some of the training pictures."""

    @abstractmethod
    def validation(self, device: torch.device, count: int) -> Validate:
        """What chooses the weights that are kept, on at most ``count`` pictures."""

    def calibration(self, estimator: Estimator) -> tuple[dict[str, Any], str]:
        """What finished weights tell a decoder about their poses, by its fields (plain JSON), and the same in words."""
        raise NotImplementedError

    @abstractmethod
    def score(self, poses: Poses | None) -> Evaluation:
        """Scores on the test frames; without poses it says on which frames alone."""

    @abstractmethod
    def baselines(self, teacher: Estimator | None) -> Mapping[str, Poses]:
        """Naive poses of the test frames, which every table is read beside; some ask the teacher's network."""

    @abstractmethod
    def joined(self, tables: Sequence[Poses]) -> Poses:
        """The poses of the members of an ensemble, two at least, as one table."""

    def stated_poses(self) -> Poses | None:
        """What the teacher's csv says of the test frames; None where it says nothing of them."""
        return None

    @abstractmethod
    def deployed(self, estimator: Estimator, *, shapes: bool = False) -> tuple[nn.Module, Decoder]:
        """The network as it is shipped, and the decoder that goes with it.

        ``shapes`` gives the decoder a coarse surface of each object, for the contour in overlays; leave it out of a
        file whose models must not be passed on.
        """

    def decoder(self, estimator: Estimator) -> Decoder:
        """What turns the network's outputs into poses; it asks nothing of the test frames."""
        return self.deployed(estimator)[1]

    def threshold(self, predictor: Predictor) -> Threshold | None:
        """The score under which a search by an exported model reports nothing; None where there is nothing to ask."""
        return None

    def draw(self, poses: Poses, name: str, folder: Path) -> None:
        """Draw the best and the worst poses into ``folder``, where the task draws any."""

    def looked_into(self, evaluation: Evaluation, estimator: Estimator, outputs: Sequence[Arrays] = ()) -> Evaluation:
        """The same with what the network tells beside its poses, for which it may see every frame again.

        ``outputs``: where the task reads them and the network has just been asked, what it said of each of ``queries``.
        """
        return evaluation

    def draw_votes(self, predictor: Predictor, name: str, folder: Path) -> None:
        """Draw what a network says of some test frames into ``folder``, where there is a picture of that."""
