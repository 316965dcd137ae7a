"""Load the artifact in one declared runtime and generate."""

from __future__ import annotations

from collections.abc import Iterator

from forgekit.stages import Stage, StageParams


class Params(StageParams):
    runtime: str
    artifact: str | None = None


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "runtime", params.runtime


STAGE = Stage(
    name="validate-runtime",
    params=Params,
    purpose="ship",
    repeats=False,
    reproducibility="statistical",
    names=names,
)
