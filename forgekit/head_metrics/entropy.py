"""How spread out a head's attention is: a head that looks everywhere alike tells little apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgekit.head_metrics import HeadMetric

if TYPE_CHECKING:
    from torch import Tensor

    from forgekit.models.measuring import HeadActivity


def observe(activity: HeadActivity) -> Tensor:
    """The negative entropy of each query's attention, against the entropy of looking at all keys before it alike.

    The first query has one key and no entropy; it counts as 0.
    """
    import torch

    assert activity.attention is not None
    weights = activity.attention.double()
    entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1)  # [batch, heads, queries]
    most = torch.arange(1, weights.shape[2] + 1, device=weights.device, dtype=torch.float64).log().clamp(min=1e-12)
    spread = entropy / most
    spread[..., 0] = 0
    return -(spread * activity.mask[:, None, :]).sum((0, 2))


HEAD_METRIC = HeadMetric(
    name="entropy",
    formula="-mean over queries t of H(a_h(t)) / ln(t + 1), H being the entropy of the attention weights",
    source="entropy of attention distributions, Voita et al., arXiv:1905.09418, and Clark et al., arXiv:1906.04341",
    needs="attention",
    observe=observe,
)
