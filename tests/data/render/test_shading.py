import numpy as np
import pytest

from posedistill.data.render.layout import Light, Look, Placement, Scene, Table
from posedistill.data.render.raycast import Model, build_model, cast, compose, pixel_rays
from posedistill.data.render.shading import in_shadow, shade, surfaces, table_light
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.rotations import axis_angle

K = np.array([[200.0, 0, 59.5], [0, 200.0, 39.5], [0, 0, 1]])
WIDTH, HEIGHT = 120, 80
RAYS = pixel_rays(K, WIDTH, HEIGHT)
TOWARDS_CAMERA = np.array([0.0, 0.0, -1.0])
NO_LIGHT = np.zeros(3)


def plate(side: float, color: tuple[int, int, int] = (255, 255, 255), texture: np.ndarray | None = None) -> Mesh:
    """A square in the plane z = 0 that faces -z."""
    corners = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * side / 2
    uv = np.array([[0.0, 1], [1, 1], [1, 0], [0, 0]]) if texture is not None else None
    colors = None if texture is not None else np.tile(np.array(color, np.uint8), (4, 1))
    normals = np.tile(TOWARDS_CAMERA, (4, 1))
    return Mesh(corners, np.array([[0, 2, 1], [0, 3, 2]]), colors, uv, texture, normals)


def placed(body: int, t: tuple[float, float, float], **look: float) -> Placement:
    shine = {"saturation": 1.0, "specular": 0.0, "gloss": 20.0, **look}
    return Placement(body, np.eye(3), np.array(t, float), Look(np.ones(3), **shine))


def scene_of(*placements: Placement, lights: tuple[Light, ...] = (), sky: np.ndarray = NO_LIGHT) -> Scene:
    return Scene(placements, lights, sky, sky, TOWARDS_CAMERA, None, 1)


def picture(models: list[Model], scene: Scene, shadows: bool = True) -> np.ndarray:
    image = compose([cast(m, p.R, p.t, K, RAYS) for m, p in zip(models, scene.placements, strict=True)], WIDTH, HEIGHT)
    surface = surfaces(models, scene.placements, image, RAYS, 200.0)
    result = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert surface is not None
    result[surface.rows, surface.columns] = shade(surface, scene, models, shadows)
    return result


def test_a_white_plate_in_full_ambient_light_keeps_its_colour() -> None:
    model = build_model(plate(100, (200, 100, 50)), 1, 0)
    pixel = picture([model], scene_of(placed(0, (0, 0, 500)), sky=np.ones(3)))[40, 60]
    np.testing.assert_allclose(pixel, (200, 100, 50), atol=2)


@pytest.mark.parametrize("degrees", [0.0, 40.0, 75.0])
def test_diffuse_light_follows_the_cosine(degrees: float) -> None:
    model = build_model(plate(100), 1, 0)
    direction = axis_angle(np.array([0.0, 1.0, 0.0]), np.radians(degrees)) @ TOWARDS_CAMERA
    pixel = picture([model], scene_of(placed(0, (0, 0, 500)), lights=(Light(direction, np.full(3, 0.8)),)))[40, 60]
    expected = 255 * (0.8 * np.cos(np.radians(degrees))) ** (1 / 2.2)
    np.testing.assert_allclose(pixel, expected, atol=2)


def test_a_plate_before_the_lamp_casts_a_shadow_where_it_should() -> None:
    wall, shutter = build_model(plate(400), 1, 0), build_model(plate(20), 2, 0)
    tilt = np.array([-0.6, 0.0, -0.8])  # the shadow falls 0.75 of the gap to the right
    scene = scene_of(placed(0, (0, 0, 500)), placed(1, (0, 0, 400)), lights=(Light(tilt, np.ones(3)),))
    lit, dark = picture([wall, shutter], scene, shadows=False), picture([wall, shutter], scene)
    column = round(59.5 + 200 * 75 / 500)
    assert lit[40, column, 0] > 200
    assert dark[40, column, 0] == 0
    assert dark[40, 59, 0] == lit[40, 59, 0]  # the shutter itself
    assert dark[40, column - 14, 0] == lit[40, column - 14, 0]
    assert 30 < (dark[..., 0] < lit[..., 0]).sum() < 130  # 8 x 8 pixels, and the rim


def test_shadow_rays_only_look_towards_the_light() -> None:
    model = build_model(plate(20), 1, 0)
    points = np.array([[0, 0, 500], [0, 0, 300], [50, 0, 500]], np.float32)
    shadow = in_shadow(points, TOWARDS_CAMERA, [model], [placed(0, (0, 0, 400))])
    assert shadow.tolist() == [True, False, False]


def test_a_glossy_plate_mirrors_the_lamp() -> None:
    model = build_model(plate(100, (20, 20, 20)), 1, 0)
    lamp = (Light(TOWARDS_CAMERA, np.full(3, 0.5)),)
    matt = picture([model], scene_of(placed(0, (0, 0, 500)), lights=lamp))[40, 60, 0]
    glossy = picture([model], scene_of(placed(0, (0, 0, 500), specular=0.4, gloss=40.0), lights=lamp))
    assert glossy[40, 60, 0] > matt + 60
    assert glossy[40, 60, 0] > glossy[25, 60, 0]


def test_a_texture_is_the_right_way_up_and_smooth_from_afar() -> None:
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32, :32], texture[:32, 32:], texture[32:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    model = build_model(plate(100, texture=texture), 1, 0)
    near = picture([model], scene_of(placed(0, (0, 0, 400)), sky=np.ones(3)))
    corners = [near[39 + dy, 59 + dx].argmax() for dx, dy in ((-10, -10), (10, -10), (-10, 10))]
    assert corners == [0, 1, 2]
    assert near[50, 70].max() < 5
    checker = np.kron(np.indices((64, 64)).sum(axis=0) % 2, np.ones((4, 4)))[..., None].repeat(3, 2) * 255
    fine = build_model(plate(100, texture=checker.astype(np.uint8)), 1, 0)
    far = picture([fine], scene_of(placed(0, (0, 0, 1500)), sky=np.ones(3)))
    assert np.ptp(far[37:42, 57:62, 0].astype(int)) < 60


def test_the_table_is_darker_in_the_shadow_and_lit_elsewhere() -> None:
    model = build_model(plate(60), 1, 0)
    lamp = Light(np.array([0.0, -0.6, -0.8]), np.full(3, 0.5))
    table = Table(np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 700.0]), (400.0, 400.0))
    scene = scene_of(placed(0, (0, 0, 600)), lights=(lamp,), sky=np.full(3, 0.5))
    light = table_light(table, scene, [model], shadows=True, resolution=200)
    # The plate hangs 100 mm above the table; its shadow falls 75 mm down the image, which is the table's -y.
    assert light[100 - 37, 100, 0] == pytest.approx(0.5, abs=0.05)
    assert light[180, 180, 0] == pytest.approx(0.9, abs=0.02)
    open_light = table_light(table, scene, [model], shadows=False, resolution=200)
    assert open_light.min() == pytest.approx(0.9, abs=1e-5)
