"""Task: what a run about the poses of objects and one about the poses of cameras do differently."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from posedistill.data.loading.loader import LoaderOptions
from posedistill.estimators.base import Estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.recipe.recipe import Recipe
from posedistill.training.loop import Batches, Validate

Record = dict[str, Any]
"""One measured model, as ``evaluation.json`` holds it and a report reads it."""


class Prepared(Protocol):
    """Decoded training frames, split into what trains and what selects the model."""

    @property
    def objects(self) -> ObjectTable:
        """What is learned; none in a scene."""
        ...

    @property
    def train(self) -> NDArray[np.int64]:
        """Numbers of the pictures to train on."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the frames and the split."""
        ...


class Gallery(Batches, Protocol):
    """A loader that knows its length."""

    @property
    def steps(self) -> int:
        """Batches that show every picture once."""
        ...

    def __len__(self) -> int:
        """Pictures."""
        ...


Frames = TypeVar("Frames", bound=Prepared)
Split = TypeVar("Split")


class Task(ABC, Generic[Frames, Split]):
    """What the stages of a run ask of its data. ``Split`` is whatever the task takes for its test frames."""

    @abstractmethod
    def prepare(self, recipe: Recipe) -> Frames:
        """The training frames, decoded or found in the cache."""

    @abstractmethod
    def loader(
        self, recipe: Recipe, prepared: Frames, indices: NDArray[np.int64], **options: Unpack[LoaderOptions]
    ) -> Gallery:
        """Batches of some of the training pictures."""

    @abstractmethod
    def begin(self, estimator: Estimator, prepared: Frames) -> None:
        """Tell a new network what it must know of the training poses before its first step."""

    @abstractmethod
    def validation(self, recipe: Recipe, prepared: Frames, device: torch.device, count: int) -> Validate:
        """What chooses the weights that are kept, on at most ``count`` pictures."""

    @abstractmethod
    def inputs(self, recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Zeros of the shapes that a network takes, one picture of them."""

    @abstractmethod
    def split(self, recipe: Recipe) -> Split:
        """The test frames."""

    @abstractmethod
    def measure(self, recipe: Recipe, variant: str, seed: int, split: Split) -> Record:
        """Scores of a finished network; its poses are kept in ``results.csv`` and made again only where outdated."""

    @abstractmethod
    def measure_file(self, recipe: Recipe, path: Path, csv: Path, split: Split) -> Record:
        """Scores of an exported file; its poses are kept in ``csv`` and made again only where outdated."""

    @abstractmethod
    def references(self, recipe: Recipe, split: Split) -> Sequence[Record]:
        """Scores of trivial answers, which every table is read beside."""

    @abstractmethod
    def export(
        self, recipe: Recipe, estimator: Estimator, path: Path, training: str, split: Split, *, shapes: bool = True
    ) -> Record:
        """Write a network as one ONNX file and check on test frames that it agrees; returns by how much.

        ``shapes``: whether surfaces of objects are put into the file.
        """

    @abstractmethod
    def draw(self, recipe: Recipe, folder: Path, split: Split) -> None:
        """Draw the best and the worst poses of teacher and exported student into ``folder/cases``, if it draws any."""
