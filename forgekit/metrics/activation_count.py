"""How often the router picks an expert: the method of the published compacted models."""

from __future__ import annotations

from forgekit.metrics import Metric

METRIC = Metric(
    name="activation_count",
    formula="N_j",
    source="published alloys, metric_version v1.activation_count; SEER's hard count",
    needs="router",
    version="v1.activation_count",
    observe=lambda routing: {"activation_counts": routing.per_expert()},
    score=lambda sums: [float(count) for count in sums["activation_counts"]],
)
