"""The scene that a network of scene coordinates believes in: the points its poses rest on, as a picture and a .ply."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posedistill.decode.base import Pose
from posedistill.decode.scene_coordinates import SceneCoordinatesDecoder
from posedistill.deploy.estimate import FrameQuery
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.points import confidence_colors, draw_points
from posedistill.geometry.meshes.files import save_ply
from posedistill.geometry.meshes.parts import Mesh
from posedistill.report.cases import save_votes
from posedistill.runtime.predictor import Predictor

PHOTOGRAPHS = 40
"""Most that are looked at."""
SUREST = 98.0
"""Percentile of the confidences that is drawn in the brightest colour: of new photographs few cells are quite sure."""


def save_cloud(predictor: Predictor, queries: Sequence[FrameQuery], name: str, folder: Path) -> None:
    """Write ``cloud_NAME.ply`` beside ``folder`` and a picture of it into ``folder``; neither where nothing is seen."""
    points, normals, confidence, poses = believed(predictor, queries[:: -(-len(queries) // PHOTOGRAPHS)])
    if not poses:
        save_votes(folder, name, [])
        return
    R, centers = np.stack([pose.R for pose in poses]), np.stack([pose.center for pose in poses])
    confidence = confidence / np.percentile(confidence, SUREST)
    picture = draw_points(points, confidence, R, centers, predictor.decoder.unit)
    file = folder.parent / f"cloud_{name}.ply"
    told = f"points that {len(poses)} poses rest on, yellow the surest; dots: cameras; {file.name} holds {len(points)}"
    save_votes(folder, name, [(picture, told)])
    faces = np.empty((0, 3), dtype=np.int64)
    try:
        save_ply(Mesh(points, faces, confidence_colors(confidence), None, None, normals), file)
    except OSError as error:
        raise DataError(describe(file, "file", error, "a disk with room")) from error


def believed(predictor: Predictor, queries: Sequence[FrameQuery]) -> tuple[Array, Array, Array, list[Pose]]:
    """``[N, 3]`` points that agree with the poses, ``[N, 3]`` ways to their cameras, ``[N]`` confidence; the poses."""
    decoder, points, normals, confidence, poses = predictor.decoder, [], [], [], []
    assert isinstance(decoder, SceneCoordinatesDecoder)
    for query in queries:
        prepared = decoder.prepare(query.request())
        seen = decoder.explain(predictor.outputs_of([prepared])[0], prepared)
        if seen.pose is not None:
            kept = seen.points[seen.inliers]
            way = seen.pose.center - kept
            points.append(kept)
            normals.append(way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12))
            confidence.append(seen.confidence[seen.inliers])
            poses.append(seen.pose)
    if not poses:
        return np.empty((0, 3)), np.empty((0, 3)), np.empty(0), poses
    return np.concatenate(points), np.concatenate(normals), np.concatenate(confidence), poses
