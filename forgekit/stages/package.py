"""Lay the files out for one runtime."""

from __future__ import annotations

from forgekit.stages import Stage, StageParams


class Params(StageParams):
    format: str
    runtime: str | None = None
    optimization: str = "balanced"
    validate_on: list[str] = []
    include_tokenizer: bool = True


STAGE = Stage(
    name="package",
    params=Params,
    purpose="ship",
    repeats=False,
    produces=frozenset({"weights"}),
    reproducibility="exact",
)
