import base64
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.data.test_fuzz import mutated_bytes, mutated_json

from posedistill.decode import PoseNetDecoder, WDRNetDecoder
from posedistill.decode.base import RecordFault
from posedistill.errors import CheckpointError
from posedistill.geometry.cameras import Camera
from posedistill.geometry.draw.poses import Shape
from posedistill.geometry.objects import ObjectTable
from posedistill.runtime import Predictor
from posedistill.runtime.record import PROPERTY, TABLES, Record, open_session

CAMERA = Camera(np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
LENS = PoseNetDecoder(shape=(224, 224), short_side=256, rotation="quaternion", camera=CAMERA, distortion=(-0.1, 0.02))
SQUEEZED = PoseNetDecoder(shape=(224, 300), frame_size=(455, 256), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)


def changed(decoder, section=None, **content) -> dict[str, str]:
    """The properties of a record with other values in its section, or beside it."""
    properties = Record(decoder).to_properties()
    values = {**json.loads(properties[PROPERTY]), **content}
    values["section"] = {**values["section"], **(section or {})}
    return {**properties, PROPERTY: json.dumps(values)}


def without(decoder, *path: str) -> dict[str, str]:
    """The properties of a record that lacks a key."""
    properties = Record(decoder).to_properties()
    values = part = json.loads(properties[PROPERTY])
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return {**properties, PROPERTY: json.dumps(values)}


def refused(properties: dict[str, str], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Record.from_properties(properties, "cut.onnx")


@pytest.fixture
def full(scene) -> WDRNetDecoder:
    """With shapes, and symmetries of several lengths."""
    symmetries = (np.eye(4)[None], np.stack([np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])]))
    objects = ObjectTable((6, 9), scene.decoder.objects.keypoints / 3, np.array([1.1, 2.0]), symmetries)
    shape = Shape(np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [0.0, 2.5, 0.0]]), np.array([[0, 1, 2]]))
    decoding = replace(scene.decoder.decoding, score_threshold=0.2)
    return replace(scene.decoder, objects=objects, shapes=(shape, shape), decoding=decoding)


def test_places_of_training_cameras_travel_along(full):
    places = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    properties = Record(full, places=places).to_properties()
    np.testing.assert_array_equal(Record.from_properties(properties, "file").places, places)
    assert Record.from_properties(Record(full).to_properties(), "file").places is None
    with pytest.raises(CheckpointError, match=r"'places': found float32 \(3,\), expected \[M, 3\] finite numbers"):
        Record.from_properties(Record(full, places=places[0]).to_properties(), "file")


