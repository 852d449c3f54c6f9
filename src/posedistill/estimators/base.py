"""What every pose family has in common: the Estimator, and how its network may be wrapped to be shipped."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from posedistill.backbones.cfg.network import CfgNetwork
from posedistill.backbones.cfg.weights import is_darknet
from posedistill.data.loading.batch import Batch, listed
from posedistill.decode import DECODERS, Decoder
from posedistill.errors import CheckpointError, RecipeError, describe
from posedistill.estimators.views import Prediction
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.poses import Poses


class Translation(NamedTuple):
    """A teacher's prediction on the batch of a step, in another kind of votes; ``views`` that it then carries."""

    views: frozenset[str]
    translate: Callable[[Prediction, Batch, int], Prediction]


class FrozenPart(NamedTuple):
    """The first layers of a network, where training changes nothing of them.

    Attributes:
        maps: turns images ``[P, 3, H, W]`` into what the rest of the network reads of each cell, ``[P, N, C]``; in any
            thread, whatever happens to the network meanwhile.
        about: what they depend on, weights included.
    """

    maps: Callable[[Tensor], Tensor]
    about: str


FROZEN_MAPS = "frozen maps"
"""The target of a batch that holds what a network's frozen part makes of its pictures, ``[P, N, C]`` float16."""


