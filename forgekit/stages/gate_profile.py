"""Measure what each specialist contributes on a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Number
from forgekit.families import Population
from forgekit.stages import Count, Stage, StageParams


class Params(StageParams):
    benchmark: str
    num_problems: Count = 100
    per_specialist_contribution: dict[str, Annotated[float, Number()]] | None = None
    export_path: str | None = None


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "benchmark", params.benchmark


STAGE = Stage(
    name="gate-profile",
    params=Params,
    purpose="combine",
    needs=(Population,),
    names=names,
)
