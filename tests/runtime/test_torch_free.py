"""The runtime in a process where nothing of the training side can be imported."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import posedistill

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
        for path in sorted((SOURCE / room).glob("*.py"))
    ]
    names += [
        "posedistill",
        "posedistill.cli",
        "posedistill.poses",
        "posedistill.deploy.predict",
        "posedistill.deploy.bench",
    ]
    assert len(names) > 12
    run_light("import importlib\nfor name in " + repr(names) + ": importlib.import_module(name)")


def test_predicts_from_a_file(scene, model_file, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), scene.image[..., ::-1])
    code = f"""
import json
from pathlib import Path
from posedistill.deploy.predict import Box, predict_images
from posedistill.runtime.predictor import Predictor
predictor = Predictor.from_onnx({str(model_file)!r}, threads=1)
boxes = [Box(6, tuple({scene.box.tolist()}))]
poses = predict_images(predictor, [Path({str(tmp_path / "photo.png")!r})], boxes, out=Path({str(tmp_path / "out")!r}))
print(json.dumps([poses.t[0].tolist(), poses.R[0].tolist()]))
"""
    t, R = json.loads(run_light(code))
    np.testing.assert_allclose(t, scene.t, atol=0.2)
    np.testing.assert_allclose(R, scene.R, atol=1e-3)
    assert (tmp_path / "out" / "photo.png").is_file() and (tmp_path / "out" / "results.csv").is_file()
