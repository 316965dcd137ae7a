"""Mean gate-weighted norm of an expert's output: what the layer would lose per routed token."""

from __future__ import annotations

from typing import Any

from forgekit.metrics import Metric, Routing, Sums


def observe(routing: Routing) -> dict[str, Any]:
    assert routing.norms is not None
    return {
        "activation_counts": routing.per_expert(),
        "gated_norm_sum": routing.per_expert(routing.gates * routing.norms),
    }


def score(sums: Sums) -> list[float]:
    """Zero for an expert that no token reached: dropping it changes nothing the corpus shows."""
    pairs = zip(sums["gated_norm_sum"], sums["activation_counts"], strict=True)
    return [total / count if count else 0.0 for total, count in pairs]


METRIC = Metric(
    name="reap",
    formula="(1 / N_j) sum over T_j of g_j(t) * ||f_j(t)||_2",
    source="REAP, arXiv:2510.13999",
    needs="outputs",
    observe=observe,
    score=score,
)
