"""How a finished network's outputs are decoded, where its family knows several ways: as held-back crops prefer it."""

from typing import Any

from posedistill.estimators.base import Estimator
from posedistill.tasks.base import SELECT, Task
from posedistill.tasks.validation import Validation, answers_of, decoded

CROPS = 512
"""At most, by which a way is chosen."""


def choose_decoding(task: Task[Any], estimator: Estimator) -> tuple[dict[str, Any], str]:
    """The decoder's ``decoding`` with the best validation score, and a line about it; nothing if there is one way."""
    ways = estimator.decodings()
    if not ways:
        return {}, ""
    validate, scores = task.validation(next(estimator.parameters()).device, CROPS), []
    assert isinstance(validate, Validation)
    answers = list(answers_of(estimator, task.decoder(estimator), validate.batches))  # the same, however they are read
    for way in ways:
        estimator.calibration = {"decoding": way}
        found = decoded(task.decoder(estimator), answers, validate.batches, validate.assign)
        scores.append(validate.score(found, validate.batches)[SELECT])
    best = ways[scores.index(max(scores))]
    shown = ", ".join(f"{100 * score:.1f}" for score in scores)
    varied = {name: value for name, value in best.items() if any(way[name] != value for way in ways)}
    words = " and ".join(f"{name} {value:.3g}" for name, value in varied.items())
    return {"decoding": best}, f"decoded by {words} (validation scores of the {len(ways)} ways: {shown})"
