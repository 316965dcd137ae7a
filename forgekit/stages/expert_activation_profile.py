"""Count, on a calibration corpus, how often each router picks each expert."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Whole
from forgekit.families import Experts
from forgekit.stages import Stage, StageParams


class Params(StageParams):
    calibration_corpus: str
    metric: Literal["activation_count", "router_l2", "activation_magnitude"] = "activation_count"
    max_length: Annotated[int, Whole(ge=128)] = 2048
    device: str | None = None
    importance_output: str | None = None


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "metric", params.metric


STAGE = Stage(
    name="expert-activation-profile",
    params=Params,
    purpose="measure",
    needs=(Experts,),
    produces=frozenset({"importance"}),
    reproducibility="statistical",
    names=names,
)
