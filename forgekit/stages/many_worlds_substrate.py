"""Train the shared field that a population of models writes to and reads from."""

from __future__ import annotations

from typing import Annotated, Literal

from forgekit.alloy.node import Whole
from forgekit.families import Population
from forgekit.stages import LearningRate, Stage, StageParams


class Params(StageParams):
    substrate_dim: Annotated[int, Whole(ge=64, le=2048)] = 256
    num_gaussians: Annotated[int, Whole(ge=16, le=1024)] = 128
    source_models: list[str]
    calibration_corpus: str
    training_steps: Annotated[int, Whole(ge=100, le=50000)] = 1000
    learning_rate: LearningRate = "1e-4"
    loss_type: Literal["contrastive", "round_trip", "both"] = "both"


STAGE = Stage(
    name="many-worlds-substrate",
    params=Params,
    purpose="combine",
    needs=(Population,),
    reproducibility="exact-here",
)
