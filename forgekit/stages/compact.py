"""Store each unit at a precision that fits how much it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Number
from forgekit.families import Experts, FeedForward
from forgekit.stages import Fraction, Given, Stage, StageParams


class Params(StageParams):
    dead_threshold: Fraction = 0.1
    dormant_threshold: Fraction = 0.2
    low_threshold: Fraction = 0.3
    medium_threshold: Fraction = 0.5
    high_threshold: Fraction = 0.7
    target_size_gb: Annotated[float, Number(gt=0)] | None = None
    enable_quantization: bool = True


def problems(given: Given) -> Iterator[str]:
    names = ("dead", "dormant", "low", "medium", "high")
    values = [getattr(given.params, f"{name}_threshold") for name in names]
    if values != sorted(values):
        yield f"the thresholds {', '.join(names)} do not ascend: {', '.join(map(str, values))}"


STAGE = Stage(
    name="compact",
    params=Params,
    purpose="shrink",
    needs=(
        FeedForward,
        Experts,
    ),
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
)