class TestRoundTrip:
    def test_of_objects(self, full, scene):
        again = Record.from_properties(Record(full, "renders", 7, "0.9").to_properties(), "file")
        assert (again.training, again.parameters, again.version) == ("renders", 7, "0.9")
        read = again.decoder
        assert read.record()[0] == full.record()[0] and (read.names, read.strides) == (("cat", "duck"), (8, 16))
        assert read.decoding.score_threshold == 0.2 and read.objects.obj_ids == (6, 9)
        np.testing.assert_array_equal(read.objects.keypoints, full.objects.keypoints)
        np.testing.assert_array_equal(read.objects.diameters, full.objects.diameters)
        for ours, theirs in zip(read.objects.symmetries, full.objects.symmetries, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(read.camera.K, scene.K)
        np.testing.assert_allclose(read.shape(9).vertices, full.shapes[1].vertices, atol=1e-6)
        np.testing.assert_array_equal(read.shape(9).faces, [[0, 1, 2]])

    @pytest.mark.parametrize("decoder", [LENS, SQUEEZED, replace(SQUEEZED, reference=np.diag([-1.0, -1.0, 1.0]) / 3)])
    def test_of_a_scene(self, decoder):
        read = Record.from_properties(Record(decoder).to_properties(), "file").decoder
        assert read.record()[0] == decoder.record()[0]
        np.testing.assert_array_equal(read.reference, decoder.reference)

    def test_without_camera_and_shapes(self, scene):
        bare = WDRNetDecoder(objects=scene.decoder.objects, crop_size=64, strides=(8, 16))
        read = Record.from_properties(Record(bare).to_properties(), "file").decoder
        assert read.camera is None and read.default_K(640, 480) is None
        assert read.shape(6) is None and read.name(6) == "object 6"

    def test_of_distances(self, full):
        calibrated = replace(full, distance=(0.98, 1.01))
        assert Record.from_properties(Record(calibrated).to_properties(), "file").decoder.distance == (0.98, 1.01)
        assert Record.from_properties(Record(full).to_properties(), "file").decoder.distance == ()

    def test_inputs_and_outputs_are_told_to_whoever_reads_the_json(self, scene):
        content = json.loads(Record(scene.decoder).to_properties()[PROPERTY])
        assert content["family"] == "wdrnet" and content["inputs"] == {"images": [3, 64, 64], "classes": []}
        assert content["outputs"] == {"logits": [80], "votes": [80, 8, 2]}

    def test_the_same_record_is_the_same_text(self, full):
        assert Record(full).to_properties() == Record(full).to_properties()


class TestRefusals:
    @pytest.mark.parametrize("distance", [(0.98,), (0.98, 0.0), (0.98, float("nan"))])
    def test_distances_that_cannot_be(self, full, distance):
        with pytest.raises(RecordFault, match=r"'distance': found .*, expected 2 positive factors"):
            replace(full, distance=distance)

    @pytest.mark.parametrize("key", ["crop_size", "strides", "mean", "decoding", "camera", "names"])
    def test_missing_key_of_objects(self, scene, key):
        refused(without(scene.decoder, "section", key), f"cut.onnx: '{key}': found no such key")

    @pytest.mark.parametrize("key", ["short_side", "frame_size", "shape", "distortion", "camera", "metric", "rotation"])
    def test_missing_key_of_a_scene(self, key):
        refused(without(LENS, "section", key), f"cut.onnx: '{key}': found no such key")

    @pytest.mark.parametrize("key", ["family", "inputs", "outputs", "training", "parameters", "version", "section"])
    def test_missing_key_of_all(self, key):
        refused(without(LENS, key), f"cut.onnx: '{key}': found no such key")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("crop_size", "large"),
            ("crop_size", 0),
            ("strides", []),
            ("strides", 8),
            ("mean", [0.5, 0.5]),
            ("std", [0.5, 0.5, 0.0]),
            ("camera", {"K": [[1, 0], [0, 1]], "width": 3, "height": 4}),
            ("names", ["only one"]),
            ("pad", None),
            ("decoding", {"no_such_option": 1}),
        ],
    )
    def test_bad_value_of_objects(self, scene, key, value):
        refused(changed(scene.decoder, {key: value}), f"'{key}': found")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("short_side", "large"),
            ("shape", [224]),
            ("shape", 224),
            ("shape", [0, 224]),
            ("shape", [257, 300]),
            ("mean", [0.5, 0.5]),
            ("std", [0.5, 0.5, 0.0]),
            ("camera", {"K": [[1, 0], [0, 1]], "width": 3, "height": 4}),
            ("distortion", [0.1] * 6),
            ("distortion", "strong"),
            ("metric", 1),
            ("rotation", "euler"),
        ],
    )
    def test_bad_value_of_a_scene(self, key, value):
        refused(changed(LENS, {key: value}), f"'{key}': found")

    def test_contradictions(self):
        for values in ({"frame_size": [455, 256]}, {"short_side": None}):
            refused(changed(LENS, values), r"'short_side, frame_size': found \(.*\), expected one of them")
        refused(changed(LENS, {"camera": None}), r"'distortion': found .* with a camera")
        refused(changed(SQUEEZED, {"shape": [300, 224]}), r"'shape': found \(300, 224\), .* within 455x256 photographs")
        refused(changed(LENS, outputs={"position": [3]}), r"'outputs': found .* as its section says")

    def test_foreign_text(self):
        refused({}, "'posedistill': found no such metadata, expected a model written by posedistill export")
        refused({PROPERTY: "{cut"}, "no JSON")
        refused({PROPERTY: "[]"}, "found list")
        refused(changed(LENS, format=99), "'format': found 99, expected 2")
        refused(changed(LENS, surprise=1), "'surprise': found an unknown key")
        refused(changed(LENS, {"surprise": 1}), "'surprise': found an unknown key")
        refused(changed(LENS, family="zebra"), r"'family': found zebra, expected one of .*'wdrnet'")
        refused(changed(LENS, inputs=3), "'inputs': found 3")

    def test_a_file_of_the_first_format_is_told_how_to_be_made_anew(self):
        text = json.dumps({"format": 1, "decoder": "wdrnet"})
        refused({PROPERTY: text}, r"'format': found 1, expected 2 .* posedistill export RUN_FOLDER writes it anew")

    def test_tables(self, scene):
        whole = Record(scene.decoder).to_properties()
        refused({PROPERTY: whole[PROPERTY]}, f"'{TABLES}': found")
        refused({**whole, TABLES: "no base64!"}, f"'{TABLES}': found")
        refused({**whole, TABLES: whole[TABLES][:400]}, f"'{TABLES}': found")
        refused({**whole, TABLES: Record(LENS).to_properties()[TABLES]}, r"'obj_ids': found tables \['reference'\]")
        pickled = base64.b64encode(b"\x80\x04N.").decode()
        refused({**whole, TABLES: pickled}, f"'{TABLES}': found")


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.onnx: 'file': found nothing"):
            Predictor.from_onnx(tmp_path / "none.onnx")

    def test_damaged(self, model_file):
        model_file.write_bytes(model_file.read_bytes()[:-200])
        with pytest.raises(CheckpointError, match=r"model\.onnx: 'model'"):
            Predictor.from_onnx(model_file)

    @pytest.mark.parametrize("name", ["linemod_cat_yolo6d", "cars"])
    def test_damaged_records_end_in_errors_of_ours(self, name):
        """Many versions of the record of a model that comes along: refused by name, or read."""
        path = Path(__file__).parents[2] / "models" / f"{name}.onnx"
        properties = dict(open_session(path, 1).get_modelmeta().custom_metadata_map)
        for number in range(150):
            key, mutated = (TABLES, mutated_bytes) if number % 3 == 0 else (PROPERTY, mutated_json)
            damaged = mutated(properties[key].encode(), np.random.default_rng(number)).decode("utf-8", "replace")
            with contextlib.suppress(CheckpointError):
                Record.from_properties(properties | {key: damaged}, path)

    def test_metadata_of_no_text(self, scene, tmp_path, writer):
        writer(tmp_path / "bytes.onnx", scene, Record(scene.decoder).to_properties())
        data = (tmp_path / "bytes.onnx").read_bytes()
        (tmp_path / "bytes.onnx").write_bytes(data.replace(b'{"format"', b'{"f\xffrmat"'))
        with pytest.raises(CheckpointError, match=r"bytes\.onnx: 'metadata': found 'utf-8' codec"):
            Predictor.from_onnx(tmp_path / "bytes.onnx")

    def test_no_onnx_at_all(self, tmp_path):
        (tmp_path / "x.onnx").write_text("hello")
        with pytest.raises(CheckpointError, match="expected a readable ONNX model"):
            Predictor.from_onnx(tmp_path / "x.onnx")

    def test_foreign(self, scene, tmp_path, writer):
        writer(tmp_path / "foreign.onnx", scene, {"author": "somebody"})
        with pytest.raises(CheckpointError, match="expected a model written by posedistill export"):
            Predictor.from_onnx(tmp_path / "foreign.onnx")

    def test_a_record_of_another_graph(self, scene, tmp_path, writer, camera_model_file, posenet_decoder):
        writer(tmp_path / "mixed.onnx", scene, Record(scene.decoder).to_properties(), size=96)
        with pytest.raises(CheckpointError, match=r"'inputs': found .*96.*, expected .*'images': \(3, 64, 64\)"):
            Predictor.from_onnx(tmp_path / "mixed.onnx")
        writer(tmp_path / "cells.onnx", scene, Record(replace(scene.decoder, strides=(8,))).to_properties())
        predictor = Predictor.from_onnx(tmp_path / "cells.onnx")
        with pytest.raises(CheckpointError, match="network output: 'logits': found shape"):
            predictor.predict(scene.image, scene.K, scene.box[None], [6])
        model = onnx.load(camera_model_file)
        onnx.helper.set_model_props(model, Record(posenet_decoder).to_properties())
        model.graph.output.pop()
        onnx.save(model, camera_model_file)
        with pytest.raises(CheckpointError, match=r"'outputs': found .*, expected 'position' and 'rotation'"):
            Predictor.from_onnx(camera_model_file)


