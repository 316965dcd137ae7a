"""Score the model on benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from forgekit.alloy.node import Node, Number, Whole
from forgekit.stages import Stage, StageParams


class BenchmarkDef(Node):
    """One benchmark to run."""

    name: str
    subset: str | None = None
    n_shot: Annotated[int, Whole(ge=0)] | None = None
    submit_to_leaderboard: bool = False
    samples_path: str | None = None
    base_samples_path: str | None = None
    calibration_anchor: dict[str, Any] | None = None
    notes: str | None = None


class Params(StageParams):
    benchmarks: list[BenchmarkDef]
    passing_threshold: Annotated[float, Number()] | None = None
    compare_to_base: bool = True
    calibration_anchor: dict[str, Any] | None = None


def names(params: Params) -> Iterator[tuple[str, str]]:
    for benchmark in params.benchmarks:
        yield "benchmark", benchmark.name


STAGE = Stage(
    name="eval",
    params=Params,
    purpose="measure",
    repeats=False,
    produces=frozenset({"scores"}),
    reproducibility="statistical",
    names=names,
)
