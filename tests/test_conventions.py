"""Training, evaluation and runtime must see the same crop of the same object, and mean the same by its pose."""

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.loading.augment import AugmentSettings
from posedistill.data.loading.crop_view import CropView
from posedistill.data.loading.loader import Loader
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.object_frames import ObjectFrames
from posedistill.data.render.shapes import code_models_info, code_objects
from posedistill.decode import WDRNetDecoder
from posedistill.deploy.evaluate import ground_truth_boxes
from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import hull_corners
from posedistill.geometry.rotations import angle_between, random_rotations
from posedistill.geometry.symmetries import equivalent_poses
from posedistill.runtime.predictor import Predictor

K = np.array([[520.0, 0.0, 161.0], [0.0, 525.0, 118.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two frames of noise with the objects made in code, one of them cut by the border and one symmetric."""
    root = tmp_path_factory.mktemp("conventions")
    rng = np.random.default_rng(0)
    meshes = code_objects()
    hulls = {obj_id: hull_corners(mesh.vertices) for obj_id, mesh in meshes.items()}
    writer = BopWriter(root, "test", jpeg_quality=None)
    for im_id in range(2):
        image = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 1.5)
        places = {1: (-70.0, -40.0, 620.0), 2: (90.0, 50.0, 520.0), 3: (170.0, -60.0, 700.0)}
        poses, masks = [], []
        for (obj_id, t), R in zip(places.items(), random_rotations(3, rng), strict=True):
            outline = cv2.convexHull(np.rint(project(hulls[obj_id], R, np.array(t), K)).astype(np.int32))
            masks.append(cv2.fillConvexPoly(np.zeros((HEIGHT, WIDTH), np.uint8), outline, 1).astype(bool))
            poses.append((obj_id, R, np.array(t)))
        writer.add_frame(0, im_id, image, K, poses, None, masks, masks)
    writer.finish_scene(0)
    write_models(root, meshes, infos=code_models_info())
    write_camera(root, K, WIDTH, HEIGHT)
    return BopDataset(root)


@pytest.mark.parametrize("size", [160, 32])
def test_the_loader_and_the_predictor_see_the_same(dataset, tmp_path, size):
    """At 32 px the crops lie far below the frame's scale; both average then, over the same blocks."""
    objects = dataset.objects()
    pack = build_pack(ObjectFrames(dataset, objects.obj_ids), tmp_path / "pack")
    loader = Loader(CropView([pack], objects, AugmentSettings(), size), 6, 0, "cpu", augment=False, threads=1)
    batch = loader.batch(0)
    keypoints = batch.targets["keypoints"].numpy()

    def run(inputs):
        logits = np.full((len(inputs["images"]), 16), 4.0, np.float32)
        return {"logits": logits, "votes": np.repeat(keypoints[rows, None], 16, axis=1)}

    predictor = Predictor(run, WDRNetDecoder(objects=objects, crop_size=size, strides=(size // 4,)))
    for frame, wanted in enumerate(ground_truth_boxes(dataset, objects)):
        rows = slice(3 * frame, 3 * frame + 3)
        prepared = predictor.decoder.prepare(wanted.request())
        np.testing.assert_array_equal(prepared.inputs["classes"], batch.label.numpy()[rows])
        np.testing.assert_allclose(prepared.K, batch.K.numpy()[rows], rtol=1e-6, atol=1e-4)
        difference = np.abs(prepared.inputs["images"] - batch.images.numpy()[rows])
        assert difference.max() < 0.02  # a grey level
        poses, instances = (
            predictor.predict_many([wanted.request()]),
            dataset.frame(wanted.scene_id, wanted.im_id).instances,
        )
        for pose, instance in zip(next(poses), instances, strict=True):
            symmetries = objects.symmetries[objects.index(instance.obj_id)]
            rotations, translations = equivalent_poses(instance.R, instance.t, symmetries)
            assert np.degrees(angle_between(pose.R, rotations)).min() < 0.05
            assert np.linalg.norm(pose.t - translations, axis=-1).min() < 0.5
