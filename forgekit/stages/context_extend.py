"""Rescale rotary positions to a longer context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Whole
from forgekit.families import RotaryPositions
from forgekit.stages import Given, Stage, StageParams


class Params(StageParams):
    target_length: Annotated[int, Whole(ge=1024)]
    method: Literal["yarn", "ntk", "linear", "dynamic-ntk"]
    training_dataset: str | None = None
    training_steps: Annotated[int, Whole()] | None = None


def problems(given: Given) -> Iterator[str]:
    if given.params.method not in given.fact.methods:
        yield f"method {given.params.method!r} is not one of {', '.join(given.fact.methods)}"
    native = given.source.get("contextLength")
    if isinstance(native, int) and given.params.target_length <= native:
        yield f"targetLength {given.params.target_length} does not exceed the base's contextLength {native}"


STAGE = Stage(
    name="context-extend",
    params=Params,
    purpose="extend",
    repeats=False,
    needs=(RotaryPositions,),
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
)