class Estimator(nn.Module):
    """A pose family: ``network`` (what is exported), its forward pass on a Batch, and its supervised loss.

    In ``train()`` mode the votes are those of the cells drawn from the ground-truth mask; in ``eval()`` mode (a
    teacher) those the decoder would choose, found without ground truth and without PnP.
    """

    task: ClassVar[str] = "objects"
    """What it is measured by: poses of ``objects``, of cameras in a ``scene``, or viewpoints of ``categories``."""
    view: ClassVar[str] = "crop"
    """What it looks at: a ``crop`` of one object, a whole ``picture`` with all objects in it, a ``scene``, or a crop of
    a thing of a ``category``."""
    offers: ClassVar[frozenset[str]] = frozenset()
    """The views (of ``VIEWS``) that this family's Prediction carries."""
    targets: ClassVar[frozenset[str]] = frozenset()
    """What of ``Batch.targets`` its supervised loss needs."""
    decoder: ClassVar[str] = ""
    """Name of the family in ``posedistill.decode`` that turns the network's outputs into poses."""
    projects: ClassVar[bool] = False
    """Whether it compares points of a scene with pixels, so that cameras must be exactly those of the photographs."""
    network: nn.Module
    objects: ObjectTable
    calibrates: bool = False
    """Whether the distances of its poses are calibrated once its weights are finished."""
    categories: tuple[str, ...]
    """Names of those that it has learned, or is to learn; none where nothing has a name, or nobody has noted it."""
    calibration: Mapping[str, Any]
    """What its decoder must know that only finished weights tell, by the decoder's fields."""
    progress: float = 0.0
    """Share of the training that is done; told before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.categories, self.calibration = (), {}
        self._frozen: list[nn.Module] = []

    def freeze(self, layers: Sequence[str]) -> None:
        """Let some of the network's layers stay as they are, with the statistics of their norms.

        Training then looks no further back than the first weight that changes, which of early layers saves much.

        Args:
            layers: names of modules, such as ``backbone.net.blocks.0``.

        Raises:
            RecipeError: there is no such layer, or nothing is left to train.
        """
        for layer in layers:
            module, above = self.network, ""
            for name in layer.split("."):
                children = dict(module.named_children())
                if name not in children:
                    parts = (
                        f"one of {above}{{{', '.join(children)}}}" if children else f"{above[:-1]}, which has no parts"
                    )
                    raise RecipeError(describe("recipe", "freeze", layer, parts))
                module, above = children[name], f"{above}{name}."
            self._frozen.append(module.requires_grad_(False))
        if layers and not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise RecipeError(describe("recipe", "freeze", list(layers), "layers that leave others to train"))

    def train(self, mode: bool = True) -> Self:
        """As any module, but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def check_targets(self, provided: frozenset[str]) -> None:
        """Refuse batches that lack what the loss needs.

        Raises:
            RecipeError: names what is missing.
        """
        if missing := self.targets - provided:
            asked_by, found = f"family: {type(self).__name__.lower()}", f"batches with {listed(provided)}"
            raise RecipeError(
                describe("recipe", asked_by, found, f"{listed(self.targets)} ({sorted(missing)} missing)")
            )

    def noise_targets(self, count: int) -> dict[str, Tensor]:
        """Targets of noise by which it can be tried before any data are read; of families that look at more than poses
        of objects, whose targets ``training.teaching.build.noise_batch`` makes."""
        return {}

    def fit_targets(self, R: Array, t: Array) -> None:
        """Take what the network must know of the training poses ``[N, 3, 3]`` and ``[N, 3]``, before its first step."""

    def fit_shapes(self, mesh: Callable[[int], Mesh], folder: Path) -> None:
        """Take what the network must know of the objects' surfaces, before its first step.

        Args:
            mesh: reads an object's, by its id. folder: where what is made of them is kept for other networks.
        """

    def frozen_part(self) -> FrozenPart | None:
        """The layers that stay as they are, so that their outputs can be stored; None where all are trained.

        In ``train()`` mode the forward pass then takes them from the target ``FROZEN_MAPS`` where a batch has it, and
        looks at no pictures. Views of the frozen layers themselves are left out.
        """
        return None

    def check_teacher(self, teacher: "Estimator") -> None:
        """Refuse a teacher whose views mean something else than this network's; ``RecipeError`` says what."""

    def from_keypoints(self, mesh: Callable[[int], Mesh]) -> "Translation | None":
        """How a teacher's votes for keypoints become this network's own kind; None where they are of that kind.

        ``mesh`` reads an object's, by its id.
        """
        return None

    def to_keypoints(self) -> "Translation | None":
        """How this network's own kind of votes, where it is another, become votes for keypoints."""
        return None

    @property
    def darknet(self) -> CfgNetwork | None:
        """The network of a ``.cfg`` that holds all of its parameters, where it is one."""
        return None

    def load_darknet(self, path: Path) -> bool:
        """Take all of a network's numbers from a file of Darknet's; False where it is a file of another kind.

        Raises:
            CheckpointError: a damaged file, of another network or a part of one; or this is no network of a ``.cfg``.
        """
        if not is_darknet(path):
            return False
        if self.darknet is None:
            expected = "a .safetensors file, as the network is not a .cfg with its head alone"
            raise CheckpointError(describe(path, "checkpoint", "Darknet's weights", expected))
        self.darknet.load(path, start=False)
        return True

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; ``generator`` drives whatever the family draws at random in train mode."""
        raise NotImplementedError

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Supervised terms by name, already weighted; each is a mean over its own count. Their sum is minimised."""
        raise NotImplementedError

    def progress_values(self) -> dict[str, float]:
        """What the log of its training tells of it besides losses, by name."""
        return {}

    def record(self) -> dict[str, Any]:
        """What its decoder must know of the network itself, by the decoder's fields."""
        raise NotImplementedError

    def build_decoder(self, **known: Any) -> Decoder:
        """Its decoder; ``known`` are the fields that the data tell rather than the network."""
        kind = DECODERS[self.decoder]
        calibrated = {
            name: kind.readers[name](value) if name in kind.readers else value
            for name, value in self.calibration.items()
        }
        return kind(**(self.record() | calibrated), **known)

    def decodings(self) -> tuple[dict[str, Any], ...]:
        """The ways to decode its outputs among which held-back crops choose: the decoder's ``decoding``, plain JSON."""
        return ()


@torch.no_grad()
def fit_places(center: Tensor, radius: Tensor, R: Array, t: Array) -> None:
    """Put where cameras ``[N, 3, 3]``, ``[N, 3]`` stand into two buffers: their mean ``[3]``, and how far they spread.

    That is their root mean square distance from the mean.
    """
    centers = Poses.of_cameras(R, t).centers
    middle = centers.mean(axis=0)
    spread = float(np.sqrt(((centers - middle) ** 2).sum(axis=1).mean()))
    center.copy_(torch.as_tensor(middle))
    radius.fill_(spread if spread > 1e-6 else 1.0)  # a camera that never moved


class MeanSubtracted(nn.Module):
    """A network that takes pictures in 0..255 and subtracts the mean of its training pictures first.

    Args:
        network: whose only input are pictures. mean: ``[h, w, 3]`` in 0..255, of the network's own input.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, mean: NDArray[np.float32]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.from_numpy(np.ascontiguousarray(mean, np.float32)).permute(2, 0, 1)[None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As the network's."""
        return tuple(self.network(images - self.mean))
