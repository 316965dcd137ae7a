"""Train a low-rank adapter; with a teacher, by distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.families import LoraTargets
from forgekit.stages import Count, Fraction, Given, LearningRate, Outcome, Stage, StageParams, Work
from forgekit.stages._recovering import recover
from forgekit.stages.train import rate_problems


class Params(StageParams):
    rank: Annotated[int, Whole(ge=1, le=256)] = 32
    alpha: Annotated[int, Whole(ge=1, le=512)] | None = None  # twice the rank where it is not given
    dropout: Fraction = 0.05
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    quantize: bool = True
    quantize_bits: Literal[4, 8] = 4
    dataset: str | None = None
    epochs: Annotated[int, Whole(ge=1, le=20)] = 3
    steps: Count | None = None  # instead of epochs
    learning_rate: LearningRate = "1e-4"
    batch_size: Annotated[int, Whole(ge=1, le=64)] = 4
    sequence_length: Annotated[int, Whole(ge=128, le=131072)] = 2048
    merge_after: bool = False
    teacher: str | None = None
    loss_type: Literal["kl_logits", "mse_hidden", "both"] = "kl_logits"
    kd_temperature: Annotated[float, Number(ge=0.0)] = 2.0


def problems(given: Given) -> Iterator[str]:
    params = given.params
    yield from rate_problems(params.learning_rate)
    if params.kd_temperature == 0:
        yield "kdTemperature is 0: logits cannot be divided by it"
    known = given.fact.modules
    if strange := [name for name in params.target_modules if name not in known]:
        yield f"targetModules names {', '.join(strange)}; this family has {', '.join(known)}"


def run(work: Work) -> Outcome:
    """Train the adapter; merge it where the recipe says so, else leave it beside the weights.

    Raises:
        CheckpointError, CorpusError, MachineError: as ``recover``.
    """
    from forgekit.models.corpus import read_texts
    from forgekit.models.training import Recovery

    params: Params = work.params
    texts = len(read_texts(work.corpus(params.dataset or "")))
    how = Recovery(
        rank=params.rank,
        alpha=params.alpha or 2 * params.rank,
        dropout=params.dropout,
        targets=tuple(params.target_modules),
        steps=params.steps or params.epochs * -(-texts // params.batch_size),
        rate=float(params.learning_rate),
        batch=params.batch_size,
        length=params.sequence_length,
        loss=params.loss_type if params.teacher else None,
        temperature=params.kd_temperature,
        seed=work.seed,
    )
    bits = params.quantize_bits if params.quantize else None
    return recover(work, how, params.dataset or "", teacher=params.teacher, student_bits=bits, merge=params.merge_after)


STAGE = Stage(
    name="lora",
    params=Params,
    purpose="recover",
    needs=(LoraTargets,),
    produces=frozenset({"weights", "adapter"}),
    reproducibility="exact-here",
    problems=problems,
    corpora=lambda params: iter([params.dataset or ""]),
    run=run,
)
