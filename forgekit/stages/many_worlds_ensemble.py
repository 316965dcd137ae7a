"""Blend specialists into one model's predictions."""

from __future__ import annotations

from typing import Annotated, Literal

from forgekit.alloy.node import Number
from forgekit.families import Population
from forgekit.stages import Count, Fraction, Stage, StageParams


class Params(StageParams):
    method: Literal["logit-blend", "soft-prompt", "cross-attention"] = "logit-blend"
    target_model: str
    specialists: list[str]
    alpha: Fraction = 0.2
    top_k: Count = 20
    blend_strategy: Literal["specialist-top-k-boost", "full-distribution", "weighted-average"] = (
        "specialist-top-k-boost"
    )
    vram_gb: Annotated[float, Number(gt=0)] | None = None


STAGE = Stage(
    name="many-worlds-ensemble",
    params=Params,
    purpose="combine",
    needs=(Population,),
)
