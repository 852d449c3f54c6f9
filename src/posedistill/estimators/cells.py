"""Which cells take part: batched, masked, without a loop over images or cells and without a host sync."""

from dataclasses import dataclass

import torch
from torch import Tensor

from posedistill.decode.cells import CellLayout

IGNORED = -1


@dataclass
class Selection:
    """Up to ``M`` chosen cells an image: ``index`` ``[B, M]`` int64 and ``mask`` ``[B, M]`` bool (False = padding)."""

    index: Tensor
    mask: Tensor

    def gather(self, values: Tensor) -> Tensor:
        """``[B, N, ...]`` -> ``[B, M, ...]``; padding slots hold some cell's values."""
        index = self.index.reshape(self.index.shape + (1,) * (values.ndim - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def level_budgets(spans: Tensor, anchors: Tensor, cells: int, scale_lambda: float) -> Tensor:
    """``[B]`` spans in pixels -> ``[B, L]`` budgets; the torch twin of ``decode.cells.level_budgets``."""
    distances = torch.log2(spans.clamp(min=1.0)[:, None] / anchors)
    weights = torch.softmax(-scale_lambda * distances.square(), dim=-1)
    return torch.floor(cells * weights + 0.5).long()


def select_per_level(keys: Tensor, budgets: Tensor, layout: CellLayout, cells: int) -> Selection:
    """The cells with the largest keys of each level, as many as the level's budget allows.

    Args:
        keys: ``[B, N]``; a negative key excludes the cell.
        budgets: ``[B, L]`` int64, whose sum exceeds ``cells`` by at most half the number of levels.

    Returns:
        ``M = cells + L // 2`` slots.
    """
    indices, chosen, start = [], [], 0
    for level, size in enumerate(layout.level_sizes):
        top = keys[:, start : start + size].topk(min(cells, size), dim=1)
        rank = torch.arange(top.values.shape[1], device=keys.device)
        indices.append(top.indices + start)
        chosen.append((rank < budgets[:, level : level + 1]) & (top.values >= 0))
        start += size
    index, mask = torch.cat(indices, dim=1), torch.cat(chosen, dim=1)
    slots = min(cells + len(layout.level_sizes) // 2, index.shape[1])
    # Chosen slots first, in level order: distinct integer keys make the compaction stable.
    order = torch.arange(index.shape[1], 0, -1, device=keys.device)
    front = (mask * index.shape[1] + order).topk(slots, dim=1).indices
    return Selection(index.gather(1, front), mask.gather(1, front))


def draw_positives(
    inside: Tensor, budgets: Tensor, layout: CellLayout, cells: int, generator: torch.Generator | None
) -> tuple[Selection, Tensor]:
    """Draw the positive cells at random, without replacement, and label every cell.

    Args:
        inside: ``[B, N]`` bool, the cell's centre lies on the object.

    Returns:
        The draw, and ``[B, N]`` int64 labels: 1 drawn, ``IGNORED`` inside but not drawn, 0 background.
    """
    device = inside.device if generator is None else generator.device
    keys = torch.rand(inside.shape, generator=generator, device=device).to(inside.device)
    selection = select_per_level(torch.where(inside, keys, -1.0), budgets, layout, cells)
    drawn = torch.zeros_like(inside).scatter(1, selection.index, selection.mask)
    return selection, torch.where(drawn, 1, torch.where(inside, IGNORED, 0))
