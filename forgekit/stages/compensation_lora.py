"""Distil the unmodified teacher into the cut student through a low-rank adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.families import LoraTargets
from forgekit.stages import Count, Given, LearningRate, Outcome, Stage, StageParams, Work
from forgekit.stages._recovering import recover
from forgekit.stages.train import rate_problems

BITS = {None: None, "fp16": None, "8bit": 8, "4bit": 4}


class Params(StageParams):
    teacher: str
    calibration_corpus: str
    loss_type: Literal["kl_logits", "mse_hidden", "both"] = "kl_logits"
    kd_temperature: Annotated[float, Number(ge=0.0)] = 2.0
    lora_rank: Count = 16
    lora_alpha: Count = 32
    target_modules: list[str] = []  # all of the family's where empty
    steps: Count = 500
    learning_rate: LearningRate = "1e-4"
    batch_size: Annotated[int, Whole(ge=1, le=64)] = 4
    sequence_length: Annotated[int, Whole(ge=128, le=131072)] = 1024
    teacher_quant: Literal["8bit", "4bit", "fp16"] | None = None
    student_quant: Literal["8bit", "4bit", "fp16"] | None = None
    merged_at_save: bool = True


def problems(given: Given) -> Iterator[str]:
    params = given.params
    if params.kd_temperature == 0:
        yield "kdTemperature is 0: logits cannot be divided by it"
    yield from rate_problems(params.learning_rate)
    known = given.fact.modules
    if strange := [name for name in params.target_modules if name not in known]:
        yield f"targetModules names {', '.join(strange)}; this family has {', '.join(known)}"


def run(work: Work) -> Outcome:
    """Train the student on the teacher's outputs, and merge the adapter.

    Raises:
        CheckpointError, CorpusError, MachineError: as ``recover``.
    """
    from forgekit.models.training import Recovery

    params: Params = work.params
    how = Recovery(
        rank=params.lora_rank,
        alpha=params.lora_alpha,
        dropout=0.05,
        targets=tuple(params.target_modules) or work.fact.modules,
        steps=params.steps,
        rate=float(params.learning_rate),
        batch=params.batch_size,
        length=params.sequence_length,
        loss=params.loss_type,
        temperature=params.kd_temperature,
        seed=work.seed,
    )
    return recover(
        work,
        how,
        params.calibration_corpus,
        teacher=params.teacher,
        teacher_bits=BITS[params.teacher_quant],
        student_bits=BITS[params.student_quant],
        merge=params.merged_at_save,
    )


STAGE = Stage(
    name="compensation-lora",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights", "adapter"}),
    reproducibility="exact-here",
    problems=problems,
    corpora=lambda params: iter([params.calibration_corpus]),
    run=run,
)
