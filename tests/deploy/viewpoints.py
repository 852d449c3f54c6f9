"""A model of categories that needs no network."""

from typing import Any

import numpy as np

from posedistill.decode import ViewpointDecoder
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Record


def sure_predictor(frames: Any = None, **fields: Any) -> Predictor:
    """Sure of azimuth 330, elevation 0 and no in-plane rotation, whatever it sees; ``fields`` of its decoder."""
    decoder = ViewpointDecoder(crop_size=32, **fields)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(inputs["images"])
        outputs = {name: np.zeros((count, *shape)) for name, shape in decoder.outputs.items()}
        for name, place in (("azimuth", 2), ("elevation", 6), ("inplane", 12)):
            outputs[name][:, place] = 50.0
        return outputs

    return Predictor(run, decoder, record=Record(decoder, frames=frames))
