import numpy as np

from posedistill.deploy.predict.trajectory import ARROW, PANEL, draw_trajectory
from posedistill.geometry.rotations import axis_angle


def level_cameras(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Cameras with the world's z above them, 10 m along x and 1 m along y, that look along y and never up."""
    R = np.repeat(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])[None], count, axis=0)
    return R, np.stack([np.linspace(0, 10, count), np.linspace(0, 1, count), np.full(count, 2.0)], axis=1)


def test_arrows_show_where_cameras_look():
    """One camera looks up the page; from the side it looks away, and a second one beside it to the right."""
    R, centers = level_cameras(1)
    picture = draw_trajectory(R, centers)
    assert picture.shape == (PANEL, 2 * PANEL, 3) and picture.dtype == np.uint8
    middle, reach = PANEL // 2, int(ARROW)

    def drawn(left: int) -> list[bool]:
        """Whether something is drawn above, right of, below and left of the middle of a panel."""
        dark = picture[:, left : left + PANEL].astype(int).sum(axis=2) < 450
        near, beside = (
            slice(middle - 3, middle + 4),
            (slice(middle - reach, middle - 9), slice(middle + 9, middle + reach)),
        )
        return [
            bool(part.any())
            for part in (dark[beside[0], near], dark[near, beside[1]], dark[beside[1], near], dark[near, beside[0]])
        ]

    assert drawn(0) == [True, False, False, False] and drawn(PANEL) == [False] * 4
    picture = draw_trajectory(
        np.stack([R[0], R[0] @ axis_angle(np.array([0.0, 0.0, 1.0]), np.pi / 2)]), centers[[0, 0]]
    )
    assert any(drawn(PANEL)[1::2]) and not any(drawn(PANEL)[0::2])


def test_what_is_no_number_is_left_out():
    R, centers = level_cameras()
    broken_R, broken = np.concatenate([R, R[:1]]), np.concatenate([centers, [[np.nan, np.inf, 0.0]]])
    np.testing.assert_array_equal(draw_trajectory(broken_R, broken), draw_trajectory(R, centers))
    assert (draw_trajectory(broken_R[6:], broken[6:]) == draw_trajectory(R[:0], centers[:0])).all()


def test_cameras_of_all_postures_and_one_place():
    R = np.stack([np.eye(3), np.diag([-1.0, -1.0, 1.0])])
    assert draw_trajectory(R, np.zeros((2, 3))).min() < 255


def test_training_cameras_give_the_scale():
    """A camera that is lost does not make all others a dot, and the known places are there, pale."""
    R, centers = level_cameras()
    lost = centers.copy()
    lost[0] = [5000.0, 0.0, 2.0]
    alone, among = draw_trajectory(R, lost), draw_trajectory(R, lost, known=centers)
    assert (among == 190).all(axis=2).sum() > 10 and not (alone == 190).all(axis=2).any()
    coloured = [(picture[:, :PANEL].std(axis=2) > 25).any(axis=0) for picture in (alone, among)]
    assert coloured[1].sum() > 2 * coloured[0].sum(), "one beside the other instead of in one place"
    np.testing.assert_array_equal(draw_trajectory(R, centers, known=None), draw_trajectory(R, centers))
