"""Remove attention heads: zeroed in place (pad) or cut out (slice)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Number
from forgekit.families import AttentionHeads
from forgekit.stages import Count, Given, Stage, StageParams


class Params(StageParams):
    strategy: Literal[
        "entropy",
        "magnitude",
        "gradient",
        "random",
        "activation-magnitude",
        "calibration-aware-activation-count",
        "per-layer-normalized-router-importance",
    ]
    level: Annotated[float, Number(ge=0.0, le=0.9)]  # share of heads to remove
    min_heads_per_layer: Count = 4
    min_kv_heads_per_layer: Count = 2
    analysis_steps: Count = 200
    per_layer_normalized: bool | None = None
    defrag_mode: str | None = None


def problems(given: Given) -> Iterator[str]:
    if given.params.defrag_mode not in (None, "pad", "slice"):
        yield f"defragMode {given.params.defrag_mode!r} is neither 'pad' nor 'slice'"


STAGE = Stage(
    name="prune",
    params=Params,
    purpose="shrink",
    needs=(AttentionHeads,),
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
)
