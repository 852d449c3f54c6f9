"""What tasks share whose pictures show one thing each, known by a name: a scene, or a thing of a category."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.loading.views import ViewPolicy
from posedistill.deploy.estimate import FrameQuery
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import NO_OBJECTS, ObjectTable
from posedistill.geometry.rotations import mean_rotation
from posedistill.log import progress_bar
from posedistill.poses import Poses
from posedistill.tasks.base import Rows, Task


class Named(Protocol):
    """Test pictures that have names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of each picture."""
        ...


Test = TypeVar("Test", bound=Named)


class PhotographsTask(Task[Test]):
    """One pose a picture, and no table of objects."""

    objects: ObjectTable = NO_OBJECTS

    @abstractmethod
    def view(self, rows: Rows) -> ViewPolicy:
        """How some of the training pictures are looked at."""

    def loader(self, rows: Rows, **options: Unpack[LoaderOptions]) -> Loader:
        """Views of some of the training pictures."""
        return Loader(self.view(rows), **options)

    def plain_loader(self, rows: Rows, device: torch.device) -> Loader:
        """Of pictures that are not varied."""
        return self.loader(rows, seed=self.recipe.seed, device=device, batch_size=32, augment=False)

    def held_back(self, device: torch.device, count: int) -> Loader:
        """The validation pictures, evenly thinned to ``count``."""
        rows = self.training_set.validation
        return self.plain_loader(rows[:: -(-len(rows) // count)], device)

    def joined(self, tables: Sequence[Poses]) -> Poses:
        """The mean of all members' centres, where they tell any, and of their rotations; their times added."""
        centers = np.mean([table.centers for table in tables], axis=0)
        R = np.stack([mean_rotation(np.stack(turns)) for turns in zip(*(table.R for table in tables), strict=True)])
        seconds = np.sum([table.seconds for table in tables], axis=0)
        return Poses.of_cameras(R, centers=centers, name=tables[0].name, seconds=seconds)

    @torch.no_grad()
    def embeddings(
        self, teacher: Estimator, subtracted: NDArray[np.floating[Any]] | float = 0.0
    ) -> tuple[Array, Array]:
        """``[M, D], [N, D]`` what a network in eval mode makes of training and test pictures.

        ``subtracted``: what is taken from the decoder's images ``[3, H, W]`` before the network sees them.
        """
        loader = self.plain_loader(self.training_set.train, next(teacher.parameters()).device)
        theirs = [_embedding(teacher, loader.batch(step)) for step in range(loader.steps)]
        return np.concatenate(theirs), self.test_embeddings(teacher, self.queries, subtracted)

    @torch.no_grad()
    def test_embeddings(
        self,
        teacher: Estimator,
        queries: Sequence[FrameQuery],
        subtracted: NDArray[np.floating[Any]] | float = 0.0,
    ) -> Array:
        """``[N, D]`` what a network in eval mode makes of some test pictures; see :meth:`embeddings`."""
        device, decoder, ours = next(teacher.parameters()).device, self.decoder(teacher), []
        first = self.plain_loader(self.training_set.train[:1], device).batch(0)
        with progress_bar() as bar:
            task = bar.add_task("embeddings", total=len(queries), note="")
            for query in queries:
                inputs = dict(decoder.prepare(query.request()).inputs)
                inputs["images"] = inputs["images"] - subtracted
                targets = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
                images = targets.pop("images")
                ours.append(_embedding(teacher, Batch.single(images, first.K, first.R, first.t, first.ids, **targets)))
                bar.advance(task)
        return np.concatenate(ours)


def _embedding(estimator: Estimator, batch: Batch) -> Array:
    embedding: Array = estimator.eval()(batch).embedding.float().cpu().numpy()
    return embedding
