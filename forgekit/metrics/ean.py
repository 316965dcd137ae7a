"""Sum of the norms of an expert's outputs."""

from __future__ import annotations

from forgekit.metrics import Metric

METRIC = Metric(
    name="ean",
    formula="sum over T_j of ||f_j(t)||_2",
    source="expert activation norm, as compared in REAP, arXiv:2510.13999",
    needs="outputs",
    observe=lambda routing: {"norm_sum": routing.per_expert(routing.norms)},
    score=lambda sums: list(sums["norm_sum"]),
)
