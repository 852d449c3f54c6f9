"""How a finished network's outputs are decoded, where its family knows several ways: as held-back crops prefer it."""

from typing import Any

import numpy as np

from posedistill.estimators.base import Estimator
from posedistill.tasks.base import SELECT, Rows, Task
from posedistill.tasks.validation import keypoint_scores, poses_of

CROPS = 512
"""At most, by which a way is chosen."""


def choose_decoding(task: Task[Any], estimator: Estimator, held: Rows) -> tuple[dict[str, Any], str]:
    """The decoder's ``decoding`` with the best validation score, and a line about it; nothing where there is no choice.

    Args:
        held: rows of the task's training instances that the network has not learned from.
    """
    ways = estimator.decodings()
    if not ways or not len(held):
        return {}, ""
    rows = np.sort(np.random.default_rng(0).permutation(held)[:CROPS])
    device = next(estimator.parameters()).device
    loader = task.loader(rows, seed=0, device=device, batch_size=min(64, len(rows)), augment=False)
    batches, scores = [loader.batch(step) for step in range(loader.steps)], []
    for way in ways:
        estimator.calibration = {"decoding": way}
        scores.append(keypoint_scores(poses_of(task, estimator, batches), batches, task.objects)[SELECT])
    best = ways[int(np.argmax(scores))]
    shown = ", ".join(f"{100 * score:.1f}" for score in scores)
    varied = {name: value for name, value in best.items() if any(way[name] != value for way in ways)}
    words = " and ".join(f"{name} {value:.3g}" for name, value in varied.items())
    return {"decoding": best}, f"decoded by {words} (of {len(ways)} ways on {len(rows)} held back: {shown})"
