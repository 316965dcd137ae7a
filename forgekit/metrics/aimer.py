"""How evenly an expert's weights are spread: calibration-free, and read as a stream."""

from __future__ import annotations

import math

from forgekit.metrics import ExpertWeights, Metric, exact_moments


def weigh(expert: ExpertWeights) -> float:
    """The published ratio with its sign turned, so that a higher score means keep here too."""
    count, absolute, squares = 0, 0.0, 0.0
    for dtype, data in expert.tensors():
        n, magnitude, square = exact_moments(dtype, data)
        count += n
        absolute += magnitude
        squares += square
    if squares == 0:
        return -1.0  # all zero: nothing is lost; -1 is the lowest the ratio can reach
    return -(absolute / count) / math.sqrt(squares / count)


METRIC = Metric(
    name="aimer",
    formula="-(mean |w|) / (rms w) over the expert's gate, up and down weights",
    source="AIMER, arXiv:2603.18492; there a higher ratio means prune",
    needs="weights",
    weigh=weigh,
)
