"""Norm of an expert's row of the router: the negative control, which ranks without looking at any text."""

from __future__ import annotations

import math

from forgekit.metrics import ExpertWeights, Metric, exact_moments


def weigh(expert: ExpertWeights) -> float:
    _, _, squares = exact_moments(*expert.router_row())
    return math.sqrt(squares)


METRIC = Metric(
    name="router_l2",
    formula="||W_router[j]||_2",
    source="router_gate_l2_norm of the published alloys, where it cost 9.7 points of HumanEval against counting",
    needs="weights",
    weigh=weigh,
)
