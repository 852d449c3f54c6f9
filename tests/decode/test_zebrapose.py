"""Codes to poses: golden values, perfect codes of a mesh, noise, empty masks, and the record."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.decode import ZebraPoseDecoder
from posedistill.decode.base import Prepared, RecordFault
from posedistill.decode.zebrapose import ZebraPoseDecoding, find_matches, mean_places, node_index, read_codes
from posedistill.estimators.zebrapose import ZebraPoseSettings
from posedistill.geometry.cameras import cell_centers
from posedistill.geometry.codes import CodeTree, build_tree, is_folded
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import angle_between, random_rotations
from posedistill.geometry.surfaces import Surfaces

HALF = np.array([40.0, 30.0, 50.0])
QUADS = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
MESH = Mesh(box_corners(-HALF, HALF), QUADS[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3), None, None, None, HALF)
OBJECTS = ObjectTable((1,), MESH.vertices[None], np.array([2 * np.linalg.norm(HALF)]), (np.eye(4)[None],))
SIZE, GRID, BITS = 128, 32, 10
K = np.array([[600.0, 0.0, 63.5], [0.0, 600.0, 63.5], [0.0, 0.0, 1.0]])
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def tree() -> CodeTree:
    return build_tree(MESH.vertices, MESH.faces, bits=BITS)


@pytest.fixture(scope="module")
def folded() -> CodeTree:
    return build_tree(MESH.vertices, MESH.faces, bits=BITS, half_turn=HALF_TURN)


def decoder(tree: CodeTree, **settings) -> ZebraPoseDecoder:
    decoding = ZebraPoseDecoding(**settings)
    return ZebraPoseDecoder(
        objects=OBJECTS, crop_size=SIZE, grid=GRID, points=tree.points[None], radii=tree.radii[None], decoding=decoding
    )


def outputs_of(tree: CodeTree, R: np.ndarray, t: np.ndarray, sure: float = 6.0) -> dict[str, np.ndarray]:
    """What a perfect network says."""
    surfaces = Surfaces([1], lambda _: MESH)
    points = surfaces.seen(np.zeros(1, np.int64), K[None], R[None], t[None], SIZE, SIZE // GRID)[0]
    hit = np.isfinite(points[..., 0])
    ids = tree.encode(np.nan_to_num(points).reshape(-1, 3)).reshape(GRID, GRID)
    bits = ids >> np.arange(BITS)[::-1, None, None] & 1
    code = np.where(bits == 1, sure, -sure)
    return {"mask": np.where(hit, 4.0, -4.0)[None].astype(np.float32), "code": code.astype(np.float32)}


def test_nodes_of_all_depths_are_numbered_in_order():
    assert node_index(np.array([1, 1, 2, 3]), np.array([0, 1, 3, 0])).tolist() == [0, 1, 5, 6]


def test_codes_are_read_up_to_their_first_unsure_bit():
    """Leaves of a 3-bit tree at the corners of a box; values worked out by hand."""
    leaves = np.array([[x, y, z] for z in (0.0, 8) for y in (0.0, 4) for x in (0.0, 2)])
    points, radii = [], []
    for depth in (1, 2, 3):
        cells = leaves.reshape(2**depth, -1, 3)
        points.append(cells.mean(axis=1))
        radii.append(np.sqrt(np.square(cells - cells.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1)))
    table, spread = np.concatenate(points), np.concatenate(radii)
    p = np.array([[0.9, 0.8, 0.3], [0.55, 0.9, 0.1], [0.95, 0.45, 0.9], [0.1, 0.2, 0.7]]).T
    logits = np.log(p / (1 - p))
    nodes = read_codes(logits, 0.5)
    np.testing.assert_allclose(table[nodes], [[1, 4, 8], [1, 2, 8], [1, 2, 8], [1, 0, 0]])
    np.testing.assert_allclose(spread[nodes], [1, 2.236068, 2.236068, 1], atol=1e-6)
    np.testing.assert_array_equal(read_codes(logits, 0.0) - 6, [6, 6, 5, 1])


def test_perfect_codes_give_the_pose(tree):
    errors = []
    for R in random_rotations(10, np.random.default_rng(1)):
        t = np.array([3.0, -2.0, 900.0])
        pose = decoder(tree).decode_crop(outputs_of(tree, R, t), K, 0)
        assert pose is not None
        errors.append(np.linalg.norm(MESH.vertices @ (pose.R - R).T + pose.t - t, axis=1).mean())
    assert np.median(errors) < 0.02 * OBJECTS.diameters[0]


def test_centers_of_cells_are_half_a_cell_from_their_corners(tree):
    R, t = random_rotations(1, np.random.default_rng(4))[0], np.array([3.0, -2.0, 900.0])
    outputs = outputs_of(tree, R, t)
    found = find_matches(1 / (1 + np.exp(-outputs["mask"][0])), outputs["code"], tree.points, tree.radii)
    pixels = (found.points @ R.T + t) @ K.T
    errors = pixels[:, :2] / pixels[:, 2:] - cell_centers(GRID, GRID, SIZE // GRID)[found.cells]
    assert np.abs(errors.mean(axis=0)).max() < 0.3


def test_unsure_bits_and_wild_cells_are_borne(tree):
    rng = np.random.default_rng(0)
    R, t = random_rotations(1, rng)[0], np.array([3.0, -2.0, 900.0])
    outputs = outputs_of(tree, R, t, sure=3.0)
    outputs["code"][7:] = rng.normal(scale=0.5, size=outputs["code"][7:].shape)
    wild = rng.random((GRID, GRID)) < 0.2
    outputs["code"][:, wild] = rng.normal(scale=4, size=(BITS, int(wild.sum())))
    pose = decoder(tree).decode_crop(outputs, K, 0)
    assert pose is not None and 0.2 < pose.score < 0.9
    assert np.rad2deg(angle_between(pose.R, R)) < 6
    assert np.linalg.norm(pose.t - t) < 45


@pytest.mark.parametrize("first", [0.5, 0.0, "any", "wild"])
def test_the_bit_that_tells_the_sides_of_a_half_turn_ends_no_code(folded, tree, first):
    """At the seam of the canonical pose it is unsure, or says now this and now that, and all else is sure."""
    rng, errors = np.random.default_rng(0), []
    assert is_folded(folded.radii) and not is_folded(tree.radii)
    section, tables = decoder(folded).record()
    for R in random_rotations(10, np.random.default_rng(1)):
        t = np.array([3.0, -2.0, 900.0])
        outputs = outputs_of(folded, R, t)
        outputs["code"][0] *= first / 6 if isinstance(first, float) else rng.choice([-0.05, 0.05], (GRID, GRID))
        if first == "wild":
            wild = rng.random((GRID, GRID)) < 0.3
            outputs["code"][:, wild] = rng.normal(scale=4, size=(BITS, int(wild.sum())))
        pose = ZebraPoseDecoder.from_record(section, tables).decode_crop(outputs, K, 0)
        assert pose is not None and pose.score > 0.2
        turned = [MESH.vertices @ (pose.R - R @ S).T + pose.t - t for S in (np.eye(3), HALF_TURN[:3, :3])]
        errors.append(min(np.linalg.norm(apart, axis=1).mean() for apart in turned) / OBJECTS.diameters[0])
    assert np.median(errors) < 0.03


def test_published_decoding_reads_the_likelier_side_alone(folded):
    outputs = outputs_of(folded, np.eye(3), np.array([0.0, 0.0, 900.0]))
    outputs["code"][0] = 0.1
    mask = 1 / (1 + np.exp(-outputs["mask"][0]))
    for confidence, times in ((0.0, 1), (0.35, 2)):
        settings = ZebraPoseDecoding(confidence=confidence, matches=GRID**2)
        found = find_matches(mask, outputs["code"], folded.points, folded.radii, settings, folded=True)
        assert len(found.cells) == times * (mask > 0.5).sum()


def test_codes_read_as_far_as_they_are_sure_beat_codes_read_to_the_end(tree):
    """Bits are wrong the more often the finer they are, and their probabilities say how often."""
    wrong = np.minimum(0.02 * 1.35 ** np.arange(BITS) * 2, 0.5)[:, None, None]
    errors: dict[float, list[float]] = {0.0: [], 0.35: []}
    rng, t = np.random.default_rng(0), np.array([3.0, -2.0, 900.0])
    for R in random_rotations(12, rng):
        outputs = outputs_of(tree, R, t)
        spread = np.clip(wrong * rng.choice([0.3, 3.0], (1, GRID, GRID)), 0.01, 0.5)  # of sure and unsure places
        flipped = np.where(rng.random(outputs["code"].shape) < spread, -1, 1)
        outputs["code"] = np.sign(outputs["code"]) * flipped * np.log((1 - spread) / spread)
        for confidence, found in errors.items():
            pose = decoder(tree, confidence=confidence).decode_crop(outputs, K, 0)
            off = np.inf if pose is None else np.linalg.norm(MESH.vertices @ (pose.R - R).T + pose.t - t, axis=1).mean()
            found.append(float(off))
    assert np.median(errors[0.35]) < np.median(errors[0.0])


class TestMeanPlaces:
    def test_by_hand(self):
        """A line of four leaves, of which the second bit is 3 to 1 for the farther ones."""
        points = np.array([[x, 0, 0] for x in (1.0, 5.0, 0.0, 2.0, 4.0, 6.0)], np.float32)
        radii = np.array([1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
        logits = np.array([[9.0, -9.0, 9.0], np.log([3.0, 3.0, 1e12])])
        places, spread = mean_places(np.array([1, 0, 5]), logits, points, radii, bits=2)
        np.testing.assert_allclose(places[:, 0], [5.5, 1.5, 6.0])
        np.testing.assert_allclose(spread, [np.sqrt(0.25 + 0.75), np.sqrt(0.25 + 0.75), 0.5])

    @settings(max_examples=30)
    @given(seed=st.integers(0, 2**31), bits=st.integers(0, BITS))
    def test_they_lie_in_the_cell_and_where_bits_say_nothing_or_all_at_a_centre(self, tree, seed, bits):
        rng = np.random.default_rng(seed)
        depths = rng.integers(1, BITS + 1, 40)
        nodes = node_index(depths, rng.integers(0, 1 << depths))
        logits = rng.normal(size=(BITS, 40)) * 4
        places = mean_places(nodes, logits, tree.points, tree.radii, bits)[0]
        assert (np.linalg.norm(places - tree.points[nodes], axis=1) <= 6 * tree.radii[nodes] + 1e-9).all()
        # Cells of a depth are as large as each other, so without an opinion a node is where its centre is.
        without, wide = mean_places(nodes, np.zeros_like(logits), tree.points, tree.radii, bits)
        np.testing.assert_allclose(without, tree.points[nodes], atol=0.02)
        np.testing.assert_allclose(wide, tree.radii[nodes], atol=0.02)
        deeper = np.minimum(depths + bits, BITS)
        leaves = (1 << BITS - 1 - np.arange(BITS)) @ (logits > 0)
        same = nodes == node_index(depths, leaves >> BITS - depths)
        sure, narrow = mean_places(nodes, np.sign(logits) * 99, tree.points, tree.radii, bits)
        inner = node_index(deeper, leaves >> BITS - deeper)
        np.testing.assert_allclose(sure[same], tree.points[inner[same]], atol=1e-9)
        np.testing.assert_allclose(narrow[same], tree.radii[inner[same]], atol=1e-6)

    def test_poses_come_nearer_to_the_truth_than_by_centres_of_cells(self, tree):
        """Of a network that knows each point to 3 mm, and says of every bit what follows from that."""
        leaves = tree.points[2**BITS - 2 :].astype(np.float64)
        bits = np.arange(2**BITS)[:, None] >> np.arange(BITS)[::-1] & 1
        rng, t, errors = np.random.default_rng(0), np.array([3.0, -2.0, 900.0]), {0: [], 3: []}
        for R in random_rotations(12, rng):
            seen = Surfaces([1], lambda _: MESH).seen(np.zeros(1, np.int64), K[None], R[None], t[None], SIZE, 4)[0]
            told = np.nan_to_num(seen).reshape(-1, 1, 3) + rng.normal(scale=3.0, size=(GRID**2, 1, 3))
            likely = np.exp(-np.square(told - leaves).sum(axis=2) / (2 * 3.0**2))
            p = np.clip(likely @ bits / np.maximum(likely.sum(axis=1, keepdims=True), 1e-30), 1e-4, 1 - 1e-4)
            code = np.log(p / (1 - p)).T.reshape(BITS, GRID, GRID)
            outputs = {"mask": np.where(np.isfinite(seen[..., 0]), 4.0, -4.0)[None], "code": code}
            for within, found in errors.items():
                pose = decoder(tree, within=within).decode_crop(outputs, K, 0)
                found.append(np.linalg.norm(MESH.vertices @ (pose.R - R).T + pose.t - t, axis=1).mean())
        assert np.mean(errors[3]) < 0.95 * np.mean(errors[0])


@pytest.mark.parametrize("within", [0, 3])
@pytest.mark.parametrize("name", ["mask", "code"])
def test_outputs_that_are_no_numbers_give_no_pose_and_half_of_them_do_no_harm(tree, name, within):
    R, t = random_rotations(1, np.random.default_rng(4))[0], np.array([3.0, -2.0, 900.0])
    outputs, ours = outputs_of(tree, R, t), decoder(tree, within=within)
    right = ours.decode_crop(outputs, K, 0)
    with np.errstate(invalid="ignore"):
        assert ours.decode_crop(outputs | {name: outputs[name] * np.nan}, K, 0) is None
        outputs[name][:, ::2] = np.nan
        pose = ours.decode_crop(outputs, K, 0)
    assert right is not None and pose is not None
    assert np.rad2deg(angle_between(pose.R, right.R)) < 5


def test_an_empty_mask_answers_with_a_low_score_or_not_at_all(tree):
    R, t = np.eye(3), np.array([0.0, 0.0, 900.0])
    outputs = outputs_of(tree, R, t)
    outputs["mask"] = outputs["mask"] - 6.0
    pose = decoder(tree).decode_crop(outputs, K, 0)
    assert pose is not None and pose.score < 0.2
    assert decoder(tree, always_answer=False).decode_crop(outputs, K, 0) is None


def test_at_most_so_many_matches_of_the_smallest_cells(tree):
    outputs = outputs_of(tree, np.eye(3), np.array([0.0, 0.0, 600.0]))
    mask = 1 / (1 + np.exp(-outputs["mask"][0]))
    outputs["code"][4:, ::2] = 0.0  # every other row is unsure of its fifth bit
    found = find_matches(mask, outputs["code"], tree.points, tree.radii, ZebraPoseDecoding(matches=50))
    assert len(found.cells) == 50
    assert (found.cells // GRID % 2 == 1).all()


def test_the_published_decoding_takes_all_cells_alike_and_answers_no_empty_mask(tree):
    published = ZebraPoseSettings(faithful=True).decoding()
    ours = replace(decoder(tree), grid=128, decoding=published)
    assert (published.confidence, published.threshold) == (0.0, 2 / 128)
    outputs = {"mask": np.full((1, 128, 128), 4.0), "code": np.full((BITS, 128, 128), 0.01)}
    outputs["code"][:, ::2] = np.random.default_rng(0).normal(size=(BITS, 64, 128))
    found = ours.matches(outputs, 0)
    assert len(found.points) == 128**2 and (found.weights == 1).all() and found.threshold == 2.0
    nothing = outputs_of(tree, np.eye(3), np.array([0.0, 0.0, 900.0]))
    nothing["mask"] -= 9.0
    assert decoder(tree).decode_crop(nothing, K, 0) is not None
    assert replace(ours, grid=GRID).decode_crop(nothing, K, 0) is None
    section, tables = ours.record()
    assert ZebraPoseDecoder.from_record(section, tables).decoding == published


def test_files_from_before_weights_were_a_choice_and_radii_were_wide_are_read(tree):
    section, tables = decoder(tree).record()
    del section["decoding"]["weighted"]
    old = tables | {"codes/radii": tables["codes/radii"].astype(np.float16)}
    again = ZebraPoseDecoder.from_record(section, old)
    assert again.decoding.weighted
    np.testing.assert_allclose(again.radii, tree.radii[None], rtol=1e-3)


def test_radii_of_huge_objects_are_kept(tree):
    """A building of 280 m: half precision ends at 65 m."""
    ours = decoder(tree)
    scaled = replace(ours, points=2000 * ours.points, radii=2000 * ours.radii)
    again = ZebraPoseDecoder.from_record(*scaled.record())
    assert again.radii.max() > 65_504
    np.testing.assert_array_equal(again.radii, scaled.radii)


def test_in_16_bits_its_tables_take_half_and_give_the_same_pose(tree, folded):
    R, t = random_rotations(1, np.random.default_rng(0))[0], np.array([3.0, -2.0, 900.0])
    ours, half = decoder(tree), decoder(tree).halved()
    tables = half.tables()
    assert tables["codes/points"].nbytes == ours.points.nbytes // 2 and tables["codes/radii"].dtype == np.float16
    again = ZebraPoseDecoder.from_record(*half.record())
    poses = [each.decode_crop(outputs_of(tree, R, t), K, 0) for each in (ours, again)]
    assert np.rad2deg(angle_between(poses[0].R, poses[1].R)) < 0.1
    assert np.linalg.norm(poses[0].t - poses[1].t) < 1.0
    assert is_folded(decoder(folded).halved().radii[0])
    huge = replace(ours, points=2000 * ours.points, radii=2000 * ours.radii)
    assert huge.halved() is huge


def test_records_are_read_back_and_tables_that_do_not_fit_are_refused(tree):
    ours = decoder(tree, confidence=0.35)
    section, tables = ours.record()
    again = ZebraPoseDecoder.from_record(section, tables)
    assert again.decoding == ours.decoding and again.bits == BITS
    assert again.outputs == {"mask": (1, GRID, GRID), "code": (BITS, GRID, GRID)}
    np.testing.assert_allclose(again.radii, tree.radii[None], rtol=1e-3)
    for name, table in (
        ("codes/points", tables["codes/points"][:, :-1]),
        ("codes/radii", tables["codes/radii"][:, 1:]),
    ):
        with pytest.raises(RecordFault, match="codes"):
            ZebraPoseDecoder.from_record(section, {**tables, name: table})
    with pytest.raises(RecordFault, match="codes"):
        ZebraPoseDecoder.from_record(section, {**tables, "codes/points": tables["codes/points"] * np.nan})
    with pytest.raises(RecordFault, match="grid"):
        ZebraPoseDecoder.from_record({**section, "grid": 30}, tables)


def test_stand_ins_are_recognised(tree):
    own = decoder(tree)
    prepared = own.prepare(own.example(2)[0])
    poses = own.decode(own.stand_in(prepared), prepared)
    assert len(poses) == 2 and poses[0].score > 0.2
    assert isinstance(prepared, Prepared)


def test_predicted_and_true_codes_are_drawn_in_the_same_colours(tree):
    R, t = random_rotations(1, np.random.default_rng(2))[0], np.array([3.0, -2.0, 900.0])
    own = decoder(tree)
    outputs = {name: value[None] for name, value in outputs_of(tree, R, t).items()}
    surfaces = Surfaces([1], lambda _: MESH)
    surface = surfaces.seen(np.zeros(1, np.int64), K[None], R[None], t[None], SIZE, own.surface_stride)[0]
    inputs = {"images": np.zeros((1, 3, SIZE, SIZE), np.float32), "classes": np.zeros(1, np.int64)}
    drawn = own.explain_crop(outputs, Prepared.of_pictures(inputs, K[None]), 0, surface)
    photograph, predicted, true = drawn[:, :320], drawn[:, 326:646], drawn[:, 652:]
    assert (photograph == photograph[0, 0]).all()
    inside = np.abs(true.astype(int) - photograph).max(axis=2) > 30
    assert inside.mean() > 0.1
    apart = np.abs(predicted.astype(int) - true).max(axis=2)
    assert np.median(apart[inside]) < 25 and apart[inside].max() > 100  # but for the dots
    assert (apart[~inside] < 60).mean() > 0.98
