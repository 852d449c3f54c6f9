"""Export parity and silhouettes on LINEMOD photographs; skipped where the data are not at hand."""

from pathlib import Path

import pytest

from posedistill.data.formats.bop import BopDataset, Frame
from posedistill.data.images import read_image, read_mask
from posedistill.deploy.export import check_parity
from posedistill.deploy.shapes import coarse_shape
from posedistill.geometry.draw.poses import silhouette
from posedistill.geometry.meshes import load_mesh
from posedistill.runtime import Request


@pytest.fixture(scope="module")
def frames(real_data: Path) -> list[Frame]:
    return BopDataset(real_data / "lm", split="test", scenes=[6], obj_ids=[6]).frames[::60]


def test_votes_and_poses_agree_on_photographs(estimator, exported, frames):
    requests = [Request(read_image(frame.rgb), frame.K, frame.instances[0].bbox_obj[None], [6]) for frame in frames]
    parity = check_parity(estimator.network, exported, requests)
    assert parity.rows == len(frames) >= 3 and parity.outputs["votes (px)"] < 0.01 and parity.degrees < 0.1


def test_silhouette_of_the_true_pose_covers_the_mask(frames, real_data):
    mesh = load_mesh(real_data / "lm" / "models_eval" / "obj_000006.ply")
    shape = coarse_shape(mesh.vertices, mesh.faces, cells=32)
    for frame in frames:
        instance = frame.instances[0]
        mask = read_mask(instance.mask_visib)
        drawn = silhouette(shape, instance.R, instance.t, frame.K, mask.shape)
        assert (mask & drawn).sum() / (mask | drawn).sum() > 0.88
