"""The runtime in a process where nothing of the training side can be imported."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import posedistill
from posedistill.geometry.rotations import quaternion_to_matrix
from posedistill.runtime import Predictor

SOURCE = Path(posedistill.__file__).parent
HEAVY = (
    "torch", "torchvision", "timm", "lightning_fabric", "trimesh", "embreex", "scipy", "safetensors", "pydantic",
    "yaml", "matplotlib", "onnx", "onnxscript", "tensorboard", "psutil", "PIL",
)  # fmt: skip
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run_light(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_block_works():
    with pytest.raises(AssertionError, match="blocked: torch"):
        run_light("import torch")


def test_light_modules_import():
    names = [
        ".".join(("posedistill", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for room in ("runtime", "decode", "geometry")
        for path in sorted((SOURCE / room).rglob("*.py"))
    ]
    names += [
        "posedistill",
        "posedistill.cli",
        "posedistill.poses",
        "posedistill.deploy.predict.base",
        "posedistill.deploy.predict.presenters",
        "posedistill.deploy.bench",
        "posedistill.deploy.evaluators.files",
    ]
    assert len(names) > 12
    run_light("import importlib\nfor name in " + repr(names) + ": importlib.import_module(name)")


def test_predicts_from_a_file(scene, model_file, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), scene.image[..., ::-1])
    code = f"""
import json
from pathlib import Path
from posedistill.deploy.predict.base import predict_images
from posedistill.deploy.predict.objects import Box, ObjectPresenter
from posedistill.runtime import Predictor
predictor = Predictor.from_onnx({str(model_file)!r}, threads=1)
boxes = [Box(6, tuple({scene.box.tolist()}))]
photo, out = Path({str(tmp_path / "photo.png")!r}), Path({str(tmp_path / "out")!r})
(pose,) = predict_images(ObjectPresenter(predictor, boxes), [photo], out)[0].poses
print(json.dumps([pose.t.tolist(), pose.R.tolist()]))
"""
    t, R = json.loads(run_light(code))
    np.testing.assert_allclose(t, scene.t, atol=0.2)
    np.testing.assert_allclose(R, scene.R, atol=1e-3)
    assert (tmp_path / "out" / "photo.png").is_file() and (tmp_path / "out" / "results.csv").is_file()


@pytest.mark.parametrize(("name", "family"), [("linemod_cat_codes", "zebrapose"), ("redkitchen", "scene_coordinates")])
def test_shipped_files_say_the_same(name: str, family: str):
    """Codes need neither mesh nor ray casting, points of a scene no cloud."""
    file = Path(__file__).parents[2] / "models" / f"{name}.onnx"
    code = f"""
import json
from posedistill.runtime import Predictor
predictor = Predictor.from_onnx({str(file)!r}, threads=1)
decoder = predictor.decoder
assert decoder.family == {family!r}
prepared = decoder.prepare(decoder.example(1)[0])
said = predictor.outputs_of([prepared])[0]
poses = decoder.decode(decoder.stand_in(prepared) or said, prepared)
print(json.dumps([{{key: float(value.mean()) for key, value in said.items()}}, [pose.t.tolist() for pose in poses]]))
"""
    said, poses = json.loads(run_light(code))
    predictor = Predictor.from_onnx(file, threads=1)
    prepared = predictor.decoder.prepare(predictor.decoder.example(1)[0])
    ours = predictor.outputs_of([prepared])[0]
    assert said == pytest.approx({key: float(value.mean()) for key, value in ours.items()}, rel=1e-3, abs=1e-4)
    found = predictor.decoder.decode(predictor.decoder.stand_in(prepared) or ours, prepared)
    np.testing.assert_allclose(poses, [pose.t for pose in found], rtol=1e-3)
    assert poses or family != "zebrapose"


def test_tells_where_a_camera_stands(camera_model_file, tmp_path):
    """The mean colour is the place: a picture of one colour says it exactly."""
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((60, 100, 3), (51, 102, 204), np.uint8)[..., ::-1])
    code = f"""
import json
from pathlib import Path
from posedistill.data.images import read_image
from posedistill.runtime import Predictor
predictor = Predictor.from_onnx({str(camera_model_file)!r}, threads=1)
(found,) = predictor.predict(read_image(Path({str(tmp_path / "photo.png")!r})))
print(json.dumps([found.center.tolist(), found.R.tolist()]))
"""
    center, R = json.loads(run_light(code))
    np.testing.assert_allclose(center, [0.2, 0.4, 0.8], atol=1e-5)
    np.testing.assert_allclose(R, quaternion_to_matrix(np.array([1, 2, 2, 4])), atol=1e-6)
