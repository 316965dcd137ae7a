"""Hand the artifact to a serving target."""

from __future__ import annotations

from forgekit.stages import Count, Stage, StageParams


class Params(StageParams):
    target: str
    health_check: bool = True
    warmup: bool = True
    max_concurrency: Count | None = None
    auto_scale: bool | None = None


STAGE = Stage(
    name="deploy",
    params=Params,
    purpose="ship",
)
