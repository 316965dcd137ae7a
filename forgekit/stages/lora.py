"""Train a low-rank adapter; with a teacher, by distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from forgekit.alloy.node import Whole
from forgekit.families import LoraTargets
from forgekit.stages import Fraction, LearningRate, Stage, StageParams


class Params(StageParams):
    rank: Annotated[int, Whole(ge=1, le=256)] = 32
    alpha: Annotated[int, Whole(ge=1, le=512)] | None = None
    dropout: Fraction = 0.05
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    quantize: bool = True
    quantize_bits: Literal[4, 8] = 4
    dataset: str | None = None
    epochs: Annotated[int, Whole(ge=1, le=20)] = 3
    learning_rate: LearningRate = "1e-4"
    batch_size: Annotated[int, Whole(ge=1, le=64)] = 4
    merge_after: bool = False


STAGE = Stage(
    name="lora",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights"}),
    reproducibility="exact-here",
)
