"""How much gate weight an expert is given in all."""

from __future__ import annotations

from forgekit.metrics import Metric

METRIC = Metric(
    name="gate_sum",
    formula="sum over T_j of g_j(t)",
    source="SEER's soft count; weighted_expert_frequency_sum in the code of REAP, arXiv:2510.13999",
    needs="router",
    observe=lambda routing: {"gate_sum": routing.per_expert(routing.gates)},
    score=lambda sums: list(sums["gate_sum"]),
)
