"""Score a computer-vision pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forgekit.families import VisionPipeline
from forgekit.stages import Stage, StageParams
from forgekit.stages.eval import BenchmarkDef


class Params(StageParams):
    pipeline: str
    pipeline_config: dict[str, Any] = {}
    benchmarks: list[BenchmarkDef] = []


def names(params: Params) -> Iterator[tuple[str, str]]:
    for benchmark in params.benchmarks:
        yield "benchmark", benchmark.name


STAGE = Stage(
    name="cv-eval",
    params=Params,
    purpose="measure",
    needs=(VisionPipeline,),
    names=names,
)
