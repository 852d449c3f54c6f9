import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.decode.cells import PUBLISHED_STRIDES, CellLayout, level_anchors, level_budgets


@pytest.mark.parametrize(
    ("span", "five", "four"),
    [  # the published rule, worked out by hand for the sizes an object has in a 256 px crop
        (137, [0, 2, 6, 3, 0], [0, 2, 6, 3]),
        (171, [0, 1, 5, 4, 0], [0, 1, 5, 4]),
        (200, [0, 0, 4, 5, 1], [0, 0, 4, 5]),
        (228, [0, 0, 3, 6, 1], [0, 0, 3, 6]),
    ],
)
def test_budgets_of_the_published_rule(span: int, five: list[int], four: list[int]) -> None:
    assert level_budgets(np.array(span), level_anchors(PUBLISHED_STRIDES), 10).tolist() == five
    assert level_budgets(np.array(span), level_anchors(PUBLISHED_STRIDES[:4]), 10).tolist() == four


@given(st.floats(0, 1e6), st.integers(1, 5), st.integers(1, 40))
def test_budgets_sum_to_the_cells_up_to_rounding(span: float, levels: int, cells: int) -> None:
    budgets = level_budgets(np.array([span]), level_anchors(PUBLISHED_STRIDES[:levels]), cells)[0]
    assert (budgets >= 0).all()
    assert abs(budgets.sum() - cells) <= levels / 2


def test_layout_is_level_major_and_row_major() -> None:
    layout = CellLayout.build((16, 64), 64)
    assert layout.level_sizes == (16, 1)
    assert len(layout) == 17
    assert layout.centers[:5].tolist() == [[8, 8], [24, 8], [40, 8], [56, 8], [8, 24]]
    assert layout.centers[16].tolist() == [32, 32]
    assert layout.anchors[[0, 16]].tolist() == [64, 256]
    assert layout.level.tolist() == [0] * 16 + [1]


def test_published_grids_have_their_number_of_cells() -> None:
    assert len(CellLayout.build(PUBLISHED_STRIDES, 256)) == 1364
    assert len(CellLayout.build(PUBLISHED_STRIDES[:4], 256)) == 1360
