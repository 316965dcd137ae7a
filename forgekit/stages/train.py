"""Fine-tune to recover what a cut has cost; the family fills in what the recipe leaves open."""

from __future__ import annotations

from typing import Annotated, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.families import LoraTargets
from forgekit.stages import Count, Fraction, LearningRate, Stage, StageParams


class Params(StageParams):
    domain: str | None = None
    dataset: str | None = None
    steps: Count | None = None
    learning_rate: LearningRate | None = None
    batch_size: Annotated[int, Whole(ge=1, le=64)] = 4
    gradient_accumulation: Annotated[int, Whole(ge=1, le=16)] = 1
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial"] = "cosine"
    warmup_ratio: Fraction = 0.03
    weight_decay: Fraction = 0.01
    max_gradient_norm: Annotated[float, Number(ge=0.0, le=10.0)] = 1.0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    sequence_length: Annotated[int, Whole(ge=128, le=131072)] = 2048
    optimizations: list[str] = []


STAGE = Stage(
    name="train",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights"}),
    reproducibility="exact-here",
)
