import cv2
import numpy as np
import pytest

from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.formats.viewpoint.renderings import mirrored_order, read_renderings, rendering_path, view_angles
from posedistill.data.images import write_image
from posedistill.errors import DataError


def test_rings_of_views():
    angles = view_angles(12, 2)
    assert angles[:6] == [(azimuth, 0) for azimuth in range(0, 360, 60)] and angles[6] == (0, 30)
    assert len(view_angles(36, 3)) == 36 and {elevation for _, elevation in view_angles(3, 3)} == {0, 30, 60}
    for count, tour in ((7, 2), (12, 4), (1, 2), (14, 2)):
        with pytest.raises(DataError, match=rf"{count} views on a tour of {tour}"):
            view_angles(count, tour)


def test_mirrored_shapes_are_seen_from_the_other_side():
    order = mirrored_order(view_angles(12, 2))
    assert order.tolist() == [0, 5, 4, 3, 2, 1, 6, 11, 10, 9, 8, 7]


def test_renderings_are_read_scaled_and_padded(tmp_path):
    kinds, angles = [Kind("car", "3"), Kind("car", "sedan")], [(0, 30), (180, 30)]
    for kind in kinds:
        for azimuth, elevation in angles:
            wide = np.full((20, 40, 3), (200, 40, 10), np.uint8)
            write_image(rendering_path(tmp_path, kind, azimuth, elevation), wide)
    seen = np.zeros((10, 5, 4), np.uint8)
    seen[:, :, :3], seen[:, 2:, 3] = (10, 40, 200), 255  # blue, green, red; the left is clear
    path = rendering_path(tmp_path, kinds[0], 180, 30)
    assert path == tmp_path / "car/03/crop/rendering_030_180.png"
    cv2.imwrite(str(path), seen)
    found = read_renderings(tmp_path, kinds, angles, 32)
    assert found.shape == (2, 2, 32, 32, 3) and found.dtype == np.uint8
    assert found[0, 0, 16, 16].tolist() == [200, 40, 10] and not found[0, 0, :7].any() and not found[0, 0, -7:].any()
    assert found[0, 1, 16, 20].tolist() == [200, 40, 10] and not found[0, 1, :, :9].any()  # padded, and clear is black


def test_faults(tmp_path):
    kind, angles = Kind("car", "3"), [(0, 30)]
    with pytest.raises(DataError, match=r"rendering_030_000\.png.*no such file.*data views"):
        read_renderings(tmp_path, [kind], angles, 32)
    path = rendering_path(tmp_path, kind, 0, 30)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no colour picture"):
        read_renderings(tmp_path, [kind], angles, 32)