FRAMES = {"lm/test": np.array([[6, 0], [6, 12]]), "lm/real": np.array([[1, 3]]), "heads": np.array(["seq-01/0.png"])}


class TestTrainingFrames:
    def test_they_are_tables_in_the_file(self, scene):
        properties = Record(scene.decoder, frames=FRAMES).to_properties()
        read = Record.from_properties(properties, "file").frames
        assert read is not None and list(read) == list(FRAMES)
        for name, frames in FRAMES.items():
            np.testing.assert_array_equal(read[name], frames)

    def test_none_and_unknown_differ(self):
        """A model of renders was trained on no real frame; a file that says nothing reads as it always did."""
        assert Record.from_properties(Record(LENS, frames={}).to_properties(), "file").frames == {}
        silent = Record(LENS).to_properties()
        assert "frames" not in json.loads(silent[PROPERTY]) and Record.from_properties(silent, "file").frames is None

    def test_what_cannot_be_is_refused(self):
        refused(changed(LENS, frames=["lm/test"]), "'frames/lm/test': found no such table")
        refused(changed(LENS, frames=["../reference"]), "'frames/../reference': found no such table")
        refused(changed(LENS, frames=3), "'frames': found 3")
        broken = Record(LENS, frames={"lm/test": np.eye(2)}).to_properties()
        refused(broken, r"'frames/lm/test': found float64 \(2, 2\), expected \[n, 2\] ids")
