"""How much a head puts out."""

from __future__ import annotations

from forgekit.head_metrics import HeadMetric

HEAD_METRIC = HeadMetric(
    name="activation-magnitude",
    formula="mean over tokens of ||x_h||_2, x_h being the head's part of the output projection's input",
    source="Minitron, arXiv:2407.14679, section 2.2; the published alloys' activation-magnitude",
    needs="outputs",
    observe=lambda activity: activity.outputs.double().norm(dim=-1).sum(0),
)
