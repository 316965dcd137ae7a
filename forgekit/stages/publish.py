"""Publish the artifact under an organisation."""

from __future__ import annotations

from forgekit.stages import Stage, StageParams


class Params(StageParams):
    org: str
    repo_name_template: str = "{base}-{domain}-forged"
    include_alloy: bool = True
    card_from_benchmarks: bool = True
    tags: list[str] = []
    private: bool = False
    card_hash: str | None = None


STAGE = Stage(
    name="publish",
    params=Params,
    purpose="ship",
)
