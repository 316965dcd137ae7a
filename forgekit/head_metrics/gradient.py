"""How much the loss would feel a head's absence, to first order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgekit.head_metrics import HeadMetric

if TYPE_CHECKING:
    from torch import Tensor

    from forgekit.models.measuring import HeadActivity


def observe(activity: HeadActivity) -> Tensor:
    assert activity.gradients is not None
    return (activity.outputs.double() * activity.gradients.double()).sum(-1).sum(0).abs()


HEAD_METRIC = HeadMetric(
    name="gradient",
    formula="|dL / d alpha_h| = |sum over tokens of x_h . dL/dx_h|, alpha_h scaling the head's output",
    source="Michel et al., arXiv:1905.10650, equation 2",
    needs="gradients",
    observe=observe,
)
