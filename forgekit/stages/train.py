"""Fine-tune to recover what a cut has cost; the family fills in what the recipe leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.families import LoraTargets, TrainingDefaults
from forgekit.stages import Count, Fraction, Given, LearningRate, Outcome, Stage, StageParams, Work
from forgekit.stages._recovering import billions, recover


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


def problems(given: Given) -> Iterator[str]:
    yield from rate_problems(given.params.learning_rate)


def rate_problems(rate: str | None) -> Iterator[str]:
    try:
        wrong = rate is not None and not 0 < float(rate) < 1
    except ValueError:
        wrong = True
    if wrong:
        yield f"learningRate {rate!r} is not a number between 0 and 1"


def run(work: Work) -> Outcome:
    """Train a rank-16 adapter on every target of the family, and merge it.

    Raises:
        CheckpointError, CorpusError, MachineError: as ``recover``.
    """
    from forgekit.models.training import Recovery

    params: Params = work.params
    defaults = work.family.fact(TrainingDefaults)
    assert defaults is not None
    steps, rate = defaults.for_size(billions(work))
    how = Recovery(
        rank=16,
        alpha=32,
        dropout=0.05,
        targets=work.fact.modules,
        steps=params.steps or steps,
        rate=float(params.learning_rate or rate),
        batch=params.batch_size,
        accumulation=params.gradient_accumulation,
        scheduler=params.scheduler,
        warmup=params.warmup_ratio,
        decay=params.weight_decay,
        clip=params.max_gradient_norm,
        length=params.sequence_length,
        seed=work.seed,
    )
    outcome = recover(work, how, params.dataset or "", precision=params.precision)
    if not params.optimizations:
        return outcome
    return replace(outcome, notes=outcome.notes | {"optimizationsNotApplied": params.optimizations})


STAGE = Stage(
    name="train",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights", "adapter"}),
    reproducibility="exact-here",
    problems=problems,
    corpora=lambda params: iter([params.dataset or ""]),
    run=run,
)
