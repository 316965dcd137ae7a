"""Mean norm of an expert's outputs."""

from __future__ import annotations

from typing import Any

from forgekit.metrics import Metric, Routing, Sums


def observe(routing: Routing) -> dict[str, Any]:
    return {"activation_counts": routing.per_expert(), "norm_sum": routing.per_expert(routing.norms)}


def score(sums: Sums) -> list[float]:
    """Zero for an expert that no token reached."""
    pairs = zip(sums["norm_sum"], sums["activation_counts"], strict=True)
    return [total / count if count else 0.0 for total, count in pairs]


METRIC = Metric(
    name="man",
    formula="(1 / N_j) sum over T_j of ||f_j(t)||_2",
    source="mean activation norm, arXiv:2606.15716",
    needs="outputs",
    observe=observe,
    score=score,
)
