"""Distil the unmodified teacher into the cut student through a low-rank adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Number
from forgekit.families import LoraTargets
from forgekit.stages import Count, Given, LearningRate, Stage, StageParams


class Params(StageParams):
    teacher: str
    calibration_corpus: str
    loss_type: Literal["kl_logits", "mse_hidden", "both"] = "kl_logits"
    kd_temperature: Annotated[float, Number(ge=0.0)] = 2.0
    lora_rank: Count = 16
    lora_alpha: Count = 32
    target_modules: list[str] = []
    steps: Count = 500
    learning_rate: LearningRate = "1e-4"
    teacher_quant: Literal["8bit", "4bit", "fp16"] | None = None
    student_quant: Literal["8bit", "4bit", "fp16"] | None = None
    merged_at_save: bool = True


def problems(given: Given) -> Iterator[str]:
    if given.params.kd_temperature == 0:
        yield "kdTemperature is 0: logits cannot be divided by it"


STAGE = Stage(
    name="compensation-lora",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights"}),
    reproducibility="exact-here",
    problems=problems,
)
