import numpy as np
import torch

from posedistill.decode import cells as numpy_cells
from posedistill.decode.cells import PUBLISHED_STRIDES, CellLayout, level_anchors
from posedistill.decode.wdrnet import WDRNetDecoding, select_cells
from posedistill.estimators.cells import IGNORED, Selection, draw_positives, level_budgets, select_per_level

LAYOUT = CellLayout.build((8, 16, 32, 64), 256)
ANCHORS = torch.as_tensor(level_anchors(LAYOUT.strides), dtype=torch.float32)


def test_budgets_agree_with_the_decoder_s() -> None:
    spans = np.linspace(0.5, 600.0, 2000)
    for strides in (PUBLISHED_STRIDES, PUBLISHED_STRIDES[1:4]):
        anchors = level_anchors(strides)
        ours = level_budgets(torch.as_tensor(spans), torch.as_tensor(anchors), 10, 1.0)
        assert (ours.numpy() == numpy_cells.level_budgets(spans, anchors, 10, 1.0)).all()


def draw(seed: int = 0, share: float = 0.2) -> tuple[torch.Tensor, torch.Tensor, Selection, torch.Tensor]:
    inside = torch.rand(6, len(LAYOUT), generator=torch.Generator().manual_seed(9)) < share
    inside[5] = False
    budgets = level_budgets(torch.tensor([20.0, 40.0, 100.0, 171.0, 228.0, 171.0]), ANCHORS, 10, 1.0)
    selection, labels = draw_positives(inside, budgets, LAYOUT, 10, torch.Generator().manual_seed(seed))
    return inside, budgets, selection, labels


def test_positives_are_distinct_inside_and_as_many_as_budget_and_mask_allow() -> None:
    inside, budgets, selection, labels = draw()
    level = torch.as_tensor(LAYOUT.level)
    for b in range(6):
        chosen = selection.index[b][selection.mask[b]]
        assert len(set(chosen.tolist())) == len(chosen)
        assert inside[b, chosen].all()
        for index in range(4):
            available = int(inside[b, level == index].sum())
            assert int((level[chosen] == index).sum()) == min(int(budgets[b, index]), available)
        expected = torch.where(inside[b], IGNORED, 0)
        expected[chosen] = 1
        assert torch.equal(labels[b], expected)
    assert not selection.mask[5].any()
    # Padding comes last.
    assert torch.equal(selection.mask.int(), selection.mask.int().sort(dim=1, descending=True).values)


def test_draws_depend_on_the_generator_alone() -> None:
    first, again, other = draw(seed=1)[2], draw(seed=1)[2], draw(seed=2)[2]
    assert torch.equal(first.index, again.index)
    assert not torch.equal(first.index, other.index)


def test_every_cell_of_a_level_is_drawn_equally_often() -> None:
    layout = CellLayout.build((32,), 128)
    inside = torch.ones(4000, 16, dtype=torch.bool)
    inside[:, 5] = False
    budgets = torch.full((4000, 1), 3)
    selection, _ = draw_positives(inside, budgets, layout, 3, torch.Generator().manual_seed(0))
    counts = torch.bincount(selection.index[selection.mask], minlength=16)
    assert counts[5] == 0
    expected = 4000 * 3 / 15
    assert (counts[torch.arange(16) != 5] - expected).abs().max() < 5 * expected**0.5


def test_the_most_confident_cells_are_those_of_the_decoder() -> None:
    rng = np.random.default_rng(2)
    for trial in range(20):
        scores = rng.uniform(0, 1, len(LAYOUT)).astype(np.float32)
        votes = rng.uniform(0, 256, (len(LAYOUT), 8, 2)).astype(np.float32)
        threshold = 0.1 if trial % 2 else 0.97
        span = float(np.ptp(votes[scores.argmax()], axis=0).max())
        budgets = level_budgets(torch.tensor([span]), ANCHORS, 10, 1.0)
        keys = torch.as_tensor(np.where(scores > threshold, scores, -1.0))[None]
        selection = select_per_level(keys, budgets, LAYOUT, 10)
        expected = select_cells(scores, votes, LAYOUT, WDRNetDecoding(score_threshold=threshold))
        assert selection.index[selection.mask].tolist() == expected.tolist()


def test_gather_takes_trailing_axes_along() -> None:
    values = torch.rand(2, 5, 8, 2)
    selection = Selection(torch.tensor([[3, 0], [4, 4]]), torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(selection.gather(values)[1, 0], values[1, 4])
    assert selection.gather(values[..., 0, 0]).tolist() == [
        [values[0, 3, 0, 0].item(), values[0, 0, 0, 0].item()],
        [values[1, 4, 0, 0].item()] * 2,
    ]
