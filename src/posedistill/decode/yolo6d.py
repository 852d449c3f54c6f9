"""YOLO6D: the region map of a whole picture -> the poses of all objects in it. Numpy, OpenCV and poselib only."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Arrays, Pose, Prepared, Readers, Request, Tolerance, check, pair
from posedistill.decode.crops import check_request
from posedistill.decode.objects import ObjectDecoder
from posedistill.decode.wdrnet import sigmoid
from posedistill.geometry.cameras import Array, picture_cameras, project, scaled_camera
from posedistill.geometry.draw.poses import Image, color_of, draw_pose
from posedistill.geometry.draw.votes import draw_confidence, draw_votes
from posedistill.geometry.objects import BOX_POINTS, box_points
from posedistill.geometry.pnp import PnPResult, solve_pnp
from posedistill.geometry.warp import affine_maps, warp

NO_BOXES: Array = np.empty((0, 4))
_MOST = 512
"""Votes of a picture that are looked at, the surest: an untrained network is sure of everything."""
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class YOLO6DDecoding:
    """How votes become poses.

    Attributes:
        score_threshold: cells below it do not vote.
        vote: ``neighbourhood`` takes the weighted mean of the surest cell of an object and the cells around it (Tekin
            et al., section 3.4), ``all`` lets all confident cells vote one by one (RANSAC).
        same: votes closer than this are for the same object, in sides of its box.
        threshold: reprojection error that makes a point an outlier, in sides of the object's box.
        most: objects of a picture that PnP is asked for, the surest; by default as many as BOP counts of an image.
        seed: of the RANSAC.
    """

    score_threshold: float = 0.1
    vote: Literal["neighbourhood", "all"] = "neighbourhood"
    same: float = 0.4
    threshold: float = 0.2
    most: int = 100
    seed: int = 0


class GridVotes(NamedTuple):
    """Votes of some predictors of one picture: the surest of each known object, then all others, the surest first."""

    scores: Array
    """``[n]``"""
    classes: Indices
    """``[n]``"""
    cells: Indices
    """``[n, 2]`` row and column."""
    points: Array
    """``[n, 9, 2]`` cells."""


class Found(NamedTuple):
    """What a picture shows, in the order of the votes: ``G`` objects."""

    best: Indices
    """``[G]`` the vote that each stands on."""
    weights: Array
    """``[G, n]`` how much each vote counts for each object, 0 where it is for another."""
    points: Array
    """``[G, 9, 2]`` cells, the weighted means."""


def read_votes(region: np.ndarray, count: int, wanted: Indices, known: Indices, threshold: float) -> GridVotes:
    """The confident predictors of a region map.

    Args:
        region: ``[A * (19 + C), rows, columns]``. count: ``C``.
        wanted: the classes that are looked for. known: those of them that are in the picture for sure: the surest
            predictor of each votes, confident or not.
    """
    channels, rows, columns = region.shape
    anchors = channels // (2 * BOX_POINTS + 1 + count)
    flat = region.reshape(anchors, -1, rows * columns)
    scores = sigmoid(flat[:, 2 * BOX_POINTS])[None]
    if count > 1:
        shares = np.exp(flat[:, 2 * BOX_POINTS + 1 :] - flat[:, 2 * BOX_POINTS + 1 :].max(axis=1, keepdims=True))
        scores = scores * (shares / shares.sum(axis=1, keepdims=True)).transpose(1, 0, 2)[wanted]
    table = scores.reshape(len(wanted), -1)
    places = np.searchsorted(wanted, known)
    granted = places * table.shape[1] + table[places].argmax(axis=1)
    chosen = np.union1d(np.flatnonzero(table > threshold), granted)
    sure = table.ravel()[chosen]
    order = np.lexsort((-sure, ~np.isin(chosen, granted)))[:_MOST]
    place, predictor = np.divmod(chosen[order], table.shape[1])
    anchor, cell = np.divmod(predictor, rows * columns)
    points = flat[anchor, : 2 * BOX_POINTS, cell].astype(np.float64)
    points[:, :2] = sigmoid(points[:, :2])
    cells = np.stack(np.divmod(cell, columns), axis=1)
    points = points.reshape(-1, BOX_POINTS, 2) + cells[:, None, ::-1]
    return GridVotes(sure[order], wanted[place], cells, points)


def find_objects(votes: GridVotes, decoding: YOLO6DDecoding) -> Found:
    """Who votes for what: the surest vote stands for an object, all that agree with it are its own, and so on.

    It ends with ``decoding.most`` objects, so that a network that is sure of every cell does not cost a PnP for each.
    The centre is that of the surest vote: other cells' centres cannot leave them.
    """
    count = len(votes.scores)
    corners = votes.points[:, 1:].reshape(count, 2 * BOX_POINTS - 2)
    squares = np.einsum("ij,ij->i", corners, corners)
    distances = (squares[:, None] + squares - 2 * corners @ corners.T) / (BOX_POINTS - 1)
    boxes = votes.points[:, 1:]
    sides = (boxes.max(axis=1) - boxes.min(axis=1)).max(axis=1)
    near = (distances < (decoding.same * sides[:, None]) ** 2) & (votes.classes[:, None] == votes.classes)
    best: list[int] = []
    free, members = np.ones(count, dtype=bool), []
    while free.any() and len(best) < decoding.most:
        first = int(free.argmax())
        own = near[first] & free
        own[first] = True
        free &= ~own
        best.append(first)
        members.append(own)
    chosen = np.array(best, dtype=np.int64)
    mine = np.array(members, dtype=bool).reshape(len(best), count)
    if decoding.vote == "neighbourhood":
        mine &= (np.abs(votes.cells - votes.cells[chosen, None]) <= 1).all(axis=2)
    weights = mine * votes.scores
    means = (weights @ votes.points.reshape(count, 2 * BOX_POINTS)) / weights.sum(axis=1, keepdims=True)
    points = means.reshape(-1, BOX_POINTS, 2)
    points[:, 0] = votes.points[chosen, 0]
    return Found(chosen, weights, points)


def solve(points: Array, weights: Array, corners: Array, K: Array, threshold: float, seed: int = 0) -> PnPResult | None:
    """The pose of a box by its centre and corners, as many votes of all nine as there are.

    Args:
        points: ``[n, 9, 2]`` pixels; a NaN is left out. weights: ``[n]``. corners: ``[8, 3]`` mm. threshold: of an
            outlier, in sides of the (first) box.
    """
    side = float((points[0].max(axis=0) - points[0].min(axis=0)).max())
    box = box_points(corners)
    found = solve_pnp(
        points.reshape(-1, 2),
        np.tile(box, (len(points), 1)),
        K,
        np.repeat(weights, BOX_POINTS),
        max(threshold * side, 1.0),
        seed,
    )
    return found if found is not None and (corners @ found.R[2] + found.t[2]).min() > 0 else None


@dataclass(frozen=True, eq=False, kw_only=True)
class YOLO6DDecoder(ObjectDecoder):
    """A whole picture in, its region map ``[A * (19 + C), rows, columns]`` out.

    A request needs no boxes. Labels name the objects that are in the picture for sure: each gets a pose, the surest
    there is. Without labels all objects are looked for, and only confident cells vote.

    Attributes:
        size: height and width of the network's pictures. stride: of its cells, pixels. anchors: predictors of a cell.
        decoding: how votes become poses; what a file does not name keeps its default.
    """

    family: ClassVar[str] = "yolo6d"
    whole_pictures: ClassVar[bool] = True
    tolerance: ClassVar[Tolerance] = Tolerance({"points (px)": 0.05}, degrees=0.1)
    readers: ClassVar[Readers] = {
        **ObjectDecoder.readers,
        "size": pair,
        "stride": int,
        "anchors": int,
        "decoding": lambda value: YOLO6DDecoding(**value),
    }
    size: tuple[int, int]
    stride: int = 32
    anchors: int = 1
    decoding: YOLO6DDecoding = YOLO6DDecoding()

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        fits = self.stride > 0 and min(self.size) > 0 and not any(length % self.stride for length in self.size)
        check(
            ("size", self.size, f"positive multiples of the stride, {self.stride}", fits),
            ("anchors", self.anchors, "a positive number", self.anchors > 0),
        )

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Pictures, normalised RGB."""
        return {"images": (3, *self.size)}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The region map."""
        channels = self.anchors * (2 * BOX_POINTS + 1 + len(self.objects))
        return {"region": (channels, self.size[0] // self.stride, self.size[1] // self.stride)}

    def prepare(self, request: Request) -> Prepared:
        """Scale the picture to the network's size, whatever its aspect.

        Raises:
            DataError: the image or camera is impossible, there is no camera, or an id is none of the network's.
        """
        K = np.asarray(self.camera_of(request), dtype=np.float64)
        check_request(request.image, K, NO_BOXES, ())
        self.classes_of(request.labels)
        cameras = picture_cameras(K[None], np.array([request.image.shape[:2]]), self.size)
        picture = np.empty((1, *self.size, 3), np.uint8)
        warp([request.image], affine_maps(cameras.homography), picture)
        images = np.empty((1, 3, *self.size), dtype=np.float32)
        self.normalise(picture[0], out=images[0])
        labels = np.array(request.labels, dtype=np.int64)
        return Prepared({"images": images}, cameras.K, cameras.rotation, labels, NO_BOXES, np.ones(len(labels)))

    def decode(self, outputs: Arrays, prepared: Prepared) -> list[Pose]:
        """Poses in the cameras of the images, the surest first; ``row`` is that of the picture."""
        found = []
        for row, region in enumerate(outputs["region"]):
            for pose in self.decode_picture(region, prepared.K[row], prepared.labels_in(row)):
                back = prepared.rotation[row].T
                found.append(Pose(back @ pose.R, back @ pose.t, pose.label, pose.score, row=row))
        return found

    def votes_of(self, region: np.ndarray, labels: Indices) -> GridVotes:
        """The votes of one picture, for the objects of these ids, or for all where none is named."""
        known = np.unique(self.classes_of(labels.tolist()))
        wanted = known if len(known) else np.arange(len(self.objects))
        return read_votes(region, len(self.objects), wanted, known, self.decoding.score_threshold)

    def decode_picture(self, region: np.ndarray, K: Array, labels: Indices) -> list[Pose]:
        """Poses in the camera ``K`` of the network's own picture."""
        settings = self.decoding
        votes = self.votes_of(region, labels)
        found = find_objects(votes, settings)
        poses: list[Pose] = []
        for place, best in enumerate(found.best.tolist()):
            index = int(votes.classes[best])
            points, weights = found.points[place : place + 1], np.ones(1)
            if settings.vote == "all":
                chosen = np.flatnonzero(found.weights[place])
                points, weights = votes.points[chosen].copy(), votes.scores[chosen]
                points[chosen != best, 0] = np.nan
            corners = self.objects.keypoints[index]
            pose = solve(self.stride * points, weights, corners, K, settings.threshold, settings.seed)
            if pose is not None:
                score = float(votes.scores[best]) * pose.score
                poses.append(Pose(pose.R, self.at_distance(pose.t, index), self.objects.obj_ids[index], score))
        return sorted(poses, key=lambda pose: -pose.score)

    def explain(self, image: Image, outputs: Arrays, prepared: Prepared) -> Image:
        """How sure each cell is, what the cells behind each pose vote for, and the poses with box and axes."""
        region = outputs["region"][0]
        votes = self.votes_of(region, prepared.labels)
        found = find_objects(votes, self.decoding)
        confidence = sigmoid(region.reshape(self.anchors, -1, *region.shape[1:])[:, 2 * BOX_POINTS]).max(axis=0)
        canvas = draw_confidence(image, confidence)
        for best, weights in zip(found.best, found.weights, strict=True):
            points = self._pixels(votes.points[weights > 0, 1:], image)
            draw_votes(canvas, points, weights[weights > 0], color_of(int(votes.classes[best])))
        for pose in self.decode(outputs, prepared):
            K = scaled_camera(prepared.K[0], (self.size[1], self.size[0]), (image.shape[1], image.shape[0]))
            index = self.objects.index(pose.label)
            label = f"{self.name(pose.label)} {pose.score:.2f}"
            canvas = draw_pose(canvas, pose.R, pose.t, K, self.objects.keypoints[index], color_of(index), label)
        return canvas

    def boxes_seen(self, image: Image, outputs: Arrays, prepared: Prepared) -> list[tuple[int, Array]]:
        """The points that PnP is asked for a pose of, unless ``decoding.vote`` is ``all``."""
        votes = self.votes_of(outputs["region"][0], prepared.labels)
        found = find_objects(votes, self.decoding)
        ids = np.array(self.objects.obj_ids)[votes.classes[found.best]]
        surest = np.argsort(-votes.scores[found.best], kind="stable")
        chosen = [surest[ids[surest] == label][:count] for label, count in Counter(prepared.labels.tolist()).items()]
        return [(int(ids[row]), self._pixels(found.points[row], image)) for rows in chosen for row in rows]

    def _pixels(self, points: Array, image: Image) -> Array:
        """Points ``[..., 2]`` in cells as pixels of the image."""
        scale = np.array(image.shape[1::-1]) / np.array(self.size[::-1])
        pixels: Array = (self.stride * points + 0.5) * scale - 0.5
        return pixels

    def example(self, rows: int = 1, image: Image | None = None, seed: int = 0) -> list[Request]:
        """The same picture ``rows`` times, with nothing said of what is in it."""
        request = super().example(1, image, seed)[0]
        return [Request(request.image, request.K)] * rows

    def differences(self, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """Between points, and between confidences, of all predictors."""
        sides = [
            side["region"].reshape(len(side["region"]), self.anchors, -1, *self.outputs["region"][1:])
            for side in (ours, theirs)
        ]
        points = [self.stride * side[:, :, : 2 * BOX_POINTS] for side in sides]
        scores = [sigmoid(side[:, :, 2 * BOX_POINTS]) for side in sides]
        return {
            "points (px)": float(np.abs(points[0] - points[1]).max(initial=0.0)),
            "scores": float(np.abs(scores[0] - scores[1]).max(initial=0.0)),
        }

    def stand_in(self, prepared: Prepared) -> Arrays:
        """Region maps of pictures in which each object is seen once, side by side; points are off by 0.02 cells."""
        rng, (channels, rows, columns) = np.random.default_rng(0), self.outputs["region"]
        count, pictures = len(self.objects), len(prepared.K)
        region = np.zeros((pictures, self.anchors, channels // self.anchors, rows, columns))
        region[:, :, 2 * BOX_POINTS] = -6.0
        across = int(np.ceil(np.sqrt(count)))
        for index, corners in enumerate(self.objects.keypoints):
            place = (np.array([index % across, index // across]) + 0.5) / across * [columns, rows]
            K = prepared.K[0] / [[self.stride], [self.stride], [1.0]]
            distance = K[0, 0] * float(self.objects.diameters[index]) * across / (0.6 * columns)
            t = distance * np.linalg.solve(K, [*place, 1.0]) - corners.mean(axis=0)
            points = project(box_points(corners), np.eye(3), t, K)
            column, row = np.floor(place).astype(int)
            for y in range(max(row - 1, 0), min(row + 2, rows)):
                for x in range(max(column - 1, 0), min(column + 2, columns)):
                    offsets = points - [x, y] + rng.normal(scale=0.02, size=points.shape)
                    share = np.clip(offsets[0], 0.01, 0.99)
                    offsets[0] = np.log(share / (1 - share))
                    region[:, 0, : 2 * BOX_POINTS, y, x] = offsets.ravel()
                    region[:, 0, 2 * BOX_POINTS, y, x] = 2.0 if (y, x) == (row, column) else 1.0
                    region[:, 0, 2 * BOX_POINTS + 1 + index, y, x] = 8.0
        return {"region": region.reshape(pictures, channels, rows, columns).astype(np.float32)}
