import numpy as np
import pytest

from posedistill.decode import Prepared, Request, ViewpointDecoder
from posedistill.decode.base import RecordFault
from posedistill.decode.viewpoint import ANGLES, REACH, bin_counts, decode_angle
from posedistill.errors import DataError
from posedistill.geometry.rotations import angle_between
from posedistill.geometry.viewpoint import label_angles, viewpoint_rotation

RNG = np.random.default_rng(0)
GRIDS = ("centred", "published")


def outputs_for(labels, grid, size=15.0):
    """What a perfect network says of label angles ``[B, 3]``: one bin, and how far the angle is off its middle."""
    outputs = {}
    for place, (name, count) in enumerate(bin_counts(grid, size).items()):
        angles, circular = labels[:, place], name != "elevation"
        if grid == "published":
            bins = np.floor(angles / size).astype(int)
            share = 2 * (angles / size - bins - 0.5)
        else:
            bins = np.rint(angles / size).astype(int)
            share = (angles / size - bins) / REACH
        logits = np.full((len(labels), count), -40.0)
        logits[np.arange(len(labels)), bins % count if circular else bins] = 40.0
        offsets = np.zeros_like(logits)
        offsets[np.arange(len(labels)), bins % count if circular else bins] = np.arctanh(
            np.clip(share, -0.9999, 0.9999)
        )
        outputs |= {name: logits, f"{name}_offset": offsets}
    return outputs


@pytest.mark.parametrize("grid", GRIDS)
def test_perfect_outputs_give_the_viewpoint_back(grid):
    viewpoint = RNG.uniform([0, -80, -180], [360, 80, 180], (200, 3))
    outputs = outputs_for(label_angles(viewpoint), grid)
    decoder = ViewpointDecoder(crop_size=32, grid=grid)
    prepared = Prepared.of_pictures({"images": np.zeros((200, 3, 32, 32))}, np.tile(np.eye(3), (200, 1, 1)))
    poses = decoder.decode(outputs, prepared)
    off = np.rad2deg(angle_between(np.stack([pose.R for pose in poses]), viewpoint_rotation(viewpoint)))
    assert np.median(off) < 0.001 and off.max() < 0.01
    assert all(np.isnan(pose.t).all() and pose.score == pytest.approx(1) for pose in poses)


def test_upright_views_from_the_front_are_beyond_no_edge_of_centred_bins():
    """Where the published bins part, noise flips a bin; the centred ones agree whichever of two wins."""
    logits, offsets = np.full((2, 24), -20.0), np.zeros((2, 24))
    logits[:, [0, 23]] = [[5.0, 4.9], [4.9, 5.0]]  # 7.5 degrees short of 360 by either
    offsets[:, 0], offsets[:, 23] = np.arctanh(-0.5 / REACH), np.arctanh(0.5 / REACH)
    angles = decode_angle(logits, offsets, "centred", 15.0, circular=True)
    assert angles == pytest.approx(352.5)


def test_angles_go_round():
    logits = np.zeros((1, 24))
    logits[0, [0, 23, 1]] = [3.0, 2.0, 1.0]
    angle = decode_angle(logits, np.zeros((1, 24)), "centred", 15.0, circular=True)[0]
    assert 345 < angle < 360
    elevation = decode_angle(np.eye(13)[[0, 12]] * 50, np.zeros((2, 13)), "centred", 15.0, circular=False)
    assert elevation == pytest.approx([0.0, 180.0], abs=1e-9)


def test_a_crop_for_each_box():
    image = np.full((60, 100, 3), 200, np.uint8)
    image[20:40, 30:70] = 10
    decoder = ViewpointDecoder(crop_size=40, pad=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, names=("car", "bus"))
    prepared = decoder.prepare(Request(image, None, np.array([[30.0, 20.0, 40.0, 20.0]]), [1]))
    crop = 255 * prepared.inputs["images"][0, 0]
    assert crop.shape == (40, 40)
    assert np.median(crop[12:28]) == 10 and np.median(crop[:8]) == 200  # the long side fills the crop
    assert prepared.labels.tolist() == [1]
    assert list(prepared.inputs) == ["images"]


def test_a_whole_picture_without_boxes():
    decoder = ViewpointDecoder(crop_size=32)
    prepared = decoder.prepare(Request(np.zeros((50, 80, 3), np.uint8)))
    assert prepared.boxes.tolist() == [[0, 0, 80, 50]] and prepared.labels.tolist() == [-1]


def test_shapes_are_looked_up_by_label():
    clouds = RNG.normal(size=(2, 7, 3))
    decoder = ViewpointDecoder(crop_size=32, names=("car/01", "bus/02"), orders=np.array([1, 2]), clouds=clouds)
    request = Request(np.zeros((50, 80, 3), np.uint8), None, np.array([[0.0, 0, 80, 50]] * 2), [1, 0])
    np.testing.assert_allclose(decoder.prepare(request).inputs["clouds"], clouds[::-1], rtol=1e-6)
    with pytest.raises(DataError, match=r"labels.*found -1.*one of the 2 shapes"):
        decoder.prepare(Request(np.zeros((50, 80, 3), np.uint8)))
    section, tables = decoder.record()
    again = ViewpointDecoder.from_record(section, tables)
    np.testing.assert_allclose(again.clouds, clouds, rtol=1e-6)
    assert (again.names, again.grid, again.outputs) == (decoder.names, decoder.grid, decoder.outputs)
    assert again.orders_of(["bus", "boat", "car"]).tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"crop_size": 0}, "crop_size"),
        ({"pad": 0.0}, "pad"),
        ({"grid": "hexagonal"}, "grid"),
        ({"bin_size": 7.0}, "bin_size"),
        ({"clouds": np.zeros((1, 5, 3))}, "clouds"),
        ({"names": ("car/",), "orders": np.array([3])}, "orders"),
        ({"orders": np.array([2])}, "orders"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong, key):
    with pytest.raises(RecordFault, match=key):
        ViewpointDecoder(**{"crop_size": 32, **wrong})


def test_outputs_are_named_in_the_published_order():
    decoder = ViewpointDecoder(crop_size=32, grid="published")
    assert list(decoder.outputs) == [*ANGLES, *(f"{name}_offset" for name in ANGLES)]
    assert [shape[0] for shape in decoder.outputs.values()] == [24, 12, 24] * 2


def test_heads_of_rotations():
    viewpoint = RNG.uniform([0, -80, -180], [360, 80, 180], (20, 3))
    R = viewpoint_rotation(viewpoint)
    prepared = Prepared.of_pictures({"images": np.zeros((20, 3, 32, 32))}, np.tile(np.eye(3), (20, 1, 1)))
    columns = {"rotation": 3 * np.concatenate([R[..., 0], R[..., 1]], axis=1)}
    sure = {"rotation": 50 * R.reshape(20, 9)}
    for head, outputs, score in (("6d", columns, 1.0), ("fisher", sure, 100 / 101)):
        decoder = ViewpointDecoder(crop_size=32, head=head)
        assert decoder.outputs == {"rotation": outputs["rotation"].shape[1:]}
        poses = decoder.decode(outputs, prepared)
        np.testing.assert_allclose(np.stack([pose.R for pose in poses]), R, atol=1e-9)
        assert poses[0].score == pytest.approx(score)
    with pytest.raises(RecordFault, match=r"'head': found quaternion"):
        ViewpointDecoder(crop_size=32, head="quaternion")
