"""Networks that end in a softmax or a sigmoid: their maps are of what comes before."""

from __future__ import annotations

import numpy as np

from gapcam.products import span
from gapcam.types import FloatArray

ENDING_LEFT_OUT = "its last step, which makes probabilities, is left out: scores are its logits"


def difference_before_ending(logits: FloatArray, given: FloatArray) -> float:
    """How far logits are from those that a network's output was made of, as a share of its range.

    Args:
        logits: `[B, C]`, before the ending.
        given: `[B, C]`, the network's own output: a softmax, its logarithm, or a sigmoid of them.
    """
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    softmax = shifted / shifted.sum(-1, keepdims=True)
    endings = (softmax, np.log(softmax), 1 / (1 + np.exp(-logits)))
    return min(float(np.abs(e - given).max()) / span(given) for e in endings)
