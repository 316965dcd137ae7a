"""Train one model's way into and out of the shared field."""

from __future__ import annotations

from typing import Annotated

from forgekit.alloy.node import Whole
from forgekit.families import Population
from forgekit.stages import LearningRate, Stage, StageParams


class Params(StageParams):
    target_model: str
    substrate_path: str
    adapter_rank: Annotated[int, Whole(ge=8, le=512)] = 64
    insert_layer: Annotated[int, Whole(ge=0)] | None = None
    training_steps: Annotated[int, Whole(ge=100, le=10000)] = 500
    learning_rate: LearningRate = "1e-4"


STAGE = Stage(
    name="many-worlds-adapter",
    params=Params,
    purpose="combine",
    needs=(Population,),
    reproducibility="exact-here",
)
