from dataclasses import replace

import cv2
import numpy as np
import pytest

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.transforms_json import read_transforms
from posedistill.data.images import read_image, write_image
from posedistill.data.packs.build import build_pack
from posedistill.data.packs.pack import Pack, mean_image
from posedistill.data.packs.scene_frames import PUBLISHED_SIZE, SceneFrames
from posedistill.errors import DataError
from posedistill.geometry.cameras import project


@pytest.fixture
def dataset(seven_scenes_root):
    return open_scene(seven_scenes_root)


def test_the_shorter_side_is_scaled_and_the_camera_with_it(dataset, tmp_path):
    pack = build_pack(SceneFrames(dataset, 32), tmp_path / "pack")
    assert pack.frames.shape == (12, 32, 57, 4)
    assert (pack.frames.dtype, pack.sizes.tolist()) == (np.uint8, [[32, 57]] * 12)
    np.testing.assert_allclose(pack.K[0], [[45.6, 0, 28], [0, 45.6, 15.5], [0, 0, 1]], atol=1e-9)
    np.testing.assert_array_equal(pack.instances.R, dataset.R)
    np.testing.assert_array_equal(pack.instances.t, dataset.t)
    assert pack.instances.frame.tolist() == list(range(12)) and pack.instances.bbox_obj[0].tolist() == [0, 0, 57, 32]
    assert pack.sequences == dataset.sequences
    halved = cv2.resize(read_image(dataset.frames[3].image), (57, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(pack.frames[3, :, :, :3], halved)
    assert not pack.frames[..., 3].any()


def test_scaled_points_stay_on_their_pixels(tmp_path, cambridge_root):
    """A dot drawn in the photographs lies where the pack's camera sees it."""
    dataset = open_scene(cambridge_root)
    points = [frame.center + 3 * frame.R[2] + 0.4 * frame.R[0] - 0.2 * frame.R[1] for frame in dataset.frames[:3]]
    for frame, point in zip(dataset.frames, points, strict=False):
        x, y = project(point[None], frame.R, frame.t, frame.K)[0]
        rows, columns = np.mgrid[: frame.height, : frame.width]
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
        write_image(frame.image, np.repeat(dot[:, :, None], 3, axis=2).astype(np.uint8))
    for size in (32, 96, (80, 64)):
        pack = build_pack(SceneFrames(dataset, size), tmp_path / f"pack{size}")
        for row in range(3):
            x, y = project(points[row][None], pack.instances.R[row], pack.instances.t[row], pack.K[row])[0]
            weights = pack.frames[row, :, :, 0].astype(float)
            rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
            assert abs((weights * columns).sum() / weights.sum() - x) < 0.2
            assert abs((weights * rows).sum() / weights.sum() - y) < 0.2


def test_the_published_size_ignores_the_aspect(dataset, tmp_path):
    pack = build_pack(SceneFrames(dataset.take([0, 1]), PUBLISHED_SIZE), tmp_path / "pack")
    assert pack.one_size("test") == (256, 455)
    assert pack.K[0, 0, 0] / pack.K[0, 1, 1] == pytest.approx((455 / 114) / (256 / 64))


def test_it_is_built_once_and_again_when_a_source_changes(dataset, tmp_path, monkeypatch):
    folder = tmp_path / "pack"
    done = []
    build_pack(SceneFrames(dataset, 32), folder, progress=lambda count, total: done.append((count, total)))
    assert done == [(number, 12) for number in range(1, 13)]
    build_pack(SceneFrames(dataset, 32), folder, progress=lambda count, total: pytest.fail("built again"))
    assert len(build_pack(SceneFrames(dataset, 48), folder).frames[0]) == 48
    write_image(dataset.frames[0].image, np.zeros((64, 114, 3), np.uint8))
    assert not build_pack(SceneFrames(dataset, 48), folder).frames[0].any()


def test_it_is_built_again_for_another_lens(dataset, tmp_path):
    folder = tmp_path / "pack"
    straight = build_pack(SceneFrames(dataset, 32), folder).frames[0].copy()
    bent = replace(dataset, frames=tuple(replace(frame, distortion=(-0.1,)) for frame in dataset))
    assert (build_pack(SceneFrames(bent, 32), folder).frames[0] != straight).any()


def test_a_damaged_image_leaves_the_old_pack(dataset, tmp_path):
    folder = tmp_path / "pack"
    build_pack(SceneFrames(dataset, 32), folder)
    path = dataset.frames[5].image
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame-000005.color.png: 'image': found a file cut off"):
        build_pack(SceneFrames(dataset, 32), folder)
    assert len(Pack.open(folder)) == 12


def test_an_image_that_changed_its_size(dataset, tmp_path):
    write_image(dataset.frames[0].image, np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r"'image size': found 30x30, expected 114x64"):
        build_pack(SceneFrames(dataset, 32), tmp_path / "pack")


def test_photographs_are_left_as_they_are(dataset, tmp_path):
    before = [(frame.image.read_bytes(), frame.image.stat().st_mtime_ns) for frame in dataset]
    pack = build_pack(SceneFrames(dataset, PUBLISHED_SIZE), tmp_path / "pack")
    mean_image(pack, np.arange(3))
    assert before == [(frame.image.read_bytes(), frame.image.stat().st_mtime_ns) for frame in dataset]
    assert {path.name for path in dataset.root.iterdir()} == {
        *("seq-01", "seq-02", "seq-03", "TrainSplit.txt", "TestSplit.txt", "camera-intrinsics.txt")
    }


def test_mixed_sizes_are_padded_and_told(tmp_path, known_view):
    for name, (width, height) in (("a", (60, 40)), ("b", (40, 60))):
        write_image(tmp_path / f"{name}.png", np.full((height, width, 3), 200, np.uint8))
    matrix = known_view.camera_to_world(opengl=True).tolist()
    frames = ", ".join(f'{{"file_path": "{name}.png", "transform_matrix": {matrix}}}' for name in "ab")
    (tmp_path / "transforms.json").write_text(f'{{"fl_x": 50, "frames": [{frames}]}}')
    pack = build_pack(SceneFrames(read_transforms(tmp_path, "all"), 20), tmp_path / "pack")
    assert pack.frames.shape == (2, 30, 30, 4)
    assert pack.sizes.tolist() == [[20, 30], [30, 20]]
    assert (pack.frames[0, :20, :, :3] == 200).all()
    assert (pack.frames[0, 20:, :, :3] == (124, 116, 104)).all()
    with pytest.raises(DataError, match=r"'mean image': found images of 30x20 \(a.png\), 20x30 \(b.png\)"):
        mean_image(pack, np.arange(2))


def test_the_mean_image(dataset, tmp_path):
    pack = build_pack(SceneFrames(dataset, 32), tmp_path / "pack")
    mean = mean_image(pack, np.array([1, 4]))
    np.testing.assert_allclose(mean, pack.frames[[1, 4], ..., :3].mean(axis=0), atol=1e-4)


def test_distortion_is_taken_out(tmp_path):
    """The lens bends a grid of dots; in the pack they lie where a pinhole sees them."""
    K, lens = np.array([[150.0, 0, 99.5], [0, 150.0, 74.5], [0, 0, 1]]), np.array([-0.25, 0.08, 0.002, -0.001])
    x, y = np.meshgrid(np.linspace(-0.35, 0.35, 5), np.linspace(-0.25, 0.25, 4))
    points = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    bent = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, lens)[0][:, 0]
    rows, columns = np.mgrid[:150, :200]
    picture = sum(np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 4) for u, v in bent)
    write_image(tmp_path / "a.png", np.repeat((255 * picture).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
    camera = {"fl_x": 150, "cx": 100, "cy": 75, **dict(zip(("k1", "k2", "p1", "p2"), lens.tolist(), strict=True))}
    content = str({**camera, "frames": [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}]})
    (tmp_path / "transforms.json").write_text(content.replace("'", '"'))
    pack = build_pack(SceneFrames(read_transforms(tmp_path, "all"), 150), tmp_path / "pack")
    straight = project(points, np.eye(3), np.zeros(3), pack.K[0])
    frame = cv2.GaussianBlur(pack.frames[0, ..., 0], (0, 0), 1).astype(float)
    inside = ((straight > 4) & (straight < [195, 145])).all(axis=1)
    assert inside.sum() > 10
    for u, v in straight[inside]:
        left, top = int(u) - 3, int(v) - 3
        window = frame[top : top + 8, left : left + 8]
        window = np.where(window > window.max() / 2, window, 0)
        rows, columns = np.mgrid[:8, :8]
        assert abs((window * columns).sum() / window.sum() + left - u) < 0.4
        assert abs((window * rows).sum() / window.sum() + top - v) < 0.4


def test_damaged_packs(dataset, tmp_path):
    with pytest.raises(DataError, match="'pack': found no such file"):
        Pack.open(tmp_path)
    folder = tmp_path / "pack"
    build_pack(SceneFrames(dataset, 32), folder)
    np.save(folder / "frames.npy", np.zeros((3, 8, 8, 4), np.uint8))
    with pytest.raises(DataError, match=r"'shape': found uint8 \(3, 8, 8, 4\) with 12 cameras"):
        Pack.open(folder)
    (folder / "columns.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"expected frames.npy and columns.npz of a finished pack"):
        Pack.open(folder)
