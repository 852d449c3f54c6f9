import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.data.render.layout import Body, Scene, sample_scene, view_rotation
from posedistill.data.render.settings import RenderSettings
from posedistill.geometry.cameras import project
from posedistill.geometry.objects import box_corners
from posedistill.geometry.rotations import is_rotation


def box_body(obj_id: int | None, size: tuple[float, float, float]) -> Body:
    half = np.array(size) / 2
    return Body(obj_id, box_corners(-half, half), np.zeros(3), float(np.linalg.norm(half)))


BODIES = [
    box_body(1, (80, 60, 100)),
    box_body(2, (40, 120, 60)),
    box_body(3, (70, 70, 70)),
    box_body(None, (90, 50, 30)),
]


def views(scene: Scene) -> list[tuple[float, float]]:
    """Elevation (degrees) and distance (mm) of the camera in each object's frame."""
    result = []
    for placement in scene.placements:
        if BODIES[placement.body].obj_id is not None:
            eye = -placement.R.T @ placement.t
            distance = float(np.linalg.norm(eye))
            result.append((float(np.degrees(np.arcsin(eye[2] / distance))), distance))
    return result


@given(st.floats(0, 6.28), st.floats(-1.57, 1.57), st.floats(-3.1, 3.1))
def test_view_rotation_puts_the_camera_where_it_says(azimuth: float, elevation: float, inplane: float) -> None:
    R = view_rotation(azimuth, elevation, inplane)
    assert is_rotation(R)
    towards = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    np.testing.assert_allclose(-R[2], towards, atol=1e-9)


def test_free_views_keep_to_the_view_sphere_and_fill_it() -> None:
    settings = RenderSettings(tabletop=0, elevation=(20, 60), distance=(600, 900), distractors=(0, 2))
    seen = [view for seed in range(60) for view in views(sample_scene(BODIES, settings, np.random.default_rng(seed)))]
    elevations, distances = np.array(seen).T
    assert elevations.min() > 19.9
    assert elevations.max() < 60.1
    assert np.ptp(elevations) > 35
    assert distances.min() > 595
    assert distances.max() < 1000  # sideways of the anchor
    assert np.ptp(distances) > 200


def test_things_on_a_table_stand_on_it_apart_and_upright() -> None:
    settings = RenderSettings(tabletop=1, elevation=(10, 80), distractors=(0, 1))
    for seed in range(30):
        scene = sample_scene(BODIES, settings, np.random.default_rng(seed))
        assert scene.table is not None
        tops = []
        for placement in scene.placements:
            body = BODIES[placement.body]
            hull = (body.hull @ placement.R.T + placement.t - scene.table.t) @ scene.table.R
            if body.obj_id is None:
                continue
            assert hull[:, 2].min() == pytest.approx(0, abs=1e-6)
            np.testing.assert_allclose(placement.R[:, 2], scene.table.R[:, 2], atol=1e-9)
            tops.append(hull[:, :2].mean(axis=0))
        gaps = np.linalg.norm(np.array(tops)[:, None] - np.array(tops), axis=-1) + 1e3 * np.eye(len(tops))
        assert gaps.min() > 45


def test_objects_are_before_the_camera_and_in_the_image() -> None:
    settings = RenderSettings(objects_per_image=(2, 3), distractors=(0, 3))
    inside = []
    for seed in range(60):
        scene = sample_scene(BODIES, settings, np.random.default_rng(seed))
        ids = [BODIES[p.body].obj_id for p in scene.placements if BODIES[p.body].obj_id is not None]
        assert len(set(ids)) == len(ids)
        assert 2 <= len(ids) <= 3
        for placement in scene.placements:
            assert is_rotation(placement.R)
            assert placement.t[2] > 100
            x, y = project(np.zeros((1, 3)), placement.R, placement.t, settings.intrinsics())[0]
            inside.append(0 <= x < 640 and 0 <= y < 480)
    assert np.mean(inside) > 0.9


def test_lights_shine_from_above_and_keep_their_number() -> None:
    for seed in range(30):
        scene = sample_scene(BODIES, RenderSettings(lights=(1, 3)), np.random.default_rng(seed))
        assert 1 <= len(scene.lights) <= 3
        for light in scene.lights:
            assert light.direction @ scene.up > 0.3
            assert light.color.min() >= 0
        sums = [light.color.sum() for light in scene.lights]
        assert sums == pytest.approx(sorted(sums, reverse=True), rel=0.5)
    assert sample_scene(BODIES, RenderSettings(lights=(0, 0)), np.random.default_rng(0)).lights == ()
