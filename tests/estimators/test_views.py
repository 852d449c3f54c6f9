import torch

from posedistill.estimators.views import cell_ids, place_of_cells


def test_cells_of_wide_grids_and_anchors_are_told_apart() -> None:
    """Grids that are no squares and have more than 256 cells a side; several predictors a cell."""
    levels = [cell_ids(8, 60, 400, anchors=3), cell_ids(16, 30, 200, anchors=3), cell_ids(32, 15, 100)]
    ids = torch.cat(levels)
    assert ids.dtype == torch.int64 and len(ids.unique()) == len(ids) == 60 * 400 * 3 + 30 * 200 * 3 + 15 * 100
    stride, row, column = place_of_cells(levels[0].view(60, 400, 3))
    assert (stride == 8).all()
    assert torch.equal(row, torch.arange(60)[:, None, None].expand(60, 400, 3))
    assert torch.equal(column, torch.arange(400)[None, :, None].expand(60, 400, 3))


def test_grids_of_other_shapes_agree_on_the_cells_they_share() -> None:
    small, large = cell_ids(8, 4, 5).view(4, 5), cell_ids(8, 6, 300).view(6, 300)
    assert torch.equal(large[:4, :5], small)
    anchors = cell_ids(8, 4, 5, anchors=2).view(4, 5, 2)
    assert torch.equal(anchors[..., 0], small) and not torch.isin(anchors[..., 1], large).any()
    assert not torch.isin(cell_ids(16, 4, 5), large).any()
