"""Viewpoint of a category: bins of three angles and offsets within them -> the rotation of what a crop shows. Numpy.

The form is that of PoseFromShape, PoseContrast and 3DAug-Pose: logits over bins of azimuth, elevation and in-plane
rotation (as ``geometry.viewpoint.label_angles`` has them), and an offset for each bin. ``published`` bins begin at 0,
so that the most frequent views, upright and seen from the front, lie on their edges; ``centred`` bins have them in the
middle, reach over their edges, and are read together with their neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Arrays, Decoder, Pose, Prepared, Readers, Request, Tolerance, check
from posedistill.decode.crops import check_request, cut_boxes
from posedistill.decode.posenet import rotation_matrix
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.viewpoint import ORDERS, labelled_viewpoint, viewpoint_rotation

Grid = Literal["centred", "published"]
Head = Literal["bins", "6d", "fisher"]
HEAD_SIZES = {"6d": 6, "fisher": 9}
"""Numbers of a head that tells a whole rotation."""
ANGLES = ("azimuth", "elevation", "inplane")
REACH = 0.75
"""How far an offset leads from the middle of a centred bin, in bins; neighbours overlap."""
_SPANS = {"azimuth": 360.0, "elevation": 180.0, "inplane": 360.0}


def bin_counts(grid: Grid, size: float) -> dict[str, int]:
    """Bins of each angle; a centred grid has elevation bins about both poles.

    >>> bin_counts("published", 15.0), bin_counts("centred", 15.0)["elevation"]
    ({'azimuth': 24, 'elevation': 12, 'inplane': 24}, 13)
    """
    counts = {name: round(span / size) for name, span in _SPANS.items()}
    return counts if grid == "published" else counts | {"elevation": counts["elevation"] + 1}


def decode_angle(logits: Array, offsets: Array, grid: Grid, size: float, *, circular: bool) -> Array:
    """``[B]`` degrees of ``[B, K]`` logits and raw offsets, within the angle's span.

    ``published``: ``size (k + 1/2 + tanh(o_k) / 2)`` of the best bin k. ``centred``: the mean of ``size (j + 3/4
    tanh(o_j))`` over the best bin and its neighbours, weighted by their probabilities.
    """
    logits, offsets = np.asarray(logits, dtype=np.float64), np.tanh(np.asarray(offsets, dtype=np.float64))
    rows, best, count = np.arange(len(logits)), logits.argmax(axis=1), logits.shape[1]
    span = size * count if circular else 180.0
    if grid == "published":
        return np.asarray(size * (best + 0.5 + offsets[rows, best] / 2) % span)
    steps = np.array([-1, 0, 1])
    bins = best[:, None] + steps
    known = np.ones(bins.shape, dtype=bool) if circular else (bins >= 0) & (bins < count)
    bins = np.where(known, bins % count, 0)
    weights = np.exp(logits[rows[:, None], bins] - logits.max(axis=1, keepdims=True)) * known
    places = size * (best[:, None] + steps + REACH * offsets[rows[:, None], bins])
    angle = (weights * places).sum(axis=1) / weights.sum(axis=1)
    return np.asarray(angle % span if circular else np.clip(angle, 0.0, span))


def fisher_mode(F: Array) -> tuple[Array, Array]:
    """``[B, 3, 3]`` the most likely rotations of matrix Fisher distributions, and how sure each is, ``[B]`` in 0..1.

    That is ``k / (1 + k)``, k the concentration about the least certain axis, s2 + s3 of the proper singular values.

    >>> R, sure = fisher_mode(np.diag([9.0, 9.0, 9.0])[None])
    >>> R[0].round(6).tolist(), round(float(sure[0]), 3)
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], 0.947)
    """
    U, s, Vt = np.linalg.svd(F)
    sign = np.sign(np.linalg.det(U @ Vt))
    U[..., 2] *= sign[:, None]
    concentration = s[:, 1] + sign * s[:, 2]
    return np.asarray(U @ Vt), np.asarray(concentration / (1 + concentration))


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewpointDecoder(Decoder):
    """Crops of categories in; logits and offsets of three angles out, or a rotation.

    A request's labels are places in ``names``; a network that looks at the picture alone asks for none.

    Attributes:
        crop_size: side of the crop, pixels. pad: side of the crop over the longer side of the box.
        head: ``bins``; ``6d``: two columns of a rotation; ``fisher``: the parameter of a matrix Fisher distribution.
        grid: where bins begin. bin_size: degrees.
        names: what each label is, as ``category/shape``.
        orders: ``[S]`` how many turns about the upright axis look the same, 0 for all; empty where no category has any.
        clouds: ``[S, P, 3]`` a point cloud for each label, of networks that look at shapes; else none.
        views: ``[S, V, side, side, 3]`` renderings for each label, of networks that look at these; else none.
    """

    family: ClassVar[str] = "viewpoint"
    task: ClassVar[str] = "categories"
    tolerance: ClassVar[Tolerance] = Tolerance(degrees=0.1)
    readers: ClassVar[Readers] = {
        **Decoder.readers,
        "crop_size": int,
        "pad": float,
        "head": str,
        "grid": str,
        "bin_size": float,
        "names": lambda value: tuple(str(item) for item in value),
    }
    crop_size: int
    pad: float = 1.1
    head: Head = "bins"
    grid: Grid = "centred"
    bin_size: float = 15.0
    names: tuple[str, ...] = ()
    orders: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    clouds: Array = field(default_factory=lambda: np.zeros((0, 0, 3)))
    views: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 0, 3), np.uint8))

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        square = self.views.ndim == 5 and self.views.shape[2] == self.views.shape[3] and self.views.shape[4] == 3
        seen = square and len(self.views) in (0, len(self.names))
        whole = self.bin_size > 0 and (180 / self.bin_size).is_integer()
        told = self.orders.shape in ((0,), (len(self.names),)) and set(self.orders.tolist()) <= set(ORDERS.values())
        fits = self.clouds.ndim == 3 and self.clouds.shape[2] == 3 and len(self.clouds) in (0, len(self.names))
        check(
            ("crop_size", self.crop_size, "a positive number of pixels", self.crop_size > 0),
            ("pad", self.pad, "a positive factor", self.pad > 0),
            ("head", self.head, f"bins or one of {list(HEAD_SIZES)}", self.head == "bins" or self.head in HEAD_SIZES),
            ("grid", self.grid, "centred or published", self.grid in ("centred", "published")),
            ("bin_size", self.bin_size, "degrees that divide 180", whole),
            ("orders", self.orders, f"{len(self.names)} of {sorted(ORDERS.values())}, one for each name", told),
            ("clouds", self.clouds.shape, f"[{len(self.names)}, points, 3], one for each name", fits),
            ("views", self.views.shape, f"[{len(self.names)}, views, side, side, 3], some for each name", seen),
        )

    def tables(self) -> dict[str, np.ndarray]:
        """The symmetries and the shapes."""
        tables = {"orders": self.orders} if len(self.orders) else {}
        tables |= {"clouds": self.clouds.astype(np.float32)} if len(self.clouds) else {}
        return tables | ({"views": self.views} if len(self.views) else {})

    @classmethod
    def fields_of(cls, tables: Arrays) -> dict[str, Any]:
        """The symmetries and the shapes, if any."""
        kinds = {"orders": np.int64, "clouds": np.float64, "views": np.uint8}
        return {name: np.asarray(tables[name], dtype=kind) for name, kind in kinds.items() if name in tables}

    def orders_of(self, categories: Sequence[str]) -> NDArray[np.int64]:
        """``[N]`` how many turns of each look the same; 1 of what the network has not learned."""
        known = {name.partition("/")[0]: order for name, order in zip(self.names, self.orders.tolist(), strict=False)}
        return np.array([known.get(category, 1) for category in categories], dtype=np.int64)

    @property
    def looks_at_shapes(self) -> bool:
        """Whether the network is a teacher's, which must be shown a shape beside each picture."""
        return bool(len(self.clouds) or len(self.views))

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Crops, normalised RGB; and clouds or views, RGB in 0..1, where the network looks at shapes."""
        shapes: dict[str, tuple[int, ...]] = {"clouds": self.clouds.shape[1:]} if len(self.clouds) else {}
        count, side = self.views.shape[1:3]
        shapes |= {"views": (count, 3, side, side)} if len(self.views) else {}
        return {"images": (3, self.crop_size, self.crop_size), **shapes}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Logits of each angle, then offsets of each; or the numbers of a rotation."""
        if self.head != "bins":
            return {"rotation": (HEAD_SIZES[self.head],)}
        counts = bin_counts(self.grid, self.bin_size)
        return {f"{name}{kind}": (counts[name],) for kind in ("", "_offset") for name in ANGLES}

    def prepare(self, request: Request) -> Prepared:
        """Cut one square crop for each box, or one of the whole picture where no box is given.

        Raises:
            DataError: the image or a box is impossible, or a label is none of the network's and it looks at shapes.
        """
        image, boxes = request.image, np.asarray(request.boxes, dtype=np.float64).reshape(-1, 4)
        labels, scores = np.asarray(request.labels, dtype=np.int64), request.scores
        if not len(boxes) and isinstance(image, np.ndarray) and image.ndim == 3:
            boxes, scores = np.array([[0.0, 0.0, image.shape[1], image.shape[0]]]), None
            labels = labels if len(labels) else np.array([-1])
        K = np.eye(3)  # nothing is known of the camera, nor asked
        check_request(image, K, boxes, labels.tolist())
        crops, cameras = cut_boxes(self, image, K, boxes, self.pad, self.crop_size)
        inputs = {"images": crops} | self._shapes_of(labels)
        scores = np.ones(len(boxes)) if scores is None else np.asarray(scores, dtype=np.float64)
        return Prepared(inputs, cameras.K, cameras.rotation, labels, boxes, scores)

    def _shapes_of(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        if not self.looks_at_shapes:
            return {}
        wrong = labels[(labels < 0) | (labels >= len(self.names))]
        if len(wrong):
            expected = f"one of the {len(self.names)} shapes that the model knows: it looks at shapes too"
            raise DataError(describe("request", "labels", wrong[0], expected))
        shown = {"clouds": self.clouds[labels].astype(np.float32)} if len(self.clouds) else {}
        if len(self.views):
            shown["views"] = self.views[labels].transpose(0, 1, 4, 2, 3).astype(np.float32) / 255
        return shown

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """Rotations of what the crops show.

        The score is the product of the best bins' probabilities; of ``fisher`` how sure it is of the least certain
        axis, 0..1; of ``6d``, which does not tell, 1.
        """
        R, scores = self._rotations(outputs)
        labels = prepared.labels.tolist() or [-1] * len(R)
        poses = []
        for row, (x, y, w, h) in enumerate(prepared.boxes.tolist()):
            score = float(scores[row] * prepared.scores[row])
            poses.append(Pose(R[row], np.full(3, np.nan), labels[row], score, (x, y, w, h), row))
        return poses

    def angles(self, outputs: Arrays) -> Array:
        """``[B, 3]`` label angles of the network's outputs."""
        decoded = [
            decode_angle(
                outputs[name], outputs[f"{name}_offset"], self.grid, self.bin_size, circular=name != "elevation"
            )
            for name in ANGLES
        ]
        return np.stack(decoded, axis=1)

    def _rotations(self, outputs: Arrays) -> tuple[Array, Array]:
        """``[B, 3, 3], [B]`` rotations and scores."""
        if self.head == "bins":
            return viewpoint_rotation(labelled_viewpoint(self.angles(outputs))), self._scores(outputs)
        values = np.asarray(outputs["rotation"], dtype=np.float64)
        if self.head == "6d":
            return rotation_matrix(values, "6d"), np.ones(len(values))
        return fisher_mode(values.reshape(-1, 3, 3))

    def _scores(self, outputs: Arrays) -> Array:
        shares = [np.exp(outputs[name] - outputs[name].max(axis=1, keepdims=True)).sum(axis=1) for name in ANGLES]
        return np.asarray(1 / np.prod(shares, axis=0))

    def shift(self, ours: Pose, theirs: Pose) -> float:
        """None: there are no positions."""
        return 0.0

    def example(self, rows: int = 1, image: Image | None = None, seed: int = 0) -> list[Request]:
        """One request of boxes about the image's middle, of each label in turn."""
        if image is None:
            image = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        height, width = image.shape[:2]
        side = min(width, height) / 2
        boxes = np.tile([(width - side) / 2, (height - side) / 2, side, side], (rows, 1))
        return [Request(image, None, boxes, [row % max(len(self.names), 1) for row in range(rows)])]
