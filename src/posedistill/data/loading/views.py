"""View policies: how a network looks at frames. A policy plans pictures and cameras; all else in loading is shared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.augment import AugmentSettings, Draws
from posedistill.data.loading.pixels import normalise
from posedistill.data.loading.sampling import Indices
from posedistill.data.packs.pack import Pack
from posedistill.geometry.cameras import Array


@dataclass(frozen=True)
class Plan:
    """All of a batch but its pixels, for ``P`` pictures and the ``I`` instances in them; see ``Batch``.

    Attributes:
        frames: ``[P]`` what each picture is a view of, numbered through all packs.
        maps: picture to frame pixels, ``[P, 2, 3]`` affine or ``[P, 3, 3]`` projective.
        shape: height and width of the pictures.
        slots: ``[I]`` uint8, each instance's value in the id channel.
        targets: those that need no pixels. draws: what chance does to the pixels of each picture.
    """

    frames: Indices
    maps: Array
    K: Array
    shape: tuple[int, int]
    draws: Draws
    picture: Indices
    R: Array
    t: Array
    label: Indices
    score: Array
    ids: Indices
    slots: NDArray[np.uint8]
    targets: Mapping[str, Array]

    def part(self, start: int, stop: int) -> "Plan":
        """The plan of pictures ``start`` to ``stop``."""
        pictures, inside = slice(start, stop), (self.picture >= start) & (self.picture < stop)
        of_pictures = {name: getattr(self, name)[pictures] for name in ("frames", "maps", "K")}
        columns = ("R", "t", "label", "score", "ids", "slots")
        return Plan(
            **of_pictures,
            **{name: getattr(self, name)[inside] for name in columns},
            shape=self.shape,
            draws=self.draws.part(start, stop),
            picture=self.picture[inside] - start,
            targets={name: values[inside] for name, values in self.targets.items()},
        )


class ViewPolicy:
    """What a loader asks of a policy. Units are what a sampler draws: instances, or whole frames.

    Attributes:
        packs: where the frames are. frames: ``[N]`` the frame of each unit, numbered through all packs.
        shape: height and width of its pictures, unless ``shape_of`` draws them. variation: how pixels are varied.
    """

    targets: ClassVar[frozenset[str]] = frozenset()
    """What of ``Batch.targets`` it provides."""
    stream: ClassVar[int]
    """Tells its random numbers from those of the samplers and of other policies."""
    chances: int
    """Uniform numbers that place one view."""
    labelled: ClassVar[bool] = False
    """Whether ``cover`` looks at the ids of pixels."""
    packs: Sequence[Pack]
    frames: Indices
    shape: tuple[int, int]
    variation: AugmentSettings

    def unvaried(self) -> Self:
        """The same policy without chance: what validation looks at."""
        raise NotImplementedError

    def asked(self, targets: frozenset[str]) -> Self:
        """The same policy, which also provides those of the targets that it makes on request alone."""
        return self

    def shape_of(self, epoch: int, chance: float) -> tuple[int, int]:
        """Height and width of the pictures of a batch, of which ``chance`` (0..1) may choose one."""
        return self.shape

    def plan(self, units: Indices, shape: tuple[int, int], chance: Array, draws: Draws) -> Plan:
        """Views of some units, of that shape, at places that ``chance`` ``[n, chances]`` draws."""
        raise NotImplementedError

    def cover(self, x: Tensor, ids: Tensor | None, plan: Plan, draws: Draws) -> dict[str, Tensor]:
        """Change what is behind and before the instances, in place, and make the targets that need pixels.

        Args:
            x: float32 planes ``[P, 3, H, W]`` in 0..1. ids: uint8 ``[P, H, W]``. draws: the plan's, on their device.
        """
        return {}

    def normalise(self, x: Tensor, plan: Plan) -> Tensor:
        """What the network sees of varied planes, by default by the ImageNet statistics; may change them in place."""
        return normalise(x)
