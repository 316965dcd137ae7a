"""Drop the specialists that contribute least."""

from __future__ import annotations

from typing import Annotated

from forgekit.alloy.node import Number
from forgekit.families import Population
from forgekit.stages import Stage, StageParams


class Params(StageParams):
    min_contribution: Annotated[float, Number()] = 0.05
    removed_models: list[str] | None = None
    vram_saved_gb: Annotated[float, Number()] | None = None


STAGE = Stage(
    name="population-prune",
    params=Params,
    purpose="combine",
    needs=(Population,),
)
