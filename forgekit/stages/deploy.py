"""Say where the artifact will be served. The forge checks that and deploys nothing."""

from __future__ import annotations

from collections.abc import Iterator

from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work


class Params(StageParams):
    target: str
    health_check: bool = True
    warmup: bool = True
    max_concurrency: Count | None = None
    auto_scale: bool | None = None


def problems(given: Given) -> Iterator[str]:
    if not given.params.target.strip():
        yield "target is empty: it names what will serve the model"


def run(work: Work) -> Outcome:
    return Outcome(
        weights=False, notes={"carriedOut": False, "reason": f"forging writes a folder; {work.params.type} is separate"}
    )


STAGE = Stage(
    name="deploy",
    params=Params,
    purpose="ship",
    repeats=False,
    problems=problems,
    run=run,
)
