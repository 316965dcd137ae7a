"""Search a pool for models that solve different problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Number, Whole
from forgekit.families import Population
from forgekit.stages import Count, Stage, StageParams


class Params(StageParams):
    search_pool: str
    benchmark: str
    num_problems: Count = 50
    candidates_evaluated: Annotated[int, Whole(ge=0)] | None = None
    selected_team: list[str] | None = None
    divergence_score: Annotated[float, Number()] | None = None
    complementary_problems: Annotated[int, Whole(ge=0)] | None = None


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "benchmark", params.benchmark


STAGE = Stage(
    name="team-search",
    params=Params,
    purpose="combine",
    needs=(Population,),
    names=names,
)
