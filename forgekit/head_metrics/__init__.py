"""Head importance: which attention heads a model can spare. One file per measure; higher means keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forgekit.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from forgekit.models.measuring import HeadActivity


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadMetric:
    """One measure.

    Attributes:
        name: as a recipe's ``strategy`` names it.
        formula, source: of the score.
        needs: ``weights``: the query projection is read; ``nothing``: not even that; the others run the model.
        observe: float64[heads], the sum over a batch's valid tokens of the score; for those that run.
        weigh: score of one head from (dtype, bytes) of its query rows.
        draw: score of (seed, layer, head).
    """

    name: str
    formula: str
    source: str
    needs: Literal["nothing", "weights", "outputs", "gradients", "attention"]
    observe: Callable[[HeadActivity], Tensor] | None = None
    weigh: Callable[[str, bytes], float] | None = None
    draw: Callable[[int, int, int], float] | None = None


HEAD_METRICS = Registry("head_metric", "forgekit.head_metrics", HeadMetric, hyphens=True)
