"""Norm of a head's query rows. Cheap, and known to be poor: it ranks without looking at any text."""

from __future__ import annotations

import math

from forgekit.head_metrics import HeadMetric
from forgekit.metrics import exact_moments


def weigh(dtype: str, rows: bytes) -> float:
    _, _, squares = exact_moments(dtype, rows)
    return math.sqrt(squares)


HEAD_METRIC = HeadMetric(
    name="magnitude",
    formula="||W_q[h]||_2 over the head's rows of the query projection",
    source="Han et al., arXiv:1506.02626, for whole heads",
    needs="weights",
    weigh=weigh,
)
